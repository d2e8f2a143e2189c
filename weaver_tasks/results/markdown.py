"""Markdown tables, and the page `evaluation/metrics.md` that shows the metrics of an evaluation."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]], *, numbers: int = 0) -> str:
    """A Markdown table of formatted cells. numbers: how many of the last columns are numbers, aligned to the right."""
    # Imported here because it takes half a second, and other functions of this module do not need it.
    import pandas as pd

    texts = [[str(cell).replace("|", "\\|") for cell in row] for row in rows]
    align = ["left"] * (len(columns) - numbers) + ["right"] * numbers
    # The callers have rounded the numbers already, so tabulate must treat them as text.
    return pd.DataFrame(texts, columns=list(columns)).to_markdown(index=False, colalign=align, disable_numparse=True) if texts else ""


def markdown(metrics: Mapping[str, Any], title: str) -> str:
    """The metrics of `evaluate_classification` or `evaluate_regression` as a page of Markdown tables."""
    body = _regression(metrics) if metrics["task"] == "regression" else _classification(metrics)
    warned = ["\n".join(f"- {warning}" for warning in metrics["warnings"])] if metrics["warnings"] else []
    return "\n\n".join([f"# {title}", *warned, *filter(None, body)]) + "\n"


def _classification(metrics: Mapping[str, Any]) -> list[str]:
    entries = metrics["entries"]
    if entries == metrics["entries_without_class"]:
        why = f"{entries:,} jets, none of a known class: there is nothing to compare their scores with."
        return [why, table(["group", "jets"], [[group, f"{row['entries']:,}"] for group, row in metrics["groups"].items()], numbers=1)]
    outside = f" ({metrics['entries_without_class']:,} of no class)" if metrics["entries_without_class"] else ""
    whole = f"{entries:,} jets{outside}, accuracy {_with_error(metrics['accuracy'], metrics['accuracy_error'])}, "
    whole += f"AUC (one against one) {_number(metrics['auc'], 4)}. The background is {metrics['background']}"
    whole += "." if metrics["background_chosen"] else ", the first class (evaluation.background chooses another)."
    rejections = [[row["signal"], row["background"], f"{row['signal_efficiency']:g}", _rejection(row)] for row in metrics["rejections"]]
    groups = [
        [group, f"{row['entries']:,}", _with_error(row["accuracy"], row["accuracy_error"]), _number(row["auc"], 4)]
        if row["labeled"]
        else [group, f"{row['entries']:,}", "no labels", "-"]
        for group, row in metrics["groups"].items()
    ]
    return [
        whole,
        table(["metric", "value"], [[name, "-" if value is None else value] for name, value in metrics["metrics"].items()]),
        table(["signal", "background", "signal efficiency", "rejection"], rejections, numbers=2),
        table(["group", "jets", "accuracy", "AUC"], groups, numbers=3),
    ]


def _rejection(row: Mapping[str, float]) -> str:
    """The rejection with its 68 % interval, or its lower limit where no background event passes."""
    if not math.isnan(row["rejection"]):
        return with_interval(row["rejection"], row["low"], row["high"])
    return "-" if math.isnan(row["at_least"]) else f"> {three_digits(row['at_least'])} (95 % CL)"


def with_interval(value: float, low: float, high: float) -> str:
    """A value with its upper and lower uncertainty, or alone where the interval is not finite."""
    if not math.isfinite(low):
        return three_digits(value)
    up = three_digits(high - value) if math.isfinite(high) else "∞"
    return f"{three_digits(value)} (+{up} \N{MINUS SIGN}{three_digits(value - low)})"


def three_digits(value: float) -> str:
    """Three significant digits, in decimal notation where that is short enough."""
    return f"{value:.3g}" if value < 1000 else f"{value:,.0f}"


def _regression(metrics: Mapping[str, Any]) -> list[str]:
    parts = [f"{metrics['entries']:,} jets."]
    for name, target in metrics["targets"].items():
        rows = {"all": target, **target["groups"]}
        rows |= {f"{row['low']:.4g} to {row['high']:.4g}": row for row in target["bins"]}
        cells = [
            [
                label,
                f"{row['entries']:,}",
                _with_error(row["bias"], row["bias_error"], 4),
                _number(row["resolution"], 4, form="g"),
                _number(row["relative_resolution"], 4),
            ]
            for label, row in rows.items()
        ]
        parts += [f"## {name}", table(["events", "jets", "bias", "resolution (68 %)", "relative resolution"], cells, numbers=4)]
    return parts


def _number(value: float, digits: int, *, form: str = "f") -> str:
    return "-" if math.isnan(value) else f"{value:.{digits}{form}}"


def _with_error(value: float, error: float, digits: int = 0) -> str:
    if math.isnan(value):
        return "-"
    return f"{value:.{digits}g} ± {error:.2g}" if digits else f"{value:.4f} ± {error:.4f}"
