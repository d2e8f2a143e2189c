"""Memory for batches that is used again as soon as nobody holds the batch any more."""

from __future__ import annotations

import math
import weakref
from collections import defaultdict
from collections.abc import Callable

import numpy as np

_ALIGNMENT = 64


class BufferPool:
    """Gives out float32 arrays; loaders may share one. Fresh memory for each batch would cost as much as filling it: the system clears it.

    The memory of an array comes back when the array, every view of it and every tensor made of it are gone: so a batch stays
    valid for as long as anyone has it. With an asynchronous copy to a GPU, hold the batch until the copy is done.
    allocate: called as numpy.empty is; an array in pinned memory makes copies to a GPU faster.
    """

    def __init__(self, allocate: Callable[..., np.ndarray] = np.empty) -> None:
        self._allocate = allocate
        self._free: dict[int, list[np.ndarray]] = defaultdict(list)

    def array(self, capacity: int, shape: tuple[int, ...]) -> np.ndarray:
        """An array of `shape`, its values arbitrary, at the start of a buffer of `capacity` floats."""
        free = self._free[capacity]
        try:
            buffer = free.pop()
        except IndexError:
            buffer = _aligned(self._allocate(capacity + _ALIGNMENT // 4, dtype=np.float32))
        # Not a view of the buffer in numpy's sense: all views made of this array keep this array, and only it, alive.
        array = np.frombuffer(buffer.data, dtype=np.float32, count=math.prod(shape))
        weakref.finalize(array, free.append, buffer).atexit = False
        return array.reshape(shape)


def _aligned(buffer: np.ndarray) -> np.ndarray:
    """The buffer from where a cache line begins: vectors that lie across two lines take twice the time."""
    return buffer[-buffer.ctypes.data % _ALIGNMENT // buffer.itemsize :]
