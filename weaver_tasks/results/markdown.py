"""Tables in Markdown, and the figures of an evaluation as a page of them, for reading."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]], *, numbers: int = 0) -> str:
    """A Markdown table of cells as they are shown. numbers: the last so many columns are numbers, set to the right."""
    # Not at the top: half a second, and summaries of a run may want other parts of this module.
    import pandas as pd

    texts = [[str(cell).replace("|", "\\|") for cell in row] for row in rows]
    align = ["left"] * (len(columns) - numbers) + ["right"] * numbers
    # Numbers are rounded where their errors are known: here they are text.
    return pd.DataFrame(texts, columns=list(columns)).to_markdown(index=False, colalign=align, disable_numparse=True) if texts else ""


def markdown(metrics: Mapping[str, Any], title: str) -> str:
    """The figures of `evaluate_classification` or `evaluate_regression` as a page of tables."""
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
    """The rejection with its 68 % interval, or the limit that it exceeds."""
    if not math.isnan(row["rejection"]):
        return with_interval(row["rejection"], row["low"], row["high"])
    return "-" if math.isnan(row["at_least"]) else f"> {three_digits(row['at_least'])} (95 % CL)"


def with_interval(value: float, low: float, high: float) -> str:
    """A value with how far its interval reaches up and down; without where there is none."""
    if not math.isfinite(low):
        return three_digits(value)
    up = three_digits(high - value) if math.isfinite(high) else "∞"
    return f"{three_digits(value)} (+{up} \N{MINUS SIGN}{three_digits(value - low)})"


def three_digits(value: float) -> str:
    """Three significant digits, without powers of ten as long as there is room."""
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
