"""Provides the batches of an epoch for training and validation.

The batches are a pure function of manifest, configuration, settings, seed, epoch, rank and world size. They do not depend on the
number of threads, on timing, or on what the process did before.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from weaver_tasks.base.errors import DataConfigError
from weaver_tasks.data.loading.batch import Batch, make_batch
from weaver_tasks.data.loading.buffers import BufferPool
from weaver_tasks.data.loading.collate import InputAssembler
from weaver_tasks.data.loading.event_stream import PlannedBatch, Position, ShardSpec, distribute
from weaver_tasks.data.loading.options import split_options
from weaver_tasks.data.loading.parts import OpenFiles
from weaver_tasks.data.loading.prefetch import ordered_map
from weaver_tasks.data.loading.window import WindowReader
from weaver_tasks.data.loading.window_plan import PlannedFile, Window, plan_windows
from weaver_tasks.settings.stage import StageSettings

if TYPE_CHECKING:
    from weaver_tasks.data.configuration import DataConfiguration

_MOST_WINDOWS_AHEAD = 16


class EpochLoader:
    """The batches of one epoch for one rank. Every iteration gives the same batches.

    manifest: inputs.json. settings: sections data, loading, sampling, training, validation of config.yaml, and optionally
    fold: {variable, folds, index}. split: "train" or "val"; without val files, validation uses its part of the training files.
    position: where to continue: the end_position of a batch of this epoch or of the previous one. The latter is used when epochs
    have a fixed number of steps and continue one endless stream; None: it is found by counting events.
    threads: number of threads that make batches, up to loading.prefetch ahead; 0: the calling thread does all work.
    custom_functions: the file of functions that expressions call; only needed for files that are transformed on the fly.
    files: the open files of the manifest; loaders of several epochs may share them, so that each file is opened once.
    buffers: memory for the inputs, which loaders of several epochs may share. trim: pad only to the longest event of each batch.
    pad: False leaves jagged groups as `collate.Unpadded`, for `training.padding`.

    Raises DataConfigError when an event belongs to no class, or when there is not a single batch.
    """

    def __init__(
        self,
        manifest: Mapping[str, Any],
        configuration: DataConfiguration,
        settings: StageSettings,
        *,
        split: str,
        seed: int,
        epoch: int,
        rank: int = 0,
        world_size: int = 1,
        position: Position | None = None,
        threads: int = 1,
        custom_functions: Path | None = None,
        files: OpenFiles | None = None,
        buffers: BufferPool | None = None,
        trim: bool = False,
        pad: bool = True,
    ) -> None:
        records = manifest["files"]
        own_files = any(record["split"] == "val" for record in records)
        self._files = planned_files(records, split if own_files else "train")
        self._options = split_options(settings, split, world_size=world_size, own_files=own_files)
        self._configuration = configuration
        self._epoch = epoch
        self._position = position
        self._threads = threads
        self._prefetch = settings.loading.prefetch
        # Training is one stream of passes, independent of epochs. Validation in weaver's way is sampled anew in each epoch.
        self._pass_of_epoch = epoch if split == "train" and not self._options.endless else 0
        self._seed = (seed, 0) if split == "train" else (seed, 1, epoch if self._options.sample else 0)
        self._shard = ShardSpec(
            batch_size=self._options.batch_size,
            rank=rank,
            world_size=world_size,
            whole_batches=self._options.whole_batches,
            drop_last=self._options.drop_last,
        )
        self._assembler = InputAssembler(configuration, batch_size=self._options.batch_size, buffers=buffers, trim=trim, pad=pad)
        self._reader = WindowReader(
            files or OpenFiles(manifest, configuration, custom_functions=custom_functions),
            configuration,
            self._options,
            split=split,
            seed=self._seed,
            packed=self._assembler.columns,
            threads=threads,
        )

    @cached_property
    def steps(self) -> int:
        """Number of batches of this rank in the whole epoch, independent of the position."""
        if not self._shard.whole_batches:
            return self._batches
        return len(range(self._shard.rank, self._batches, self._shard.world_size))

    @cached_property
    def samples(self) -> int:
        """Number of events of the whole epoch, over all ranks."""
        events = self._batches * self._shard.global_batch
        return events if self._shard.drop_last else min(events, self._events)

    @cached_property
    def _batches(self) -> int:
        """Number of batches of the whole epoch, over all ranks."""
        if self._options.endless and self._options.steps is not None:
            return self._options.steps
        batches = self._shard.batches_of(self._events)
        if batches == 0:
            raise self._too_few(self._events)
        return batches if self._options.steps is None else min(batches, self._options.steps)

    @cached_property
    def _events(self) -> int:
        """Number of events accepted in the pass of this epoch. Counting reads only the columns needed for the sampling."""
        return sum(self._counts(self._pass_of_epoch, self._plan(self._pass_of_epoch)))

    def __iter__(self) -> Iterator[Batch]:
        start, first = self._start()
        loaded = ordered_map(
            self._reader.load, self._windows(start), threads=min(1, self._threads), ahead=self._windows_ahead(), name="loader-windows"
        )
        planned = distribute(loaded, self._shard, epoch=self._epoch, skip=start["offset"], first=first, stop=self._options.steps)
        may_be_none = self._shard.whole_batches or first > 0
        batches = ordered_map(
            self._make,
            planned if may_be_none else self._at_least_one(planned),
            threads=self._threads,
            ahead=self._prefetch,
            name="loader-batches",
        )
        with contextlib.closing(batches):
            yield from batches

    def _at_least_one(self, planned: Generator[PlannedBatch, None, None]) -> Iterator[PlannedBatch]:
        with contextlib.closing(planned):
            first = next(planned, None)
            if first is None:
                raise self._too_few(self._events)
            yield first
            del first
            yield from planned

    def _make(self, planned: PlannedBatch) -> Batch:
        return make_batch(planned, self._assembler, self._configuration)

    def _plan(self, pass_number: int) -> list[Window]:
        return plan_windows(self._files, self._options, seed=self._seed, pass_number=pass_number)

    def _windows(self, start: Position) -> Iterator[tuple[int, Window]]:
        """Yield the windows from a position on: of one pass, or of an endless sequence of passes."""
        pass_number, first = start["pass"], start["window"]
        while True:
            windows = self._plan(pass_number)
            if self._options.endless and not any(self._reader.count((pass_number, window)) for window in windows):
                raise self._too_few(0)
            yield from ((pass_number, window) for window in windows[first:])
            if not self._options.endless:
                return
            pass_number, first = pass_number + 1, 0

    def _windows_ahead(self) -> int:
        """Return how many windows are read ahead: one, or several small ones, so that memory stays bounded."""
        largest = max((window.entries for window in self._plan(self._pass_of_epoch)), default=1)
        return max(1, min(_MOST_WINDOWS_AHEAD, self._options.max_window_events // max(1, largest)))

    def _start(self) -> tuple[Position, int]:
        """Return the position where this epoch begins in the stream, and the number of its first batch."""
        position = self._position
        if position is not None and position["epoch"] == self._epoch:
            return position, position["batches"]
        if not self._options.endless:
            return {"pass": self._pass_of_epoch, "window": 0, "offset": 0}, 0
        if position is not None and position["epoch"] == self._epoch - 1:
            return position, 0
        return self._find(self._epoch * self._batches * self._shard.global_batch), 0

    def _find(self, events: int) -> Position:
        """Return the position after this number of events of the endless stream."""
        pass_number = 0
        while True:
            counts = self._counts(pass_number, self._plan(pass_number))
            for window, count in enumerate(counts):
                if events <= count:
                    return {"pass": pass_number, "window": window, "offset": events}
                events -= count
            if sum(counts) == 0:
                raise self._too_few(0)
            pass_number += 1

    def _counts(self, pass_number: int, windows: Sequence[Window]) -> list[int]:
        """Return the number of events accepted in each window of a pass."""
        planned = [(pass_number, window) for window in windows]
        return list(ordered_map(self._reader.count, planned, threads=self._threads, ahead=2 * self._threads, name="loader-count"))

    def _too_few(self, events: int) -> DataConfigError:
        return DataConfigError(
            f"{self._configuration.path}: {events} events are selected and accepted, too few for a batch of "
            f"{self._shard.global_batch} over all ranks. "
            "Check selection and data fractions, lower training.batch_size, or, where weights reject most events, sampling.weight_scale."
        )


def planned_files(records: Sequence[Mapping[str, Any]], split: str) -> list[PlannedFile]:
    """Return the readable files of a split that have entries, with their index in the manifest."""
    return [
        PlannedFile(index=index, group=record["group"], entries=record["entries"])
        for index, record in enumerate(records)
        if record["split"] == split and not record.get("bad") and record["entries"]
    ]
