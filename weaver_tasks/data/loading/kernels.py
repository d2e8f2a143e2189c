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
def assemble_jagged(values, pieces, ranges, order, how, wrap, length, column, target, starts, strides):
    """Gather, standardize, clip, pad or wrap, NaN to 0, for the variables of one packed column.

    values: of each piece, (particles, k). pieces, order: as of `event_ranges`, which gives the ranges.
    how: (k, 5) center, scale, low, high, padding. length: of the groups. target: all places of all groups in one array.
    column, starts, strides: (S,) of each place, which of the k variables it holds, where the first event's line begins in `target`,
    and how far it is from there to the next event's.
    """
    # An array is taken from the list once for its events: threads that count the users of one array wait for each other.
    begin = 0
    while begin < len(order):
        end = _end_of_piece(pieces, order, begin)
        _assemble_piece(values[pieces[order[begin]]], order[begin:end], ranges, how, wrap, length, column, target, starts, strides)
        begin = end


@numba.njit(nogil=True, cache=True)
def _assemble_piece(values, events, ranges, how, wrap, length, column, target, starts, strides):
    bits = values.view(np.uint32)
    for event in events:
        # Inside of the array, whatever the offsets say.
        first = min(max(ranges[event, 0], 0), len(values))
        last = min(max(ranges[event, 1], first), len(values))
        particle_bits = bits[first:last]
        for place in range(len(column)):
            variable, line = column[place], _unsigned(starts[place] + event * strides[place])
            center, scale, low, high, padding = how[variable, 0], how[variable, 1], how[variable, 2], how[variable, 3], how[variable, 4]
            filled = min(_own_length(particle_bits, variable), length)
            for particle in range(filled):
                x = (values[_unsigned(first + particle), _unsigned(variable)] - center) * scale
                x = low if x < low else x
                x = high if x > high else x
                target[line + _unsigned(particle)] = np.float32(0) if x != x else x
            if wrap and filled > 0:
                while filled < length:  # twice as many at each step
                    more = min(filled, length - filled)
                    copy = line + _unsigned(filled)
                    for particle in range(more):
                        target[copy + _unsigned(particle)] = target[line + _unsigned(particle)]
                    filled += more
            else:
                for particle in range(filled, length):
                    target[line + _unsigned(particle)] = padding


@numba.njit(nogil=True, cache=True)
def _own_length(bits, variable):
    """How many particles of an event (their bits: (n, k)) have this variable: its list may be shorter than another's of the column."""
    own = len(bits)
    while own > 0 and bits[own - 1, variable] == _ABSENT:
        own -= 1
    return own


@numba.njit(nogil=True, cache=True)
def assemble_flat(values, pieces, rows, order, how, column, target, starts, strides):
    """The same for variables with one value an event: values of each piece are (events, k). Infinities become the largest float."""
    begin = 0
    while begin < len(order):
        end = _end_of_piece(pieces, order, begin)
        _assemble_flat_piece(values[pieces[order[begin]]], order[begin:end], rows, how, column, target, starts, strides)
        begin = end


@numba.njit(nogil=True, cache=True, boundscheck=True)
def _assemble_flat_piece(values, events, rows, how, column, target, starts, strides):
    largest = np.float32(_LARGEST)
    for event in events:
        for place in range(len(column)):
            center, scale, low, high, _ = how[column[place]]
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
    bits = values.view(np.uint32)
    for event in events:
        particles = values[ranges[event, 0] : ranges[event, 1]][:length]
        particle_bits = bits[ranges[event, 0] : ranges[event, 1]][:length]
        room = target[starts[event] : starts[event] + len(particles)]
        for particle in range(len(room)):
            for variable in range(room.shape[1]):
                room[particle, variable] = particles[particle, variable]
        for variable in range(counts.shape[1]):
            counts[event, variable] = _own_length(particle_bits, variable)


@numba.njit(nogil=True, cache=True)
def touch(values, pieces, ranges, order):
    """Read a value of every memory page that holds these events, so that they are in memory when they are wanted."""
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
