"""The inner loops that make batches, compiled by numba when they are first used and kept on disk.

The events of a batch come from many files at once, so a loop takes lists of the files' arrays. It reads them in place (they may be
maps of files), without the interpreter's lock. Whatever offsets say, nothing outside of the arrays is read.

Shape legend: B events of a batch, P pieces (files, or blocks read from them), k variables of a packed column, S places of variables
in the input groups that it fills.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import Any

import numba
import numpy as np
from numba import types
from numba.typed import List

from weaver_tasks.data.events.block import ABSENT

_ABSENT = np.uint32(ABSENT)
_LARGEST = np.finfo(np.float32).max
_PAGE_FLOATS = 1024
_VECTOR, _LONG_ENOUGH = 8, 32
"""How many float32 the processor takes at once, and how many are worth the start of a loop that copies."""

_unsigned = np.uint64
"""Of an index: then the loop need not ask, for each value, whether it counts from the end."""

_VALUES = types.Array(types.float32, 2, "C", readonly=True)
_OFFSETS = types.Array(types.int64, 1, "C", readonly=True)


@numba.njit(cache=True)
def _no_values():
    return List.empty_list(_VALUES)


@numba.njit(cache=True)
def _no_offsets():
    return List.empty_list(_OFFSETS)


@numba.njit(cache=True)
def _append(arrays, array):
    arrays.append(array)


def list_of_values(arrays: Iterable[np.ndarray]) -> Any:
    """Arrays (particles or events, k) float32, as the loops take them."""
    return _filled(_no_values(), arrays)


def list_of_offsets(arrays: Iterable[np.ndarray]) -> Any:
    """Arrays (events + 1,) int64, as the loops take them."""
    return _filled(_no_offsets(), arrays)


def _filled(made: Any, arrays: Iterable[np.ndarray]) -> Any:
    for array in arrays:
        view = array.view()
        view.flags.writeable = False  # one type for all
        _append(made, view)
    return made


@numba.njit(nogil=True, cache=True)
def _end_of_piece(pieces, order, begin):
    """Where the events after `begin` of an order by piece are no longer of the same piece."""
    end = begin
    while end < len(order) and pieces[order[end]] == pieces[order[begin]]:
        end += 1
    return end


@numba.njit(nogil=True, cache=True)
def event_ranges(offsets, pieces, rows, order):
    """(B, 2): where the particles of events begin and end in the values of their pieces, never outside of what the offsets span.

    pieces, rows: (B,) where each event is. order: (B,) the events, those of a piece together.
    """
    ranges = np.empty((len(rows), 2), dtype=np.int64)
    begin = 0
    while begin < len(order):
        end = _end_of_piece(pieces, order, begin)
        _ranges_in_piece(offsets[pieces[order[begin]]], order[begin:end], rows, ranges)
        begin = end
    return ranges


@numba.njit(nogil=True, cache=True, boundscheck=True)
def _ranges_in_piece(offsets, events, rows, ranges):
    for event in events:
        ranges[event, 0] = offsets[rows[event]]
        ranges[event, 1] = offsets[rows[event] + 1]


@numba.njit(nogil=True, cache=True)
def assemble_jagged(values, pieces, ranges, order, scaling, wrap, length, column, target, starts, strides):
    """Gather, standardize, clip, pad or wrap, NaN to 0, for the variables of one packed column.

    values: of each piece, (particles, k). pieces, order: as of `event_ranges`, which gives the ranges.
    scaling: (k, 5) center, scale, low, high, padding. length: of the groups. target: all places of all groups in one array.
    column, starts, strides: (S,) of each place, which of the k variables it holds, where the first event's line begins in `target`,
    and how far it is from there to the next event's.
    """
    line = np.empty(length + 2 * _LONG_ENOUGH, dtype=np.float32)
    # An array is taken from the list once for its events: threads that count the users of one array wait for each other.
    begin = 0
    while begin < len(order):
        end = _end_of_piece(pieces, order, begin)
        piece = values[pieces[order[begin]]]
        _assemble_piece(piece, order[begin:end], ranges, scaling, wrap, length, column, target, starts, strides, line)
        begin = end


# Each line is made in a scratch array, which stays in the nearest cache, and then copied. Nothing is read back from `target`: such a
# read would wait until memory has taken what was written before. The loops over a line use whole arrays with unsigned places, not
# slices: numba counts the users of each slice.
@numba.njit(nogil=True, cache=True)
def _assemble_piece(values, events, ranges, scaling, wrap, length, column, target, starts, strides, line):
    bits, flat, width = values.view(np.uint32), values.reshape(-1), len(scaling)
    for event in events:
        first, last = _inside(values, ranges, event)
        particles = min(last - first, length)
        some_absent = last > first and _some_absent(bits, last - 1)
        # A full vector of particles, also where the event has fewer: the rest are those of the next event, which are not copied.
        whole = min(-(-particles // _VECTOR) * _VECTOR, len(values) - first)
        for place in range(len(column)):
            variable, begin = column[place], _unsigned(starts[place] + event * strides[place])
            own = min(_own_length(bits, first, last, variable), length) if some_absent else particles
            _standardize(flat, first * width + variable, width - 1, whole, scaling, variable, line)
            if wrap and own > 0:
                _write_wrapped(line, own, target, begin, length)
            else:
                _copy(line, 0, target, begin, own)
                _fill(scaling[variable, 4], target, begin + _unsigned(own), length - own)


@numba.njit(nogil=True, cache=True, forceinline=True)
def _inside(values, ranges, event):
    """Where the particles of an event begin and end: inside of the array, whatever the offsets say."""
    first = min(max(ranges[event, 0], 0), len(values))
    return first, min(max(ranges[event, 1], first), len(values))


@numba.njit(nogil=True, cache=True, forceinline=True)
def _standardize(source, begin, between, particles, scaling, variable, line):
    """Fill a line with one variable of particles, of which the first is at `begin`, with `between` values between two of them."""
    center, scale, low, high = scaling[variable, 0], scaling[variable, 1], scaling[variable, 2], scaling[variable, 3]
    for particle in range(_unsigned(particles)):
        # With `particle * width` the compiler would make vectors for a width of 1 only, and go one by one for all others.
        x = (source[_unsigned(begin) + particle * _unsigned(between) + particle] - center) * scale
        x = low if x < low else x
        x = high if x > high else x
        line[particle] = np.float32(0) if x != x else x


@numba.njit(nogil=True, cache=True, forceinline=True)
def _write_wrapped(line, filled, target, begin, length):
    """Write the first `filled` values of a line again and again, `length` values in all."""
    while filled < min(length, _LONG_ENOUGH):
        _copy(line, 0, line, _unsigned(filled), filled)
        filled += filled
    for done in range(0, length, filled):
        _copy(line, 0, target, begin + _unsigned(done), min(filled, length - done))


@numba.njit(nogil=True, cache=True, forceinline=True)
def _copy(source, first, target, begin, count):
    for place in range(_unsigned(max(0, count))):
        target[_unsigned(begin) + place] = source[_unsigned(first) + place]


@numba.njit(nogil=True, cache=True, forceinline=True)
def _fill(value, target, begin, count):
    for place in range(_unsigned(max(0, count))):
        target[begin + place] = value


@numba.njit(nogil=True, cache=True, forceinline=True)
def _some_absent(bits, particle):
    """Whether a particle lacks a variable: the last of an event does where a list is shorter than another's of the column."""
    absent = False
    for variable in range(bits.shape[1]):
        absent |= bits[particle, variable] == _ABSENT
    return absent


