"""Provides the test events of a group window by window, in batches of similar length, with indices to restore the order.

Shapes: N is the number of events of a window, B that of a batch.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from weaver_tasks.data.loading.buffers import BufferPool
from weaver_tasks.data.loading.collate import InputAssembler
from weaver_tasks.data.loading.options import split_options
from weaver_tasks.data.loading.parts import OpenFiles
from weaver_tasks.data.loading.prediction_order import planned_windows, prediction_reader, window_events
from weaver_tasks.data.loading.prefetch import ordered_map
from weaver_tasks.data.loading.window import LoadedWindow
from weaver_tasks.data.loading.window_plan import Window
from weaver_tasks.settings.stage import StageSettings

if TYPE_CHECKING:
    from weaver_tasks.data.configuration import DataConfiguration


@dataclass(frozen=True, kw_only=True, eq=False)
class ServedWindow:
    """The columns of N events that are copied to the predictions, in the order of the files. labels, observers: as in `Batch`, (N, …).

    file: (N,) index of the file in the manifest. entry: (N,) entry in that file.
    """

    labels: dict[str, np.ndarray]
    observers: dict[str, Any]
    file: np.ndarray
    entry: np.ndarray


@dataclass(frozen=True, kw_only=True, eq=False)
class WindowBatch:
    """The network inputs of B events of a window.

    inputs: as in `Batch`. places: (B,) indices of these events in the window; each event is in exactly one batch.
    window: the ServedWindow, given with the last batch of the window, otherwise None.
    """

    inputs: dict[str, Any]
    places: np.ndarray
    window: ServedWindow | None


def window_batches(
    manifest: Mapping[str, Any],
    configuration: DataConfiguration,
    settings: StageSettings,
    *,
    group: str,
    batch_size: int,
    rank: int = 0,
    world_size: int = 1,
    threads: int = 1,
    custom_functions: Path | None = None,
    buffers: BufferPool | None = None,
    pad: bool = True,
    by_length: bool = False,
    fullness: float = 1.0,
) -> Iterator[WindowBatch]:
    """Yield the same events as `prediction_order.prediction_batches`, in batches of at most `batch_size` events of one window.

    Windows are in the order of the files; windows without events are skipped. by_length: a batch holds events of similar length,
    padded to the longest of them, for networks whose result does not depend on the padding. The padded size of such a batch is at most
    the fraction `fullness` of batch_size events of full length. Memory does not grow with the number of events. Other arguments: as in
    `loader.EpochLoader`.
    """
    options = split_options(settings, "test")
    assembler = InputAssembler(configuration, batch_size=batch_size, buffers=buffers, trim=by_length, pad=pad)
    files = OpenFiles(manifest, configuration, custom_functions=custom_functions)
    reader = prediction_reader(files, configuration, options, packed=assembler.columns, threads=threads)
    planned = planned_windows(manifest, options, group=group, rank=rank, world_size=world_size)
    windows = [(0, window) for window in _joined(planned, most=window_events(options))]
    loaded = ordered_map(reader.load, windows, threads=min(1, threads), ahead=1, name="loader-windows")
    made = ordered_map(
        lambda part: _make(*part, assembler, configuration),
        _cut(loaded, assembler, batch_size=batch_size, fullness=fullness if by_length else None),
        threads=threads,
        ahead=settings.loading.prefetch,
        name="loader-batches",
    )
    with contextlib.closing(made):
        yield from made


def _joined(windows: list[Window], *, most: int) -> list[Window]:
    """Merge consecutive small windows up to `most` entries, so that many small files do not give many small batches."""
    joined: list[Window] = []
    for window in windows:
        if joined and joined[-1].entries + window.entries <= most:
            both = (joined.pop(), window)
            names = ("files", "first", "last")
            window = Window(number=both[0].number, **{name: np.concatenate([getattr(each, name) for each in both]) for name in names})
        joined.append(window)
    return joined


def _cut(
    windows: Generator[LoadedWindow, None, None], assembler: InputAssembler, *, batch_size: int, fullness: float | None
) -> Generator[tuple[LoadedWindow, np.ndarray, bool], None, None]:
    """Yield (window, places, whether it is the last batch of the window) for each batch."""
    with contextlib.closing(windows):
        for window in windows:
            order = np.arange(len(window.accepted))
            fitting = np.full(len(order), batch_size)
            if fullness is not None:
                sizes = assembler.sizes((window.packed, window.pieces[window.accepted], window.rows[window.accepted]))
                # The longest events first: their memory can then be reused for all following batches.
                order = np.argsort(-sizes, kind="stable")
                most = int(fullness * batch_size * assembler.largest)
                fitting = np.clip(most // np.maximum(sizes[order], 1), 1, batch_size)
            begin = 0
            while begin < len(order):
                end = begin + int(fitting[begin])
                yield window, order[begin:end], end >= len(order)
                begin = end


def _make(window: LoadedWindow, places: np.ndarray, last: bool, assembler: InputAssembler, configuration: DataConfiguration) -> WindowBatch:
    which = window.accepted[places]
    inputs = assembler.assemble([(window.packed, window.pieces[which], window.rows[which])])
    return WindowBatch(inputs=inputs, places=places, window=_served(window, configuration) if last else None)


def _served(window: LoadedWindow, configuration: DataConfiguration) -> ServedWindow:
    plain = {name: values[window.accepted] for name, values in window.plain.items()}
    labels = {name: plain.pop(name) for name in configuration.label_names if name in plain}
    file, entry = window.files[window.accepted], window.entries[window.accepted]
    return ServedWindow(labels=labels, observers=plain, file=file, entry=entry)
