"""Passes over the training files that compute sums (histograms, counts), in one job or divided among several jobs.

The result of one pass determines what the next pass sums. The sums over some of the files are called a *part* and are stored in
a file. The parts, added in the order of the files, are bit-identical to the sums of a single job.
"""

from __future__ import annotations

import argparse
import json
import zipfile
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from weaver_tasks.base.errors import WeaverTasksError
from weaver_tasks.base.files import atomic_path
from weaver_tasks.base.progress import Progress
from weaver_tasks.base.record import TaskRecord

_FACTS = "facts"


class Sums(Protocol):
    """The sums of one pass over the events. doing: the text of the progress bar."""

    doing: str

    def add(self, events: Any) -> None:
        """Add some events of a file, in the form in which the stage reads them."""

    def end_file(self) -> None:
        """Called after the last events of a file."""

    def arrays(self) -> dict[str, np.ndarray]:
        """Return the sums as arrays, to be stored in a file."""

    def add_arrays(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Add the stored sums of the files that follow."""


@dataclass(frozen=True, kw_only=True)
class TrainingFile:
    """A training file with a way to read its events.

    entries: number of entries used, 0 for a bad file. read: sums -> iterator over the events that they need, in blocks.
    """

    entries: int
    read: Callable[[Any], Iterable[Any]]


NextPass = Callable[[Sequence[Any], bool], Sums | None]
"""(the sums of the passes done, whether the next one is made in parts) -> empty sums of the next pass; None after the last one."""


def run_pass(sums: Sums, files: Sequence[TrainingFile]) -> None:
    """Add the events of these files to the sums."""
    with Progress(sums.doing, total=sum(file.entries for file in files), unit="entries") as progress:
        for file in files:
            if not file.entries:
                continue
            for events in file.read(sums):
                sums.add(events)
            sums.end_file()
            progress.advance(file.entries)


class Passes:
    """The passes of a stage, computed here or loaded from files that other jobs have written.

    files: all training files. digest: identifies what is summed; stored sums with another digest are refused.
    """

    def __init__(self, next_pass: NextPass, files: Sequence[TrainingFile], *, digest: str, after: Sequence[Path]) -> None:
        self._next = next_pass
        self._files = files
        self._digest = digest
        self.done: list[Any] = []
        for path in after:
            sums = self._start(part=False)
            self._add(path, sums, first=0, last=len(files))
            self.done.append(sums)

    def all(self) -> list[Any]:
        """Return the sums of all passes. Missing ones are computed here."""
        while (sums := self._next(self.done, False)) is not None:
            run_pass(sums, self._files)
            self.done.append(sums)
        return self.done

    def write_part(self, target: Path, first: int, last: int) -> None:
        """Write the sums of the next pass over the files first <= file < last."""
        sums = self._start(part=True)
        run_pass(sums, self._files[first:last])
        self._write(target, sums, first=first, last=last)

    def gather(self, target: Path, parts: Sequence[Path]) -> None:
        """Add the parts of the next pass and write its sums over all files. Raises WeaverTasksError when a part does not match."""
        sums = self._start(part=False)
        end = 0
        for path in parts:
            end = self._add(path, sums, first=end)
        if end != len(self._files):
            raise WeaverTasksError(f"{parts[-1]}: ends at training file {end} of {len(self._files)}. Make the parts anew.")
        self._write(target, sums, first=0, last=end)

    def _start(self, *, part: bool) -> Sums:
        sums = self._next(self.done, part)
        if sums is None:
            raise WeaverTasksError(f"pass {len(self.done)} does not exist: all {len(self.done)} are done. Leave out --sums.")
        return sums

    def _write(self, target: Path, sums: Sums, *, first: int, last: int) -> None:
        facts = {"digest": self._digest, "pass": len(self.done), "first": first, "last": last}
        with atomic_path(target) as temporary:
            np.savez_compressed(temporary, **{_FACTS: np.array(json.dumps(facts))}, **sums.arrays())  # type: ignore[arg-type]

    def _add(self, path: Path, sums: Sums, *, first: int, last: int | None = None) -> int:
        """Add the sums stored in a file. Returns the index of the training file at which they end."""
        facts, arrays = _read(path)
        wanted = {"digest": self._digest, "pass": len(self.done), "first": first, "last": facts["last"] if last is None else last}
        if facts != wanted:
            raise WeaverTasksError(
                f"{path}: holds pass {facts['pass']} over training files {facts['first']} to {facts['last']}; others are needed, or "
                "the inputs have changed since. Delete it and run again."
            )
        sums.add_arrays(arrays)
        return int(facts["last"])


def _read(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Return the description of the sums stored in a file, and the sums."""
    try:
        with path.open("rb") as stream, np.load(stream) as content:
            arrays = dict(content)
        return json.loads(str(arrays.pop(_FACTS))), arrays
    except FileNotFoundError:
        raise WeaverTasksError(f"{path}: no such file. Make this part first.") from None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise WeaverTasksError(f"{path}: damaged ({error}). Delete it and run again.") from error


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the command-line options of a stage whose passes can be divided into parts."""
    options = parser.add_argument_group("one pass at a time", "Each pass over the training files may be made in parts, by several jobs.")
    options.add_argument("--after", nargs="*", type=Path, default=[], metavar="NPZ", help="the sums of the passes done so far, in turn")
    options.add_argument("--part", nargs=2, type=int, metavar=("FIRST", "LAST"), help="make the next pass, over files FIRST to LAST - 1")
    options.add_argument("--gather", nargs=2, metavar=("FOLDER", "N"), help="add up the parts FOLDER/0.npz to FOLDER/<N - 1>.npz of it")
    options.add_argument("--sums", type=Path, metavar="NPZ", help="where the sums of --part or --gather go; nothing else is written")


def make_sums(passes: Passes, arguments: argparse.Namespace, record: TaskRecord) -> None:
    """Compute one part (--part) or add the parts (--gather)."""
    if arguments.part:
        passes.write_part(arguments.sums, *arguments.part)
    else:
        folder, parts = arguments.gather
        passes.gather(arguments.sums, [Path(folder) / f"{part}.npz" for part in range(int(parts))])
    record.wrote(arguments.sums)


def check_options(parser: argparse.ArgumentParser, arguments: argparse.Namespace, *, results: Sequence[str]) -> None:
    """Exit with a message when the options contradict each other. results: the options that name outputs of the whole stage."""
    if bool(arguments.sums) != (bool(arguments.part) != bool(arguments.gather)):
        parser.error("--sums wants one of --part and --gather, and they want it")
    missing = [f"--{name.replace('_', '-')}" for name in results if not getattr(arguments, name)]
    if missing and not arguments.sums:
        parser.error(f"wanted, unless --sums is given: {', '.join(missing)}")
