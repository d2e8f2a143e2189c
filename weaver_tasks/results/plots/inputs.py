"""Plots of the input variables before and after standardization, and of the reweighting variables before and after reweighting."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from weaver_tasks.results.plots.style import COLORS, class_name, figure, legend_beside, look, save, with_unit

Histogram = tuple[np.ndarray, np.ndarray]
"""Edges (bins + 1,) and contents (bins,)."""

_TITLE = (
    "Input variables over the training events: as they are (gray; dotted: 16th, 50th, 84th percentile), and as the network sees them (blue)"
)
_VARIABLES_PER_ROW = 3
_SMALL = 9
_PEAKED = 20
_FEW = 5


def plot_standardization(variables: Mapping[str, Mapping[str, Any]], histograms: Mapping[str, Histogram], path: Path) -> list[Path]:
    """Draw two panels per variable: its values, and the standardized values that the network gets.

    variables: name -> center (None: not transformed), scale, low, high and percentiles, as in standardization.json.
    histograms: name -> histogram of the values in the training events.
    """
    rows = -(-len(variables) // _VARIABLES_PER_ROW)
    with figure(width=7 * _VARIABLES_PER_ROW, height=2.6 * rows + 0.6) as drawn:
        drawn.suptitle(_TITLE, fontsize=16)
        grid = drawn.subplots(rows, 2 * _VARIABLES_PER_ROW, squeeze=False).reshape(-1, 2)
        for (before, after), (name, facts) in zip(grid, variables.items(), strict=False):
            scale = _variable(before, histograms[name], "#7F7F7F")
            before.set_title(f"{name} (log)" if scale == "log" else name, fontsize=_SMALL + 2, loc="left")
            for value in (facts["percentiles"] or {}).values():
                before.axvline(value, color="black", linewidth=0.8, linestyle=":")
            _variable(after, _transformed(histograms[name], facts), COLORS[1])
            transformed = facts["center"] is not None
            how = f"center {facts['center']:.4g}, scale {facts['scale']:.4g}" if transformed else "not transformed"
            after.set_title(how, fontsize=_SMALL, loc="left")
        for panels in grid[len(variables) :]:
            for axes in panels:
                axes.set_visible(False)
        return save(drawn, path)


def _variable(axes: Axes, histogram: Histogram, color: str) -> str:
    """Draw the fraction of the values per bin. Returns the scale of the vertical axis."""
    edges, contents = histogram
    shares = contents / max(contents.sum(), 1)
    scale = _scale(shares)
    # The area is filled down to the axis; a logarithmic axis has no zero.
    lowest = 0.5 * shares[shares > 0].min() if scale == "log" else 0
    axes.stairs(np.maximum(shares, lowest), edges, baseline=lowest, fill=True, color=color)
    axes.set_yscale(scale)
    axes.set_ylim(bottom=lowest)
    axes.tick_params(labelsize=_SMALL, labelleft=False)
    axes.locator_params(axis="x", nbins=5)
    axes.xaxis.get_offset_text().set_fontsize(_SMALL)
    return scale


def _scale(contents: np.ndarray) -> str:
    """'log' if the smaller half of the filled bins (of only a few bins, the smallest) would be invisible on a linear axis."""
    filled = np.sort(contents[contents > 0])
    small = filled[0 if len(filled) <= _FEW else len(filled) // 2] if len(filled) else 1
    return "log" if len(filled) and filled[-1] > _PEAKED * small else "linear"


def _transformed(histogram: Histogram, facts: Mapping[str, Any]) -> Histogram:
    """The histogram of clip((x - center) * scale, low, high); clipped values are in the outermost bins."""
    edges, contents = histogram
    if facts["center"] is None:
        return histogram
    moved = (edges - facts["center"]) * facts["scale"]
    if facts["scale"] < 0:
        moved, contents = moved[::-1], contents[::-1]
    low, high = np.clip([moved[0], moved[-1]], facts["low"], facts["high"])
    if not low < high:
        return np.array([low - 0.5, low + 0.5]), np.array([contents.sum()])
    even = np.linspace(low, high, len(contents) + 1)
    cumulative = np.interp(even, moved, np.concatenate([[0], contents.cumsum()]))
    cumulative[0], cumulative[-1] = 0, contents.sum()
    return even, np.diff(cumulative)


def plot_reweighting(
    edges: Mapping[str, Sequence[float]], before: Mapping[str, np.ndarray], after: Mapping[str, np.ndarray], path: Path
) -> list[Path]:
    """Draw one row per reweighting variable: the number of events of each class per bin, and their sum of weights.

    edges: variable -> edges of its bins. before, after: class -> bin contents, with one axis per variable in the order of `edges`.
    """
    with figure(width=17, height=6 * len(edges)) as drawn:
        grid = drawn.subplots(len(edges), 2, squeeze=False)
        for axis, (variable, bounds) in enumerate(edges.items()):
            others = tuple(other for other in range(len(edges)) if other != axis)
            for axes, contents, title in zip(grid[axis], (before, after), ("before", "after"), strict=True):
                projected = {name: np.asarray(content).sum(axis=others) for name, content in contents.items()}
                for index, (name, content) in enumerate(projected.items()):
                    axes.stairs(content, bounds, label=class_name(name), linewidth=2, **look(index))
                axes.set_title(f"{title} reweighting", fontsize=18, loc="left")
                axes.set(xlabel=with_unit(variable), ylabel="Events per bin" if contents is before else "Weights per bin")
                scale = _scale(np.concatenate(list(projected.values())))
                axes.set_yscale(scale)
                if scale == "linear":
                    axes.set_ylim(bottom=0)
                axes.margins(x=0)
            legend_beside(grid[axis, 1], size=14)
        return save(drawn, path)


def plot_no_reweighting(why: str, path: Path) -> list[Path]:
    """Draw an empty plot with the reason why there is nothing to show."""
    with figure(width=10, height=3) as drawn:
        drawn.text(0.5, 0.5, why, ha="center", va="center")
        return save(drawn, path)
