"""Provides the events of a group of test files for prediction: each once, in the order of the files, with the observers."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from weaver_tasks.base.errors import DataConfigError
from weaver_tasks.data.loading.batch import Batch, make_batch
from weaver_tasks.data.loading.buffers import BufferPool
from weaver_tasks.data.loading.collate import InputAssembler
from weaver_tasks.data.loading.event_stream import ShardSpec, distribute
from weaver_tasks.data.loading.loader import planned_files
from weaver_tasks.data.loading.options import SplitOptions, split_options
from weaver_tasks.data.loading.parts import OpenFiles
from weaver_tasks.data.loading.prefetch import ordered_map
from weaver_tasks.data.loading.window import WindowReader
from weaver_tasks.data.loading.window_plan import Window, plan_windows
from weaver_tasks.settings.stage import StageSettings

if TYPE_CHECKING:
    from weaver_tasks.data.configuration import DataConfiguration

# Without sampling and shuffling, larger windows have no advantage. Several windows are in memory at a time.
_WINDOW_EVENTS = 1_250


def prediction_batches(
    manifest: Mapping[str, Any],
    configuration: DataConfiguration,
    settings: StageSettings,
    *,
    group: str,
    rank: int = 0,
    world_size: int = 1,
    threads: int = 1,
    custom_functions: Path | None = None,
    buffers: BufferPool | None = None,
    trim: bool = False,
    pad: bool = True,
) -> Iterator[Batch]:
    """Yield batches of training.batch_size_test events (fewer in the last) of a group of test files. A batch may span files.

    manifest: inputs.json. settings: sections data, loading, training of config.yaml, and optionally fold, which selects the events
    of this fold. Rank r takes the r-th of world_size equal ranges of the files' entries. Memory does not grow with the number of
    events. Other arguments: as in `loader.EpochLoader`.
    """
    options = split_options(settings, "test")
    assembler = InputAssembler(configuration, batch_size=options.batch_size, buffers=buffers, trim=trim, pad=pad)
    files = OpenFiles(manifest, configuration, custom_functions=custom_functions)
    reader = prediction_reader(files, configuration, options, packed=assembler.columns, threads=threads)
    windows = [(0, window) for window in planned_windows(manifest, options, group=group, rank=rank, world_size=world_size)]
    loaded = ordered_map(reader.load, windows, threads=min(1, threads), ahead=2, name="loader-windows")
    planned = distribute(loaded, ShardSpec(batch_size=options.batch_size, whole_batches=True, drop_last=False), epoch=0)
    batches = ordered_map(
        lambda batch: make_batch(batch, assembler, configuration),
        planned,
        threads=threads,
        ahead=settings.loading.prefetch,
        name="loader-batches",
    )
    with contextlib.closing(batches):
        yield from batches


def prediction_reader(
    files: OpenFiles, configuration: DataConfiguration, options: SplitOptions, *, packed: Sequence[str], threads: int
) -> WindowReader:
    """Make a reader of the windows of `planned_windows`. Arguments: as in `window.WindowReader`."""
    whole_files = dataclasses.replace(options, fetch_by_files=True, fetch_step=1, in_memory=False)
    return WindowReader(files, configuration, whole_files, split="test", seed=(0,), packed=packed, threads=threads)


def prediction_values(
    manifest: Mapping[str, Any],
    configuration: DataConfiguration,
    settings: StageSettings,
    variable: str,
    *,
    group: str,
    custom_functions: Path | None = None,
) -> Iterator[np.ndarray]:
    """Yield a variable of the predicted events of a test group, in the order of the predictions, in arrays (n,) of a few thousand.

    settings: as in `prediction_batches`, without fold. Raises DataConfigError when the files were staged without the variable.
    """
    files = OpenFiles(manifest, configuration, custom_functions=custom_functions)
    for window in planned_windows(manifest, split_options(settings, "test"), group=group, rank=0, world_size=1):
        for file, first, last in zip(window.files.tolist(), window.first.tolist(), window.last.tolist(), strict=True):
            part = files.read(file, first, last, (variable,))
            if variable not in part.block.plain:
                raise DataConfigError(f"{files.records[file]['source']}: was staged without '{variable}'. Delete its record and run again.")
            yield np.asarray(part.of(part.block.plain[variable]))


def prediction_entries(manifest: Mapping[str, Any], settings: StageSettings, *, group: str, rank: int = 0, world_size: int = 1) -> int:
    """Return the number of entries, before selection, that `prediction_batches` reads."""
    windows = planned_windows(manifest, split_options(settings, "test"), group=group, rank=rank, world_size=world_size)
    return sum(window.entries for window in windows)


def planned_windows(manifest: Mapping[str, Any], options: SplitOptions, *, group: str, rank: int, world_size: int) -> list[Window]:
    """Return the windows of a rank in the order of the files: each of one file, with at most `window_events` entries."""
    files = [file for file in planned_files(manifest["files"], "test") if file.group == group]
    whole_files = dataclasses.replace(options, fetch_by_files=True, fetch_step=1, max_window_events=window_events(options), in_memory=False)
    windows = plan_windows(files, whole_files, seed=(0,))
    total = sum(window.entries for window in windows)
    return _stretch(windows, total * rank // world_size, total * (rank + 1) // world_size)


def window_events(options: SplitOptions) -> int:
    """Return the maximum number of entries of a window for prediction."""
    return min(options.max_window_events, _WINDOW_EVENTS)


def _stretch(windows: Sequence[Window], first: int, last: int) -> list[Window]:
    """Return the entries first <= entry < last of the concatenated windows (of one file each)."""
    stretch, at = [], 0
    for window in windows:
        begin, end = max(first - at, 0), min(last - at, window.entries)
        if begin < end:
            stretch.append(dataclasses.replace(window, first=window.first + begin, last=window.first + end))
        at += window.entries
    return stretch
