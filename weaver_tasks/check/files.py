"""The part of `check` that reads files: open the first good file of each group and transform its events as staging will do."""

from __future__ import annotations

import functools
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import awkward as ak
import numpy as np

from weaver_tasks.base.errors import ConfigError, InputFileError, WeaverTasksError
from weaver_tasks.data.configuration import DataConfiguration
from weaver_tasks.data.configuration.uses import describe_use
from weaver_tasks.data.events.block import LABEL, Block, PackedColumn, StagingOptions
from weaver_tasks.data.events.reading import opened
from weaver_tasks.data.events.transform import changes_each_epoch, plan_transformation
from weaver_tasks.data.readers import branch_names, read_arrays
from weaver_tasks.data.readers.remote import RemoteFileError, file_size
from weaver_tasks.data.staging.places import expand_path
from weaver_tasks.data.staging.unlabeled import lacks_labels, without_labels
from weaver_tasks.plan.plan import InputFile, Plan
from weaver_tasks.settings.stage import stage_settings

_MOST_ENTRIES = 10_000


@dataclass(frozen=True, kw_only=True)
class Finding:
    """The properties of the first good file of a group. problem: why the run could not work with it, or None.

    skipped: the faults of the files before it, which staging.on_bad_file lets the run skip; source: None if all files are skipped.
    entries: number of entries in this file; read and kept: numbers among the entries examined. classes: label -> number of events;
    non_finite: variable -> number of values. bytes_per_event: size of the staged form. source_bytes: size of this file, if it
    would be copied; None if its server does not give the size.
    """

    split: str
    group: str
    files: int
    source: str | None
    skipped: tuple[str, ...] = ()
    entries: int = 0
    read: int = 0
    kept: int = 0
    branches: int = 0
    classes: dict[str, int] = field(default_factory=dict)
    non_finite: dict[str, int] = field(default_factory=dict)
    bytes_per_event: float = 0.0
    source_bytes: int | None = 0
    on_the_fly: bool = False
    problem: str | None = None

    @property
    def expected_events(self) -> float:
        """The number of events that the whole group keeps, if its other files are like this one."""
        return (self.files - len(self.skipped)) * self.entries * self.kept / max(1, self.read)


def look(plan: Plan) -> Iterator[Finding]:
    """Open the first file of each group. With staging.on_bad_file: skip, bad files are passed over as the run would do."""
    groups: dict[tuple[str, str], list[InputFile]] = {}
    for file in plan.files:
        groups.setdefault((file.split, file.group), []).append(file)
    bad: list[InputFile] = []
    for (split, group), files in groups.items():
        skipped: list[str] = []
        facts: dict[str, Any] = {"split": split, "group": group, "files": len(files), "source": None}
        for file in files:
            try:
                facts |= {"source": file.source, **_look_at(plan, file)}
                # An empty file says nothing about the files after it.
                if facts["entries"]:
                    break
            except InputFileError as error:
                bad.append(file)
                skipped.append(str(error))
                if not _may_skip(plan, bad):
                    facts |= {"source": file.source, "problem": _why_not(plan, skipped)}
                    break
            except WeaverTasksError as error:
                facts |= {"source": file.source, "problem": str(error)}
                break
        yield Finding(**facts, skipped=() if facts.get("problem") else tuple(skipped))


def _may_skip(plan: Plan, bad: list[InputFile]) -> bool:
    """Whether the run continues without these files. Bad files are counted among all files, and among those of training and test."""
    staging = plan.config["staging"]
    if staging["on_bad_file"] == "fail":
        return False
    for splits in (("train", "val", "test"), ("train", "val"), ("test",)):
        if sum(file.split in splits for file in bad) > staging["max_bad_fraction"] * len(plan.files_of(*splits)):
            return False
    return True


def _why_not(plan: Plan, problems: list[str]) -> str:
    staging = plan.config["staging"]
    if staging["on_bad_file"] == "fail":
        return problems[-1]
    return (
        f"{'; '.join(problems)} These are more bad files than staging.max_bad_fraction {staging['max_bad_fraction']:g} lets the run skip. "
        "Repair them or leave them out, or raise it."
    )


