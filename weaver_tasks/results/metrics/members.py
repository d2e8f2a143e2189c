"""Compare the metrics of the members of a run: cross-validation folds, or trainings with different seeds."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from typing import Any

from weaver_tasks.results.markdown import table

Metrics = Mapping[str, Any]


def compare_members(members: Mapping[str, Metrics]) -> dict[str, dict[str, Any]]:
    """Each metric of each member, with the mean and the standard deviation (n - 1) over the members.

    members: name of the member -> content of its evaluation/metrics.json. A metric that a member does not have is None, and so
    are its mean and standard deviation. Returns metric -> {"members": {name: value}, "mean": …, "std": …}.
    """
    found = {name: _single_values(metrics) for name, metrics in members.items()}
    compared = {}
    for figure in dict.fromkeys(figure for metrics in found.values() for figure in metrics):
        values = {name: metrics.get(figure) for name, metrics in found.items()}
        known = [value for value in values.values() if value is not None]
        whole = len(known) == len(values)
        mean = statistics.fmean(known) if whole else None
        std = statistics.stdev(known) if whole and len(known) > 1 else None
        compared[figure] = {"members": values, "mean": mean, "std": std}
    return compared


def _single_values(metrics: Metrics) -> dict[str, float | None]:
    """The metrics that are single numbers."""
    if metrics["task"] == "classification":
        named = {name: metrics.get(name) for name in ("accuracy", "auc")}
        for row in metrics.get("rejections") or []:
            named[f"rejection of {row['background']} at {row['signal_efficiency']:g} {row['signal']}"] = row["rejection"]
        named |= metrics.get("metrics") or {}
    else:
        named = {}
        for target, summary in metrics["targets"].items():
            named |= {f"{target}: {name}": summary[name] for name in ("bias", "resolution", "relative_resolution")}
            named |= {f"{target}: {name}": value for name, value in (summary.get("metrics") or {}).items()}
    return {name: _finite(value) for name, value in named.items() if value is None or isinstance(value, int | float)}


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def members_table(compared: Mapping[str, Mapping[str, Any]]) -> str:
    """The result of `compare_members` as a Markdown table."""
    names = list(next(iter(compared.values()))["members"]) if compared else []
    rows = []
    for figure, row in compared.items():
        mean = "-" if row["mean"] is None else f"{row['mean']:.4g}"
        mean += "" if row["std"] is None else f" ± {row['std']:.2g}"
        rows.append([figure, mean, *(_shown(row["members"][name]) for name in names)])
    return table(["figure", "mean ± standard deviation", *names], rows, numbers=1 + len(names)) + "\n"


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"
