"""Read the records of the tasks of runs: which task made a file, and where the files of a run that was moved are now."""

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
    """One task record. run: the present folder of its run, which may have been moved since the task ran."""

    def __init__(self, run: Path, path: Path, content: Mapping[str, Any]) -> None:
        self.run, self.path, self.content = run, path, content
        self.stage: str = content["stage"]
        self._run_then = content["record"].rpartition(f"{RECORDS}/")[0]

    @property
    def name(self) -> str:
        """The record's name below provenance/tasks, without suffix: <stage>/<task>."""
        return self.path.relative_to(self.run / RECORDS).with_suffix("").as_posix()

    def place(self, recorded: str) -> str:
        """The present absolute path of a recorded path; URLs are returned unchanged."""
        if "://" in recorded:
            return recorded
        if self._run_then and recorded.startswith(self._run_then):
            return os.path.abspath(os.path.join(self.run, recorded[len(self._run_then) :]))
        then = os.path.join(self.content["folder"], recorded)
        return os.path.abspath(then if os.path.exists(then) else recorded)

    @cached_property
    def inputs(self) -> dict[str, str]:
        """Present path of each input -> its SHA-256 when it was read."""
        return {self.place(path): checksum for path, checksum in self.content["inputs"].items()}

    @cached_property
    def outputs(self) -> dict[str, str]:
        """Present path of each output -> its SHA-256 when it was written."""
        return {self.place(path): made["sha256"] for path, made in self.content["outputs"].items()}

    @cached_property
    def removed(self) -> set[str]:
        """The files that the task deleted on purpose."""
        return {self.place(path) for path in self.content.get("removed", ())}

    @property
    def code(self) -> str:
        """The version of the code, as one word."""
        return code_name(self.content["code"])


def code_name(code: Mapping[str, Any]) -> str:
    """Version and commit of recorded code, with a + if files differed from the commit."""
    commit = f" {code['commit'][:7]}{'+' if code['dirty'] else ''}" if code["commit"] else ""
    return f"{code['version']}{commit}"


def read_records(folder: Path) -> list[dict[str, Any]]:
    """All task records below a folder. Raises ResultError if there is none, or if a file is not a record."""
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
    """The tasks of a run. Raises ResultError if the run has no records."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.tasks = [Task(folder, path, content) for path, content in _records(folder / RECORDS)]
        # The latest task that wrote a file counts; records of an older grouping of files into jobs may remain.
        self.makers = {path: task for task in sorted(self.tasks, key=lambda task: task.content["end"]) for path in task.outputs}

    def with_output(self, checksum: str) -> tuple[Task, str] | None:
        """The task that wrote a file with this checksum, and the path of that file."""
        for task in self.tasks:
            for path, written in task.outputs.items():
                if written == checksum:
                    return task, path
        return None


class Runs:
    """A cache of runs; each is read when it is first used."""

    def __init__(self) -> None:
        self._known: dict[Path, Run] = {}
        self._runs_of: dict[str, Path | None] = {}

    def at(self, folder: Path) -> Run:
        if folder not in self._known:
            self._known[folder] = Run(folder)
        return self._known[folder]

    @property
    def known(self) -> list[Run]:
        """The runs that were read so far."""
        return list(self._known.values())

    def below(self, results: Path) -> list[Run]:
        """The runs in a folder of runs, or the folder itself if it is a run."""
        if is_run(results):
            return [self.at(results.absolute())]
        return [self.at(folder.absolute()) for folder in sorted(results.iterdir()) if is_run(folder)] if results.is_dir() else []

    def maker(self, path: str) -> Task | None:
        """The task that made the file at an absolute path, from the records of the run that contains it."""
        for run in self._known.values():
            if path in run.makers:
                return run.makers[path]
        folder = self._folder_of(path)
        return self.at(folder).makers.get(path) if folder else None

    def _folder_of(self, path: str) -> Path | None:
        """The folder of the run that contains a file. The file system is queried once for each folder."""
        if "://" in path:
            return None
        folder = os.path.dirname(path)
        if folder not in self._runs_of:
            parents = Path(path).parents
            self._runs_of[folder] = next((parent for parent in parents if parent in self._known or is_run(parent)), None)
        return self._runs_of[folder]


def is_run(folder: Path) -> bool:
    """Whether a folder contains task records."""
    return (folder / RECORDS).is_dir()


def code_versions(records: Iterable[Mapping[str, Any]]) -> dict[str, list[str]]:
    """Name of a version of the code -> the stages that ran with it. More than one entry means that several versions made the run.

    An epoch that was found in the journal counts for the version of the code that trained it.
    """
    names: dict[str, str] = {}
    versions: dict[str, set[str]] = {}
    for record in records:
        found = [made["code"] for made in (record.get("trained_by") or {}).values() if made]
        for code in found + ([] if found and not record["trained_epochs"] else [record["code"]]):
            # The digest distinguishes versions; a commit alone does not distinguish local changes.
            name = names.setdefault(code["package"], f"{code_name(code)} ({code['package'][:8]})")
            versions.setdefault(name, set()).add(record["stage"])
    return {name: sorted(stages) for name, stages in versions.items()}


def mixed_versions_message(versions: Mapping[str, Iterable[str]]) -> str | None:
    """One line that says that several versions of the code made a run; None if there is only one version."""
    if len(versions) < 2:
        return None
    parts = "; ".join(f"{name}: {', '.join(stages)}" for name, stages in versions.items())
    return f"made by {len(versions)} versions of the code: {parts}"
