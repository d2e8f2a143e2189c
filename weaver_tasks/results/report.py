"""The first page of the report of a run, as reStructuredText: configuration, data, best epoch and test metrics."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

_SPLITS = ("train", "val", "test")


def configuration_rows(config: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Names and values of the main settings of a training. config: the resolved config.yaml."""
    training = config["training"]
    rows = {
        "Data configuration": config["data"]["config"],
        "Network": config["network"]["config"],
        "Task": training["task"],
        "Epochs": training["epochs"],
        "Batch size": _batch(training),
        "Optimizer": f"{training['optimizer']['name']}, learning rate {training['lr']:g}, {training['scheduler']['name']}",
        "Seed": config.get("seeds") or config["seed"],
    }
    return [(name, str(value)) for name, value in rows.items()]


def data_rows(manifest: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """For each split and group: files, entries, and events that pass the selection. manifest: the content of inputs.json."""
    counts: dict[tuple[str, str], list[int]] = defaultdict(lambda: [0, 0, 0, 0])
    for file in manifest["files"]:
        count = counts[file["split"], file["group"]]
        for place, more in enumerate((1, file["entries"] or 0, file["kept"] or 0, bool(file["bad"]))):
            count[place] += more
    ordered = sorted(counts.items(), key=lambda item: _SPLITS.index(item[0][0]))
    rows: list[tuple[str, ...]] = []
    for (split, group), (files, entries, kept, bad) in ordered:
        rows.append((split, group, f"{files:,}" + (f" ({bad} bad)" if bad else ""), f"{entries:,}", f"{kept:,}"))
    return rows


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """The lines of a list-table; header: () for none."""
    lines = [".. list-table::", "   :header-rows: 1" if header else "   :stub-columns: 1", ""]
    for row in (*([header] if header else ()), *rows):
        lines += [f"   {'*' if number == 0 else ' '} - {_escaped(cell)}" for number, cell in enumerate(row)]
    return [*lines, ""]


def heading(text: str) -> list[str]:
    return [_escaped(text), "-" * (len(_escaped(text)) + 1), ""]


def _escaped(text: str) -> str:
    """Escape the markup of reStructuredText and that of Jinja, which Snakemake applies first."""
    return "".join(f"\\{character}" if character in "\\*`_|" else character for character in text).replace("{", "(").replace("}", ")")


def _batch(training: Mapping[str, Any]) -> str:
    ranks = training["ranks"] * training["nodes"]
    return f"{training['batch_size']} on each of {ranks} ranks" if ranks > 1 else str(training["batch_size"])
