"""Predictions as they are written (weaver's columns) and read back for evaluation."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import awkward as ak
import numpy as np

from weaver_tasks.base.errors import ResultError, nearest
from weaver_tasks.base.jet_observers import kinematic_observers
from weaver_tasks.results.predictions.tables import Column, Columns, read_table, table_metadata, table_names

Array = np.ndarray

_SCORE = "score_"
# Observers that efficiencies are shown against: transverse momentum and mass of the jet.


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
    labels: each label's column; the first one is a class index where there are classes (simple labels: `_label_`); {} where the
    files have no labels.
    classes: the names of the classes; () where the scores go under one name, `output`.
    table_format: in "parquet" all scores are one column `scores`; in "root" each class has its own, led by the flag of the true class.
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
    """The predictions of all test groups, one after another.

    classes: () for a regression. scores: (N, C), or (N, T) for a regression with T targets. labels: (N,) class indices, -1 outside all
    classes; None without labels. targets: name -> (N,), for a regression. groups: name -> its events. observers: those kept, (N,) each.
    Per-particle predictions are flattened: N then counts particles.
    """

    classes: tuple[str, ...]
    scores: Array
    labels: Array | None
    targets: dict[str, Array] = field(default_factory=dict)
    groups: dict[str, slice]
    observers: dict[str, Array]
    weights: Array | None


@dataclass(frozen=True, kw_only=True)
class _Layout:
    """Which columns of a prediction table hold what."""

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
    """Read prediction tables; several of one group follow each other.

    task: "classification" or "regression". weight: the column that weights each event.
    classes, labels: their names, for tables that do not tell them (those that other programs wrote).
    Raises ResultError when a table is missing or damaged, lacks scores or the weight, or does not fit the others.
    """
    pieces: dict[str, list[Column]] = {}
    sizes: dict[str, int] = {}
    first: tuple[Path, _Layout] | None = None
    for group, path in files:
        layout = _layout(path, task=task, weight=weight, classes=classes, labels=labels)
        if first is None:
            first = (path, layout)
        elif (layout.classes, layout.labels) != (first[1].classes, first[1].labels):
            raise ResultError(f"{path}: other classes or labels than {first[0]}. Predict both groups again with one configuration.")
        for chunk in read_table(path, layout.names()):
            scores = _scores(chunk, layout)
            sizes[group] = sizes.get(group, 0) + len(scores)
            pieces.setdefault("scores", []).append(scores)
            for name in layout.names():
                if name not in layout.scores:
                    pieces.setdefault(name, []).append(_flat(chunk[name]))
        sizes.setdefault(group, 0)
    if first is None:
        raise ResultError("--predictions: no prediction files. Name at least one, GROUP=FILE.")
    return _assemble(pieces, sizes, first[1], task)


def _assemble(pieces: dict[str, list[Column]], sizes: dict[str, int], layout: _Layout, task: str) -> Predictions:
    names = ["scores", *(name for name in layout.names() if name not in layout.scores)]
    columns = {name: np.concatenate(pieces.pop(name)) if name in pieces else np.empty(0, np.float32) for name in names}
    ends = np.cumsum(list(sizes.values())).tolist()
    groups = {group: slice(end - size, end) for (group, size), end in zip(sizes.items(), ends, strict=True)}
    # Without events the file does not say how many scores each has.
    width = -1 if ends[-1] else max(len(layout.classes) or len(layout.labels), 1)
    scores = columns["scores"].reshape(ends[-1], width)
    if task == "regression" and scores.shape[1] != len(layout.labels) and layout.labels:
        targets = ", ".join(layout.labels)
        raise ResultError(f"{scores.shape[1]} outputs for the targets {targets}: the network must give one output per target.")
    labeled = task == "classification" and bool(layout.labels)
    return Predictions(
        classes=layout.classes,
        scores=scores,
        labels=columns[layout.labels[0]].astype(np.int64) if labeled else None,
        targets={} if task == "classification" else {name: columns[name] for name in layout.labels},
        groups=groups,
        # Observers of jets do not line up with scores of particles.
        observers={name: columns[name] for name in layout.observers if len(columns[name]) == ends[-1]},
        weights=columns[layout.weight].astype(np.float64) if layout.weight else None,
    )


def _layout(path: Path, *, task: str, weight: str | None, classes: Sequence[str], labels: Sequence[str]) -> _Layout:
    metadata: dict[str, Any] = table_metadata(path)
    names = table_names(path)
    scores = [name for name in names if name.startswith(_SCORE)] or [name for name in ("output", "scores") if name in names][:1]
    if not scores:
        raise ResultError(f"{path}: no score_<label>, output or scores among its columns. Run the rule 'predict' again.")
    if weight is not None and weight not in names:
        hint = nearest(weight, names)
        raise ResultError(f"evaluation.weight: '{weight}' is not in {path}. Make it an observer in the data configuration.{hint}")
    known = tuple(metadata.get("classes") or classes) or tuple(name.removeprefix(_SCORE) for name in scores if name.startswith(_SCORE))
    found = tuple(name for name in metadata.get("labels") or labels or ("_label_",) if name in names)
    return _Layout(
        classes=known if task == "classification" else (),
        scores=tuple(scores),
        labels=found if task == "regression" else found[:1],
        observers=tuple(kinematic_observers(names).values()),
        weight=weight,
    )


def _scores(chunk: Columns, layout: _Layout) -> Array:
    if layout.scores[0].startswith(_SCORE):
        return np.stack([_flat(chunk[name]) for name in layout.scores], axis=1)
    column = chunk[layout.scores[0]]
    return column if isinstance(column, np.ndarray) else ak.to_numpy(ak.flatten(column, axis=1))


def _flat(column: Column) -> Array:
    return column if isinstance(column, np.ndarray) else ak.to_numpy(ak.flatten(column, axis=None))
