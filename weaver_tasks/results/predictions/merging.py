"""Merge the prediction tables of several members (folds, or trainings with different seeds) into one, in bounded memory."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import awkward as ak
import numpy as np

from weaver_tasks.base.errors import ResultError
from weaver_tasks.results.predictions.tables import Column, Columns, concatenate, empty_columns, read_table, table_metadata, table_names

Array = np.ndarray
Tables = Mapping[str, Path]
"""Name of a member -> its prediction table."""

_STEP = 1 << 14


def merge_folds(tables: Tables, folds: Iterable[Array]) -> Iterator[Columns]:
    """The events of all folds in one common order. Each table holds the events of its fold, in the same order.

    folds: arrays (n,) with the fold that scored each event, as a position in `tables`, in the common order.
    Yields at least one chunk, perhaps empty. Raises ResultError if a table has another number of events than `folds` says, or other
    columns.
    """
    names = _common_names(tables)
    members = [_Rows(member, path, names) for member, path in tables.items()]
    yield empty_columns(whole_table(next(iter(tables.values()))), names)
    for fold in folds:
        pieces = [piece for number, rows in enumerate(members) for piece in rows.take(int((fold == number).sum()))]
        if pieces:
            place = np.empty(len(fold), dtype=np.int64)
            place[np.argsort(fold, kind="stable")] = np.arange(len(fold))
            yield {name: concatenate([piece[name] for piece in pieces])[place] for name in names}
    for rows in members:
        rows.finish()


def average(tables: Tables) -> Iterator[Columns]:
    """The mean of the scores of all members for each event, and their spread: the standard deviation (n - 1) over the members.

    The columns are those of a member, with a spread_<label> for each score_<label>, or a column `spread` for `output` or `scores`.
    Yields at least one chunk, perhaps empty. Raises ResultError if the tables differ in their events or columns.
    """
    names = _common_names(tables)
    scores = {name: spread for name in names if (spread := _spread_name(name))}
    for name in scores.values():
        if name in names:
            raise ResultError(f"{next(iter(tables.values()))}: has a column '{name}' already. Give that observer another name.")
    first, *others = (_Rows(member, path, names) for member, path in tables.items())
    chunks = itertools.chain([empty_columns(whole_table(next(iter(tables.values()))), names)], first.chunks())
    for chunk in chunks:
        count = len(chunk[names[0]])
        alike = [_joined(rows.take(count), names) if count else chunk for rows in others]
        means, spreads = {}, {}
        for name, spread in scores.items():
            means[name], spreads[spread] = _mean_and_spread([columns[name] for columns in (chunk, *alike)])
        yield {**chunk, **means, **spreads}
    for rows in others:
        rows.finish()


def merged_metadata(tables: Tables) -> dict[str, Any]:
    """The metadata of the merged table about its origin. Raises ResultError if the members predicted different input files."""
    found = {member: table_metadata(path) for member, path in tables.items()}
    (first, metadata), *others = found.items()
    for member, other in others:
        if other.get("inputs") != metadata.get("inputs"):
            raise ResultError(f"{tables[member]}: predicts other files than {tables[first]}. Run the rule 'predict' again for both.")
    kept = {key: value for key, value in metadata.items() if key not in ("model", "model_sha256", "settings")}
    return {**kept, "members": {member: each.get("model_sha256") for member, each in found.items()}}


def _spread_name(name: str) -> str | None:
    """The name of the spread column of a score; None for other columns."""
    if name in ("output", "scores"):
        return "spread"
    return f"spread_{name.removeprefix('score_')}" if name.startswith("score_") else None


def _mean_and_spread(columns: list[Column]) -> tuple[Column, Column]:
    """Mean and standard deviation over flat or jagged arrays of the same shape, computed in double precision."""
    count = len(columns)
    mean = sum(_typed(column, np.float64) for column in columns) / count
    # For a single network the spread is unknown: NaN.
    factor = 1 / (count - 1) if count > 1 else math.nan
    spread = (sum((_typed(column, np.float64) - mean) ** 2 for column in columns) * factor) ** 0.5
    return _typed(mean, np.float32), _typed(spread, np.float32)


def _typed(column: Column, dtype: type) -> Any:
    return column.astype(dtype) if isinstance(column, np.ndarray) else ak.values_astype(column, dtype)


def _common_names(tables: Tables) -> list[str]:
    (_, first), *others = tables.items()
    names = table_names(whole_table(first))
    for _, path in others:
        if (found := table_names(whole_table(path))) != names:
            differing = ", ".join(sorted(set(names) ^ set(found))) or "their order"
            raise ResultError(f"{path}: other columns than {first} ({differing}). Run the rule 'predict' again for both.")
    return names


def whole_table(path: Path) -> Path:
    """The file that holds all columns of a table: the Parquet file beside a ROOT file if the ROOT file could not hold them all."""
    beside = path.with_suffix(".parquet")
    if path.suffix == ".root" and beside.is_file() and table_metadata(beside) == table_metadata(path):
        return beside
    return path


class _Rows:
    """Reads the rows of a member's table in order, any number at a time."""

    def __init__(self, member: str, path: Path, names: list[str]) -> None:
        self._member, self._path, self._names = member, path, names
        self._chunks = read_table(whole_table(path), names, step=_STEP)
        self._rest: Columns | None = None

    def chunks(self) -> Iterator[Columns]:
        yield from self._chunks

    def take(self, count: int) -> list[Columns]:
        """The next `count` rows, as a list of chunks. Raises ResultError if there are fewer."""
        pieces = []
        while count > 0:
            chunk = self._rest if self._rest is not None else next(self._chunks, None)
            if chunk is None:
                raise ResultError(f"{self._path}: {self._member} has predicted fewer events than it should. {_REMEDY}")
            size = len(chunk[self._names[0]])
            pieces.append({name: column[:count] for name, column in chunk.items()})
            self._rest = {name: column[count:] for name, column in chunk.items()} if size > count else None
            count -= size
        return pieces

    def finish(self) -> None:
        """Raises ResultError if rows are left."""
        if self._rest is not None or next(self._chunks, None) is not None:
            raise ResultError(f"{self._path}: {self._member} has predicted more events than it should. {_REMEDY}")


_REMEDY = "Run the rule 'predict' again for all members."


def _joined(pieces: list[Columns], names: list[str]) -> Columns:
    return {name: concatenate([piece[name] for piece in pieces]) for name in names}
