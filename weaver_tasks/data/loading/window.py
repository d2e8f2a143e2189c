"""A window in memory: where its events lie, their plain columns, and which of them are served in which order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from weaver_tasks.base.errors import DataConfigError
from weaver_tasks.data.events.block import LABEL, extra_selection_column, weight_columns
from weaver_tasks.data.loading.collate import PackedPieces
from weaver_tasks.data.loading.options import SplitOptions
from weaver_tasks.data.loading.parts import OpenFiles, Part, Table
from weaver_tasks.data.loading.prefetch import ordered_map
from weaver_tasks.data.loading.sampling import RandomStream, accepted_events, generator, shuffled, shuffled_by_length
from weaver_tasks.data.loading.window_plan import Window
from weaver_tasks.data.statistics.weights import event_weights

if TYPE_CHECKING:
    from weaver_tasks.data.configuration import DataConfiguration

# Entries of a file: with fewer, threads that read wait for each other's Python longer than they work side by side.
_WORTH_A_THREAD = 4_000


@dataclass(kw_only=True)
class LoadedWindow:
    """The selected events of a window, N of them.

    pieces, rows: (N,) where the values of each lie in `packed`. files: (N,) index into the manifest's files; entries: (N,).
    plain: the columns that are served. accepted: (n,) which events are, in order, an up-sampled one several times.
    order: (n,) the same in the order in which they are served, once `put_in_order` was called.
    """

    pass_number: int
    number: int
    packed: dict[str, PackedPieces]
    pieces: np.ndarray
    rows: np.ndarray
    files: np.ndarray
    entries: np.ndarray
    plain: dict[str, Any]
    weights: Any
    accepted: np.ndarray
    rng: np.random.Generator | None
    lengths: np.ndarray | None
    length_edges: int | Sequence[float]
    order: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))

    def put_in_order(self, *, batch_size: int, carried: int) -> int:
        """Decide the order of the accepted events. Returns how many there are.

        With bucketing, events of similar length stay together in batches of batch_size, after the first `lead` events.
        """
        if self.rng is None:
            self.order = self.accepted
        elif self.lengths is None:
            self.order = shuffled(self.accepted, self.rng)
        else:
            lengths = self.lengths[self.accepted]
            self.order = shuffled_by_length(self.accepted, lengths, self.length_edges, self.rng, batch_size=batch_size, carried=carried)
        return len(self.order)


class WindowReader:
    """Reads the windows of a split.

    packed: the packed columns to read. seed: of the split's draws.
    threads: how many read the files of a window, where they are transformed on the fly and the parts are large.
    """

    def __init__(
        self,
        files: OpenFiles,
        configuration: DataConfiguration,
        options: SplitOptions,
        *,
        split: str,
        seed: Sequence[int],
        packed: Sequence[str],
        threads: int = 0,
    ) -> None:
        self._files = files
        self._configuration = configuration
        self._options = options
        self._split = split
        self._seed = tuple(seed)
        self._packed = tuple(packed)
        self._threads = threads
        self._held: dict[int, Part] = {}
        self._ahead = False
        observers = configuration.observers if split == "test" else ()
        self._served = (*configuration.label_names, *observers, *configuration.monitor_variables)
        self._drawn_from = (
            *(weight_columns(configuration) if options.sample else ()),
            *((options.fold.variable,) if options.fold else ()),
            *((extra_selection_column(split),) if split != "test" else ()),
        )
        self._bucketing = configuration.bucketing if options.shuffle and split != "test" else None
        lengths = (self._bucketing.variable,) if self._bucketing else ()
        self._columns = (*self._packed, *self._served, *self._drawn_from, *lengths)

    def load(self, planned: tuple[int, Window]) -> LoadedWindow:
        """Read a window of a pass, draw the events that are accepted, and, of all windows but the first, bring their values into memory."""
        pass_number, window = planned
        parts = self._parts(pass_number, window, self._columns)
        pieces = [part.block for part in parts]
        counts = [part.last - part.first for part in parts]
        table = Table(parts)
        kept = self._kept(table)
        files, entries = np.repeat(window.files, counts), np.concatenate([part.of(part.block.entries) for part in parts])
        self._check_labels(table, kept, files, entries)
        weights, accepted = self._draw(table, kept, pass_number, window)
        loaded = LoadedWindow(
            pass_number=pass_number,
            number=window.number,
            packed={name: PackedPieces(pieces, name) for name in self._packed},
            pieces=np.repeat(np.arange(len(parts)), counts),
            rows=np.concatenate([np.arange(part.first, part.last) for part in parts]),
            files=files.astype(np.int32, copy=False),
            entries=entries,
            plain={name: _as_served(table[name], label=name in self._configuration.label_names) for name in self._served},
            weights=weights,
            accepted=accepted,
            rng=self._generator(RandomStream.ORDER, pass_number, window) if self._options.shuffle else None,
            lengths=table[self._bucketing.variable] if self._bucketing else None,
            length_edges=self._bucketing.edges if self._bucketing else 1,
        )
        self._check_values(loaded, parts)
        # Batches of the first window wait for it. Its values are read into memory when they are used.
        if self._ahead:
            for packed in loaded.packed.values():
                packed.touch(loaded.pieces[accepted], loaded.rows[accepted])
        self._ahead = True
        return loaded

    def _check_values(self, window: LoadedWindow, parts: Sequence[Part]) -> None:
        """Compare the accepted events' values with the checksums of the staged files, where that was not yet done."""
        pieces, rows = window.pieces[window.accepted], window.rows[window.accepted]
        ends = np.searchsorted(pieces, np.arange(len(parts) + 1))  # accepted events come in the order of the parts
        for part, begin, end in zip(parts, ends[:-1].tolist(), ends[1:].tolist(), strict=True):
            part.check_values(rows[begin:end], self._packed)

    def count(self, planned: tuple[int, Window]) -> int:
        """How many events of a window are accepted: as many as `load` serves, from the few columns that decide it."""
        pass_number, window = planned
        table = Table(self._parts(pass_number, window, self._drawn_from))
        return len(self._draw(table, self._kept(table), pass_number, window)[1])

    def _generator(self, purpose: RandomStream, pass_number: int, window: Window) -> np.random.Generator:
        if self._options.same_each_pass or (purpose is RandomStream.ACCEPTANCE and self._options.in_memory and self._options.endless):
            pass_number = 0
        return generator(self._seed, purpose, pass_number, window.number)

    def _parts(self, pass_number: int, window: Window, columns: tuple[str, ...]) -> list[Part]:
        asked = list(zip(window.files.tolist(), window.first.tolist(), window.last.tolist(), strict=True))
        small = window.entries < _WORTH_A_THREAD * len(asked)
        alone = min(self._threads, len(asked)) < 2 or small or self._files.are_staged([file for file, _, _ in asked])

        def read(part: tuple[int, int, int]) -> Part:
            return self._read(*part, pass_number=pass_number, columns=columns)

        threads = 0 if alone else min(self._threads, len(asked))
        return list(ordered_map(read, asked, threads=threads, ahead=len(asked), name="loader-files"))

    def _read(self, file: int, first: int, last: int, *, pass_number: int, columns: tuple[str, ...]) -> Part:
        training, hold = self._split == "train", self._options.in_memory
        seed = (*self._seed, int(RandomStream.EXPRESSIONS), 0 if hold or self._options.same_each_pass else pass_number, file)
        if not hold:
            return self._files.read(file, first, last, columns, training=training, seed=seed)
        # Each file has one part, of the one window.
        if file not in self._held:
            self._held[file] = self._files.read(file, first, last, None, training=training, seed=seed)
        return self._held[file]

    def _kept(self, table: Table) -> np.ndarray | None:
        """The events of this fold that pass the extra selection: (n,) indices, or None for all."""
        keep = None
        extra = extra_selection_column(self._split)
        if extra in table:
            keep = table[extra]
        if (fold := self._options.fold) is not None:
            if fold.variable not in table:
                raise DataConfigError(
                    f"cross_validation.variable '{fold.variable}' is not among the columns of the {self._split} files. "
                    f"Stage them with it, or name it in `observers` of {self._configuration.path}."
                )
            apart = (table[fold.variable] % fold.folds) == fold.index
            apart = apart if self._split == "test" else ~apart
            keep = apart if keep is None else keep & apart
        return None if keep is None else np.flatnonzero(keep)

    def _draw(self, table: Table, kept: np.ndarray | None, pass_number: int, window: Window) -> tuple[np.ndarray | None, np.ndarray]:
        """The weights of all events of a window, and which of the kept ones are accepted."""
        if not self._options.sample or self._configuration.weights is None:
            return None, np.arange(table.events) if kept is None else kept
        columns = {name: table[name] for name in weight_columns(self._configuration)}
        weights = event_weights(self._configuration, columns)
        options = self._options
        accepted = accepted_events(
            weights if kept is None else weights[kept],
            self._generator(RandomStream.ACCEPTANCE, pass_number, window),
            up_sample=options.up_sample,
            max_resample=options.max_resample,
            weight_scale=options.weight_scale,
        )
        return weights, accepted if kept is None else kept[accepted]

    def _check_labels(self, table: Table, kept: np.ndarray | None, files: np.ndarray, entries: np.ndarray) -> None:
        labels = self._configuration.labels
        if self._split == "test" or labels is None or labels.kind != "simple":
            return
        without = np.flatnonzero(table[LABEL] < 0) if kept is None else kept[table[LABEL][kept] < 0]
        if len(without):
            first = without[0]
            raise DataConfigError(
                f"{self._files.records[files[first]]['source']}: entry {entries[first]} does not belong to exactly one class "
                f"(labels.value of {self._configuration.path}). Exclude such events by `selection`, or correct the labels."
            )


def _as_served(array: Any, *, label: bool) -> Any:
    """Labels are int64 or float32; other columns are served as they are."""
    if not label:
        return array
    return np.asarray(array).astype(np.float32 if np.issubdtype(array.dtype, np.floating) else np.int64, copy=False)
