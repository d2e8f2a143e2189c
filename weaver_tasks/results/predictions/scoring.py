"""Run a network on batches, and convert its outputs to the columns of a prediction table.

Shapes: B events, C classes, T targets, P particle slots.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from queue import SimpleQueue
from typing import Any

import awkward as ak
import numpy as np
import torch
from torch import Tensor, nn

from weaver_tasks.base.errors import ResultError
from weaver_tasks.results.predictions.tables import Column

Array = np.ndarray
Inputs = Mapping[str, Any]
Labels = Mapping[str, Array]
Scorer = Callable[[Inputs], tuple[Array, "Array | None"]]


def torch_scorer(
    model: nn.Module,
    names: Sequence[str],
    *,
    task: str,
    device: torch.device | str = "cpu",
    precision: Callable[[], AbstractContextManager[object]] = nullcontext,
) -> Scorer:
    """A function from inputs to (scores, mask): the output of the model as float32, with a softmax over the logits of a classifier.

    Inputs are arrays or tensors, which may already be on the device.
    names: the input groups in the order of the model's arguments. precision: makes the autocast context for each batch.
    Scores are (B, C) or (B, C, P) for a classification, (B,), (B, T) or (B, P) for a regression. mask: (B, P), true for
    particles that count, if the model returns a mask with its output; otherwise None.
    """
    model.eval()

    def score(inputs: Inputs) -> tuple[Array, Array | None]:
        with torch.inference_mode(), precision():
            output = model(*(torch.as_tensor(inputs[name]).to(device, non_blocking=True) for name in names))
            mask = None
            if isinstance(output, tuple):
                output, mask = output[0], output[-1].bool().cpu().numpy()
            output = output.float()
            if task == "classification":
                output = torch.softmax(output, dim=1)
            elif output.ndim == 2 and output.shape[1] == 1:
                output = output[:, 0]
            return output.cpu().numpy(), mask

    return score


class ScorerPool:
    """A pool with one scorer for each of several concurrent Python threads. threads: torch threads of each scorer.

    A network may store intermediate results in itself, so every thread borrows its own network. Scoring one batch per thread involves less
    waiting than sharing a batch between threads, because most operations on a batch take microseconds.
    """

    def __init__(self, scorers: Sequence[Scorer], *, threads: int) -> None:
        self._idle: SimpleQueue[Scorer] = SimpleQueue()
        self._size = len(scorers)
        self._threads = threads
        for scorer in scorers:
            self._idle.put(scorer)

    def __len__(self) -> int:
        return self._size

    def __call__(self, inputs: Inputs) -> tuple[Array, Array | None]:
        if torch.get_num_threads() != self._threads:
            torch.set_num_threads(self._threads)  # of the calling thread
        scorer = self._idle.get()
        try:
            return scorer(inputs)
        finally:
            self._idle.put(scorer)


def gives_probabilities(scores: Tensor) -> bool:
    """Whether scores (B, C, …) are probabilities over the classes, rather than logits."""
    sums = scores.sum(dim=1)
    return bool((scores >= 0).all() and torch.allclose(sums, torch.ones_like(sums), atol=1e-3))


def as_columns(scores: Array, labels: Labels, *, task: str, mask: Array | None = None) -> tuple[Column, dict[str, Column]]:
    """Scores and labels of a batch in the form that is written: events first, classes last, without masked particles.

    scores, mask: from a scorer. labels: (B,) or, per particle, (B, P). If the model gives no mask, the label `<name>_mask`, with the
    name of the first label, masks the particles. Per-particle scores and labels become jagged.
    """
    if task == "classification" and scores.ndim == 3:
        scores = scores.transpose(0, 2, 1)  # (B, P, C)
    per_particle = scores.ndim == 3 or (task == "regression" and scores.ndim == 2 and any(label.ndim == 2 for label in labels.values()))
    if mask is None and labels:
        mask = labels.get(f"{next(iter(labels))}_mask")
    if not per_particle or mask is None:
        return np.ascontiguousarray(scores), dict(labels)
    mask = mask.reshape(scores.shape[:2]).astype(bool)
    counts = mask.sum(axis=1)
    columns = {name: ak.unflatten(label[mask], counts) if label.ndim == 2 else label for name, label in labels.items()}
    return ak.unflatten(scores[mask], counts), columns


def scored_windows(
    scored: Iterable[tuple[Array, Array | None, Array, Any]], *, task: str
) -> Iterator[tuple[Column, dict[str, Column], dict[str, Column], Any]]:
    """Yield (scores, labels, observers, window) for each window, with its events in order.

    scored: for each batch, the scores and the mask (from a scorer), the positions of its events in their window and, for the last
    batch of a window, the window itself, which holds labels and observers.
    """
    pieces: list[tuple[Array, Array | None, Array]] = []
    for scores, mask, places, window in scored:
        pieces.append((scores, mask, places))
        if window is None:
            continue
        all_scores, masks, all_places = zip(*pieces, strict=True)
        pieces = []
        ordered_mask = None if mask is None else in_order(masks, all_places)
        yield *as_columns(in_order(all_scores, all_places), window.labels, task=task, mask=ordered_mask), window.observers, window


def in_order(pieces: Sequence[Array], places: Sequence[Array]) -> Array:
    """The scores (or masks) of the events of a window, sorted by position. pieces: (B, …) for each batch. places: positions, (B,)."""
    whole = np.empty((sum(map(len, pieces)), *pieces[0].shape[1:]), pieces[0].dtype)
    whole[np.concatenate(places)] = np.concatenate(pieces)
    return whole


def change_without_padding(score: Scorer, padded: Sequence[Inputs], trimmed: Sequence[Inputs]) -> float:
    """The largest change of a score when batches are padded only to their longest event.

    The change is relative for scores larger than 1. It is infinite if the network does not accept the shorter inputs.
    padded, trimmed: the same batches, padded to the configured length and to the longest event. A few events can show that a network
    depends on padding, but cannot prove that it ignores it.
    """
    largest = 0.0
    for whole, short in zip(padded, trimmed, strict=True):
        expected, _ = score(whole)
        try:
            found, _ = score(short)
        except (RuntimeError, IndexError, ValueError, ResultError):
            # The network requires a fixed length, because of a linear layer over the particles, more neighbors than particles, and so on.
            return math.inf
        if found.shape != expected.shape:
            return math.inf
        both = np.isfinite(found) & np.isfinite(expected)
        if not np.array_equal(np.isfinite(found), np.isfinite(expected)):
            return math.inf
        change = np.abs(found[both] - expected[both]) / np.maximum(1, np.abs(expected[both]))
        largest = max(largest, float(change.max(initial=0.0)))
    return largest


def not_finite(scores: Column) -> Array:
    """(N,): true for events with a score that is NaN or infinite. scores: from `as_columns`."""
    if isinstance(scores, np.ndarray):
        return np.logical_not(np.isfinite(scores).reshape(len(scores), -1).all(axis=1))
    bad = ~np.isfinite(scores)
    while bad.ndim > 1:
        bad = ak.any(bad, axis=-1)
    return ak.to_numpy(bad)


def score_names(scores: Any, *, classes: Sequence[str], simple: bool) -> tuple[str, ...]:
    """The classes whose scores are written as separate branches; () if the scores are written as one column.

    simple: whether the labels are simple labels. classes: the names in the configuration; per-particle classes without names are numbered.
    """
    if simple:
        return tuple(classes)
    if scores.ndim != 3:
        return ()
    count = int(scores.type.content.content.size) if isinstance(scores, ak.Array) else scores.shape[-1]
    return tuple(classes) or tuple(f"class_{index}" for index in range(count))