def _look_at(plan: Plan, file: InputFile) -> dict[str, Any]:
    configuration = plan.data_configuration(file.split)
    try:
        return _look_with(configuration, plan, file)
    except RemoteFileError:
        raise
    except InputFileError:
        options = StagingOptions.from_settings(stage_settings(plan.settings("stage_inputs", split=file.split)))
        functions = plan.config["data"]["custom_functions"]
        asked = (file.source, file.source, configuration, file.split, options)
        if not lacks_labels(*asked, custom_functions=Path(functions) if functions else None):
            raise
        return _look_with(without_labels(configuration), plan, file)


def _look_with(configuration: DataConfiguration, plan: Plan, file: InputFile) -> dict[str, Any]:
    options = StagingOptions.from_settings(stage_settings(plan.settings("stage_inputs", split=file.split)))
    functions = plan.config["data"]["custom_functions"]
    transform = plan_transformation(configuration, file.split, options, custom_functions=Path(functions) if functions else None)
    source = file.source
    magic: dict[str, Any] = {"branch_magic": configuration.branch_magic, "file_magic": configuration.file_magic}
    with opened(source, transform) as reader:
        entries = min(reader.entries, options.max_entries or reader.entries)
        if entries == 0:
            return {"entries": 0}
        describe = functools.partial(describe_use, configuration, options=options)
        names = branch_names(reader, source, transform.branches, **magic, describe_use=describe)
        last = min(entries, _MOST_ENTRIES)
        arrays = read_arrays(reader, source, transform.branches, 0, last, **magic)
    block = transform(arrays, 0, source=source, training=file.split == "train")
    return {
        "entries": entries,
        "read": last,
        "kept": len(block),
        "branches": len(names),
        "classes": _classes(configuration, block),
        "non_finite": _non_finite(transform.packed, block),
        "bytes_per_event": _bytes(block) / max(1, len(block)),
        "source_bytes": file_size(source) if plan.config["staging"]["mode"] == "copy" else 0,
        "on_the_fly": bool(changes_each_epoch(configuration, file.split, options)),
    }


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


def file_problems(findings: list[Finding]) -> Iterator[str]:
    """The faults of the files; if several files have the same fault, only the first one is reported."""
    alike: dict[str, list[Finding]] = {}
    for finding in findings:
        if finding.problem:
            alike.setdefault(finding.problem.replace(finding.source or "", ""), []).append(finding)
    for first, *others in alike.values():
        yield f"{first.problem} (And so of {len(others)} more.)" if others else str(first.problem)


def disk_needed(plan: Plan, findings: list[Finding]) -> tuple[float, bool]:
    """The size in bytes of the staged files, and whether it is complete: the sizes of some remote files may be unknown."""
    mode = plan.config["staging"]["mode"]
    if mode == "columnar":
        return sum(finding.expected_events * finding.bytes_per_event for finding in findings if not finding.on_the_fly), True
    if mode == "none":
        return 0.0, True
    of_remote = {(finding.split, finding.group): finding.source_bytes for finding in findings}
    sizes = [
        (file_size(file.source) if Path(file.source).exists() else 0) if file.is_local else of_remote[file.split, file.group]
        for file in plan.files
    ]
    return float(sum(size or 0 for size in sizes)), None not in sizes


def disk_problems(plan: Plan, needed: float) -> Iterator[str]:
    """Report if the files that remain to be staged do not fit on the disk. Not checked for disks that each node has for itself."""
    try:
        folder = expand_path(plan.staged)
    except ConfigError:
        return
    there = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) if folder.is_dir() else 0
    place = next(parent for parent in (folder.absolute(), *folder.absolute().parents) if parent.is_dir())
    if not os.access(place, os.W_OK | os.X_OK):
        yield (
            f"{plan.where}: staging.directory: {plan.staged} cannot be made, since {place} cannot be written to. "
            "Name another folder, or set staging.mode: none."
        )
        return
    free = shutil.disk_usage(place).free
    if needed - there > free:
        yield (
            f"{plan.where}: staging.directory: {readable(needed)} are staged in {plan.staged}, and {readable(free)} are free there. "
            "Name a folder on a larger disk, or set staging.mode: none."
        )


def readable(size: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB"
