"""Print where the results of a run are, and its headline metrics.

python -m weaver_tasks.summary results/<run>
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from weaver_tasks.base.command_line import run_command
from weaver_tasks.base.errors import ResultError
from weaver_tasks.base.files import read_json
from weaver_tasks.records.read import mixed_versions_message
from weaver_tasks.results.report import configuration_rows, data_rows, heading, table

_RESULTS = {
    "model": "export/model.onnx",
    "model of raw inputs": "export/model_raw.onnx",
    "preprocessing": "export/preprocess.json",
    "weights": "checkpoints/net_best_epoch_state.pt",
    "predictions": "predictions",
    "metrics": "evaluation/metrics.md",
    "plots": "evaluation",
    "lineage": "provenance/ro-crate-metadata.json",
}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m weaver_tasks.summary", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("run", type=Path, help="the folder of the run, results/<run>")
    parser.add_argument(
        "--report", type=json.loads, metavar="CONFIG", help="print the first page of the report, for this configuration (JSON)"
    )
    arguments = parser.parse_args(argv)
    if arguments.report:
        print(report_page(arguments.run, arguments.report))
        return
    members = trained_members(arguments.run)
    console = Console()
    for member in members:
        console.print(f"[bold]{member}[/bold]", highlight=False, soft_wrap=True)
        for name, value, style in summary_lines(member):
            # Lines are never wrapped, so that paths can be copied.
            console.print(f"  {name:<22}{value}", style=style, highlight=False, markup=False, soft_wrap=True)
    for warning in filter(None, (*_warnings_of_inputs(arguments.run), _mixture(arguments.run))):
        console.print(f"  WARNING: {warning}", style="yellow", highlight=False, markup=False, soft_wrap=True)
    report = arguments.run / "report.html"
    where = str(report) if report.is_file() else f"made by: snakemake --configfile … --report {report}"
    console.print(f"  {'report':<22}{where}", highlight=False, markup=False, soft_wrap=True)


def _warnings_of_inputs(run: Path) -> list[str]:
    """The warnings about the events from staging: a class without events, or weights that are never sampled."""
    manifest = run / "inputs.json"
    return read_json(manifest).get("warnings", []) if manifest.is_file() else []


def _mixture(run: Path) -> str | None:
    environments = run / "provenance" / "environments.json"
    return mixed_versions_message(read_json(environments)["code_versions"]) if environments.is_file() else None


def trained_members(run: Path) -> list[Path]:
    """The folders of the trainings: the folder of the run, or one per fold or seed, after that of the run if it merges several.

    Raises ResultError if the run is not finished.
    """
    if not run.is_dir():
        there = sorted(path.name for path in run.parent.iterdir() if path.is_dir()) if run.parent.is_dir() else []
        hint = f" There are {', '.join(there)}." if there else ""
        raise ResultError(f"{run}: no such run.{hint} Give the folder of a run, results/<run>.")
    found = [path for pattern in ("fold-*", "seed-*") for path in run.glob(pattern) if path.is_dir()]
    members = sorted(found, key=lambda path: int(path.name.partition("-")[2])) or [run]
    merged = [run] if len(members) > 1 else []
    for folder in (*merged, *members):
        for needed in ("evaluation/metrics.json", *(() if folder in merged else ("export/parity.json",))):
            if not (folder / needed).is_file():
                raise ResultError(f"{folder}: not finished, {needed} is missing. Run snakemake with the configuration of this run.")
    return [*merged, *members]


def summary_lines(member: Path) -> Iterator[tuple[str, str, str]]:
    """Yield (name, value, style): the test metrics of a training, then the paths of its results."""
    parity = member / "export" / "parity.json"
    for name, value in headline(read_json(member / "evaluation" / "metrics.json"), read_json(parity) if parity.is_file() else None):
        yield name, value, "green"
    for name, place in _RESULTS.items():
        # A fold or seed shares some results with the whole run.
        found = next((folder / place for folder in (member, member.parent) if (folder / place).exists()), None)
        if found is not None:
            yield name, str(found), ""


def report_page(run: Path, config: Mapping[str, Any]) -> str:
    """The first page of the report, in reStructuredText: test metrics of each training, data, configuration."""
    lines: list[str] = []
    members = trained_members(run)
    for member in members:
        parity = member / "export" / "parity.json"
        found = headline(read_json(member / "evaluation" / "metrics.json"), read_json(parity) if parity.is_file() else None)
        rows = [(name[0].upper() + name[1:], value) for name, value in found]
        lines += [*heading("Results" if len(members) == 1 else f"Results of {member.name}"), *table((), rows)]
    data = data_rows(read_json(run / "inputs.json"))
    lines += [*heading("Data"), *table(("Split", "Group", "Files", "Entries", "Selected"), data)]
    for warning in _warnings_of_inputs(run):
        lines += ["", f"**{warning.replace('*', '').replace('`', '')}**", ""]
    lines += [*heading("Configuration"), *table((), configuration_rows(config))]
    return "\n".join(lines)


def headline(metrics: Mapping[str, Any], parity: Mapping[str, Any] | None) -> Iterator[tuple[str, str]]:
    """Names and values of the most important metrics."""
    if not metrics["entries"]:
        yield "test jets", "none"
    elif metrics["task"] == "classification":
        yield "test accuracy", _number(metrics["accuracy"], metrics["accuracy_error"])
        yield "test AUC", _number(metrics["auc"])
    for name, target in metrics.get("targets", {}).items():
        defined = target["resolution"] is not None
        yield f"test resolution of {name}", f"{target['resolution']:.4g} (bias {target['bias']:.4g})" if defined else _number(None)
    if metrics["entries"]:
        yield "test jets", f"{metrics['entries']:,}"
    if metrics.get("best_epoch"):
        best = metrics["best_epoch"]
        yield "best epoch", f"{best['epoch']} (validation {best['metric']} {best['value']:.4f})"
    for name, row in metrics.get("members", {}).items():
        if name in ("accuracy", "auc") or name.endswith(": resolution"):
            yield f"{name} of {len(row['members'])} members", f"{_number(row['mean'], row['std'])}"
    if parity is not None:
        yield "ONNX against PyTorch", f"{parity['max_abs_difference']:.1e} at most"


def _number(value: float | None, error: float | None = None) -> str:
    if value is None:
        return "not defined"
    return f"{value:.4f}" if error is None else f"{value:.4f} ± {error:.4f}"


if __name__ == "__main__":
    run_command(main)
