"""How the C library's allocator keeps memory."""

from __future__ import annotations

import ctypes

# Parameters of mallopt, of glibc's malloc.h, and what they are set to.
_LIBC = ctypes.CDLL(None)
_KEEP_ONE_HEAP = {
    -8: 1,  # M_ARENA_MAX: heaps
    -3: 32 << 20,  # M_MMAP_THRESHOLD: only larger arrays get pages of their own, which the system clears each time
    -1: 64 << 20,  # M_TRIM_THRESHOLD: what stays free at the heap's end for the next batch
}


def keep_one_heap() -> None:
    """Let all threads take memory from one heap that keeps what it has. To be called before the first thread is started.

    By default each thread has a heap of its own (arena). Work that makes arrays of ever other sizes in one thread and frees them in
    another then leaves holes in all of them, and the process grows though it holds no more than at its start. Does nothing where
    the C library is not glibc.
    """
    if hasattr(_LIBC, "mallopt"):
        for parameter, value in _KEEP_ONE_HEAP.items():
            _LIBC.mallopt(parameter, value)


def give_back_holes() -> None:
    """Give the system the free pages within the heap. Takes milliseconds, so not for every batch."""
    if hasattr(_LIBC, "malloc_trim"):
        _LIBC.malloc_trim(0)
