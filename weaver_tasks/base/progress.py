"""Show the progress of long work: a bar with rate and ETA on a terminal, or occasional lines in a log."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sized
from typing import TypeVar

from tqdm import tqdm

Item = TypeVar("Item")


class Progress:
    """A progress bar that counts jets (or another `unit`). Use it as a context manager and call `advance`.

    total: the total number of units, None if unknown.
    quiet: show nothing (every rank but the first).
    """

    def __init__(self, description: str, *, total: int | None, unit: str = "jets", quiet: bool = False) -> None:
        terminal = sys.stderr.isatty()
        self._bar = tqdm(
            desc=description,
            total=total,
            unit=f" {unit}",
            unit_scale=True,
            disable=quiet,
            dynamic_ncols=terminal,
            ncols=None if terminal else 100,
            mininterval=0.2 if terminal else 10.0,
            ascii=not terminal,
            file=sys.stderr,
        )

    def advance(self, count: int, **metrics: str | float) -> None:
        """Count `count` more units; `metrics` (loss, accuracy, …) are shown after the bar."""
        if metrics:
            self._bar.set_postfix(metrics, refresh=False)
        self._bar.update(count)

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()


def track(items: Iterable[Item], description: str, *, total: int | None = None, unit: str = "files") -> Iterator[Item]:
    """Iterate over `items` and show a progress bar."""
    if total is None and isinstance(items, Sized):
        total = len(items)
    with Progress(description, total=total, unit=unit) as bar:
        for item in items:
            yield item
            bar.advance(1)
