"""Plans which entries are read together and in which order, as a pure function of file sizes, options and seed.

A *pass* goes through the data once, in *windows*. Events are sampled and shuffled within a window. A window therefore consists of
a slice of every file (`fetch_step`), or of some whole files (`fetch_by_files`).
Each entry lies in at most one window of a pass. Nothing here depends on the number of ranks.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from weaver_tasks.data.loading.options import SplitOptions
from weaver_tasks.data.loading.sampling import RandomStream, generator


@dataclass(frozen=True, kw_only=True)
class PlannedFile:
    """A file of the manifest: its index in the manifest, its group, and its number of entries before selection."""

    index: int
    group: str
    entries: int


@dataclass(frozen=True, kw_only=True, eq=False)
class Window:
    """Entries that are read, sampled and shuffled together: first <= entry < last of each of its m files.

    files: (m,) index in the manifest. first, last: (m,) entry numbers before selection.
    number: index of the window in the pass.
    """

    number: int
    files: np.ndarray
    first: np.ndarray
    last: np.ndarray

    @property
    def entries(self) -> int:
        return int((self.last - self.first).sum())


def plan_windows(files: Sequence[PlannedFile], options: SplitOptions, *, seed: Sequence[int], pass_number: int = 0) -> list[Window]:
    """Return the windows of a pass in the order in which they are used. Empty windows are left out.

    seed: seeds the draws, together with the pass. Without `options.shuffle`, the only draw is that of the files (if `file_fraction` is
    below 1), and windows go forward through each file, in the order of the manifest.
    """
    if options.same_each_pass or options.in_memory:
        pass_number = 0
    files = _draw_files(files, options, seed, pass_number)
    first, last = _draw_parts(files, options, seed, pass_number)
    phases = generator(seed, RandomStream.SLICES, pass_number).random(len(files)) if options.shuffle else np.zeros(len(files))

    windows = []
    for members, part_first, part_last in _cut(files, first, last, phases, options):
        filled = part_last > part_first
        if filled.any():
            windows.append((members[filled], part_first[filled], part_last[filled]))
    order = generator(seed, RandomStream.WINDOWS, pass_number).permutation(len(windows)) if options.shuffle else range(len(windows))
    indices = np.array([file.index for file in files], dtype=np.int32)
    return [
        Window(number=number, files=indices[members], first=begin, last=end)
        for number, (members, begin, end) in enumerate(windows[which] for which in order)
    ]


def entry_at(fraction: float, entries: int | np.ndarray) -> np.ndarray:
    """Return the entry at which the leading `fraction` ends: int(fraction * entries), corrected for rounding (0.29 of 100 is 29)."""
    return np.floor(np.asarray(entries) * fraction * (1 + 1e-12) + 1e-9).astype(np.int64)


def _draw_files(files: Sequence[PlannedFile], options: SplitOptions, seed: Sequence[int], pass_number: int) -> list[PlannedFile]:
    """Draw the files of this pass, in the order in which they are grouped into windows."""
    files = [file for file in files if file.entries > 0]
    if not options.shuffle and options.file_fraction >= 1:
        return files
    drawn = generator(seed, RandomStream.FILES, pass_number).permutation(len(files))
    if options.file_fraction < 1:
        drawn = drawn[: max(1, int(len(files) * options.file_fraction))]
    return [files[which] for which in (drawn if options.shuffle else np.sort(drawn))]


def _draw_parts(
    files: Sequence[PlannedFile], options: SplitOptions, seed: Sequence[int], pass_number: int
) -> tuple[np.ndarray, np.ndarray]:
    """Draw the first and last entry of each of the F files in this pass: (F,), (F,).

    A `data_fraction` below 1 selects a contiguous part of each file's range. Without shuffling, it is at the start and has at least one
    entry. With shuffling, its position is random, and its size is rounded up or down at random, so that the average is exact.
    """
    entries = np.array([file.entries for file in files], dtype=np.int64)
    start, stop = entry_at(options.start, entries), entry_at(options.stop, entries)
    if options.data_fraction >= 1:
        return start, stop
    if not options.shuffle:
        return start, start + np.maximum(entry_at(options.data_fraction, stop - start), np.minimum(1, stop - start))
    rng = generator(seed, RandomStream.PARTS, pass_number)
    size = np.floor((stop - start) * options.data_fraction + rng.random(len(files))).astype(np.int64)
    first = start + rng.integers(0, stop - start - size, endpoint=True)
    return first, first + size


def _cut(
    files: Sequence[PlannedFile], first: np.ndarray, last: np.ndarray, phases: np.ndarray, options: SplitOptions
) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Divide the files into windows: (indices in `files`, first entries, last entries) of each."""
    everything = np.arange(len(files))
    if options.in_memory:
        return [(everything, first, last)]
    if options.fetch_by_files:
        size = max(1, int(options.fetch_step)) if options.fetch_step > 0 else max(1, len(files))
        pieces = [everything[begin : begin + size] for begin in range(0, len(files), size)]
        windows = [(members, first[members], last[members]) for members in pieces]
    else:
        span = (options.stop - options.start) * min(1.0, options.data_fraction)
        slices = int(np.ceil(span / options.fetch_step - 1e-9)) if options.fetch_step > 0 else 1
        bounds = _slice_bounds(first, last, phases, max(1, slices))
        shares = _file_shares(files, options.split_num)
        windows = [
            (everything, low + (high - low) * share // options.split_num, low + (high - low) * next_share // options.split_num)
            for low, high in itertools.pairwise(bounds)
            for share, next_share in itertools.pairwise(shares)
        ]
    return [part for window in windows for part in _cap(*window, phases, options.max_window_events)]


def _slice_bounds(first: np.ndarray, last: np.ndarray, phases: np.ndarray, slices: int) -> np.ndarray:
    """Return the boundaries of `slices` equal parts of each file: (slices + 1, F).

    Each file has a different phase in [0, 1), so that many small files are not divided at the same positions.
    """
    steps = np.arange(slices + 1)[:, None]
    phase = np.floor(phases * slices).astype(np.int64)
    return first + ((last - first) * steps + phase) // slices


def _file_shares(files: Sequence[PlannedFile], parts: int) -> np.ndarray:
    """Return how much of each file, in units of 1/parts, precedes each boundary of weaver's `split_num`: (parts + 1, F).

    The n files of a group are consecutive, and each part takes n/parts of them: with 5 files in 3 parts, the first part
    takes file 0 and 2/3 of file 1.
    """
    count: dict[str, int] = {}
    place = []
    for file in files:
        place.append(count.get(file.group, 0))
        count[file.group] = place[-1] + 1
    sizes = np.array([count[file.group] for file in files], dtype=np.int64)
    boundaries = np.arange(parts + 1)[:, None]
    return np.clip(sizes * boundaries - np.array(place, dtype=np.int64) * parts, 0, parts)


def _cap(
    members: np.ndarray, first: np.ndarray, last: np.ndarray, phases: np.ndarray, most: int
) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Divide the window into slices of at most `most` entries (or one entry per file, if there are more files than that)."""
    total, longest = int((last - first).sum()), int((last - first).max(initial=0))
    if total <= most:
        return [(members, first, last)]
    slices = -(-total // most)
    while True:
        bounds = _slice_bounds(first, last, phases[members], slices)
        if slices >= longest or np.diff(bounds.sum(axis=1)).max() <= most:
            return [(members, low, high) for low, high in itertools.pairwise(bounds)]
        slices += 1 + slices // 16
