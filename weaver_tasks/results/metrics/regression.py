"""Metrics of a regression: bias and resolution, for all events and in bins of the target."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np

from weaver_tasks.results.metrics.classification import weighted_mean

Array = np.ndarray


def regression_summary(predicted: Array, target: Array, weights: Array | None = None) -> dict[str, float | int]:
    """Bias and resolution of predicted - target, both of shape (N,), in the unit of the target.

    bias: the mean difference, with its error; median_bias: the median difference; resolution: half the width of the central 68.27 % of
    the differences; rms: their standard deviation. response and relative_resolution are the median and the resolution of
    predicted / target; they are nan if a target is zero or negative. Weights may be negative; all values are nan if the sum of weights
    is not positive.
    """
    names = ("bias", "bias_error", "median_bias", "resolution", "rms", "response", "relative_resolution")
    difference = predicted.astype(np.float64) - target
    bias, bias_error = weighted_mean(difference, weights)
    if math.isnan(bias):
        return {"entries": len(target), **dict.fromkeys(names, math.nan)}
    variance, _ = weighted_mean(np.square(difference - bias), weights)
    rms = math.sqrt(variance) if variance >= 0 else math.nan
    low, median, high = central_quantiles(difference, weights)
    response = relative = math.nan
    if (target > 0).all():
        low_ratio, response, high_ratio = central_quantiles(predicted / target.astype(np.float64), weights)
        relative = (high_ratio - low_ratio) / 2
    values = (bias, bias_error, median, (high - low) / 2, rms, response, relative)
    return {"entries": len(target), **dict(zip(names, values, strict=True))}


_CENTRAL = (0.158655, 0.5, 0.841345)


def central_quantiles(values: Array, weights: Array | None = None) -> tuple[float, float, float]:
    """The 15.87 %, 50 % and 84.13 % quantiles: the median and, for a Gaussian, one standard deviation below and above it.

    With weights, a quantile is the smallest value at which the cumulative sum of weights reaches that fraction of the total. With negative
    weights the cumulative sum may cross a fraction several times; the first crossing counts. nan if the sum of weights is not positive.
    """
    if weights is None:
        low, median, high = np.quantile(values, _CENTRAL)
        return float(low), float(median), float(high)
    order = np.argsort(values, kind="stable")
    values = values[order]
    last = np.append(np.flatnonzero(values[1:] != values[:-1]), len(values) - 1)[: len(values)]  # of each distinct value
    values, summed = values[last], np.cumsum(weights[order], dtype=np.float64)[last]
    if not len(values) or not summed[-1] > 0:
        return math.nan, math.nan, math.nan
    # The running maximum of the cumulative sum reaches a fraction at the same value at which the sum first does, and it is monotone.
    reached = np.maximum.accumulate(summed)
    low, median, high = (float(values[np.searchsorted(reached, part * summed[-1])]) for part in _CENTRAL)
    return low, median, high


def regression_by_bins(
    predicted: Array, target: Array, weights: Array | None = None, *, variable: Array | None = None, bins: int = 10
) -> list[dict[str, Any]]:
    """`regression_summary` in bins of `variable` ((N,), by default the target), each with the same number of events."""
    variable = target if variable is None else variable
    if not len(target):
        return []
    edges = np.unique(np.quantile(variable, np.linspace(0, 1, bins + 1)))
    if len(edges) == 1:
        edges = np.repeat(edges, 2)
    index = np.clip(np.searchsorted(edges, variable, side="right") - 1, 0, len(edges) - 2)
    rows = []
    for number, (low, high) in enumerate(itertools.pairwise(edges)):
        chosen = index == number
        summary = regression_summary(predicted[chosen], target[chosen], None if weights is None else weights[chosen])
        rows.append({"low": float(low), "high": float(high), **summary})
    return rows
