"""Figures of merit of a regression: bias and resolution, over all and in bins of the target."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np

Array = np.ndarray


def regression_summary(predicted: Array, target: Array, weights: Array | None = None) -> dict[str, float | int]:
    """Bias and resolution of predicted - target, both (N,), in the unit of the target.

    bias: the mean difference, with its error; median_bias: the median one; resolution: half the width of the central 68.27 % of
    the differences; rms: their standard deviation. response and relative_resolution say the same of predicted / target, where no
    target is zero or negative (nan otherwise).
    """
    names = ("bias", "bias_error", "median_bias", "resolution", "rms", "response", "relative_resolution")
    if not len(target):
        return {"entries": 0, **dict.fromkeys(names, math.nan)}
    difference = predicted.astype(np.float64) - target
    bias = float(np.average(difference, weights=weights))
    rms = math.sqrt(float(np.average((difference - bias) ** 2, weights=weights)))
    effective = len(target) if weights is None else float(weights.sum()) ** 2 / float((weights**2).sum())
    low, median, high = central_quantiles(difference, weights)
    response = relative = math.nan
    if (target > 0).all():
        low_ratio, response, high_ratio = central_quantiles(predicted / target.astype(np.float64), weights)
        relative = (high_ratio - low_ratio) / 2
    values = (bias, rms / math.sqrt(effective), median, (high - low) / 2, rms, response, relative)
    return {"entries": len(target), **dict(zip(names, values, strict=True))}


_CENTRAL = (0.158655, 0.5, 0.841345)


def central_quantiles(values: Array, weights: Array | None = None) -> tuple[float, float, float]:
    """The 15.87 %, 50 % and 84.13 % quantiles: median and one standard deviation of a Gaussian to either side."""
    if weights is None:
        low, median, high = np.quantile(values, _CENTRAL)
    else:
        low, median, high = np.quantile(values, _CENTRAL, weights=weights, method="inverted_cdf")
    return float(low), float(median), float(high)


def regression_by_bins(
    predicted: Array, target: Array, weights: Array | None = None, *, variable: Array | None = None, bins: int = 10
) -> list[dict[str, Any]]:
    """`regression_summary` in bins of `variable` ((N,), by default the target) that hold equally many events."""
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
