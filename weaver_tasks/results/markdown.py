"""The figures of an evaluation as Markdown, for reading."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any


def markdown(figures: Mapping[str, Any], title: str) -> str:
    """The figures of `evaluate_classification` or `evaluate_regression` as Markdown tables."""
    if figures["task"] == "regression":
        return _regression_tables(figures, title)
    if figures["entries"] == figures["entries_without_class"]:
        groups = [f"| {group} | {row['entries']:,} |" for group, row in figures["groups"].items()]
        why = f"{figures['entries']:,} jets, none of a known class: there is nothing to compare their scores with."
        return "\n".join([f"# {title}", "", why, "", "| group | jets |", "|---|---:|", *groups]) + "\n"
    lines = [f"# {title}", "", f"{figures['entries']:,} jets, accuracy {_with_error(figures['accuracy'], figures['accuracy_error'])}, "]
    lines[-1] += f"AUC (one against one) {_number(figures['auc'], 4)}."
    if figures["metrics"]:
        lines += ["", "| metric | value |", "|---|---|", *(f"| {name} | {value} |" for name, value in figures["metrics"].items())]
    lines += ["", "| signal | background | signal efficiency | rejection |", "|---|---|---:|---:|"]
    for row in figures["rejections"]:
        shown = _with_error(row["rejection"], row["error"], 3)
        if math.isnan(row["rejection"]) and not math.isnan(row["at_least"]):
            shown = f"> {row['at_least']:.3g} (95 % CL)"
        lines.append(f"| {row['signal']} | {row['background']} | {row['signal_efficiency']:g} | {shown} |")
    lines += ["", "| group | jets | accuracy | AUC |", "|---|---:|---:|---:|"]
    for group, row in figures["groups"].items():
        lines.append(f"| {group} | {row['entries']:,} | {_with_error(row['accuracy'], row['accuracy_error'])} | {_number(row['auc'], 4)} |")
    return "\n".join(lines) + "\n"


def _regression_tables(figures: Mapping[str, Any], title: str) -> str:
    lines = [f"# {title}", "", f"{figures['entries']:,} jets."]
    for name, target in figures["targets"].items():
        lines += ["", f"## {name}", "", "| events | jets | bias | resolution (68 %) | relative resolution |", "|---|---:|---:|---:|---:|"]
        rows = {"all": target, **target["groups"]}
        rows |= {f"{row['low']:.4g} to {row['high']:.4g}": row for row in target["bins"]}
        for label, row in rows.items():
            bias = _with_error(row["bias"], row["bias_error"], 4)
            lines.append(f"| {label} | {row['entries']:,} | {bias} | {row['resolution']:.4g} | {_number(row['relative_resolution'], 4)} |")
    return "\n".join(lines) + "\n"


def _number(value: float, digits: int) -> str:
    return "-" if math.isnan(value) else f"{value:.{digits}f}"


def _with_error(value: float, error: float, digits: int = 0) -> str:
    if math.isnan(value):
        return "-"
    return f"{value:.{digits}g} ± {error:.2g}" if digits else f"{value:.4f} ± {error:.4f}"