@numba.njit(nogil=True, cache=True, forceinline=True)
def _own_length(bits, first, last, variable):
    """How many particles of an event, from `first` to `last`, have this variable: its list may be shorter than another's."""
    while last > first and bits[last - 1, variable] == _ABSENT:
        last -= 1
    return last - first


@numba.njit(nogil=True, cache=True)
def assemble_flat(values, pieces, rows, order, scaling, column, target, starts, strides):
    """The same for variables with one value an event: values of each piece are (events, k). Infinities become the largest float."""
    begin = 0
    while begin < len(order):
        end = _end_of_piece(pieces, order, begin)
        _assemble_flat_piece(values[pieces[order[begin]]], order[begin:end], rows, scaling, column, target, starts, strides)
        begin = end


@numba.njit(nogil=True, cache=True, boundscheck=True)
def _assemble_flat_piece(values, events, rows, scaling, column, target, starts, strides):
    largest = np.float32(_LARGEST)
    for event in events:
        for place in range(len(column)):
            center, scale, low, high, _ = scaling[column[place]]
            x = (values[rows[event], column[place]] - center) * scale
            x = low if x < low else x
            x = high if x > high else x
            x = largest if x > largest else x
            x = -largest if x < -largest else x
            target[starts[place] + event * strides[place]] = np.float32(0) if x != x else x


