"""The inner loops of the loader, compiled once and kept on disk. They run without the interpreter's lock.

The events of a batch come from many files at once. So the loops take the addresses of the files' arrays, and read
in the memory map itself: nothing is copied before the batch is made. The caller keeps those arrays alive.
"""

from __future__ import annotations

import functools
from typing import Any

import numba
import numpy as np
from numba import types
from numba.core import entrypoints

from weaver_tasks.data.events.block import ABSENT
from weaver_tasks.data.loading.vectors import LANES, copy, fill, finish_streams, pointer_to, prefetch, standardized_columns, stream

_ANY_LENGTH = (1 << 40,)
_LARGEST = np.finfo(np.float32).max
_PAGE_FLOATS = 1024
_CACHE_LINE = 64
_EVENTS_AHEAD = 4

_floats_at = pointer_to(types.float32)
_bits_at = pointer_to(types.uint32)
_integers_at = pointer_to(types.int64)
_four, _one = standardized_columns(4), standardized_columns(1)


def corner(width: int, length: int) -> np.ndarray:
    """Room for an event while it is made: lines that may be overrun, and do not begin at the same place of a cache."""
    return np.empty((width, length + 2 * LANES), dtype=np.float32)


@numba.njit(nogil=True, cache=True)
def assemble_jagged(pieces, rows, values, offsets, how, wrap, length, corner, column, targets, strides):
    """Gather, standardize, clip, pad or wrap, NaN to 0, for the variables of one packed column.

    pieces, rows: (B,) where each event is. values, offsets: (P,) addresses of each piece's values (particles x k float32) and
    offsets (int64). how: (k, 5) center, scale, low, high, padding. length: of the outputs. corner: what `corner(k, length)` gives.
    column, targets, strides: (S,) of each place in the outputs, which of the k variables it holds, its address in the first event's,
    and bytes from there to the next's.
    """
    width = len(how)
    # An event is made in a corner of the nearest cache, and copied to the batch line after line, as memory likes it. The corner is the
    # caller's: one made here would be freed as soon as only its address is used.
    lines, step = corner.ctypes.data, 4 * corner.shape[1]
    for event in range(len(rows)):
        _prefetch_next(event, pieces, rows, values, offsets, width)
        ends = numba.carray(_integers_at(offsets[pieces[event]]), _ANY_LENGTH)
        first = ends[np.uint64(rows[event])]
        particles = ends[np.uint64(rows[event]) + np.uint64(1)] - first
        source = values[pieces[event]] + 4 * first * width
        if particles < LANES or _some_absent(source + 4 * width * (particles - 1), width):
            _one_by_one(lines, step, source, how, particles, wrap, length)
        else:
            filled = min(length, particles)
            _many_particles(lines, step, source, how, filled)
            if wrap:
                _repeat(lines, step, width, filled, length)
            else:
                _pad(lines, step, how, filled, length)
        for place in range(len(column)):
            _copy_line(targets[place] + event * strides[place], lines + step * column[place], length)
    finish_streams()


@numba.njit(nogil=True, cache=True)
def _prefetch_next(event, pieces, rows, values, offsets, width):
    """Begin to fetch the next event, and where a later one is: they are anywhere in memory, hundreds of cycles away."""
    later = event + _EVENTS_AHEAD
    if later < len(rows):
        prefetch(offsets[pieces[later]] + 8 * rows[later])
    following = event + 1
    if following < len(rows):
        ends = numba.carray(_integers_at(offsets[pieces[following]]), _ANY_LENGTH)
        begin, end = ends[np.uint64(rows[following])], ends[np.uint64(rows[following]) + np.uint64(1)]
        address = values[pieces[following]]
        for place in range(address + 4 * width * begin, address + 4 * width * end, _CACHE_LINE):
            prefetch(place)


