"""The records of runs, read back: which task made a file, and where what a task named lies now."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from weaver_tasks.base.errors import ResultError
from weaver_tasks.base.files import read_json
from weaver_tasks.base.record import RECORDS

_REQUIRED = ("stage", "digest", "command", "folder", "record", "inputs", "outputs", "code", "packages", "start", "end")


class Task:
    """One record. `run` is the folder of its run as it is found now, which may have been moved since the task ran."""

    def __init__(self, run: Path, path: Path, content: Mapping[str, Any]) -> None:
        self.run, self.path, self.content = run, path, content
        self.stage: str = content["stage"]
        self._run_then = content["record"].rpartition(f"{RECORDS}/")[0]

    @property
    def name(self) -> str:
        """The record's name below provenance/tasks, without suffix: <stage>/<task>."""
        return self.path.relative_to(self.run / RECORDS).with_suffix("").as_posix()

    def place(self, recorded: str) -> str:
        """The absolute path, now, of a path as the task named it; an address stays as it is."""
        if "://" in recorded:
            return recorded
        if self._run_then and recorded.startswith(self._run_then):
            return os.path.abspath(os.path.join(self.run, recorded[len(self._run_then) :]))
        then = os.path.join(self.content["folder"], recorded)
        return os.path.abspath(then if os.path.exists(then) else recorded)

    @cached_property
    def inputs(self) -> dict[str, str]:
        """Where each input lies now -> its SHA-256 when it was read."""
        return {self.place(path): checksum for path, checksum in self.content["inputs"].items()}

    @cached_property
    def outputs(self) -> dict[str, str]:
        """Where each output lies now -> its SHA-256 when it was written."""
        return {self.place(path): made["sha256"] for path, made in self.content["outputs"].items()}

    @cached_property
    def removed(self) -> set[str]:
        """What the task has deleted on purpose."""
        return {self.place(path) for path in self.content.get("removed", ())}

    @property
    def code(self) -> str:
        """The version of the code, as one word of text."""
        return code_name(self.content["code"])


def code_name(code: Mapping[str, Any]) -> str:
    """Version and commit of recorded code; a + where files differed from the commit."""
    commit = f" {code['commit'][:7]}{'+' if code['dirty'] else ''}" if code["commit"] else ""
    return f"{code['version']}{commit}"


def read_records(folder: Path) -> list[dict[str, Any]]:
    """All task records below a folder. Raises ResultError when there is none or one is not a record."""
    return [content for _, content in _records(folder)]


def _records(folder: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    paths = sorted(folder.rglob("*.json"))
    if not paths:
        raise ResultError(f"{folder}: no task records. Run the workflow; each task writes one (--record).")
    for path in paths:
        record = read_json(path)
        missing = [key for key in _REQUIRED if key not in record] if isinstance(record, dict) else list(_REQUIRED)
        if missing:
            raise ResultError(f"{path}: not a task record ('{missing[0]}' is missing). Delete it and run its task again.")
        yield path, record


class Run:
    """The tasks of a run. Raises ResultError when it has no records."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.tasks = [Task(folder, path, content) for path, content in _records(folder / RECORDS)]
        # The last that wrote a file: of jobs that took other files together before, records may be left.
        self.makers = {path: task for task in sorted(self.tasks, key=lambda task: task.content["end"]) for path in task.outputs}

    def with_output(self, checksum: str) -> tuple[Task, str] | None:
        """The task that wrote a file of these bytes, and that file."""
        for task in self.tasks:
            for path, written in task.outputs.items():
                if written == checksum:
                    return task, path
        return None


class Runs:
    """Runs, read when they are first asked for."""

    def __init__(self) -> None:
        self._known: dict[Path, Run] = {}
        self._runs_of: dict[str, Path | None] = {}

    def at(self, folder: Path) -> Run:
        if folder not in self._known:
            self._known[folder] = Run(folder)
        return self._known[folder]

    @property
    def known(self) -> list[Run]:
        """Those that were read so far."""
        return list(self._known.values())

    def below(self, results: Path) -> list[Run]:
        """The runs in a folder of runs; the folder itself, where it is one."""
        if is_run(results):
            return [self.at(results.absolute())]
        return [self.at(folder.absolute()) for folder in sorted(results.iterdir()) if is_run(folder)] if results.is_dir() else []

    def maker(self, path: str) -> Task | None:
        """The task that made the file at an absolute path: by the records of the run that it lies in."""
        for run in self._known.values():
            if path in run.makers:
                return run.makers[path]
        folder = self._folder_of(path)
        return self.at(folder).makers.get(path) if folder else None

    def _folder_of(self, path: str) -> Path | None:
        """The run that a file lies in; asked of the file system once for each folder."""
        if "://" in path:
            return None
        folder = os.path.dirname(path)
        if folder not in self._runs_of:
            parents = Path(path).parents
            self._runs_of[folder] = next((parent for parent in parents if parent in self._known or is_run(parent)), None)
        return self._runs_of[folder]


def is_run(folder: Path) -> bool:
    """Whether records of tasks lie in a folder."""
    return (folder / RECORDS).is_dir()


def code_versions(records: Iterable[Mapping[str, Any]]) -> dict[str, list[str]]:
    """Name of a version of the code -> the stages run with it: more than one entry means a run made by several versions.

    An epoch that was found in the journal counts for the version that trained it.
    """
    names: dict[str, str] = {}
    versions: dict[str, set[str]] = {}
    for record in records:
        found = [made["code"] for made in (record.get("trained_by") or {}).values() if made]
        for code in found + ([] if found and not record["trained_epochs"] else [record["code"]]):
            # The digest tells versions apart; a commit alone does not tell one local change from another.
            name = names.setdefault(code["package"], f"{code_name(code)} ({code['package'][:8]})")
            versions.setdefault(name, set()).add(record["stage"])
    return {name: sorted(stages) for name, stages in versions.items()}


def mixed_versions_message(versions: Mapping[str, Iterable[str]]) -> str | None:
    """One line about a run made by several versions of the code; None when there is only one."""
    if len(versions) < 2:
        return None
    parts = "; ".join(f"{name}: {', '.join(stages)}" for name, stages in versions.items())
    return f"made by {len(versions)} versions of the code: {parts}"
