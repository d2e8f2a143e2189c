"""Exact ROC curves by scikit-learn, with one point per distinct value of the discriminant, with or without weights."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

Array = np.ndarray


@dataclass(frozen=True, kw_only=True)
class RocCurve:
    """Efficiencies of the cut `discriminant >= threshold`, with falling thresholds. At the first point (threshold inf) no event passes.

    All three arrays have shape (P + 1,), where P is the number of distinct values. With negative weights an efficiency may decrease.
    """

    threshold: Array
    signal_efficiency: Array
    background_efficiency: Array

    def reaching(self, signal_efficiency: float) -> int:
        """The index of the first point whose signal efficiency is at least `signal_efficiency` (up to rounding)."""
        return int(np.argmax(self.signal_efficiency >= signal_efficiency * (1 - 1e-12)))

    def thinned(self, points: int = 1000) -> RocCurve:
        """At most about 2 x `points` points, evenly spaced in signal efficiency and in the logarithm of background efficiency."""
        count = len(self.threshold)
        if count <= 2 * points:
            return self
        grid = np.linspace(0, 1, points)
        with np.errstate(divide="ignore"):
            logarithm = np.maximum.accumulate(np.log(np.maximum(self.background_efficiency, 1e-12)))
        levels = np.linspace(logarithm[0], logarithm[-1], points)
        chosen = np.concatenate(
            [[0, count - 1], np.searchsorted(np.maximum.accumulate(self.signal_efficiency), grid), np.searchsorted(logarithm, levels)]
        )
        chosen = np.unique(np.minimum(chosen, count - 1))
        return RocCurve(
            threshold=self.threshold[chosen],
            signal_efficiency=self.signal_efficiency[chosen],
            background_efficiency=self.background_efficiency[chosen],
        )


def roc_curve(
    signal: Array, background: Array, signal_weights: Array | None = None, background_weights: Array | None = None
) -> RocCurve | None:
    """The ROC curve of a discriminant, from its values for signal (N,) and background (M,) and their weights, which may be negative.

    None if a class has no events, or if its sum of weights is not positive.
    """
    # Imported here because the import takes most of a second, and validation during training may not need it.
    from sklearn.metrics import roc_curve as curve_of

    given = ((signal, signal_weights), (background, background_weights))
    if any(not (len(values) if weights is None else weights.sum(dtype=np.float64) > 0) for values, weights in given):
        return None
    truth = np.repeat([True, False], [len(signal), len(background)])
    weights = None
    if signal_weights is not None or background_weights is not None:
        weights = np.concatenate([np.ones(len(values)) if each is None else each for values, each in given]).astype(np.float64)
    false, true, threshold = curve_of(truth, np.concatenate([signal, background]), sample_weight=weights, drop_intermediate=False)
    return RocCurve(threshold=threshold, signal_efficiency=true, background_efficiency=false)


def area(signal: Array, background: Array, signal_weights: Array | None = None, background_weights: Array | None = None) -> float:
    """The area under the ROC curve: the (weighted) probability that a signal event has a higher value than a background event.

    Ties count one half. nan if there is no curve.
    """
    curve = roc_curve(signal, background, signal_weights, background_weights)
    if curve is None:
        return math.nan
    # sklearn.metrics.auc refuses curves that are not monotone, which negative weights can give.
    return float(np.trapezoid(curve.signal_efficiency, curve.background_efficiency))


def pair_ratio(scores: Array, signal: int, background: int) -> Array:
    """(N,) float64: score_S / (score_S + score_B), the discriminant of class S against class B; 0 if both scores are 0."""
    numerator = scores[:, signal].astype(np.float64)
    total = numerator + scores[:, background]
    return np.divide(numerator, total, out=np.zeros_like(numerator), where=total > 0)
