"""The columns of prediction files: named as weaver does for writing, and read back for the evaluation."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import awkward as ak
import numpy as np

from weaver_tasks.base.errors import ResultError, did_you_mean
from weaver_tasks.base.jet_observers import kinematic_observers
from weaver_tasks.results.predictions.tables import Column, Columns, read_table, table_metadata, table_names

Array = np.ndarray

_SCORE = "score_"
_WEIGHT = ""  # key of the event weights among the columns that are read; their column may also be an observer or a label


def output_columns(
    scores: Column,
    labels: Mapping[str, Column],
    observers: Mapping[str, Column],
    *,
    classes: Sequence[str],
    table_format: str,
) -> Columns:
    """The columns of a prediction table, named and ordered as weaver-core does.

    scores: (N, C) or, per particle, (N, jagged, C); for a regression (N,) or (N, T).
    labels: name -> column of each label. With classes, the first one is a class index (simple labels: `_label_`). {} if the files have
    no labels.
    classes: the names of the classes; () if the scores are written as one column `output`.
    table_format: in "parquet" all scores are one column `scores`. In "root" each class has its own column, and the flags of the true
    class come first.
    """
    columns: Columns = {}
    if table_format == "parquet":
        columns["scores"] = scores
    elif not classes:
        columns["output"] = scores
    else:
        truth = next(iter(labels.values()), None)
        for index, name in enumerate(classes):
            if truth is not None:
                columns[name] = truth == index
            columns[_SCORE + name] = scores[..., index]
    return {**columns, **labels, **observers}


@dataclass(frozen=True, kw_only=True)
class Predictions:
    """The predictions of all test groups, concatenated, without the events whose scores are not finite.

    classes: names of the classes, () for a regression. scores: (N, C), or (N, T) for a regression with T targets (the number of outputs
    may differ from T: see `outputs_match`).
    labels: (N,) class indices, -1 for events of no class and in groups without labels; None if no group has labels.
    targets: name -> (N,), for a regression; NaN in groups without labels.
    groups: name -> slice of its events. observers: name -> (N,), NaN in groups that lack it. weights: (N,), finite.
    not_finite: group -> number of events with scores that are NaN or infinite. unlabeled: the groups without labels.
    Per-particle predictions are flattened: N then counts particles.
    """

    classes: tuple[str, ...]
    scores: Array
    labels: Array | None
    targets: dict[str, Array] = field(default_factory=dict)
    groups: dict[str, slice]
    observers: dict[str, Array]
    weights: Array | None
    not_finite: dict[str, int] = field(default_factory=dict)
    unlabeled: tuple[str, ...] = ()


def outputs_match(predictions: Predictions) -> bool:
    """Whether a regression has one output per target. Networks with their own training loop may learn classes and a target together."""
    return predictions.scores.shape[1] == len(predictions.targets)


def left_out(predictions: Predictions) -> str:
    """A text that says how many events are left out of the plots because their scores are not finite; '' if there are none."""
    missing = sum(predictions.not_finite.values())
    return f"{missing:,} of {len(predictions.scores) + missing:,} jets left out: their scores are NaN or infinite" if missing else ""


@dataclass(frozen=True, kw_only=True)
class _Layout:
    """The meaning of the columns of a prediction table."""

    classes: tuple[str, ...]
    scores: tuple[str, ...]
    labels: tuple[str, ...]
    observers: tuple[str, ...]
    weight: str | None

    def names(self) -> list[str]:
        weight = [self.weight] if self.weight else []
        return list(dict.fromkeys([*self.scores, *self.labels, *self.observers, *weight]))


def read_predictions(
    files: Iterable[tuple[str, Path]],
    *,
    task: str,
    weight: str | None = None,
    classes: Sequence[str] = (),
    labels: Sequence[str] = (),
) -> Predictions:
    """Read prediction tables. A group may have several tables; their events are concatenated.

    task: "classification" or "regression". weight: the column that weights each event.
    classes, labels: their names, for tables without this metadata (those that other programs wrote).
    Raises ResultError if a table is missing or damaged, lacks scores or the weight, or has other columns than the others.
    """
    tables = [(group, path, _layout(path, task=task, weight=weight, classes=classes, labels=labels)) for group, path in files]
    if not tables:
        raise ResultError("--predictions: no prediction files. Name at least one, GROUP=FILE.")
    model = next((layout for _, _, layout in tables if layout.labels), tables[0][2])
    for _, path, layout in tables:
        # One column of lists (Parquet) does not say how many scores an event has.
        alike = layout.classes == model.classes and (
            1 in (len(layout.scores), len(model.scores)) or len(layout.scores) == len(model.scores)
        )
        if not alike or (layout.labels and layout.labels != model.labels):
            other = next(path for _, path, layout in tables if layout is model)
            raise ResultError(f"{path}: other classes or labels than {other}. Predict both groups again with one configuration.")
    unlabeled = {group for group, _, layout in tables if model.labels and not layout.labels}
    for group, path, layout in tables:
        if group in unlabeled and layout.labels:
            raise ResultError(f"{path}: has labels, and other files of the group '{group}' have none. Predict the whole group again.")
    read = _Read(model, task)
    for group, path, layout in tables:
        read.add(group, path, layout)
    return read.predictions(tuple(group for group in read.sizes if group in unlabeled))


class _Read:
    """Collects the columns of prediction tables. layout: that of a table with labels, if there is one."""

    def __init__(self, layout: _Layout, task: str) -> None:
        self._layout, self._task = layout, task
        self.sizes: dict[str, int] = {}
        self._not_finite: dict[str, int] = {}
        self._pieces: dict[str, list[tuple[str, Array]]] = {}  # column -> (group, values) of each chunk

    def add(self, group: str, path: Path, layout: _Layout) -> None:
        """Read a table. Raises ResultError if a weight is not finite."""
        self.sizes.setdefault(group, 0)
        self._not_finite.setdefault(group, 0)
        first = 0
        for chunk in read_table(path, layout.names()):
            raw = chunk[layout.scores[0]]
            if layout.weight:
                _check_weights(np.asarray(chunk[layout.weight], np.float64), layout.weight, group, path, first)
            first += len(raw)
            scores = _scores(chunk, layout)
            scores = scores.reshape(len(scores), -1)
            finite = np.isfinite(scores).all(axis=1)
            columns = {"scores": scores}
            for name in dict.fromkeys((*self._layout.labels, *self._layout.observers)):
                missing = np.full(len(scores), -1) if name in self._layout.labels and self._task == "classification" else None
                columns[name] = _column_of(chunk.get(name), len(scores), missing=missing)
            if self._layout.weight:
                # There is one weight per event, also if the scores are per particle.
                weights = _column_of(chunk.get(self._layout.weight), len(raw), missing=None)
                jagged = not isinstance(raw, np.ndarray) and len(weights) != len(scores)
                columns[_WEIGHT] = np.repeat(weights, ak.to_numpy(ak.num(raw))) if jagged else weights
            for name, values in columns.items():
                self._pieces.setdefault(name, []).append((group, values[finite] if len(values) == len(scores) else values))
            self.sizes[group] += int(finite.sum())
            self._not_finite[group] += int((~finite).sum())

    def _column(self, name: str) -> Array:
        """All values of a column, sorted by group, even if the files of a group were not read one after the other."""
        pieces = self._pieces.get(name, [])
        ordered = [values for group in self.sizes for of, values in pieces if of == group]
        return np.concatenate(ordered) if ordered else np.empty(0, np.float32)

    def predictions(self, unlabeled: tuple[str, ...]) -> Predictions:
        layout, task = self._layout, self._task
        ends = np.cumsum(list(self.sizes.values())).tolist()
        groups = {group: slice(end - size, end) for (group, size), end in zip(self.sizes.items(), ends, strict=True)}
        scores = self._column("scores")
        if scores.ndim == 1:
            scores = scores.reshape(0, len(layout.classes) or len(layout.labels) or 1)  # no chunk of any table was read
        observers = {name: self._column(name) for name in layout.observers}
        return Predictions(
            classes=layout.classes,
            scores=scores,
            labels=self._column(layout.labels[0]).astype(np.int64) if task == "classification" and layout.labels else None,
            targets={} if task == "classification" else {name: self._column(name) for name in layout.labels},
            groups=groups,
            # Observers of jets do not match the length of scores per particle.
            observers={name: values for name, values in observers.items() if len(values) == ends[-1]},
            weights=self._column(_WEIGHT).astype(np.float64) if layout.weight else None,
            not_finite=self._not_finite,
            unlabeled=unlabeled,
        )


def _check_weights(weights: Array, name: str, group: str, path: Path, first: int) -> None:
    wrong = np.flatnonzero(~np.isfinite(weights))
    if len(wrong):
        more = f" and not finite for {len(wrong) - 1} more of {len(weights)}" if len(wrong) > 1 else ""
        raise ResultError(
            f"evaluation.weight: '{name}' is {weights[wrong[0]]} for event {first + wrong[0]} of {path} (group '{group}'){more}. "
            "Correct it in the data configuration, or exclude such events by test_time_selection."
        )


def _column_of(column: Column | None, count: int, *, missing: Array | None) -> Array:
    """The values of a column as a flat array; for a file without this column, `missing` (default: NaN)."""
    if column is None:
        return np.full(count, np.nan) if missing is None else missing
    return _flat(column)


def _layout(path: Path, *, task: str, weight: str | None, classes: Sequence[str], labels: Sequence[str]) -> _Layout:
    metadata: dict[str, Any] = table_metadata(path)
    names = table_names(path)
    scores = [name for name in names if name.startswith(_SCORE)] or [name for name in ("output", "scores") if name in names][:1]
    if not scores:
        raise ResultError(f"{path}: no score_<label>, output or scores among its columns. Run the rule 'predict' again.")
    known = tuple(metadata.get("classes") or classes) or tuple(name.removeprefix(_SCORE) for name in scores if name.startswith(_SCORE))
    found = tuple(name for name in metadata.get("labels") or labels or ("_label_",) if name in names)
    if weight is not None and weight not in names and found:
        hint = did_you_mean(weight, names)
        raise ResultError(f"evaluation.weight: '{weight}' is not in {path}. Make it an observer in the data configuration.{hint}")
    return _Layout(
        classes=known if task == "classification" else (),
        scores=tuple(scores),
        labels=found if task == "regression" else found[:1],
        observers=tuple(kinematic_observers(names).values()),
        weight=weight if weight in names else None,
    )


def _scores(chunk: Columns, layout: _Layout) -> Array:
    if layout.scores[0].startswith(_SCORE):
        return np.stack([_flat(chunk[name]) for name in layout.scores], axis=1)
    column = chunk[layout.scores[0]]
    return column if isinstance(column, np.ndarray) else ak.to_numpy(ak.flatten(column, axis=1))


def _flat(column: Column) -> Array:
    return column if isinstance(column, np.ndarray) else ak.to_numpy(ak.flatten(column, axis=None))
