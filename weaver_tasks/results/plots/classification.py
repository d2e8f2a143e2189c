"""Plots of a classifier: ROC curves, scores per class, confusion matrix, and efficiencies against jet pt and mass."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from weaver_tasks.base.jet_observers import kinematic_observers
from weaver_tasks.results.markdown import three_digits, with_interval
from weaver_tasks.results.metrics.classification import binomial_interval
from weaver_tasks.results.metrics.evaluation import background_class
from weaver_tasks.results.metrics.roc import pair_ratio, roc_curve
from weaver_tasks.results.plots.style import class_name, figure, legend_beside, look, save, say_left_out, say_why_empty, with_unit
from weaver_tasks.results.predictions.columns import Predictions, left_out
from weaver_tasks.settings.model import EvaluationSettings

Array = np.ndarray

_EVENTS_PER_SCORE_BIN = 5  # the same, for the distribution of a score
_EVENTS_PER_BIN = 20  # of the smallest class, on average
_BIN_EVENTS = 5  # a bin needs this many events for its efficiency to be drawn
_SHAPE_EVENTS = 10  # a distribution needs this many events to be drawn
_FEW_BINS = 7  # up to this many edges, points are not joined by lines


def plot_roc(predictions: Predictions, metrics: Mapping[str, Any], settings: EvaluationSettings, path: Path) -> list[Path]:
    """Draw background rejection (logarithmic) against signal efficiency, with one curve per class and the quoted working points."""
    background = background_class(predictions.classes, settings)
    points = {row["signal"]: row for row in metrics["rejections"]}
    with figure(width=12) as drawn:
        axes = drawn.add_subplot()
        highest = 10.0
        for signal, name in enumerate(predictions.classes):
            if signal == background:
                continue
            curve = roc_curve(*_discriminants(predictions, signal, background), *_weights(predictions, signal, background))
            if curve is None:
                continue
            curve = curve.thinned()
            passing = curve.background_efficiency > 0
            rejection = 1 / curve.background_efficiency[passing]
            highest = max(highest, rejection.max(initial=0))
            axes.plot(curve.signal_efficiency[passing], rejection, label=_roc_label(name, points[name]), **look(signal))
            highest = max(highest, _working_point(axes, points[name], color=look(signal)["color"]))
        if not axes.lines:
            say_why_empty(axes, "no jets of the background and of another class")
        axes.set(xlim=(0, 1), ylim=(1, highest * 2), yscale="log", xlabel="Signal efficiency")
        axes.set_ylabel(f"Background rejection, 1 / efficiency of {class_name(predictions.classes[background])}")
        axes.grid(which="major", alpha=0.3)
        legend_beside(axes, title=f"Rejection of {class_name(predictions.classes[background])}\nat signal efficiency")
        say_left_out(drawn, left_out(predictions))
        return save(drawn, path)


def _working_point(axes: Axes, point: Mapping[str, float], *, color: str) -> float:
    """Mark the quoted rejection with its interval, or its lower limit with an arrow. Returns the top of the mark, 0 without one."""
    style: dict[str, Any] = {"marker": "o", "markersize": 6, "color": color, "capsize": 3}
    x, y, low, high = (point[key] for key in ("signal_efficiency", "rejection", "low", "high"))
    if np.isfinite(y):
        if not np.isfinite(low):
            axes.plot(x, y, linestyle="", **{key: style[key] for key in ("marker", "markersize", "color")})
            return y
        up = high if np.isfinite(high) else y
        axes.errorbar(x, y, yerr=[[y - low], [up - y]], **style)
        return up
    if np.isfinite(point["at_least"]):
        # The length of the arrow has no meaning.
        axes.errorbar(x, point["at_least"], yerr=point["at_least"] / 2, lolims=True, **style)
        return 1.5 * point["at_least"]
    return 0.0


def _roc_label(name: str, point: Mapping[str, Any]) -> str:
    efficiency = f"{100 * point['signal_efficiency']:g} %"
    if np.isfinite(point["rejection"]):
        return f"{class_name(name)}: {with_interval(point['rejection'], point['low'], point['high'])} at {efficiency}"
    if np.isfinite(point["at_least"]):
        return f"{class_name(name)}: > {three_digits(point['at_least'])} (95 % CL) at {efficiency}"
    return f"{class_name(name)}: not defined at {efficiency}"


def _discriminants(predictions: Predictions, signal: int, background: int) -> tuple[Array, Array]:
    """score_S / (score_S + score_B) for the events of S and for those of B; empty arrays without labels."""
    labels = np.full(len(predictions.scores), -1) if predictions.labels is None else predictions.labels
    of_signal, of_background = (predictions.scores[labels == index] for index in (signal, background))
    return pair_ratio(of_signal, signal, background), pair_ratio(of_background, signal, background)


def _weights(predictions: Predictions, signal: int, background: int) -> tuple[Array | None, Array | None]:
    if predictions.weights is None:
        return None, None
    return predictions.weights[predictions.labels == signal], predictions.weights[predictions.labels == background]


def plot_scores(predictions: Predictions, path: Path) -> list[Path]:
    """Draw one panel per class with the distributions of its score in the events of each true class, each normalized to unit area."""
    classes = predictions.classes
    columns = min(len(classes), 4)
    rows = -(-len(classes) // columns)
    edges = np.linspace(0, 1, 1 + int(np.clip(_smallest_class(predictions) // _EVENTS_PER_SCORE_BIN, 10, 40)))
    with figure(width=4.5 * columns + 2.5, height=4 * rows) as drawn:
        panels = drawn.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
        histograms = [_histograms(predictions, index, edges) for index in range(len(classes))]
        heights = np.concatenate([[1.0], *(counts[counts > 0] for found in histograms for _, counts in found)])
        panels[0, 0].set(yscale="log", ylim=(heights.min() / 1.5, 1.5 * heights.max()), xlim=(0, 1))  # shared by all panels
        for index, (name, axes) in enumerate(zip(classes, panels.flat, strict=False)):
            for true, counts in histograms[index]:
                heavy: dict[str, Any] = {"linewidth": 3 if true == index else 1.5}
                # Empty bins become gaps; on a logarithmic axis they would draw lines down to its lower end.
                shown = np.where(counts > 0, counts, np.nan)
                axes.stairs(shown, edges, baseline=None, label=_true_name(classes, true), **look(max(true, 0)), **heavy)
            axes.set_xlabel(f"Score of {class_name(name)}")
        for axes in panels.flat[len(classes) :]:
            axes.remove()
        # The lowest panel of each column shows tick labels, even if the last row is incomplete.
        for axes in panels.flat[max(0, len(classes) - columns) : len(classes)]:
            axes.tick_params(labelbottom=True)
        panels[0, 0].set_xticks([0, 0.25, 0.5, 0.75], ["0", "0.25", "0.5", "0.75"])
        for axes in panels[:, 0]:
            axes.set_ylabel("Jets (normalized)")
        handles, labels = panels.flat[0].get_legend_handles_labels()
        drawn.legend(handles, labels, loc="outside right upper", title="True class", fontsize=20, title_fontsize=20)
        say_left_out(drawn, left_out(predictions))
        return save(drawn, path)


def _true_name(classes: tuple[str, ...], index: int) -> str:
    return class_name(classes[index]) if index >= 0 else "all jets"


def _histograms(predictions: Predictions, score: int, edges: Array) -> list[tuple[int, Array]]:
    """(true class, normalized histogram of the score) for each class with events; (-1, …) for all events if there are no labels."""
    values = predictions.scores[:, score]
    labels = np.full(len(values), -1) if predictions.labels is None else predictions.labels
    found = []
    for true in range(-1 if predictions.labels is None else 0, len(predictions.classes)):
        chosen = labels == true
        weights = None if predictions.weights is None else predictions.weights[chosen]
        counts = np.histogram(values[chosen], edges, weights=weights)[0]
        if counts.sum() > 0:
            found.append((true, counts / counts.sum() / np.diff(edges)))
    return found


def plot_confusion(metrics: Mapping[str, Any], path: Path, *, missing: str = "") -> list[Path]:
    """Draw the confusion matrix, each row (true class) in percent. missing: the text of `left_out` about events without scores."""
    names = [class_name(name) for name in metrics["classes"]]
    matrix = 100 * np.asarray(metrics["confusion_matrix"], dtype=np.float64)
    size = max(8.0, 1.1 * len(names) + 3)
    with figure(width=size + 1, height=size) as drawn:
        axes = drawn.add_subplot()
        image = axes.imshow(matrix, cmap="Blues", vmin=0, vmax=100)
        for i, j in np.ndindex(*matrix.shape):
            if np.isfinite(matrix[i, j]):
                color = "white" if matrix[i, j] > 55 else "black"
                axes.text(j, i, f"{matrix[i, j]:.1f}", ha="center", va="center", fontsize=16, color=color)
        if not np.isfinite(matrix).any():
            say_why_empty(axes, "no jets of a known class")
        axes.set_xticks(range(len(names)), names, rotation=45, ha="right", rotation_mode="anchor")
        axes.set_yticks(range(len(names)), names)
        axes.tick_params(which="both", length=0)
        axes.minorticks_off()
        axes.set(xlabel="Predicted class", ylabel="True class")
        drawn.colorbar(image, ax=axes, fraction=0.046, pad=0.02, label="Jets of the true class [%]")
        say_left_out(drawn, missing)
        return save(drawn, path)


def plot_kinematics(predictions: Predictions, metrics: Mapping[str, Any], settings: EvaluationSettings, folder: Path) -> list[Path]:
    """Draw efficiency_pt and efficiency_mass: the efficiencies of the quoted working points as functions of the observer.

    The left panel shows the signal efficiency, the middle one the background efficiency, and the right one the distribution of the
    background before and after the cut. Flat curves (no dependence on pt) and an unchanged shape (no sculpting of the mass) are
    desired. Nothing is drawn if no such observer is recognized or if no events have classes.
    """
    written: list[Path] = []
    if predictions.labels is None:
        return written
    for kind, name in kinematic_observers(predictions.observers).items():
        written += _plot_against(predictions, metrics, settings, name, folder / f"efficiency_{kind}.png")
    return written


def _plot_against(
    predictions: Predictions, metrics: Mapping[str, Any], settings: EvaluationSettings, observer: str, path: Path
) -> list[Path]:
    background = background_class(predictions.classes, settings)
    values = predictions.observers[observer]
    even, filled = _edges(values[np.asarray(predictions.labels) >= 0], smallest=_smallest_class(predictions))
    rows = [row for row in metrics["rejections"] if np.isfinite(row["threshold"])]
    with figure(width=24, height=7.5) as drawn:
        left, middle, right = drawn.subplots(1, 3, sharex=True)
        middle.set_yscale("log")
        before = _normalized(_counts(predictions, values, background, even)[0])
        right.stairs(before, even, fill=True, color="0.85", label="before the cut")
        for position, row in zip(np.linspace(-0.3, 0.3, len(rows)), rows, strict=True):
            signal = predictions.classes.index(row["signal"])
            passing = pair_ratio(predictions.scores, signal, background) >= row["threshold"]
            label = f"{class_name(row['signal'])} at {100 * row['signal_efficiency']:g} %"
            style = {"label": label, "color": look(signal)["color"]}
            for axes, true in ((left, signal), (middle, background)):
                _efficiency(axes, predictions, values, true, filled, passing, position, **style)
            after, squares = _counts(predictions, values, background, even, passing)
            if after.sum() ** 2 >= _SHAPE_EVENTS * squares.sum() > 0:
                right.stairs(_normalized(after), even, baseline=None, linewidth=1.5, **style)
        name = class_name(predictions.classes[background])
        left.set(ylabel="Signal efficiency", ylim=(0, 1.05), xlim=(even[0], even[-1]))
        middle.set_ylabel(f"Efficiency of {name}")
        right.set(ylabel=f"{name} jets, normalized", ylim=(0, None))
        for axes in (left, middle, right):
            axes.set_xlabel(with_unit(observer))
        shown = {label: handle for axes in (right, left) for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)}
        legend_beside(right, title="Working point", handles=shown)
        say_left_out(drawn, left_out(predictions))
        return save(drawn, path)


def _counts(predictions: Predictions, values: Array, true: int, edges: Array, passing: Array | None = None) -> tuple[Array, Array]:
    """The sum of weights and the sum of squared weights in each bin, for the events of one class (that pass)."""
    chosen = np.asarray(predictions.labels == true)
    if passing is not None:
        chosen = chosen & passing
    weights = np.ones(int(chosen.sum())) if predictions.weights is None else predictions.weights[chosen]
    return np.histogram(values[chosen], edges, weights=weights)[0], np.histogram(values[chosen], edges, weights=weights**2)[0]


def _normalized(counts: Array) -> Array:
    """Normalize to unit sum; all zeros if the sum is not positive, which negative weights can cause."""
    total = counts.sum()
    return counts / total if total > 0 else np.zeros(counts.shape)


def _efficiency(
    axes: Any, predictions: Predictions, values: Array, true: int, edges: Array, passing: Array, position: float, **style: Any
) -> None:
    """Draw the passing fraction of the events of one class per bin, with 68 % intervals; bins with fewer than five events are left out.

    On a logarithmic axis, a bin in which no event passes shows the upper end of its interval with an arrow.
    position: offset of the points from the bin center in bin widths, so that curves do not hide each other.
    """
    total, squares = _counts(predictions, values, true, edges)
    passed, _ = _counts(predictions, values, true, edges, passing)
    filled = (total**2 >= _BIN_EVENTS * squares) & (total > 0)
    fraction, entries = (np.divide(a, b, out=np.zeros(len(total)), where=filled) for a, b in ((passed, total), (total**2, squares)))
    low, high = binomial_interval(fraction, entries)  # nan if negative weights give a fraction outside of [0, 1]
    places = (edges[1:] + edges[:-1]) / 2 + position * np.diff(edges)
    none_passes = filled & (passed <= 0) & (axes.get_yscale() != "linear")
    shown = filled & ~none_passes & np.isfinite(low)
    line = ":" if len(edges) > _FEW_BINS else ""
    points: dict[str, Any] = {"elinewidth": 1.5, "markersize": 6, "linewidth": 1}
    intervals = [(fraction - low)[shown], (high - fraction)[shown]]
    axes.errorbar(places[shown], fraction[shown], yerr=intervals, fmt=f"o{line}", **points, **style)
    limits = none_passes & np.isfinite(high)
    if limits.any():
        style = {**style, "label": None}
        axes.errorbar(places[limits], high[limits], yerr=high[limits] / 2, uplims=True, fmt="_", **points, **style)


def _smallest_class(predictions: Predictions) -> int:
    """The number of events of the smallest class that is not empty; without labels, the number of all events."""
    events = len(predictions.scores)
    if predictions.labels is None:
        return events
    counts = np.bincount(predictions.labels[predictions.labels >= 0])
    return int(counts[counts > 0].min(initial=events))


def _edges(values: Array, *, smallest: int) -> tuple[Array, Array]:
    """Edges of equidistant bins between the 0.5 % and 99.5 % quantiles, and of bins with equal numbers of events. Few events, few bins."""
    finite = values[np.isfinite(values)]
    bins = int(np.clip(smallest // _EVENTS_PER_BIN, 3, 10))
    low, high = np.quantile(finite, (0.005, 0.995)) if len(finite) else (0.0, 1.0)
    if high <= low:
        high = low + 1
    even = np.linspace(low, high, bins + 1)
    filled = np.unique(np.quantile(finite[(finite >= low) & (finite <= high)], np.linspace(0, 1, bins + 1))) if len(finite) else even
    return even, filled if len(filled) > 1 else even
