"""Run a recorded task again in a separate folder, with the recorded command and inputs, and compare its outputs."""

from __future__ import annotations

import itertools
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from weaver_tasks.base.digests import file_checksum
from weaver_tasks.base.errors import ResultError
from weaver_tasks.base.files import read_json, write_json
from weaver_tasks.base.lifetime import VARIABLE
from weaver_tasks.records.compare import differences
from weaver_tasks.records.read import Task

_EPOCH = re.compile(r"epoch-(\d+)(?:_state\.pt|_optimizer\.pt|\.json)$")
_OF_RANKS = (VARIABLE, "RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE")
_FACTS = ("python", "host", "processor", "device")


def epochs_of(task: Task) -> list[int]:
    """The epochs that a train_epoch task made."""
    if task.stage != "train_epoch":
        return []
    return sorted({int(found[1]) for path in task.content["outputs"] if (found := _EPOCH.search(path))})


@dataclass(frozen=True, kw_only=True)
class Rerun:
    """The result of a rerun. differing: file -> differences. environment: differences to the environment of the first run."""

    name: str
    compared: int
    differing: dict[str, list[str]]
    environment: list[str]

    @property
    def is_equal(self) -> bool:
        return not self.differing


class TaskRerun:
    """The rerun of a recorded task, or of one of its epochs, in `folder`: an empty folder that replaces that of the run."""

    def __init__(self, task: Task, folder: Path, *, epoch: int | None = None) -> None:
        self.task, self.epoch = task, epoch
        self.run_then = task.content["record"].rpartition("/provenance/tasks/")[0]
        # The name of the run is kept, because titles, prediction files and models contain it.
        self.run = folder / Path(self.run_then).name
        self.cwd = Path(task.content["folder"]) if Path(task.content["folder"]).is_dir() else Path.cwd()
        self.outputs = [
            path for path in task.content["outputs"] if epoch is None or f"epoch-{epoch}_" in path or path.endswith(f"epoch-{epoch}.json")
        ]

    @property
    def name(self) -> str:
        several = self.epoch is not None and len(epochs_of(self.task)) > 1
        return f"{self.task.name} (epoch {self.epoch})" if several else self.task.name

    def run_it(self) -> Rerun:
        """Run the task and compare its outputs. Raises ResultError if the task fails."""
        changed = self._provide_inputs()
        log = self.run.with_name("output.log")
        with log.open("wb") as output:
            code = subprocess.run(self.command(), stdout=output, stderr=output, cwd=self.cwd, env=_environment(), check=False).returncode
        if code != 0:
            lines = log.read_text(errors="replace").strip().splitlines()
            errors = [line for line in lines if line.startswith("ERROR")] or lines[-1:]
            raise ResultError(f"{self.name}: the recorded command ended with code {code}: {' '.join(errors)}")
        differing = {path: found for path in self.outputs if (found := self._differences(path))}
        return Rerun(
            name=self.name, compared=len(self.outputs), differing=differing, environment=[*changed, *self._environment_differences()]
        )

    def command(self) -> list[str]:
        """The recorded command, with the folder of the run and outputs outside of it replaced."""
        _, *words = shlex.split(self.task.content["command"])
        if self.epoch is not None:
            start = words.index("--epochs") + 1
            end = next(index for index in range(start, len(words)) if words[index].startswith("--"))
            words[start:end] = [str(self.epoch)]
        return [sys.executable, *map(self._redirected, words)]

    def _redirected(self, word: str) -> str:
        if word in self.task.content["outputs"]:
            return str(self.copy(word))
        name, equals, path = word.rpartition("=")
        if path == self.run_then or path.startswith(f"{self.run_then}/"):
            return f"{name}{equals}{self.run}{path[len(self.run_then) :]}"
        return word

    def copy(self, recorded: str) -> Path:
        """The path in this folder that replaces a recorded path of the run or an output outside of it."""
        if recorded.startswith(f"{self.run_then}/"):
            return self.run / recorded[len(self.run_then) + 1 :]
        return self.run.parent / "elsewhere" / os.path.relpath(recorded, "/" if os.path.isabs(recorded) else ".").replace("../", "")

    def _provide_inputs(self) -> list[str]:
        """Link the inputs from the folder of the run. Returns the inputs that have changed since the task read them."""
        changed = []
        for recorded, checksum in {**self.task.content["inputs"], **self._state_before()}.items():
            now = self.task.place(recorded)
            if "://" in now or not os.path.isfile(now):
                if checksum and recorded.startswith(f"{self.run_then}/"):
                    raise ResultError(f"{self.name}: its input {now} is gone. Make it again with snakemake, or reproduce another task.")
                continue
            if checksum and len(checksum) == 64 and file_checksum(now) != checksum:
                changed.append(f"{recorded} is not the file that the task read")
            if recorded.startswith(f"{self.run_then}/"):
                self._provide(Path(now), self.copy(recorded))
        self._provide_settings()
        frozen = self.task.run / "files.json"
        if frozen.is_file():
            # The list is not a recorded input, because it grows when files are added to another split.
            self._provide(frozen, self.run / frozen.name)
        return changed

    def _provide_settings(self) -> None:
        """Write the recorded settings into the files that the command names; together these files hold the settings of the task."""
        words = shlex.split(self.task.content["command"])
        for option, word in itertools.pairwise(words):
            if option == "--settings" and word.startswith(f"{self.run_then}/"):
                write_json(self.copy(word), self.task.content["settings"])

    def _state_before(self) -> dict[str, str]:
        """The files that an epoch in the middle of a block starts from; they are outputs of its own task."""
        if self.epoch is None:
            return {}
        before = self.epoch - 1
        made = self.task.content["outputs"].items()
        return {path: entry["sha256"] for path, entry in made if f"epoch-{before}_" in path or path.endswith(f"epoch-{before}.json")}

    def _provide(self, source: Path, target: Path) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        moved = os.path.abspath(self.cwd / self.run_then) != os.path.abspath(self.task.run)
        if moved and source.suffix == ".json":
            # Lists of files contain paths in the folder of the run.
            target.write_text(source.read_text().replace(f'"{self.run_then}/', f'"{os.path.abspath(self.task.run)}/'))
        else:
            target.symlink_to(os.path.abspath(source))

    def _differences(self, recorded: str) -> list[str]:
        original, again = Path(self.task.place(recorded)), self.copy(recorded)
        if not again.is_file():
            return ["it was not written again"]
        if not original.is_file():
            same = file_checksum(again) == self.task.content["outputs"][recorded]["sha256"]
            return [] if same else ["the checksum; the file itself is gone"]
        return differences(original, again, moved=(str(self.run), self.run_then))

    def _environment_differences(self) -> list[str]:
        path = self.copy(self.task.content["record"])
        then = ((self.task.content.get("trained_by") or {}).get(str(self.epoch))) or self.task.content
        return list(_environment_differences(then, read_json(path)))


