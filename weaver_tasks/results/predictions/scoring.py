"""From a network's output on a batch to the columns of a prediction table.

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
    """A function from inputs to (scores, mask): the model's output as float32, with the softmax that turns logits into probabilities.

    Inputs are arrays, or tensors, perhaps already on the device.
    names: the input groups in the order of the model's arguments. precision: makes the autocast context of each batch.
    Scores are (B, C) or (B, C, P) for a classification, (B,), (B, T) or (B, P) for a regression. mask: (B, P), which
    particles count, where the model returns one with its output; else None.
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
    """Scorers for as many threads at a time, each of `threads` threads of torch.

    A network may keep what it computes in itself, so every thread borrows a network of its own. Threads that each score a batch
    wait for each other less than threads that share one: most operations on a batch take microseconds.
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
    """Scores and labels of a batch as they are written: events first, classes last, particles that do not count left out.

    scores, mask: of a scorer. labels: (B,) or, per particle, (B, P); a label `<name>_mask` of the first one masks the
    particles, where the model gives no mask. Per-particle scores and labels become jagged.
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
    """(scores, labels, observers, window) of window after window, its events in order.

    scored: of batch after batch the scores, the mask (of a scorer), the places of its events in their window, and, with the last
    batch of a window, the window itself, which has labels and observers.
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
    """The scores (or masks) of a window's events, in the order of their places, from those of its batches: (B, …) each, and (B,)."""
    whole = np.empty((sum(map(len, pieces)), *pieces[0].shape[1:]), pieces[0].dtype)
    whole[np.concatenate(places)] = np.concatenate(pieces)
    return whole


def change_without_padding(score: Scorer, padded: Sequence[Inputs], trimmed: Sequence[Inputs]) -> float:
    """The largest change of a score when batches are padded only to their longest event, relative to scores beyond 1; infinite when the
    network does not take them so.

    padded, trimmed: the same batches, padded to the configured length and to the longest event. Some events cannot prove that a network
    ignores padding, only that it does not.
    """
    largest = 0.0
    for whole, short in zip(padded, trimmed, strict=True):
        expected, _ = score(whole)
        try:
            found, _ = score(short)
        except (RuntimeError, IndexError, ValueError, ResultError):
            # A network made for one length: a linear layer over the particles, more neighbors than particles, and so on.
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
    """(N,) which events have a score that is NaN or infinite. scores: of `as_columns`."""
    if isinstance(scores, np.ndarray):
        return np.logical_not(np.isfinite(scores).reshape(len(scores), -1).all(axis=1))
    bad = ~np.isfinite(scores)
    while bad.ndim > 1:
        bad = ak.any(bad, axis=-1)
    return ak.to_numpy(bad)


def score_names(scores: Any, *, classes: Sequence[str], simple: bool) -> tuple[str, ...]:
    """The classes that scores are written under, one branch each; () where they go under one name.

    simple: whether the labels are. classes: the configuration's names; per-particle classes without names are numbered.
    """
    if simple:
        return tuple(classes)
    if scores.ndim != 3:
        return ()
    count = int(scores.type.content.content.size) if isinstance(scores, ak.Array) else scores.shape[-1]
    return tuple(classes) or tuple(f"class_{index}" for index in range(count))
