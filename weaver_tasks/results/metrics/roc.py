"""ROC curves: exact, one point per distinct value of the discriminant, weighted or not, by scikit-learn."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

Array = np.ndarray


@dataclass(frozen=True, kw_only=True)
class RocCurve:
    """Efficiencies of `discriminant >= threshold`, thresholds falling; the first point passes nothing (threshold inf).

    All three have shape (P + 1,), P the number of distinct values. With negative weights efficiencies may fall in places.
    """

    threshold: Array
    signal_efficiency: Array
    background_efficiency: Array

    def reaching(self, signal_efficiency: float) -> int:
        """The first point whose signal efficiency is at least the one asked for (up to rounding)."""
        return int(np.argmax(self.signal_efficiency >= signal_efficiency * (1 - 1e-12)))

    def thinned(self, points: int = 1000) -> RocCurve:
        """At most about 2 x `points` of the points: evenly spread in signal efficiency and in the logarithm of the background's."""
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
    """The ROC curve of a discriminant: signal (N,), background (M,) values, and their weights, which may be negative.

    None where either class has no events, or none by weight: its weights do not add up to more than zero.
    """
    # Not at the top: it takes most of a second to import, and validation in training may not need it.
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
    """The area under the ROC curve: the chance, by weight, that a signal event has the higher value of the two (ties count half).

    nan where there is no curve.
    """
    curve = roc_curve(signal, background, signal_weights, background_weights)
    if curve is None:
        return math.nan
    # Not sklearn.metrics.auc, which refuses the steps back that negative weights make.
    return float(np.trapezoid(curve.signal_efficiency, curve.background_efficiency))


def pair_ratio(scores: Array, signal: int, background: int) -> Array:
    """(N,) float64: score_S / (score_S + score_B), the discriminant of class S against class B; 0 where both are 0."""
    numerator = scores[:, signal].astype(np.float64)
    total = numerator + scores[:, background]
    return np.divide(numerator, total, out=np.zeros_like(numerator), where=total > 0)
