"""How the C library's allocator keeps memory."""

from __future__ import annotations

import ctypes
import resource
from pathlib import Path

# Parameters of mallopt, of glibc's malloc.h, and what they are set to.
_LIBC = ctypes.CDLL(None)
_STATM = Path("/proc/self/statm")
_KEEP_ONE_HEAP = {
    -8: 1,  # M_ARENA_MAX: heaps
    -3: 32 << 20,  # M_MMAP_THRESHOLD: only larger arrays get pages of their own, which the system clears each time
    -1: 64 << 20,  # M_TRIM_THRESHOLD: what stays free at the heap's end for the next batch
}


def use_one_malloc_arena() -> None:
    """Let all threads take memory from one heap that keeps what it has. To be called before the first thread is started.

    By default each thread has a heap of its own (arena). Work that makes arrays of ever other sizes in one thread and frees them in
    another then leaves holes in all of them, and the process grows though it holds no more than at its start. Does nothing where
    the C library is not glibc.
    """
    if hasattr(_LIBC, "mallopt"):
        for parameter, value in _KEEP_ONE_HEAP.items():
            _LIBC.mallopt(parameter, value)


class HeapTrimmer:
    """Free pages within the heap, given back to the system whenever they may have become more than `most` bytes."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._kept = 0

    def limit(self) -> None:
        """To be called now and then: to look takes microseconds, to give back milliseconds."""
        if hasattr(_LIBC, "malloc_trim") and anonymous_bytes() > self._kept + self._most:
            _LIBC.malloc_trim(0)
            self._kept = anonymous_bytes()


def anonymous_bytes() -> int:
    """The memory of this process that is not that of mapped files."""
    resident, shared = _STATM.read_text().split()[1:3]
    return (int(resident) - int(shared)) * resource.getpagesize()
