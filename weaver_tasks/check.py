"""Look before a run: open one file of each group, make the network, and say what the run would find, and what it would need.

    python -m weaver_tasks.check --config config.yaml

Exit code 0 when the run can work; 2, with the reasons, when it could not.
"""

from __future__ import annotations

import argparse
import functools
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import awkward as ak
import numpy as np
from rich.console import Console
from rich.table import Table

from weaver_tasks.base.command_line import run_command
from weaver_tasks.base.config import read_config
from weaver_tasks.base.errors import WeaverTasksError, nearest
from weaver_tasks.data.blocks import LABEL, Block, PackedColumn, StagingOptions
from weaver_tasks.data.configuration import DataConfiguration
from weaver_tasks.data.readers import branch_names, open_reader, read_arrays
from weaver_tasks.data.transform import plan_transformation
from weaver_tasks.data.uses import describe_use
from weaver_tasks.init_model import fresh_network
from weaver_tasks.plan import InputFile, Plan, make_plan
from weaver_tasks.training.selection import METRICS

_MOST_ENTRIES = 10_000


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What the first file of a group shows. problem: why the run could not work with it, or None.

    entries: in this file; read and kept: of the entries looked at. classes: label -> events; non_finite: variable -> values.
    bytes_per_event: of the staged form.
    """

    split: str
    group: str
    files: int
    source: str
    entries: int = 0
    read: int = 0
    kept: int = 0
    branches: int = 0
    classes: dict[str, int] = field(default_factory=dict)
    non_finite: dict[str, int] = field(default_factory=dict)
    bytes_per_event: float = 0.0
    problem: str | None = None

    @property
    def expected_events(self) -> float:
        """Events that the whole group keeps, if its other files are like this one."""
        return self.files * self.entries * self.kept / max(1, self.read)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m weaver_tasks.check", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", type=Path, nargs="+", required=True, metavar="FILE", help="config.yaml; several are merged")
    arguments = parser.parse_args(argv)
    plan = make_plan(read_config(arguments.config), where=", ".join(map(str, arguments.config)))
    findings = list(look(plan))
    console = Console(width=None if Console().is_terminal else 140)
    show(plan, findings, console)
    problems = list(_file_problems(findings))
    problems += [*_missing_classes(plan, findings), *_training_problems(plan, console)]
    if problems:
        raise WeaverTasksError("; ".join(dict.fromkeys(problems)))
    console.print("The run can work.")


def look(plan: Plan) -> Iterator[Finding]:
    """Open the first file of each group."""
    groups: dict[tuple[str, str], list[InputFile]] = {}
    for file in plan.files:
        groups.setdefault((file.split, file.group), []).append(file)
    for (split, group), files in groups.items():
        try:
            yield _look_at(plan, split, group, files)
        except WeaverTasksError as error:
            yield Finding(split=split, group=group, files=len(files), source=files[0].source, problem=str(error))


def _look_at(plan: Plan, split: str, group: str, files: list[InputFile]) -> Finding:
    configuration = plan.data_configuration(split)
    options = StagingOptions.from_settings(plan.settings("stage_inputs", split=split))
    functions = plan.config["data"]["custom_functions"]
    transform = plan_transformation(configuration, split, options, custom_functions=Path(functions) if functions else None)
    source = files[0].source
    magic: dict[str, Any] = {"branch_magic": configuration.branch_magic, "file_magic": configuration.file_magic}
    with open_reader(source, tree=configuration.treename) as reader:
        names = branch_names(reader, source, transform.branches, **magic, describe_use=functools.partial(describe_use, configuration))
        last = min(reader.entries, _MOST_ENTRIES)
        arrays = read_arrays(reader, source, transform.branches, 0, last, **magic)
        entries = reader.entries
    block = transform(arrays, 0, source=source, training=split == "train")
    return Finding(
        split=split,
        group=group,
        files=len(files),
        source=source,
        entries=entries,
        read=last,
        kept=len(block),
        branches=len(names),
        classes=_classes(configuration, block),
        non_finite=_non_finite(transform.packed, block),
        bytes_per_event=_bytes(block) / max(1, len(block)),
    )


def _classes(configuration: DataConfiguration, block: Block) -> dict[str, int]:
    if LABEL not in block.plain or configuration.labels is None:
        return {}
    index = np.asarray(block.plain[LABEL])
    return {name: int(np.count_nonzero(index == i)) for i, name in enumerate(configuration.labels.classes)}


def _non_finite(columns: tuple[PackedColumn, ...], block: Block) -> dict[str, int]:
    found: dict[str, int] = {}
    for column in columns:
        wrong = block.packed[column.name].not_finite()
        found |= {name: int(count) for name, count in zip(column.variables, wrong, strict=True) if count}
    return found


def _bytes(block: Block) -> int:
    packed = sum(column.own_values().nbytes + (0 if column.offsets is None else 8 * len(block)) for column in block.packed.values())
    return packed + sum(ak.Array(array).nbytes if not isinstance(array, np.ndarray) else array.nbytes for array in block.plain.values())


def _file_problems(findings: list[Finding]) -> Iterator[str]:
    """What is wrong with the files; of several with the same fault the first."""
    alike: dict[str, list[Finding]] = {}
    for finding in findings:
        if finding.problem:
            alike.setdefault(finding.problem.replace(finding.source, ""), []).append(finding)
    for first, *others in alike.values():
        yield f"{first.problem} (And so of {len(others)} more.)" if others else str(first.problem)


def _missing_classes(plan: Plan, findings: list[Finding]) -> Iterator[str]:
    labels = plan.data_configuration("train").labels
    fitting = [finding for finding in findings if finding.split == "train"]
    if labels is None or labels.kind != "simple" or any(finding.problem for finding in fitting):
        return
    if fitting and not any(finding.kept for finding in fitting):
        read = sum(finding.read for finding in fitting)
        yield f"{plan.data_config_file('train')}: selection: none of {read} entries of the first training files passes. Correct it."
        return
    for name in labels.classes:
        if fitting and not any(finding.classes.get(name) for finding in fitting):
            yield (
                f"{plan.data_config_file('train')}: labels.value: no event of class '{name}' in the first training file of any group. "
                "Add files that hold it, or leave the class out."
            )


def _training_problems(plan: Plan, console: Console) -> Iterator[str]:
    """Make the network and its optimizer, as init_model will, and look whether validation gives the metric that chooses the epoch."""
    if plan.config["prediction"]["model"]:
        return
    path, member = plan.config["network"]["config"], plan.members()[0]
    try:
        network, _ = fresh_network(plan.settings("init_model", member=member), plan.data_configuration("train"), Path(path))
    except WeaverTasksError as error:
        yield str(error)
        return
    sizes = [parameter.numel() for parameter in network.model.parameters()]
    trained = [parameter.numel() for parameter in network.model.parameters() if parameter.requires_grad]
    console.print(f"Network {path}: {sum(sizes):,} parameters, {sum(trained):,} of them trained.")
    metric, known = plan.config["validation"]["metric"], METRICS[plan.config["training"]["task"]]
    if network.evaluate_fn is None and metric not in known:
        yield f"{plan.where}: validation.metric: '{metric}' is not what validation gives: {', '.join(known)}.{nearest(metric, known)}"


def show(plan: Plan, findings: list[Finding], console: Console) -> None:
    """Print the tables."""
    table = Table(title=f"Input files of run '{plan.config['run']}' (the first file of each group)")
    for name in ("split", "group", "files", "entries", "kept", "branches", "non-finite values", "status"):
        table.add_column(name, justify="right" if name in ("files", "entries", "kept", "branches") else "left", overflow="fold")
    for finding in findings:
        kept = f"{finding.kept / finding.read:.1%}" if finding.read else ""
        non_finite = ", ".join(f"{name}: {count}" for name, count in finding.non_finite.items())
        status = f"[red]{finding.problem}[/red]" if finding.problem else "[green]good[/green]"
        cells = (finding.split, finding.group, str(finding.files), str(finding.entries), kept, str(finding.branches), non_finite, status)
        table.add_row(*cells)
    console.print(table)
    _show_classes(findings, console)
    _show_inputs(plan.data_configuration("train"), console)
    _show_needs(plan, findings, console)


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


def _show_needs(plan: Plan, findings: list[Finding], console: Console) -> None:
    size = max((finding.bytes_per_event for finding in findings), default=0.0)
    disk = sum(finding.expected_events * finding.bytes_per_event for finding in findings)
    padded = 4 * sum(len(group.variables) * (group.length or 1) for group in plan.data_configuration("train").inputs)
    loading, training = plan.config["loading"], plan.config["training"]
    window = min(loading["max_window_events"], sum(finding.expected_events for finding in findings if finding.split == "train"))
    memory = training["ranks"] * (2 * window * size + (loading["prefetch"] + 2) * training["batch_size"] * padded)
    staged = _readable(disk) if plan.config["staging"]["mode"] == "columnar" else "none"
    console.print(
        f"Expected: {_readable(size)} an event; disk for staged files {staged}; "
        f"memory for loading, beside the network, about {_readable(memory)}."
    )


def _readable(size: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB"


if __name__ == "__main__":
    run_command(main)
