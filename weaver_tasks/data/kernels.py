"""The inner loops of the loader, compiled once and kept on disk. They run without the interpreter's lock.

The events of a batch come from many files at once. So the loops take the addresses of the files' arrays, and read
in the memory map itself: nothing is copied before the batch is made. The caller keeps those arrays alive.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numba import types
from numba.extending import intrinsic

from weaver_tasks.data.blocks import ABSENT

_ANY_LENGTH = (1 << 40,)
_LARGEST = np.finfo(np.float32).max
_PAGE_FLOATS = 1024


def _pointer_to(element: Any) -> Any:
    @intrinsic
    def pointer(_typing_context: Any, address: Any) -> Any:
        signature = types.CPointer(element)(address)

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return builder.inttoptr(arguments[0], context.get_value_type(signature.return_type))

        return signature, generate

    return pointer


_floats_at = _pointer_to(types.float32)
_bits_at = _pointer_to(types.uint32)
_integers_at = _pointer_to(types.int64)


@numba.njit(nogil=True, cache=True)
def assemble_jagged(
    pieces, rows, values, offsets, width, column, transforms, center, scale, low, high, wrap, pad, lengths, outputs, strides
):  # fmt: skip
    """Gather, standardize, clip, pad or wrap, NaN to 0, for the variables of one packed column.

    pieces, rows: (B,) where each event is. values, offsets: (P,) addresses of each piece's values (particles x width
    float32) and offsets (int64). Per variable (S,): its column in the values; whether it is transformed, and how; whether it
    wraps; its padding; its length; the address of its place in the first event's output, and bytes from there to the next event's.
    """
    zero = np.float32(0)
    step = np.uint64(width)
    absent = np.uint32(ABSENT)
    for event in range(len(rows)):
        ends = numba.carray(_integers_at(offsets[pieces[event]]), _ANY_LENGTH)
        first = ends[np.uint64(rows[event])]
        particles = ends[np.uint64(rows[event]) + np.uint64(1)] - first
        for variable in range(len(column)):
            length = lengths[variable]
            start = values[pieces[event]] + 4 * (first * width + column[variable])
            source, bits = numba.carray(_floats_at(start), _ANY_LENGTH), numba.carray(_bits_at(start), _ANY_LENGTH)
            own = np.uint64(particles)
            # Where the variable's list is shorter than another's of its column.
            while own > np.uint64(0) and bits[(own - np.uint64(1)) * step] == absent:
                own -= np.uint64(1)
            count = min(own, np.uint64(length))
            out = numba.carray(_floats_at(outputs[variable] + event * strides[variable]), _ANY_LENGTH)
            # Two loops, since only the second, over contiguous values, becomes vector instructions.
            place = np.uint64(0)
            for particle in range(count):
                out[particle] = source[place]
                place += step
            if transforms[variable]:
                shift, factor, least, most = center[variable], scale[variable], low[variable], high[variable]
                for particle in range(count):
                    x = (out[particle] - shift) * factor
                    x = least if x < least else x
                    x = most if x > most else x
                    out[particle] = zero if x != x else x
            else:
                for particle in range(count):
                    x = out[particle]
                    out[particle] = zero if x != x else x
            filled = count
            if wrap[variable] and count > np.uint64(0):
                while filled < np.uint64(length):
                    more = min(count, np.uint64(length) - filled)
                    for particle in range(more):
                        out[filled + particle] = out[particle]
                    filled += more
            padding = zero if wrap[variable] else pad[variable]
            for particle in range(filled, np.uint64(length)):
                out[particle] = padding


@numba.njit(nogil=True, cache=True)
def assemble_flat(pieces, rows, values, width, column, transforms, center, scale, low, high, outputs, strides):
    """The same for variables with one value an event: values are (events x width) float32. Infinities become the largest float."""
    zero, largest = np.float32(0), np.float32(_LARGEST)
    for event in range(len(rows)):
        source = numba.carray(_floats_at(values[pieces[event]] + 4 * rows[event] * width), _ANY_LENGTH)
        for variable in range(len(column)):
            x = source[column[variable]]
            if transforms[variable]:
                x = (x - center[variable]) * scale[variable]
                x = low[variable] if x < low[variable] else x
                x = high[variable] if x > high[variable] else x
            x = largest if x > largest else x
            x = -largest if x < -largest else x
            numba.carray(_floats_at(outputs[variable] + event * strides[variable]), _ANY_LENGTH)[0] = zero if x != x else x


@numba.njit(nogil=True, cache=True)
def longest_event(pieces, rows, offsets):
    """The largest number of particles of these events."""
    longest = 0
    for event in range(len(rows)):
        ends = numba.carray(_integers_at(offsets[pieces[event]]), _ANY_LENGTH)
        longest = max(longest, ends[rows[event] + 1] - ends[rows[event]])
    return longest


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
