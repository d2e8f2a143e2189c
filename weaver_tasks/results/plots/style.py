"""The common style of all plots: mplhep, drawn without a display, saved as PNG and PDF."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import matplotlib
import mplhep
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from weaver_tasks.base.files import atomic_path
from weaver_tasks.base.jet_observers import kinematic_observers

# The palette of Okabe and Ito, suitable for color-blind readers, then three more colors for taggers with ten or more classes.
COLORS = (
    *("#000000", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"),
    *("#8C564B", "#7A52C7", "#7F7F7F", "#A6C800", "#F0E442"),
)
DASHES = ("-", "--", ":", "-.")
_SOLID = 7  # number of colors of Okabe and Ito at the beginning of COLORS


def look(index: int) -> dict[str, Any]:
    """The color and line style of curve number `index`; curves differ in print too."""
    return {"color": COLORS[index % len(COLORS)], "linestyle": DASHES[index // _SOLID % len(DASHES)]}


@contextlib.contextmanager
def figure(*, width: float = 10, height: float = 8) -> Iterator[Figure]:
    """An empty figure in the common style, `width` x `height` inches. It belongs to no window and need not be closed."""
    with matplotlib.rc_context():
        mplhep.style.use(mplhep.style.CMS)
        matplotlib.rcParams.update({"font.size": 20, "axes.labelsize": 22, "xtick.labelsize": 18, "ytick.labelsize": 18})
        yield Figure(figsize=(width, height), layout="constrained")


def legend_beside(axes: Axes, *, title: str | None = None, size: float = 16, handles: Mapping[str, Any] | None = None) -> None:
    """Draw a legend to the right of the axes, where it hides nothing. handles: label -> artist (default: all artists of the axes)."""
    if handles is None:
        handles = {label: handle for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    if handles:
        place: dict[str, Any] = {"loc": "upper left", "bbox_to_anchor": (1.01, 1.0), "borderaxespad": 0}
        axes.legend(list(handles.values()), list(handles), title=title, title_fontsize=size, fontsize=size, **place)


def say_why_empty(axes: Axes, why: str) -> None:
    """Write into empty axes the reason why there is nothing to show."""
    axes.text(0.5, 0.5, why, transform=axes.transAxes, ha="center", va="center", fontsize=18, color="0.4")


def say_left_out(drawn: Figure, text: str) -> None:
    """Write above a figure which events it leaves out; nothing if `text` is empty."""
    if text:
        drawn.suptitle(text, fontsize=16, color="0.4")


def save(drawn: Figure, path: Path) -> list[Path]:
    """Save a figure as `path` (PNG), and as PDF in the same folder. Returns both paths."""
    paths = [path.with_suffix(".png"), path.with_suffix(".pdf")]
    # Do the layout once; otherwise it is done twice for each format.
    drawn.draw_without_rendering()
    drawn.set_layout_engine("none")
    for target in paths:
        with atomic_path(target) as temporary:
            # Without dates, equal plots give equal files.
            metadata = {"Software": None} if target.suffix == ".png" else {"CreationDate": None}
            drawn.savefig(temporary, dpi=100, metadata=metadata)
    return paths


def with_unit(variable: str) -> str:
    """The axis label of a variable; momenta and masses, recognized by their names, get the unit GeV."""
    return f"{variable} [GeV]" if kinematic_observers([variable]) else variable


def class_name(name: str) -> str:
    """The displayed name of a class: without the prefix `label_` of branches with class flags."""
    return name.removeprefix("label_")
