"""Event weights: fills histograms of the reweighting variables per class, converts them to weights and looks up event weights.

Histograms are sums over blocks, so they can be computed in any number of parts. Definitions are those of weaver, for any number
of variables.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from weaver_tasks.base.errors import DataConfigError
from weaver_tasks.data.events.block import BASE_WEIGHT, WEIGHT, weight_columns

if TYPE_CHECKING:
    from weaver_tasks.data.configuration.model import DataConfiguration, Weights

__all__ = ["event_weights", "fill", "make_histograms", "weight_columns"]

# Largest acceptance probability after the classes are scaled, as in weaver.
_LARGEST_WEIGHT = 0.9


def fill(weights: Weights, columns: Mapping[str, Any], *, weighted: bool = True) -> dict[str, np.ndarray]:
    """Return the histogram of some events: class -> float64 content, with one axis per variable.

    weighted: sum the base weights (if there are any) instead of counting events.

    columns: the plain columns of `weight_columns`. Events outside the edges are left out if under- and overflow are discarded,
    otherwise they count in the outermost bins. The sum over several calls is the histogram of all events.
    """
    edges = [np.asarray(edges, dtype=np.float64) for edges in weights.variables.values()]
    values = [np.asarray(columns[name]) for name in weights.variables]
    if not weights.discard_under_overflow:
        values = [np.clip(value, edge[0], edge[-1]) for value, edge in zip(values, edges, strict=True)]
    base = np.asarray(columns[BASE_WEIGHT], dtype=np.float64) if weights.base_weight and weighted else None
    histograms = {}
    for name in weights.classes:
        member = np.asarray(columns[name]) == 1
        sample = np.stack([value[member] for value in values], axis=1)  # (n, variables)
        histograms[name], _ = np.histogramdd(sample, bins=edges, weights=None if base is None else base[member])
    return histograms


def make_histograms(configuration: DataConfiguration, content: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Convert the content of the bins (sums of `fill`) to the weight of each bin and class: float64 in [0, 1].

    flat: all bins of a class get the same total weight, as far as the largest weight of 1 allows for the emptiest bins. ref: every
    class gets the shape of the first class. Then the classes are scaled relative to each other as given by class_weights. With base
    weights, the result must also be divided by the (100 - threshold)th percentile of the weights of all events.
    A class with class_weight 0 has weight 0 in all bins. Raises DataConfigError when another class has no event within the edges.
    """
    weights = configuration.weights
    assert weights is not None
    # Computed in float32, as in weaver.
    everything = {name: np.asarray(content[name], dtype=np.float32) for name in weights.classes}
    used = {name: weight for name, weight in zip(weights.classes, weights.class_weights, strict=True) if weight > 0}
    raw = {name: everything[name] for name in used}
    for name in weights.classes:
        wanted = name in used or (weights.method == "ref" and name == weights.classes[0])
        if wanted and not (everything[name] > 0).any():
            raise DataConfigError(
                f"{configuration.path}: weights.reweight_classes: no training event of class '{name}' lies within the edges of "
                "reweight_vars. Check the flag, the edges and the selection, add files to data.train, or go on without it: take it out of "
                "reweight_classes (and its number out of class_weights)."
            )
    shape = _flatten if weights.method == "flat" else _follow
    # The reference shape is that of the first class, even if its class_weight is 0.
    reference = everything[weights.classes[0]]
    shaped = {name: shape(histogram, reference, weights.threshold) for name, histogram in raw.items()}
    events = {name: float((raw[name] * shaped[name]).sum(dtype=np.float64)) / class_weight for name, class_weight in used.items()}
    fewest = min(events.values())
    made = {name: shaped[name].astype(np.float64) * (_LARGEST_WEIGHT * fewest / events[name]) for name in used}
    return {name: made.get(name, np.zeros(everything[name].shape)) for name in weights.classes}


def _flatten(histogram: np.ndarray, _reference: np.ndarray, threshold: float) -> np.ndarray:
    """Return weights that scale each bin down to the `threshold`th percentile of the bins; emptier bins get 1, empty bins 0."""
    filled = histogram[histogram > 0.01 * np.median(histogram[histogram > 0])]
    return np.clip(_ratio(np.percentile(filled, threshold), histogram), 0, 1)


def _follow(histogram: np.ndarray, reference: np.ndarray, threshold: float) -> np.ndarray:
    """Return weights that give a class the shape of the reference. The largest `threshold` percent of them are limited to 1."""
    ratio = _ratio(reference, histogram)
    return np.clip(ratio / np.percentile(ratio[ratio > 0], 100 - threshold), 0, 1)


def _ratio(numerator: Any, denominator: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.nan_to_num(numerator / denominator, posinf=0)


def event_weights(configuration: DataConfiguration, columns: Mapping[str, Any]) -> np.ndarray:
    """Return the weight of each event: (N,) float64. columns: the plain columns of `weight_columns`, each (N,).

    The weight is 0 for events in no class, and for events outside the edges if under- and overflow are discarded. Without weights
    in the configuration it is 1. Raises DataConfigError when the histograms have not been computed yet.
    """
    weights = configuration.weights
    if weights is None:
        return np.ones(len(next(iter(columns.values()))))
    if weights.precomputed:
        return np.asarray(columns[WEIGHT], dtype=np.float64)
    if weights.histograms is None:
        raise DataConfigError(
            f"{configuration.path}: weights.reweight_hists is missing. Use the data_config.auto.yaml of the rule reweight."
        )
    return weights_in_bins(weights, weights.histograms, columns)


def weights_in_bins(weights: Weights, histograms: Mapping[str, Any], columns: Mapping[str, Any]) -> np.ndarray:
    """Return the weight of each event, looked up by its class and bin: (N,) float64."""
    values = [np.asarray(columns[name]) for name in weights.variables]
    edges = [np.asarray(edge, dtype=np.float64) for edge in weights.variables.values()]
    bins = tuple(
        np.clip(np.digitize(value, edge) - 1, 0, len(edge) - 2) for value, edge in zip(values, edges, strict=True)
    )  # fmt: skip
    inside = np.ones(len(values[0]), dtype=bool)
    if weights.discard_under_overflow:
        for value, edge in zip(values, edges, strict=True):
            inside &= (value >= edge[0]) & (value <= edge[-1])
    result = np.zeros(len(inside))
    for name in weights.classes:
        member = inside & (np.asarray(columns[name]) == 1)
        result[member] = np.asarray(histograms[name], dtype=np.float64)[bins][member]
    if weights.base_weight:
        result *= np.asarray(columns[BASE_WEIGHT], dtype=np.float64)
    return result
