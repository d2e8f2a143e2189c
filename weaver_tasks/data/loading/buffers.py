"""A pool of memory for batches, which reuses the memory of a batch as soon as nothing refers to the batch any more."""

from __future__ import annotations

import math
import weakref
from collections import defaultdict
from collections.abc import Callable

import numpy as np

_ALIGNMENT = 64


class BufferPool:
    """A pool of float32 arrays, which loaders may share.

    New memory for each batch would take as long as filling the batch, because the operating system clears it.

    The memory of an array is reused when the array, every view of it and every tensor made from it are gone. So a batch stays valid as
    long as something refers to it. For an asynchronous copy to a GPU, keep the batch until the copy is complete.
    allocate: called like numpy.empty. Arrays in pinned memory make copies to a GPU faster.
    """

    def __init__(self, allocate: Callable[..., np.ndarray] = np.empty) -> None:
        self._allocate = allocate
        self._free: dict[int, list[np.ndarray]] = defaultdict(list)

    def array(self, capacity: int, shape: tuple[int, ...]) -> np.ndarray:
        """Return an array of `shape` with arbitrary values, at the start of a buffer of `capacity` floats."""
        free = self._free[capacity]
        try:
            buffer = free.pop()
        except IndexError:
            buffer = _aligned(self._allocate(capacity + _ALIGNMENT // 4, dtype=np.float32))
        # Not a numpy view of the buffer: views made from this array then keep this array alive, and only this array.
        array = np.frombuffer(buffer.data, dtype=np.float32, count=math.prod(shape))
        weakref.finalize(array, free.append, buffer).atexit = False
        return array.reshape(shape)


def _aligned(buffer: np.ndarray) -> np.ndarray:
    """Return the buffer from the start of a cache line on: access to vectors across two cache lines takes twice the time."""
    return buffer[-buffer.ctypes.data % _ALIGNMENT // buffer.itemsize :]
