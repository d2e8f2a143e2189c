"""Metrics of a classifier (accuracy, AUC, confusion matrix, background rejection), computed from scores and true classes.

Shapes: scores (N, C), one column per class; labels (N,) class indices; weights (N,) or None.
Each metric equals that of scikit-learn if scikit-learn has the same one and accepts weights for it. Weights may be negative, as for
events simulated beyond leading order. A metric that is undefined for such weights is nan.
"""

from __future__ import annotations

import math

import numpy as np

from weaver_tasks.results.metrics.roc import area, pair_ratio, roc_curve

Array = np.ndarray

_ROUNDING = 1e-12  # tolerance for rounding errors in a fraction of summed weights


def accuracy(scores: Array, labels: Array, weights: Array | None = None) -> tuple[float, float]:
    """The fraction of events whose true class has the highest score, and its statistical error.

    The error is binomial. With weights it is sqrt(sum(w^2 (right - fraction)^2)) / sum(w), which equals the binomial error for equal
    weights and is valid for negative ones. Returns (nan, nan) without events, or if the sum of weights is not positive.
    """
    return weighted_mean(scores.argmax(axis=1) == labels if len(labels) else np.empty(0), weights)


def weighted_mean(values: Array, weights: Array | None = None) -> tuple[float, float]:
    """The mean of (N,) values and its statistical error. Returns (nan, nan) in the same cases as `accuracy`."""
    weights = np.ones(len(values)) if weights is None else weights.astype(np.float64)
    total = float(weights.sum())
    if not total > 0:
        return math.nan, math.nan
    mean = float((weights * values).sum()) / total
    return mean, math.sqrt(float(np.square(weights * (values - mean)).sum())) / total


def effective_entries(weights: Array) -> float:
    """The effective number of events, sum(w)^2 / sum(w^2): this many unweighted events have the same relative statistical error."""
    squares = float(np.square(weights, dtype=np.float64).sum())
    return float(weights.sum(dtype=np.float64)) ** 2 / squares if squares else 0.0


def confusion_counts(scores: Array, labels: Array, weights: Array | None = None) -> Array:
    """(C, C): the number of events (or sum of weights) of true class i whose highest score is that of class j."""
    classes = scores.shape[1]
    cells = labels.astype(np.int64) * classes + scores.argmax(axis=1)
    return np.bincount(cells, weights=weights, minlength=classes * classes).reshape(classes, classes)


def confusion_matrix(counts: Array) -> Array:
    """(C, C): each row of `confusion_counts` divided by its sum; nan in the rows whose sum is not positive."""
    totals = counts.sum(axis=1, keepdims=True).astype(np.float64)
    return np.divide(counts, totals, out=np.full(counts.shape, np.nan), where=totals > 0)


def auc_matrix(scores: Array, labels: Array, weights: Array | None = None) -> Array:
    """(C, C): for each pair of classes, the area under the ROC curve of score_j / (score_i + score_j).

    Only events of the two classes count; class j is the signal. The matrix is symmetric, because exchanging i and j
    exchanges signal and background and mirrors the score. It is nan on the diagonal and where a class has no events.
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

    For a pair (i, j) only events of these two classes count, and the discriminant is the score of the signal class itself.
    This is the measure of Hand and Till (2001), `roc_auc_score(multi_class="ovo")` of scikit-learn.
    With two classes it is the area for the score of the second one. Pairs in which a class has no events or no positive sum of weights
    are left out; the result is nan if no pair is left.
    """
    classes = scores.shape[1]
    members = _members(labels, classes)
    if classes == 2:
        return area(scores[members[1], 1], scores[members[0], 1], *_weights_of(weights, members[1], members[0]))
    areas = [
        area(scores[members[i], i], scores[members[j], i], *_weights_of(weights, members[i], members[j]))
        for i in range(classes)
        for j in range(classes)
        if i != j
    ]
    known = [value for value in areas if not math.isnan(value)]
    return float(np.mean(known)) if known else math.nan


