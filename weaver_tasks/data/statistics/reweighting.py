"""Computes the reweighting histograms of a data set in one pass over its events, or three if there are base weights."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from weaver_tasks.base.errors import DataConfigError
from weaver_tasks.data.statistics.percentiles import RefinedCounts, ValueCounts
from weaver_tasks.data.statistics.weights import fill, make_histograms, weights_in_bins

if TYPE_CHECKING:
    from weaver_tasks.data.configuration.model import DataConfiguration, Weights

logger = logging.getLogger(__name__)

Columns = Mapping[str, np.ndarray]


@dataclass(frozen=True, kw_only=True)
class Reweighting:
    """The result of reweighting. Each field maps a class to an array with one axis per reweighting variable.

    events: number of events read. counts: events in each bin. content: sum of base weights in each bin. weights: of each bin.
    """

    events: int
    counts: dict[str, np.ndarray]
    content: dict[str, np.ndarray]
    weights: dict[str, np.ndarray]


class HistogramSums:
    """The first pass: number of events and sum of base weights, per class and bin.

    The last bits of a sum of weights depend on the order of summation. Each file is therefore summed separately, and the files are
    added in order. A part (by_file) keeps the sums of its files separate until they are added.
    """

    doing = "filling histograms"

    def __init__(self, weights: Weights, *, by_file: bool) -> None:
        self._weights = weights
        shape = [len(weights.classes), *(len(edges) - 1 for edges in weights.variables.values())]
        self.events = 0
        self._counts = np.zeros(shape)
        self._content = np.zeros(shape)
        self._of_file = np.zeros(shape)
        self._files: list[np.ndarray] | None = [] if by_file else None

    @property
    def counts(self) -> dict[str, np.ndarray]:
        """Class -> number of events in each bin."""
        return dict(zip(self._weights.classes, self._counts, strict=True))

    @property
    def content(self) -> dict[str, np.ndarray]:
        """Class -> sum of base weights in each bin; the number of events if there are no base weights."""
        return dict(zip(self._weights.classes, self._content, strict=True)) if self._weights.base_weight else self.counts

    def add(self, columns: Columns) -> None:
        """Add events. columns: those of `weight_columns`."""
        self.events += len(next(iter(columns.values())))
        self._counts += list(fill(self._weights, columns, weighted=False).values())
        if self._weights.base_weight:
            self._of_file += list(fill(self._weights, columns).values())

    def end_file(self) -> None:
        self._add_file(self._of_file)
        self._of_file = np.zeros_like(self._of_file)

    def _add_file(self, content: np.ndarray) -> None:
        if not self._weights.base_weight:
            return
        if self._files is None:
            self._content += content
        else:
            self._files.append(content)

    def arrays(self) -> dict[str, np.ndarray]:
        files = [self._content] if self._files is None else self._files
        return {"events": np.array(self.events), "counts": self._counts, "content": np.reshape(files, (-1, *self._content.shape))}

    def add_arrays(self, arrays: Mapping[str, np.ndarray]) -> None:
        self.events += int(arrays["events"])
        self._counts += arrays["counts"]
        for content in arrays["content"]:
            self._add_file(content)


class WeightSums:
    """The second and third pass: counts of the float32 event weights before the overall scale."""

    def __init__(self, doing: str, configuration: DataConfiguration, unscaled: Mapping[str, np.ndarray], counts: Any) -> None:
        assert configuration.weights is not None
        self.doing = doing
        self.counts = counts
        self._weights = configuration.weights
        self._unscaled = unscaled

    def add(self, columns: Columns) -> None:
        self.counts.add(weights_in_bins(self._weights, self._unscaled, columns).astype(np.float32)[:, None])

    def end_file(self) -> None:
        """Nothing to do: counts are exact, so they do not depend on the order of the files."""

    def arrays(self) -> dict[str, np.ndarray]:
        return self.counts.arrays()

    def add_arrays(self, arrays: Mapping[str, np.ndarray]) -> None:
        self.counts.add_arrays(arrays)


def next_pass(configuration: DataConfiguration, done: Sequence[Any], part: bool = False) -> HistogramSums | WeightSums | None:
    """Return empty sums for the pass after those in `done`; None if there is none. part: whether the pass is divided into parts.

    Raises DataConfigError when a class has no events within the edges.
    """
    weights = configuration.weights
    if weights is None or weights.precomputed:
        return None
    if not done:
        return HistogramSums(weights, by_file=part)
    if len(done) > 2 or not weights.base_weight or weights.histograms is not None:
        return None
    unscaled = make_histograms(configuration, done[0].content)
    if len(done) == 1:
        return WeightSums("counting weights", configuration, unscaled, ValueCounts(("weight",)))
    refined = RefinedCounts(done[1].counts, (100 - weights.threshold,))
    return WeightSums("refining the scale of weights", configuration, unscaled, refined)


def finish_reweighting(configuration: DataConfiguration, done: Sequence[Any]) -> Reweighting:
    """Return the weights of the bins, from the sums of all passes or from the configuration. Raises DataConfigError."""
    weights = configuration.weights
    assert weights is not None
    filled: HistogramSums = done[0]
    used = sum(float(histogram.sum()) for histogram in filled.counts.values())
    if used != filled.events:
        logger.warning(
            "%d of %d events lie in a class and within the edges of reweight_vars; the others weigh 0 "
            "(or, beyond the edges, what reweight_discard_under_overflow says)",
            used,
            filled.events,
        )
    if weights.histograms is not None:
        made = {name: np.asarray(weights.histograms[name], dtype=np.float64) for name in weights.classes}
    else:
        made = make_histograms(configuration, filled.content)
    if len(done) > 1:
        scale = done[2].counts.percentiles()[0][0]
        if scale <= 0:
            raise DataConfigError(
                f"{configuration.path}: weights.reweight_threshold: the {100 - weights.threshold:g}th percentile of the weights of all "
                f"events is {scale:g}, so they cannot be scaled to it. Lower the threshold, or see to it that more events lie in a class."
            )
        made = {name: histogram / scale for name, histogram in made.items()}
    return Reweighting(events=filled.events, counts=filled.counts, content=filled.content, weights=made)
