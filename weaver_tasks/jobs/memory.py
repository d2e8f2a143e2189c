"""Configure the memory allocator of the C library (glibc), and return free memory to the system."""

from __future__ import annotations

import ctypes
import resource
from pathlib import Path

# Parameters of mallopt (glibc's malloc.h) and their values.
_LIBC = ctypes.CDLL(None)
_STATM = Path("/proc/self/statm")
_KEEP_ONE_HEAP = {
    -8: 1,  # M_ARENA_MAX: number of arenas
    -3: 32 << 20,  # M_MMAP_THRESHOLD: only larger arrays get their own pages, which the system clears each time
    -1: 64 << 20,  # M_TRIM_THRESHOLD: free memory kept at the end of the heap for the next batch
}


def use_one_malloc_arena() -> None:
    """Use one malloc arena for all threads, and keep freed memory. Call this before the first thread is started.

    By default each thread has its own heap (arena). If one thread allocates arrays of changing sizes and another one frees them, all
    arenas become fragmented, and the process grows although it does not use more memory. Does nothing if the C library is not glibc.
    """
    if hasattr(_LIBC, "mallopt"):
        for parameter, value in _KEEP_ONE_HEAP.items():
            _LIBC.mallopt(parameter, value)


class HeapTrimmer:
    """Returns free pages of the heap to the system when they may exceed `most` bytes."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._kept = 0

    def limit(self) -> None:
        """Check the limit; call this regularly. A check takes microseconds, returning memory takes milliseconds."""
        if hasattr(_LIBC, "malloc_trim") and anonymous_bytes() > self._kept + self._most:
            _LIBC.malloc_trim(0)
            self._kept = anonymous_bytes()


def anonymous_bytes() -> int:
    """The memory of this process in bytes, without mapped files."""
    resident, shared = _STATM.read_text().split()[1:3]
    return (int(resident) - int(shared)) * resource.getpagesize()
