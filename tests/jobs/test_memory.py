"""Threads that share one heap: asked of the C library itself."""

import ctypes
import subprocess
import sys

import pytest

ALLOCATE = """
import ctypes, sys, threading
from weaver_tasks.jobs.memory import use_one_malloc_arena
if sys.argv[1] == "shared":
    use_one_malloc_arena()
ready = threading.Barrier(5)
def work():
    held = [bytearray(5000) for _ in range(100)]
    ready.wait()
    ready.wait()
threads = [threading.Thread(target=work) for _ in range(4)]
for thread in threads:
    thread.start()
ready.wait()
libc = ctypes.CDLL(None)
libc.malloc_info(0, ctypes.c_void_p.in_dll(libc, "stdout"))
libc.fflush(None)
ready.wait()
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_info"), reason="the C library is not glibc")
def test_threads_keep_one_heap():
    heaps = {
        how: subprocess.run([sys.executable, "-c", ALLOCATE, how], capture_output=True, text=True, check=True).stdout.count("<heap nr=")
        for how in ("shared", "by default")
    }
    assert heaps["shared"] == 1
    assert heaps["by default"] > 1


HOLES = """
import re
from pathlib import Path
from weaver_tasks.jobs.memory import HeapTrimmer, use_one_malloc_arena
use_one_malloc_arena()
def anonymous():
    return int(re.search(r"RssAnon:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
holes = HeapTrimmer(50_000_000)
held = [bytearray(100_000) for _ in range(1000)]
holes.limit()
full = anonymous()
held += [bytearray(100_000) for _ in range(300)]
del held[1:300]
holes.limit()
few = full - anonymous()
held += [bytearray(100_000) for _ in range(1000)]
del held[1:1700]
holes.limit()
print(few, full - anonymous())
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="the C library is not glibc")
def test_holes_go_back_to_the_system_when_there_are_many():
    done = subprocess.run([sys.executable, "-c", HOLES], capture_output=True, text=True, check=True)
    few, many = map(int, done.stdout.split())
    assert few < 0  # kB: 30,000 more than before, and holes of as much
    assert many > 20_000  # of 200,000 there are 60,000 left: below 100,000
