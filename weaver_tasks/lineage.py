"""Tell what made a file: the tasks behind it, from which files, when, by which version of the code.

    python -m weaver_tasks.lineage results/demo/export/model.onnx
    python -m weaver_tasks.lineage --verify results/demo                   # a whole run: is every file what was written?
    python -m weaver_tasks.lineage --results results ~/copied/higgs.root   # a copy, wherever it is

A copy is known by its bytes, or by what prediction files and ONNX models carry of their run. With --verify every checksum is computed
anew; files that differ or are missing are named, and the exit code is 2.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from weaver_tasks.base.command_line import run_command
from weaver_tasks.base.errors import ResultError
from weaver_tasks.base.progress import Progress
from weaver_tasks.records.lineage import Found, Verification, chain, files_of, find_maker, last_tasks, origin_of, verify
from weaver_tasks.records.lineage_tree import lineage_tree, shown
from weaver_tasks.records.read import Runs, Task, code_versions, is_run, mixed_versions_message

_WIDE = 10_000  # columns
_FOUND_BY = {"bytes": "a copy of", "metadata": "says that it is (its bytes differ from those written)"}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m weaver_tasks.lineage", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("file", type=Path, help="a file that the workflow made, a copy of one, or the folder of a run")
    parser.add_argument("--results", type=Path, default=Path("results"), metavar="DIR", help="where the runs are (default: results)")
    parser.add_argument("--verify", action="store_true", help="compute every checksum anew")
    parser.add_argument("--all", action="store_true", help="show each task, rather than those of a stage together")
    parser.add_argument("--json", action="store_true", help="print JSON")
    arguments = parser.parse_args(argv)
    runs = Runs()
    found, last, origin = _find(arguments, runs)
    tasks = chain(last, runs)
    verification = _verified(tasks, runs) if arguments.verify else None
    if arguments.json:
        json.dump(_document(arguments.file, found, origin, tasks, runs, verification), sys.stdout, indent=1)
        print()
    else:
        _show(arguments, found, last, tasks, runs, verification)
    if verification is not None and not verification.is_good:
        raise SystemExit(2)


def _find(arguments: argparse.Namespace, runs: Runs) -> tuple[Found | None, list[Task], dict[str, Any]]:
    """The task that made the file, the tasks at the start of the chain, and the file's metadata. Raises ResultError if nothing is known."""
    file = arguments.file
    if is_run(file):
        return None, last_tasks(runs.at(file.absolute())), {}
    if file.is_dir():
        raise ResultError(f"{file}: neither a file nor the folder of a run: it has no records in provenance/tasks. Name a file in it.")
    if not file.exists():
        raise ResultError(f"{file}: no such file. Correct the path.")
    origin = origin_of(file)
    found = find_maker(file, runs, arguments.results, origin)
    if found is None:
        said = f" It says of itself: {json.dumps(origin)}." if origin else ""
        listed = ", ".join(run.folder.name for run in runs.known) or "none"
        raise ResultError(
            f"{file}: no run made it, of those in {arguments.results} ({listed}).{said} Give the folder of runs: --results DIR."
        )
    return found, [found.task], origin


def _verified(tasks: Sequence[Task], runs: Runs) -> Verification:
    total = sum(os.path.getsize(path) for path in files_of(tasks) if os.path.isfile(path))
    with Progress("verifying", total=total, unit="B") as progress:
        return verify(tasks, runs, progress.advance)


def _show(
    arguments: argparse.Namespace,
    found: Found | None,
    last: Sequence[Task],
    tasks: Sequence[Task],
    runs: Runs,
    verification: Verification | None,
) -> None:
    title, files = str(arguments.file), list(last[0].outputs) if last else []
    if found is not None:
        files = [found.known_as]
        title += f": {_FOUND_BY[found.found_by]} {shown(found.known_as)}" if found.found_by in _FOUND_BY else ""
    console = Console(soft_wrap=True, highlight=False)
    # Lines are never cut or wrapped, so that paths can be copied.
    Console(width=_WIDE, highlight=False).print(lineage_tree(title, last, files, runs, each_task=arguments.all))
    mixture = mixed_versions_message(code_versions(task.content for task in tasks))
    if mixture:
        console.print(f"WARNING: {mixture}", style="yellow", markup=False)
    if verification is not None:
        _show_verification(verification, console)


def _show_verification(verification: Verification, console: Console) -> None:
    for path in verification.differ:
        console.print(f"DIFFERS: {shown(path)}", style="red", markup=False)
    for path in verification.missing:
        console.print(f"MISSING: {shown(path)}", style="red", markup=False)
    for task, path in verification.remade:
        console.print(f"made anew since {task} read it: {shown(path)}", style="yellow", markup=False)
    parts = [
        f"{verification.checked} files checked",
        f"{len(verification.differ)} differ",
        f"{len(verification.missing)} missing",
        *([f"{len(verification.removed)} removed by training.keep_checkpoints"] if verification.removed else []),
        *([f"{len(verification.not_checked)} not here to check"] if verification.not_checked else []),
    ]
    console.print(", ".join(parts), style="green" if verification.is_good else "red")


def _document(
    file: Path, found: Found | None, origin: Mapping[str, Any], tasks: Sequence[Task], runs: Runs, verification: Verification | None
) -> dict[str, Any]:
    return {
        "file": str(file),
        "known_as": None if found is None else found.known_as,
        "known_by": None if found is None else found.found_by,
        "carries": origin,
        "tasks": [_task(task, runs) for task in tasks],
        "code_versions": code_versions(task.content for task in tasks),
        "verification": None if verification is None else {**vars(verification), "good": verification.is_good},
    }


def _task(task: Task, runs: Runs) -> dict[str, Any]:
    makers = {path: runs.maker(path) for path in task.inputs}
    return {
        "task": task.name,
        "run": str(task.run),
        **{key: task.content[key] for key in ("stage", "start", "end", "host", "code", "command")},
        "inputs": [
            {"path": path, "sha256": checksum, "made_by": None if (maker := makers[path]) is None else maker.name}
            for path, checksum in task.inputs.items()
        ],
        "outputs": [{"path": path, "sha256": checksum} for path, checksum in task.outputs.items()],
    }


if __name__ == "__main__":
    run_command(main)
