"""Figures of merit of a classifier, from scores and true classes; weighted where weights are given.

Shapes: scores (N, C), one column per class; labels (N,) class indices; weights (N,) or None.
Every figure equals scikit-learn's where it has the same one (and does not refuse weights).
"""

from __future__ import annotations

import math

import numpy as np
from scipy.special import betaincinv

from weaver_tasks.results.metrics.roc import area, pair_ratio, roc_curve

Array = np.ndarray


def accuracy(scores: Array, labels: Array, weights: Array | None = None) -> tuple[float, float]:
    """The fraction of events whose highest score is that of the true class, and its binomial error.

    With weights the error uses the effective number of events, sum(w)^2 / sum(w^2). (nan, nan) without events.
    """
    if not len(labels):
        return math.nan, math.nan
    right = scores.argmax(axis=1) == labels
    value = float(np.average(right, weights=weights))
    effective = len(labels) if weights is None else effective_entries(weights)
    return value, math.sqrt(max(value * (1 - value), 0.0) / effective)


def effective_entries(weights: Array) -> float:
    """How many unweighted events have the same relative statistical error: sum(w)^2 / sum(w^2)."""
    squares = float(np.square(weights, dtype=np.float64).sum())
    return float(weights.sum(dtype=np.float64)) ** 2 / squares if squares else 0.0


def confusion_counts(scores: Array, labels: Array, weights: Array | None = None) -> Array:
    """(C, C): events (or their weights) of true class i whose highest score is that of class j."""
    classes = scores.shape[1]
    cells = labels.astype(np.int64) * classes + scores.argmax(axis=1)
    return np.bincount(cells, weights=weights, minlength=classes * classes).reshape(classes, classes)


def confusion_matrix(counts: Array) -> Array:
    """(C, C): each row of `confusion_counts` divided by its sum; nan in the row of a class without events."""
    totals = counts.sum(axis=1, keepdims=True).astype(np.float64)
    return np.divide(counts, totals, out=np.full(counts.shape, np.nan), where=totals != 0)


def auc_matrix(scores: Array, labels: Array, weights: Array | None = None) -> Array:
    """(C, C): for each pair of classes the area under the ROC curve of score_j / (score_i + score_j).

    Only events of the two classes count, those of j as signal. Symmetric, since exchanging i and j
    exchanges signal and background and mirrors the score. nan on the diagonal and where a class has no events.
    """
    classes = scores.shape[1]
    matrix = np.full((classes, classes), np.nan)
    members = _members(labels, classes)
    for i in range(classes):
        for j in range(i + 1, classes):
            matrix[i, j] = matrix[j, i] = _pair_area(scores, members[j], members[i], weights, signal=j, background=i)
    return matrix


def _pair_area(scores: Array, first: Array, second: Array, weights: Array | None, *, signal: int, background: int) -> float:
    return area(
        pair_ratio(scores[first], signal, background),
        pair_ratio(scores[second], signal, background),
        *_weights_of(weights, first, second),
    )


def auc(scores: Array, labels: Array, weights: Array | None = None) -> float:
    """The area under the ROC curve, one class against one, averaged over all ordered pairs.

    For a pair (i, j) only events of these two classes count, and the score of the class taken as signal is
    used as it is: the measure of Hand and Till (2001), `roc_auc_score(multi_class="ovo")` of scikit-learn.
    Two classes: the area of the second one's score. Pairs with a class without events are left out; nan if none is left.
    """
    classes = scores.shape[1]
    members = _members(labels, classes)
    if classes == 2:
        return area(scores[members[1], 1], scores[members[0], 1], *_weights_of(weights, members[1], members[0]))
    areas = [
        area(scores[members[i], i], scores[members[j], i], *_weights_of(weights, members[i], members[j]))
        for i in range(classes)
        for j in range(classes)
        if i != j and len(members[i]) and len(members[j])
    ]
    return float(np.mean(areas)) if areas else math.nan


def _members(labels: Array, classes: int) -> list[Array]:
    """The indices of the events of each class."""
    return [np.flatnonzero(labels == index) for index in range(classes)]


def _weights_of(weights: Array | None, first: Array, second: Array) -> tuple[Array | None, Array | None]:
    return (None, None) if weights is None else (weights[first], weights[second])


def binomial_interval(fraction: Array, entries: Array) -> tuple[Array, Array]:
    """The central 68.3 % confidence interval of a binomial fraction: (low, high), of the shape of `fraction`.

    entries: of how many (effective) entries it is the passing fraction. Clopper and Pearson, Biometrika 26 (1934) 404: it has a
    width also where none or all of them pass.
    """
    beyond = (1 - math.erf(math.sqrt(0.5))) / 2
    passed, failed = fraction * entries, (1 - fraction) * entries
    low = np.where(passed > 0, betaincinv(np.maximum(passed, 1e-9), failed + 1, beyond), 0.0)
    high = np.where(failed > 0, betaincinv(passed + 1, np.maximum(failed, 1e-9), 1 - beyond), 1.0)
    return low, high


def rejection(
    signal: Array,
    background: Array,
    *,
    signal_efficiency: float,
    signal_weights: Array | None = None,
    background_weights: Array | None = None,
) -> dict[str, float]:
    """Background rejection, 1 / background efficiency, where the signal efficiency first reaches the one asked for.

    signal, background: (N,), (M,) the discriminant of the events of either class; JetClass's conventions
    (arXiv:2202.03772, section 5) take score_S / (score_S + score_QCD).
    The error is binomial: the efficiency's sqrt(e (1 - e) / n) carried over to 1 / e, n the (effective) number of background
    events. Where no background event passes, rejection and error are nan, and `at_least` is the rejection exceeded
    at 95 % confidence, 1 / (1 - 0.05^(1/n)). All nan when either class has no events.
    """
    figures = {"signal_efficiency": signal_efficiency, "threshold": math.nan, "background_efficiency": math.nan}
    figures |= {"rejection": math.nan, "error": math.nan, "at_least": math.nan}
    if not len(signal) or not len(background):
        return figures
    curve = roc_curve(signal, background, signal_weights, background_weights)
    point = curve.reaching(signal_efficiency)
    passing = float(curve.background_efficiency[point])
    entries = len(background) if background_weights is None else effective_entries(background_weights)
    figures |= {"threshold": float(curve.threshold[point]), "background_efficiency": passing}
    if passing > 0:
        error = math.sqrt(max(1 - passing, 0.0) / (entries * passing)) / passing
        return figures | {"rejection": 1 / passing, "error": error}
    return figures | {"at_least": 1 / (1 - 0.05 ** (1 / entries))}