@numba.njit(nogil=True, cache=True)
def _many_particles(lines, step, source, how, particles):
    """The first particles of an event that has at least LANES, in vectors. The last overlaps the one before: none reads beyond."""
    width = len(how)
    begin = 0
    while begin < particles:
        begin = max(0, min(begin, particles - LANES))
        variable = 0
        while variable < width:
            here, parameters = source + 4 * (begin * width + variable), how.ctypes.data + 20 * variable
            target = lines + step * variable + 4 * begin
            if width - variable >= 4:
                _four(target, step, here, 4 * width, parameters)
                variable += 4
            else:
                _one(target, step, here, 4 * width, parameters)
                variable += 1
        begin += LANES


@numba.njit(nogil=True, cache=True)
def _some_absent(last, width):
    """Whether the last particle lacks a variable, whose list is then shorter than another's of the column."""
    bits = numba.carray(_bits_at(last), _ANY_LENGTH)
    absent = False
    for variable in range(width):
        absent |= bits[variable] == np.uint32(ABSENT)
    return absent


@numba.njit(nogil=True, cache=True)
def _one_by_one(lines, step, source, how, particles, wrap, length):
    """The lines of an event that has fewer particles than a vector, or not the same number for each variable."""
    zero, width = np.float32(0), len(how)
    values, bits = numba.carray(_floats_at(source), _ANY_LENGTH), numba.carray(_bits_at(source), _ANY_LENGTH)
    for variable in range(width):
        line = numba.carray(_floats_at(lines + step * variable), _ANY_LENGTH)
        center, scale, low, high, padding = how[variable, 0], how[variable, 1], how[variable, 2], how[variable, 3], how[variable, 4]
        own = particles
        while own > 0 and bits[(own - 1) * width + variable] == np.uint32(ABSENT):
            own -= 1
        for place in range(min(own, length)):
            x = (values[place * width + variable] - center) * scale
            x = low if x < low else x
            x = high if x > high else x
            line[place] = zero if x != x else x
        for place in range(min(own, length), length):
            line[place] = line[place - own] if wrap and own > 0 else padding


@numba.njit(nogil=True, cache=True)
def _repeat(lines, step, width, filled, length):
    """The places from `filled` on, and perhaps some beyond `length`, get what is `filled` places before."""
    begin = filled
    while begin < length:
        for variable in range(width):
            line = lines + step * variable
            copy(line + 4 * begin, line + 4 * (begin - filled))
        begin += LANES


@numba.njit(nogil=True, cache=True)
def _pad(lines, step, how, filled, length):
    """The places from `filled` on, and perhaps some beyond `length`, get the padding."""
    begin = filled
    while begin < length:
        for variable in range(len(how)):
            fill(lines + step * variable + 4 * begin, how[variable, 4])
        begin += LANES


@numba.njit(nogil=True, cache=True)
def _copy_line(target, source, length):
    if length % LANES == 0 and target % (4 * LANES) == 0:
        for begin in range(0, length, LANES):
            stream(target + 4 * begin, source + 4 * begin)
        return
    if length >= LANES:
        begin = 0
        while begin < length:
            begin = min(begin, length - LANES)
            copy(target + 4 * begin, source + 4 * begin)
            begin += LANES
        return
    here, there = numba.carray(_floats_at(source), _ANY_LENGTH), numba.carray(_floats_at(target), _ANY_LENGTH)
    for place in range(length):
        there[place] = here[place]


@numba.njit(nogil=True, cache=True)
def assemble_flat(pieces, rows, values, how, column, targets, strides):
    """The same for variables with one value an event: values are (events x k) float32. Infinities become the largest float.

    column, targets, strides: (S,) of each place in the outputs, which variable it holds and where it is.
    """
    zero, largest, width = np.float32(0), np.float32(_LARGEST), len(how)
    for event in range(len(rows)):
        source = numba.carray(_floats_at(values[pieces[event]] + 4 * rows[event] * width), _ANY_LENGTH)
        for place in range(len(column)):
            center, scale, low, high, _ = how[column[place]]
            x = (source[column[place]] - center) * scale
            x = low if x < low else x
            x = high if x > high else x
            x = largest if x > largest else x
            x = -largest if x < -largest else x
            numba.carray(_floats_at(targets[place] + event * strides[place]), _ANY_LENGTH)[0] = zero if x != x else x


