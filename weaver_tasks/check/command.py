"""Check a run before it starts: open one file of each group, make the network, and report what the run would find and need.

    python -m weaver_tasks.check --config config.yaml

Exit code 0 when the run can work; 2, with the reasons, when it could not.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from weaver_tasks.base.errors import WeaverTasksError
from weaver_tasks.check.files import Finding, disk_needed, disk_problems, file_problems, look, readable
from weaver_tasks.check.network import network_problems
from weaver_tasks.data.configuration import DataConfiguration
from weaver_tasks.plan import Plan, check_early, make_plan
from weaver_tasks.results.metrics.evaluation import check_classes
from weaver_tasks.settings.model import EvaluationSettings
from weaver_tasks.settings.reading import read_config


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m weaver_tasks.check", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", type=Path, nargs="+", required=True, metavar="FILE", help="config.yaml; several are merged")
    arguments = parser.parse_args(argv)
    plan = make_plan(read_config(arguments.config), where=", ".join(map(str, arguments.config)))
    check_early(plan)
    findings = list(look(plan))
    console = Console(width=None if Console().is_terminal else 140)
    needed = disk_needed(plan, findings)
    show(plan, findings, needed, console)
    problems = list(file_problems(findings))
    problems += [*disk_problems(plan, needed[0]), *_class_problems(plan, findings), *network_problems(plan, console)]
    problems += _evaluation_problems(plan)
    if problems:
        raise WeaverTasksError("; ".join(dict.fromkeys(problems)))
    for warning in _class_warnings(plan, findings):
        console.print(f"WARNING: {warning}", style="yellow", markup=False, soft_wrap=True)
    console.print("The run can work.")


def _class_problems(plan: Plan, findings: list[Finding]) -> Iterator[str]:
    labels = plan.data_configuration("train").labels
    fitting = [finding for finding in findings if finding.split == "train"]
    if labels is None or labels.kind != "simple" or any(finding.problem for finding in fitting):
        return
    if fitting and not any(finding.kept for finding in fitting):
        read = sum(finding.read for finding in fitting)
        yield f"{plan.data_config_file('train')}: selection: none of {read} entries of the first training files passes. Correct it."
        return


def _class_warnings(plan: Plan, findings: list[Finding]) -> Iterator[str]:
    """Warnings about classes without events in the files examined: a network cannot learn them, but the run can work."""
    labels = plan.data_configuration("train").labels
    fitting = [finding for finding in findings if finding.split == "train"]
    if labels is None or labels.kind != "simple" or any(finding.problem for finding in fitting):
        return
    for name in labels.classes:
        if fitting and not any(finding.classes.get(name) for finding in fitting):
            yield (
                f"{plan.data_config_file('train')}: labels.value: no event of class '{name}' in the first training file of any group. "
                "If no file holds one, the network cannot learn it (and reweighting, if it names the class, refuses)."
            )


def _evaluation_problems(plan: Plan) -> Iterator[str]:
    """Classes that `evaluation` names but the labels lack. Without this check they would be found only after the training."""
    labels = plan.data_configuration("train").labels
    if labels is None or labels.kind != "simple":
        return
    try:
        check_classes(labels.classes, EvaluationSettings(**plan.config["evaluation"]))
    except WeaverTasksError as error:
        yield str(error)


def show(plan: Plan, findings: list[Finding], needed: tuple[float, bool], console: Console) -> None:
    """Print the tables. needed: from `disk_needed`."""
    table = Table(title=f"Input files of run '{plan.config['run']}' (the first file of each group)")
    for name in ("split", "group", "files", "entries", "kept", "branches", "non-finite values", "status"):
        table.add_column(name, justify="right" if name in ("files", "entries", "kept", "branches") else "left", overflow="fold")
    for finding in findings:
        kept = f"{finding.kept / finding.read:.1%}" if finding.read else ""
        non_finite = ", ".join(f"{name}: {count}" for name, count in finding.non_finite.items())
        skipped = "".join(f"skipped: {problem} " for problem in finding.skipped)
        last = f"[red]{escape(finding.problem)}[/red]" if finding.problem else "[green]good[/green]" if finding.source else "no good file"
        status = f"{escape(skipped)}{last}"
        cells = (finding.split, finding.group, str(finding.files), str(finding.entries), kept, str(finding.branches), non_finite, status)
        table.add_row(*cells)
    console.print(table)
    _show_classes(findings, console)
    _show_inputs(plan.data_configuration("train"), console)
    _show_needs(plan, findings, needed, console)


def _show_classes(findings: list[Finding], console: Console) -> None:
    totals: dict[str, dict[str, int]] = {}
    for finding in findings:
        for name, count in finding.classes.items():
            totals.setdefault(name, {}).setdefault(finding.split, 0)
            totals[name][finding.split] += count
    if totals:
        splits = list(dict.fromkeys(finding.split for finding in findings))
        table = Table("class", *splits, title="Events per class in these files")
        for name, counts in totals.items():
            table.add_row(name, *(str(counts.get(split, 0)) for split in splits))
        console.print(table)


def _show_inputs(configuration: DataConfiguration, console: Console) -> None:
    table = Table("input", "shape", "variables", title="Inputs of the network")
    for group in configuration.inputs:
        shape = ["N", str(len(group.variables))] + ([str(group.length)] if group.length else [])
        table.add_row(group.name, f"({', '.join(shape)})", ", ".join(variable.name for variable in group.variables))
    console.print(table)


def _show_needs(plan: Plan, findings: list[Finding], needed: tuple[float, bool], console: Console) -> None:
    size = max((finding.bytes_per_event for finding in findings), default=0.0)
    padded = 4 * sum(len(group.variables) * (group.length or 1) for group in plan.data_configuration("train").inputs)
    loading, training = plan.config["loading"], plan.config["training"]
    window = min(loading["max_window_events"], sum(finding.expected_events for finding in findings if finding.split == "train"))
    memory = training["ranks"] * (2 * window * size + (loading["prefetch"] + 2) * training["batch_size"] * padded)
    disk, all_known = needed
    amount = (
        (readable(disk) if all_known else f"at least {readable(disk)} (a server does not say how large its files are)") if disk else "none"
    )
    what = "copies of the input files" if plan.config["staging"]["mode"] == "copy" else "staged files"
    console.print(
        f"Expected: {readable(size)} an event; disk for {what} {amount}; memory for loading, beside the network, about {readable(memory)}."
    )