def _members(labels: Array, classes: int) -> list[Array]:
    """The indices of the events of each class."""
    return [np.flatnonzero(labels == index) for index in range(classes)]


def _weights_of(weights: Array | None, first: Array, second: Array) -> tuple[Array | None, Array | None]:
    return (None, None) if weights is None else (weights[first], weights[second])


def binomial_interval(fraction: Array, entries: Array) -> tuple[Array, Array]:
    """The central 68.3 % confidence interval of a binomial fraction: (low, high), each with the shape of `fraction`.

    entries: the (effective) number of entries in the denominator. The interval is that of Clopper and Pearson, Biometrika 26 (1934) 404,
    which has a width even if none or all entries pass. It is nan for fractions below 0 or above 1, which negative weights can give.
    """
    # Imported here because the import takes a second.
    from hist.intervals import clopper_pearson_interval

    fraction, entries = np.atleast_1d(np.asarray(fraction, np.float64)), np.atleast_1d(np.asarray(entries, np.float64))
    for whole in (0.0, 1.0):
        fraction = np.where(np.abs(fraction - whole) < _ROUNDING, whole, fraction)
    low, high = np.full(fraction.shape, np.nan), np.full(fraction.shape, np.nan)
    defined = (fraction >= 0) & (fraction <= 1) & (entries > 0)
    passed = np.where(fraction == 1, entries, fraction * entries)[defined]
    low[defined], high[defined] = clopper_pearson_interval(passed, entries[defined])
    return low, high


def rejection(
    signal: Array,
    background: Array,
    *,
    signal_efficiency: float,
    signal_weights: Array | None = None,
    background_weights: Array | None = None,
) -> dict[str, float]:
    """Background rejection, 1 / background efficiency, at the point where the signal efficiency first reaches `signal_efficiency`.

    signal, background: (N,) and (M,), the discriminant of the signal and background events. The convention of JetClass
    (arXiv:2202.03772, section 5) is score_S / (score_S + score_QCD).
    The result has these keys among others:
    low, high: the 68.3 % confidence interval of the rejection, by `binomial_interval` with the (effective) number n of background events.
    error: sqrt(e (1 - e) / n) of the efficiency e, propagated to 1 / e. With few passing events it is as large as the rejection itself.
    at_least: the lower limit of the rejection at 95 % confidence, 1 / (1 - 0.05^(1/n)), if no background event passes. Rejection, error
    and high are nan then.
    All values are nan if a class has no events, if its sum of weights is not positive, or if the background efficiency is negative.
    """
    found = {"signal_efficiency": signal_efficiency, "threshold": math.nan, "background_efficiency": math.nan}
    found |= dict.fromkeys(("rejection", "error", "low", "high", "at_least"), math.nan)
    curve = roc_curve(signal, background, signal_weights, background_weights)
    if curve is None:
        return found
    point = curve.reaching(signal_efficiency)
    passing = float(curve.background_efficiency[point])
    if background_weights is not None and abs(passing) < _ROUNDING:
        passing = 0.0  # positive and negative weights cancel
    found |= {"threshold": float(curve.threshold[point]), "background_efficiency": passing}
    entries = float(len(background)) if background_weights is None else effective_entries(background_weights)
    if passing < 0:
        return found
    (low,), (high,) = binomial_interval(np.array([passing]), np.array([entries]))
    if passing > 0:
        # With negative weights the efficiency can exceed 1; then neither error nor interval is defined.
        error = math.sqrt((1 - passing) / (entries * passing)) / passing if passing <= 1 else math.nan
        return found | {"rejection": 1 / passing, "error": error, "low": 1 / high, "high": 1 / low if low > 0 else math.nan}
    return found | {"low": 1 / high, "at_least": 1 / (1 - 0.05 ** (1 / entries))}