@numba.njit(nogil=True, cache=True)
def gather_jagged(pieces, rows, values, offsets, width, length, target, counts):
    """Copy the particles of events as they are, at most the first `length` of each, one event after another.

    target: address of the first. counts: (B, k) is filled with how many of an event's particles have each of the k variables: fewer
    than another where its list is shorter. Returns how many particles were copied.
    """
    place = target
    for event in range(len(rows)):
        _prefetch_next(event, pieces, rows, values, offsets, width)
        ends = numba.carray(_integers_at(offsets[pieces[event]]), _ANY_LENGTH)
        first = ends[np.uint64(rows[event])]
        particles = min(length, ends[np.uint64(rows[event]) + np.uint64(1)] - first)
        source = values[pieces[event]] + 4 * first * width
        _copy_line(place, source, particles * width)
        bits = numba.carray(_bits_at(source), _ANY_LENGTH)
        for variable in range(width):
            own = particles
            while own > 0 and bits[(own - 1) * width + variable] == np.uint32(ABSENT):
                own -= 1
            counts[event, variable] = own
        place += 4 * particles * width
    finish_streams()
    return (place - target) // (4 * width)


@numba.njit(nogil=True, cache=True)
def event_lengths(pieces, rows, offsets):
    """The number of particles of each of these events. (B,)."""
    lengths = np.empty(len(rows), dtype=np.int64)
    for event in range(len(rows)):
        ends = numba.carray(_integers_at(offsets[pieces[event]]), _ANY_LENGTH)
        lengths[event] = ends[rows[event] + 1] - ends[rows[event]]
    return lengths


@numba.njit(nogil=True, cache=True)
def touch(pieces, rows, values, offsets, width):
    """Read a value of every memory page that holds these events, so that they are in memory when they are wanted."""
    total = np.float32(0)
    for event in range(len(rows)):
        ends = numba.carray(_integers_at(offsets[pieces[event]]), _ANY_LENGTH)
        source = numba.carray(_floats_at(values[pieces[event]]), _ANY_LENGTH)
        for place in range(ends[rows[event]] * width, ends[rows[event] + 1] * width, _PAGE_FLOATS):
            total += source[place]
    return total


_INTEGERS, _PARAMETERS = types.int64[::1], types.float32[:, ::1]
_EVENTS = (_INTEGERS, _INTEGERS)
_SIGNATURES = {
    assemble_jagged: (*_EVENTS, _INTEGERS, _INTEGERS, _PARAMETERS, types.boolean, types.int64, _PARAMETERS, *3 * (_INTEGERS,)),
    assemble_flat: (*_EVENTS, _INTEGERS, _PARAMETERS, _INTEGERS, _INTEGERS, _INTEGERS),
    gather_jagged: (*_EVENTS, _INTEGERS, _INTEGERS, types.int64, types.int64, types.int64, types.int32[:, ::1]),
    event_lengths: (*_EVENTS, _INTEGERS),
    touch: (*_EVENTS, _INTEGERS, _INTEGERS, types.int64),
}


@functools.cache
def load(kernel: Any) -> None:
    """Have a kernel ready: compiled, or from disk.

    Before numba compiles anything it imports whatever is installed that extends it: vector with sympy, half a second. These
    loops need none of it, so it waits for a function that may.
    """
    waiting = entrypoints._already_initialized
    entrypoints._already_initialized = True
    try:
        kernel.compile(_SIGNATURES[kernel])
    finally:
        entrypoints._already_initialized = waiting
