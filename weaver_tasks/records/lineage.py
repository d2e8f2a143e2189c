"""Find the chain of tasks that made a file, by its path, bytes or metadata, and verify the checksums of all files in the chain."""

from __future__ import annotations

import os
import platform
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from weaver_tasks.base.digests import file_checksum
from weaver_tasks.records.embedded import embedded_origin
from weaver_tasks.records.read import Run, Runs, Task

_SHA256 = 64  # number of hexadecimal characters of a checksum


@dataclass(frozen=True, kw_only=True)
class Found:
    """The task that made a file. known_as: the path that the task wrote. found_by: "place", "bytes" or "metadata"."""

    task: Task
    known_as: str
    found_by: str


def find_maker(file: Path, runs: Runs, results: Path, origin: Mapping[str, Any]) -> Found | None:
    """The task, among the runs in `results`, that made `file`: found by its path, its bytes, or its metadata `origin`."""
    for path in dict.fromkeys((os.path.abspath(file), os.path.realpath(file))):
        task = runs.maker(path)
        if task is not None:
            return Found(task=task, known_as=path, found_by="place")
    listed = runs.below(results)
    checksum = file_checksum(file)
    for run in listed:
        made = run.with_output(checksum)
        if made is not None:
            return Found(task=made[0], known_as=made[1], found_by="bytes")
    found = (_by_origin(run, file, origin) for run in listed)
    return next(filter(None, found), None)


def _by_origin(run: Run, file: Path, origin: Mapping[str, Any]) -> Found | None:
    stamp = origin.get("provenance") or {}
    weights = origin.get("model_sha256") or origin.get("weights_sha256")
    for task in run.tasks:
        stamped = "digest" in stamp and task.content["digest"] == stamp["digest"]
        if stamped or (not stamp and weights and task.stage in ("predict", "export_onnx") and weights in task.inputs.values()):
            alike = [path for path in task.outputs if Path(path).name == file.name] or [
                path for path in task.outputs if Path(path).suffix == file.suffix
            ]
            return Found(task=task, known_as=(alike or list(task.outputs))[0], found_by="metadata")
    return None


def last_tasks(run: Run) -> list[Task]:
    """The tasks of a run whose outputs are not read by other tasks of the run."""
    used = {path for task in run.tasks for path in task.inputs}
    return [task for task in run.tasks if not used.intersection(task.outputs)]


def chain(last: Iterable[Task], runs: Runs) -> list[Task]:
    """The given tasks and all tasks that they depend on, each once, nearest first."""
    waiting = deque(last)
    tasks = {id(task): task for task in waiting}
    while waiting:
        for path in waiting.popleft().inputs:
            maker = runs.maker(path)
            if maker is not None and id(maker) not in tasks:
                tasks[id(maker)] = maker
                waiting.append(maker)
    return list(tasks.values())


@dataclass(kw_only=True)
class Verification:
    """The state of the files of a chain (absolute paths). remade: (task that read it, path) of intact files that were remade since."""

    checked: int = 0
    differ: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    remade: list[tuple[str, str]] = field(default_factory=list)
    not_checked: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)

    @property
    def is_good(self) -> bool:
        return not self.differ and not self.missing


@dataclass(kw_only=True)
class _Expected:
    written: str | None = None
    read: dict[str, str] = field(default_factory=dict)  # task -> checksum
    hosts: set[str] = field(default_factory=set)


def files_of(tasks: Iterable[Task]) -> dict[str, _Expected]:
    """Every file that the tasks read or wrote: absolute path or URL -> the expected checksums."""
    files: dict[str, _Expected] = {}
    for task in tasks:
        for path, checksum in task.outputs.items():
            expected = files.setdefault(path, _Expected())
            expected.written = checksum
            expected.hosts.add(task.content["host"])
        for path, checksum in task.inputs.items():
            expected = files.setdefault(path, _Expected())
            expected.read[task.name] = checksum
            expected.hosts.add(task.content["host"])
    return files


def verify(tasks: Sequence[Task], runs: Runs, advance: Callable[[int], None] = lambda size: None) -> Verification:
    """Recompute the checksum of every file that the tasks read or wrote. advance: called with the number of bytes processed."""
    found = Verification()
    removed = {path for run in runs.known for task in run.tasks for path in task.removed}
    for path, expected in files_of(tasks).items():
        known = {checksum for checksum in [expected.written, *expected.read.values()] if checksum and len(checksum) == _SHA256}
        if "://" in path or not known:
            found.not_checked.append(path)
        elif not os.path.isfile(path):
            _note_missing(found, path, expected, removed)
        else:
            size = os.path.getsize(path)
            now = file_checksum(path)
            advance(size)
            found.checked += 1
            _compare(found, path, now, expected)
    return found


def _compare(found: Verification, path: str, now: str, expected: _Expected) -> None:
    if expected.written is not None:
        if now != expected.written:
            found.differ.append(path)
        else:
            found.remade += [(task, path) for task, checksum in expected.read.items() if checksum != now]
    elif any(checksum != now for checksum in expected.read.values()):
        found.differ.append(path)


def _note_missing(found: Verification, path: str, expected: _Expected, removed: set[str]) -> None:
    if path in removed:
        found.removed.append(path)
    elif platform.node() not in expected.hosts and not os.path.isdir(os.path.dirname(path)):
        # The file is on the scratch disk of another machine.
        found.not_checked.append(path)
    else:
        found.missing.append(path)


def origin_of(file: Path) -> dict[str, Any]:
    """The provenance metadata of a file, without long entries."""
    kept = (
        "made_by",
        "provenance",
        "group",
        "model",
        "model_sha256",
        "weights_sha256",
        "network",
        "data_configuration",
        "source",
        "classes",
    )
    return {key: value for key, value in embedded_origin(file).items() if key in kept}
