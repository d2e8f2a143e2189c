"""ROC curves: exact, one point per distinct value of the discriminant, weighted or not."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

Array = np.ndarray


@dataclass(frozen=True, kw_only=True)
class RocCurve:
    """Efficiencies of `discriminant >= threshold`, thresholds falling; the first point passes nothing (threshold inf).

    All three have shape (P + 1,), P the number of distinct values.
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
            logarithm = np.log(np.maximum(self.background_efficiency, 1e-12))
        levels = np.linspace(logarithm[0], logarithm[-1], points)
        chosen = np.concatenate(
            [
                [0, count - 1],
                np.searchsorted(np.maximum.accumulate(self.signal_efficiency), grid),
                np.searchsorted(np.maximum.accumulate(logarithm), levels),
            ]
        )
        chosen = np.unique(np.minimum(chosen, count - 1))
        return RocCurve(
            threshold=self.threshold[chosen],
            signal_efficiency=self.signal_efficiency[chosen],
            background_efficiency=self.background_efficiency[chosen],
        )


def roc_curve(signal: Array, background: Array, signal_weights: Array | None = None, background_weights: Array | None = None) -> RocCurve:
    """The ROC curve of a discriminant: signal (N,), background (M,) values, and their weights.

    Equals `sklearn.metrics.roc_curve(drop_intermediate=False)`. Both classes must have events.
    """
    values = np.concatenate([signal, background])
    order = np.argsort(values)[::-1]
    values = values[order]
    last_of_value = np.append(np.flatnonzero(values[1:] != values[:-1]), len(values) - 1)
    is_signal = order < len(signal)

    def passing(of_signal: bool, weights: Array | None) -> Array:
        chosen = is_signal if of_signal else ~is_signal
        if weights is None:
            summed = np.cumsum(chosen)[last_of_value]
        else:
            offset = 0 if of_signal else len(signal)
            summed = np.cumsum(np.where(chosen, weights[np.clip(order - offset, 0, len(weights) - 1)], 0), dtype=np.float64)[last_of_value]
        return np.concatenate([[0.0], summed / summed[-1]])

    return RocCurve(
        threshold=np.concatenate([[math.inf], values[last_of_value]]),
        signal_efficiency=passing(True, signal_weights),
        background_efficiency=passing(False, background_weights),
    )


def area(signal: Array, background: Array, signal_weights: Array | None = None, background_weights: Array | None = None) -> float:
    """The area under the ROC curve (ties count half); nan when either class has no events."""
    if not len(signal) or not len(background):
        return math.nan
    curve = roc_curve(signal, background, signal_weights, background_weights)
    return float(np.trapezoid(curve.signal_efficiency, curve.background_efficiency))


def pair_ratio(scores: Array, signal: int, background: int) -> Array:
    """(N,) float64: score_S / (score_S + score_B), the discriminant of class S against class B; 0 where both are 0."""
    numerator = scores[:, signal].astype(np.float64)
    total = numerator + scores[:, background]
    return np.divide(numerator, total, out=np.zeros_like(numerator), where=total > 0)
