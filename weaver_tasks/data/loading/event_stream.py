"""The one global stream of events, and the batches that a rank takes of it.

The accepted events of all windows of all passes, in turn, are one stream. Global batch t is its next
batch_size * world_size events, of which rank r takes the r-th slice. So what a step trains on does not depend on the
number of ranks, no event is used by two of them, and they all take the same number of steps.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator
from dataclasses import dataclass

from weaver_tasks.data.loading.window import LoadedWindow

Position = dict[str, int]


@dataclass(frozen=True, kw_only=True)
class Part:
    """Events begin to end of the order of a window."""

    window: LoadedWindow
    begin: int
    end: int


@dataclass(frozen=True, kw_only=True)
class ShardSpec:
    """How the stream is dealt out.

    whole_batches: batch b of the stream goes to rank b mod world size, instead of a slice of each to each rank.
    drop_last: the last events, too few for a global batch, are left out.
    """

    batch_size: int
    rank: int = 0
    world_size: int = 1
    whole_batches: bool = False
    drop_last: bool = True

    @property
    def global_batch(self) -> int:
        """Events of the stream per step of it."""
        return self.batch_size if self.whole_batches else self.batch_size * self.world_size

    def batches_of(self, events: int) -> int:
        """Batches of the stream, over all ranks, that `events` give."""
        return events // self.global_batch if self.drop_last else -(-events // self.global_batch)

    def is_mine(self, batch: int) -> bool:
        return not self.whole_batches or batch % self.world_size == self.rank

    def share(self, parts: list[Part]) -> list[Part]:
        """What of a global batch this rank takes."""
        if self.whole_batches:
            return parts
        first = self.rank * self.batch_size
        return _slice(parts, first, first + self.batch_size)


@dataclass(frozen=True, kw_only=True)
class PlannedBatch:
    """A batch of this rank before it is made. number: its place in the epoch, counted over all ranks."""

    number: int
    parts: list[Part]
    end_position: Position


def distribute(
    windows: Generator[LoadedWindow, None, None],
    shard: ShardSpec,
    *,
    epoch: int,
    skip: int = 0,
    first: int = 0,
    stop: int | None = None,
) -> Generator[PlannedBatch, None, None]:
    """The batches of this rank.

    skip: events of the first window that were used before. first: the number of the first batch in the epoch.
    stop: the number of the batch at which the epoch ends; None: when the windows do.
    """
    number, parts, wanted = first, [], shard.global_batch
    with contextlib.closing(windows):
        if number == stop:
            return
        for window in windows:
            # The batch that was open when this window began. A position lies at the end of a batch: `skip` tells it as well.
            carried = (skip or wanted) % shard.global_batch
            events = window.put_in_order(batch_size=shard.global_batch, carried=carried)
            at, skip = skip, 0
            while at < events:
                end = min(at + wanted, events)
                parts.append(Part(window=window, begin=at, end=end))
                wanted, at = wanted - (end - at), end
                if wanted > 0:
                    continue
                if shard.is_mine(number):
                    yield PlannedBatch(number=number, parts=shard.share(parts), end_position=_position(epoch, number, parts[-1]))
                number, parts, wanted = number + 1, [], shard.global_batch
                if number == stop:
                    return
        if parts and not shard.drop_last and shard.is_mine(number):
            yield PlannedBatch(number=number, parts=shard.share(parts), end_position=_position(epoch, number, parts[-1]))


def _position(epoch: int, number: int, last: Part) -> Position:
    """Where the stream is after a batch: so many batches of the epoch are done, so many events of that window used."""
    return {"epoch": epoch, "batches": number + 1, "pass": last.window.pass_number, "window": last.window.number, "offset": last.end}


def _slice(parts: list[Part], first: int, last: int) -> list[Part]:
    """Events first to last of the parts in a row."""
    taken, at = [], 0
    for part in parts:
        begin, end = max(first - at, 0), min(last - at, part.end - part.begin)
        if begin < end:
            taken.append(Part(window=part.window, begin=part.begin + begin, end=part.begin + end))
        at += part.end - part.begin
    return taken
