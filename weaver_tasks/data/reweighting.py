"""Make the reweighting of a data set: one pass over its events, or three where base weights set the overall scale."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from weaver_tasks.base.errors import DataConfigError
from weaver_tasks.data.statistics import RefinedCounts, ValueCounts
from weaver_tasks.data.weights import fill, make_histograms, weights_in_bins

if TYPE_CHECKING:
    from weaver_tasks.data.configuration_types import DataConfiguration

logger = logging.getLogger("weaver_tasks")

Columns = Mapping[str, np.ndarray]


@dataclass(frozen=True, kw_only=True)
class Reweighting:
    """class -> an array with one axis per reweighting variable.

    events: how many there were. counts: events in the bins. content: the same with base weights. weights: of each bin.
    """

    events: int
    counts: dict[str, np.ndarray]
    content: dict[str, np.ndarray]
    weights: dict[str, np.ndarray]


def make_reweighting(configuration: DataConfiguration, read: Callable[[str], Iterable[Columns]]) -> Reweighting:
    """Make the weights of bins, or take those that the configuration has.

    read: gives the columns of `weight_columns` of all events for training, in parts; called once per pass, with what it is for.
    Raises DataConfigError when a class has no events within the edges.
    """
    weights = configuration.weights
    assert weights is not None
    events = 0
    counts, content = ({name: np.zeros([len(e) - 1 for e in weights.variables.values()]) for name in weights.classes} for _ in range(2))
    for columns in read("filling histograms"):
        events += len(next(iter(columns.values())))
        for sums, parts in ((counts, fill(weights, columns, weighted=False)), (content, fill(weights, columns))):
            for name, part in parts.items():
                sums[name] += part
    used = sum(float(histogram.sum()) for histogram in counts.values())
    if used != events:
        logger.warning(
            "%d of %d events lie in a class and within the edges of reweight_vars; the others weigh 0 "
            "(or, beyond the edges, what reweight_discard_under_overflow says)",
            used,
            events,
        )
    if weights.histograms is not None:
        given = {name: np.asarray(weights.histograms[name], dtype=np.float64) for name in weights.classes}
        return Reweighting(events=events, counts=counts, content=content, weights=given)
    made = make_histograms(configuration, content)
    if weights.base_weight:
        scale = _percentile(lambda doing: (weights_in_bins(weights, made, part) for part in read(doing)), 100 - weights.threshold)
        if scale <= 0:
            raise DataConfigError(
                f"{configuration.path}: weights.reweight_threshold: the {100 - weights.threshold:g}th percentile of the weights of all "
                f"events is {scale:g}, so they cannot be scaled to it. Lower the threshold, or see to it that more events lie in a class."
            )
        made = {name: histogram / scale for name, histogram in made.items()}
    return Reweighting(events=events, counts=counts, content=content, weights=made)


def _percentile(read: Callable[[str], Iterable[np.ndarray]], percentile: float) -> float:
    """A percentile of all values, (n,) in parts, as float32."""
    coarse = ValueCounts(("weight",))
    for values in read("counting weights"):
        coarse.add(values.astype(np.float32)[:, None])
    refined = RefinedCounts(coarse, (percentile,))
    for values in read("refining the scale of weights"):
        refined.add(values.astype(np.float32)[:, None])
    return refined.percentiles()[0][0]
