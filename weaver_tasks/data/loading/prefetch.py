"""Applies a function to items ahead of time in threads, and yields the results in the order of the items."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future
from queue import SimpleQueue
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def ordered_map(
    function: Callable[[Item], Result], items: Iterable[Item], *, threads: int, ahead: int, name: str = "loader"
) -> Generator[Result, None, None]:
    """Yield function(item) for each item in order, for any number of threads. At most `ahead` results are computed in advance.

    threads: number of worker threads; with 0 the caller does the work. One more thread iterates over `items`. An exception of the
    function, or of `items`, is raised here, after the results before it. Closing this generator ends the threads before it returns.
    """
    if threads == 0:
        with _closing(items):
            yield from map(function, items)
        return
    crew = _Crew(function, items, ahead)
    members = [threading.Thread(target=crew.work, name=f"{name}-{number}", daemon=True) for number in range(threads)]
    members.append(threading.Thread(target=crew.feed, args=(threads,), name=f"{name}-feed", daemon=True))
    for member in members:
        member.start()
    try:
        yield from crew.results()
    finally:
        crew.stop()
        for member in members:
            member.join()


class _Crew:
    """The state shared by the thread that iterates over the items, the worker threads, and the caller that takes the results."""

    def __init__(self, function: Callable[[Item], Result], items: Iterable[Item], ahead: int) -> None:
        self._function = function
        self._items = items
        self._slots = threading.Semaphore(max(1, ahead))
        self._begun: SimpleQueue[Future | None] = SimpleQueue()
        self._work: SimpleQueue[tuple[Future, Item] | None] = SimpleQueue()
        self._stopped = threading.Event()

    def feed(self, workers: int) -> None:
        try:
            with _closing(self._items):
                for item in self._items:
                    self._slots.acquire()
                    if self._stopped.is_set():
                        break
                    future: Future = Future()
                    self._work.put((future, item))
                    self._begun.put(future)
        except BaseException as error:  # passed to the caller, who raises it in the order of the items
            failed: Future = Future()
            failed.set_exception(error)
            self._begun.put(failed)
        finally:
            self._begun.put(None)
            for _ in range(workers):
                self._work.put(None)

    def work(self) -> None:
        while (job := self._work.get()) is not None:
            future, item = job
            if self._stopped.is_set():
                continue
            try:
                future.set_result(self._function(item))
            except BaseException as error:  # handed to the caller
                future.set_exception(error)
            del job, future, item

    def results(self) -> Iterator[Result]:
        while (future := self._begun.get()) is not None:
            result = future.result()
            # Keep no reference to a result: its memory could not be reused otherwise.
            del future
            self._slots.release()
            yield result
            del result

    def stop(self) -> None:
        self._stopped.set()
        self._slots.release()


def _closing(items: Iterable) -> contextlib.AbstractContextManager:
    return contextlib.closing(items) if isinstance(items, Generator) else contextlib.nullcontext()
