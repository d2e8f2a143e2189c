"""Work done ahead: the same results in the same order, errors in their place, and no thread left behind."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from collections.abc import Iterator

import numpy as np
import pytest

from weaver_tasks.data.loading.prefetch import ordered_map


def loader_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("loader")]


def slowly(item: int) -> int:
    time.sleep(0.002 * (item % 3))
    return item * item


@pytest.mark.parametrize("threads", [0, 1, 2, 4])
@pytest.mark.parametrize("ahead", [1, 3, 50])
def test_results_come_in_the_order_of_the_work(threads: int, ahead: int) -> None:
    assert list(ordered_map(slowly, range(30), threads=threads, ahead=ahead)) == [item * item for item in range(30)]
    assert loader_threads() == []


@pytest.mark.parametrize("threads", [0, 1, 3])
def test_an_error_comes_in_its_place(threads: int) -> None:
    def work(item: int) -> float:
        return 6 / (3 - item)

    results = ordered_map(work, range(10), threads=threads, ahead=4)
    assert [next(results) for _ in range(3)] == [2, 3, 6]
    with pytest.raises(ZeroDivisionError):
        next(results)
    assert loader_threads() == []


@pytest.mark.parametrize("threads", [0, 2])
def test_an_error_of_the_items_comes_after_the_results_before_it(threads: int) -> None:
    def items() -> Iterator[int]:
        yield 1
        yield 2
        raise KeyError("no third")

    results = ordered_map(slowly, items(), threads=threads, ahead=4)
    assert [next(results), next(results)] == [1, 4]
    with pytest.raises(KeyError, match="no third"):
        next(results)


def test_no_more_is_done_ahead_than_asked() -> None:
    begun = []
    results = ordered_map(begun.append, range(100), threads=2, ahead=3)
    next(results)
    time.sleep(0.1)
    assert len(begun) == 4
    results.close()


@pytest.mark.parametrize("threads", [0, 2])
def test_closing_early_ends_the_threads_and_the_items(threads: int) -> None:
    closed = []

    def items() -> Iterator[int]:
        try:
            yield from range(100)
        finally:
            closed.append(True)

    results = ordered_map(slowly, ordered_map(slowly, items(), threads=threads, ahead=2), threads=threads, ahead=2)
    next(results)
    results.close()
    assert loader_threads() == []
    assert closed == [True]


def test_a_generator_that_is_forgotten_ends_its_threads() -> None:
    results = ordered_map(slowly, range(100), threads=2, ahead=2)
    next(results)
    del results
    gc.collect()
    assert loader_threads() == []


def test_results_taken_are_not_held() -> None:
    taken = []
    for array in ordered_map(np.zeros, range(1, 8), threads=2, ahead=2):
        taken.append(weakref.ref(array))
        del array
        assert sum(reference() is not None for reference in taken) <= 1
