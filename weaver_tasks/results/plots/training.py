"""Plots of the metrics during training, of the results of a regression, and of a learning rate scan."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from weaver_tasks.base.files import read_json
from weaver_tasks.results.plots.style import COLORS, figure, legend_beside, look, save, say_left_out, say_why_empty
from weaver_tasks.results.predictions.columns import Predictions, left_out, outputs_match

Array = np.ndarray
History = dict[str, list[dict[str, Any]]]


def read_history(folder: Path) -> History:
    """{"train": […], "val": […]}: the metrics of each finished epoch, in order, without the epochs that early stopping skipped."""
    history: History = {"train": [], "val": []}
    for part, epochs in history.items():
        read = [read_json(path) for path in history_files(folder) if path.name.startswith(part)]
        epochs += sorted((epoch for epoch in read if not epoch.get("stopped")), key=lambda epoch: epoch["epoch"])
    return history


def history_files(folder: Path) -> list[Path]:
    """The files in a folder that hold the metrics of an epoch, sorted by name."""
    return sorted(path for path in folder.glob("*_epoch-*.json") if re.fullmatch(r"(train|val)_epoch-\d+\.json", path.name))


def plot_training(history: History, best: Mapping[str, Any] | None, path: Path) -> list[Path]:
    """Draw loss, another metric (accuracy, or that which selected the best epoch) and learning rate against the epoch; mark the best epoch.

    history: from `read_history`. best: the content of best_epoch.json, None if there is no best epoch.
    """
    epochs = [*history["train"], *history["val"]]
    chosen = best["metric"] if best and best["metric"] != "loss" else "accuracy"
    panels = [name for name in ("loss", chosen, "lr") if any(isinstance(epoch.get(name), int | float) for epoch in epochs)]
    with figure(width=11, height=3.2 * max(len(panels), 1) + 1) as drawn:
        all_axes = drawn.subplots(max(len(panels), 1), 1, sharex=True, squeeze=False)[:, 0]
        for name, axes in zip(panels, all_axes, strict=False):
            _panel(axes, history, name)
            if best is not None:
                axes.axvline(best["epoch"], color="0.5", linestyle=":", linewidth=2, label=f"best epoch, {best['epoch']}")
                if name == best["metric"]:
                    axes.plot(best["epoch"], best["value"], marker="*", markersize=18, color=COLORS[2], linestyle="", zorder=3)
        all_axes[-1].set_xlabel("Epoch")
        all_axes[-1].xaxis.set_major_locator(MaxNLocator(integer=True))
        all_axes[-1].minorticks_off()
        if panels:
            legend_beside(all_axes[0])
        return save(drawn, path)


def plot_members(histories: Mapping[str, History], path: Path) -> list[Path]:
    """Draw loss and accuracy of several trainings against the epoch: one color per member, validation solid, training dotted."""
    epochs = [epoch for history in histories.values() for part in history.values() for epoch in part]
    panels = [name for name in ("loss", "accuracy") if any(isinstance(epoch.get(name), int | float) for epoch in epochs)]
    with figure(width=11, height=3.2 * max(len(panels), 1) + 1) as drawn:
        all_axes = drawn.subplots(max(len(panels), 1), 1, sharex=True, squeeze=False)[:, 0]
        for name, axes in zip(panels, all_axes, strict=False):
            for number, (member, history) in enumerate(histories.items()):
                for part, line in (("train", ":"), ("val", "-")):
                    points = [(epoch["epoch"], epoch[name]) for epoch in history[part] if isinstance(epoch.get(name), int | float)]
                    if points:
                        label = member if part == "val" else None
                        axes.plot(*zip(*points, strict=True), line, color=look(number)["color"], label=label)
            axes.set_ylabel(name.capitalize())
            axes.grid(alpha=0.3)
        all_axes[-1].set_xlabel("Epoch")
        all_axes[-1].xaxis.set_major_locator(MaxNLocator(integer=True))
        all_axes[-1].minorticks_off()
        if panels:
            legend_beside(all_axes[0], title="validation")
        return save(drawn, path)


def _panel(axes: Axes, history: History, name: str) -> None:
    shown = {"lr": "Learning rate"}.get(name, name.replace("_", " ").capitalize())
    parts = (("train", "training", "o-"), ("val", "validation", "s-")) if name != "lr" else (("train", "training", "o-"),)
    for number, (part, label, line) in enumerate(parts):
        points = [(epoch["epoch"], epoch[name]) for epoch in history[part] if isinstance(epoch.get(name), int | float)]
        if points:
            x, y = zip(*points, strict=True)
            axes.plot(x, y, line, label=label, color=(COLORS[1], COLORS[2])[number], markersize=6)
    if name == "lr":
        axes.set_yscale("log")
    axes.set_ylabel(shown)
    axes.grid(alpha=0.3)


def plot_regression(predictions: Predictions, metrics: Mapping[str, Any], path: Path) -> list[Path]:
    """For each target, draw predicted against true values, and bias and resolution in bins of the target."""
    targets: Iterable[tuple[str, Array]] = predictions.targets.items()
    count = max(len(predictions.targets), 1)
    with figure(width=18, height=7 * count) as drawn:
        rows = drawn.subplots(count, 2, squeeze=False)
        for index, ((name, target), (left, right)) in enumerate(zip(targets, rows, strict=False)):
            if not outputs_match(predictions):
                for axes in (left, right):
                    say_why_empty(axes, f"which output is that of {name} is not known")
                continue
            _plane(left, predictions.scores[:, index], target, name, predictions.weights)
            bins = metrics["targets"][name]["bins"]
            centers = np.array([(row["low"] + row["high"]) / 2 for row in bins])
            widths = np.array([(row["high"] - row["low"]) / 2 for row in bins])
            bias, resolution = (np.array([row[key] for row in bins]) for key in ("median_bias", "resolution"))
            right.errorbar(centers, bias, xerr=widths, fmt="o", color=COLORS[1], label="bias (median)")
            right.errorbar(centers, resolution, xerr=widths, fmt="s", color=COLORS[2], label="resolution (68 %)")
            right.axhline(0, color="0.5", linewidth=1)
            right.set(xlabel=f"True {name}", ylabel=f"Predicted - true {name}")
            right.margins(y=0.3)
            right.legend(loc="upper left", ncols=2)
        say_left_out(drawn, left_out(predictions))
        return save(drawn, path)


def _plane(axes: Axes, predicted: Array, target: Array, name: str, weights: Array | None) -> None:
    """Draw the density of predicted against true values. Bins without events stay empty; weights that sum to zero do not hide events."""
    finite = np.isfinite(predicted) & np.isfinite(target)
    low, high = np.quantile(np.concatenate([predicted[finite], target[finite]]), (0.005, 0.995)) if finite.any() else (0.0, 1.0)
    span = [[low, high], [low, high]] if high > low else [[low - 1, low + 1]] * 2
    values: dict[str, Any] = {"bins": 50, "range": span}
    entries, x, y = np.histogram2d(target[finite], predicted[finite], **values)
    summed = entries if weights is None else np.histogram2d(target[finite], predicted[finite], weights=weights[finite], **values)[0]
    image = axes.pcolormesh(x, y, np.where(entries > 0, summed, np.nan).T, cmap="viridis")
    axes.plot(span[0], span[0], color="0.5", linestyle="--", linewidth=1)
    axes.set(xlabel=f"True {name}", ylabel=f"Predicted {name}")
    assert axes.figure is not None
    axes.figure.colorbar(image, ax=axes, label="Jets" if weights is None else "Jets (weighted)")


def plot_rate_sweep(history: Mapping[str, list[float]], path: Path, *, suggested: float | None, configured: float) -> list[Path]:
    """Draw the loss of each step and its running mean against the learning rate; mark the suggested and the configured rate."""
    with figure(width=11, height=7) as drawn:
        axes = drawn.subplots()
        axes.plot(history["lr"], history["loss"], color="0.7", linewidth=1, label="each step")
        axes.plot(history["lr"], history["smoothed"], color=COLORS[1], label="running mean")
        if suggested is not None:
            axes.axvline(suggested, color=COLORS[2], linestyle="--", label=f"steepest, {suggested:.1e}")
        axes.axvline(configured, color="0.5", linestyle=":", label=f"training.lr, {configured:.1e}")
        lowest, highest = min(history["smoothed"]), max(history["smoothed"][: max(1, len(history["smoothed"]) // 2)])
        # Limit the axis: a diverging loss would flatten the rest of the curve.
        margin = max(0.25 * (highest - lowest), 0.02 * abs(highest), 1e-12)
        axes.set(xlabel="Learning rate", ylabel="Loss", xscale="log", ylim=(lowest - margin, highest + 2 * margin))
        axes.grid(alpha=0.3)
        legend_beside(axes)
        return save(drawn, path)