@numba.njit(nogil=True, cache=True)
def gather_jagged(values, pieces, ranges, order, length, target, counts):
    """Copy the particles of events as they are, at most the first `length` of each, one event after another.

    target: (room, k), with room for all. counts: (B, k) is filled with how many of an event's particles have each of the k variables:
    fewer than another where its list is shorter. Returns how many particles were copied.
    """
    starts = np.empty(len(pieces) + 1, dtype=np.int64)
    starts[0] = 0
    for event in range(len(pieces)):
        starts[event + 1] = starts[event] + min(length, max(0, ranges[event, 1] - ranges[event, 0]))
    begin = 0
    while begin < len(order):
        end = _end_of_piece(pieces, order, begin)
        _gather_piece(values[pieces[order[begin]]], order[begin:end], ranges, length, target, counts, starts)
        begin = end
    return starts[-1]


@numba.njit(nogil=True, cache=True)
def _gather_piece(values, events, ranges, length, target, counts, starts):
    bits, flat, flat_target, width = values.view(np.uint32), values.reshape(-1), target.reshape(-1), values.shape[1]
    for event in events:
        first, last = _inside(values, ranges, event)
        last = min(last, first + length, first + len(target) - starts[event])
        _copy(flat, first * width, flat_target, starts[event] * width, (last - first) * width)
        some_absent = last > first and _some_absent(bits, last - 1)
        for variable in range(width):
            counts[event, variable] = _own_length(bits, first, last, variable) if some_absent else last - first


@numba.njit(nogil=True, cache=True)
def touch(values, pieces, ranges, order):
    """Read a value of every memory page that holds these events, so that they are in memory when they are used."""
    total, begin = np.float32(0), 0
    while begin < len(order):
        end = _end_of_piece(pieces, order, begin)
        total += _touch_piece(values[pieces[order[begin]]], order[begin:end], ranges)
        begin = end
    return total


@numba.njit(nogil=True, cache=True)
def _touch_piece(values, events, ranges):
    total, step = np.float32(0), max(1, _PAGE_FLOATS // values.shape[1])
    for event in events:
        particles = values[ranges[event, 0] : ranges[event, 1]]
        for particle in range(0, len(particles), step):
            total += particles[particle, 0]
    return total


_VALUE_LIST, _OFFSET_LIST = types.ListType(_VALUES), types.ListType(_OFFSETS)
_INTEGERS, _RANGES, _FLOATS, _PARAMETERS = types.int64[::1], types.int64[:, ::1], types.float32[::1], types.float32[:, ::1]
_EVENTS = (_INTEGERS, _INTEGERS, _INTEGERS)
_PLACES = (_INTEGERS, _FLOATS, _INTEGERS, _INTEGERS)
_SIGNATURES = {
    _no_values: (),
    _no_offsets: (),
    event_ranges: (_OFFSET_LIST, *_EVENTS),
    assemble_jagged: (_VALUE_LIST, _INTEGERS, _RANGES, _INTEGERS, _PARAMETERS, types.boolean, types.int64, *_PLACES),
    assemble_flat: (_VALUE_LIST, *_EVENTS, _PARAMETERS, *_PLACES),
    gather_jagged: (_VALUE_LIST, _INTEGERS, _RANGES, _INTEGERS, types.int64, _PARAMETERS, types.int32[:, ::1]),
    touch: (_VALUE_LIST, _INTEGERS, _RANGES, _INTEGERS),
}


@functools.cache
def load(kernel: Any) -> None:
    """Have a kernel ready: compiled, or from disk."""
    kernel.compile(_SIGNATURES[kernel])