def _environment_differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> Iterable[str]:
    if then["code"]["modules"] != now["code"]["modules"]:
        yield f"modules of the code: {_code(then)} then, {_code(now)} now"
    for name in _FACTS:
        if then.get(name) != now.get(name) and name in then:
            yield f"{name}: {then[name]} then, {now[name]} now"
    for package, version in then["packages"].items():
        if now["packages"].get(package) != version:
            yield f"{package}: {version} then, {now['packages'].get(package)} now"


def _code(record: Mapping[str, Any]) -> str:
    code = record["code"]
    return f"{code['commit'][:7] if code['commit'] else code['version']}{'+' if code['dirty'] else ''} ({code['modules'][:8]})"


def _environment() -> dict[str, str]:
    package = str(Path(__file__).parents[2])
    path = os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH")]))
    return {**{name: value for name, value in os.environ.items() if name not in _OF_RANKS}, "PYTHONPATH": path}


def chosen(tasks: Sequence[Task], *, stages: Sequence[str], epochs: Sequence[int], member: str | None) -> list[tuple[Task, int | None]]:
    """The tasks to run again, in their original order: those of some stages, or some epochs of the training (epoch None: the whole task).

    member: fold-<k> or seed-<s>, if there are several trainings. Raises ResultError if no task matches.
    """
    picked: list[tuple[Task, int | None]] = []
    for task in sorted(tasks, key=lambda task: task.content["start"]):
        if member and f"/{member}/" not in f"/{task.name}":
            continue
        if stages:
            picked += [(task, None)] if task.stage in stages else []
        else:
            picked += [(task, epoch) for epoch in epochs_of(task) if not epochs or epoch in epochs]
    if not picked:
        there = sorted({task.stage for task in tasks})
        trained = sorted({epoch for task in tasks for epoch in epochs_of(task)})
        raise ResultError(
            f"{tasks[0].run}: no such task. It has the stages {', '.join(there)}"
            + (f", and the epochs {trained[0]} to {trained[-1]}." if trained else ", and no epochs.")
        )
    return picked
