"""Run recorded tasks of a run again, from their recorded commands and inputs, and compare their outputs bit by bit.

    python -m weaver_tasks.reproduce results/demo                       # every epoch of the training, each by itself
    python -m weaver_tasks.reproduce results/demo --epoch 3
    python -m weaver_tasks.reproduce results/demo --stage standardize reweight
    python -m weaver_tasks.reproduce results/demo --all                 # every task

The run is only read: the tasks write into a temporary folder, which has no journal of finished epochs. The exit code is 0 if everything
is equal, 1 if something differs, 2 if it could not be tried.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from weaver_tasks.base.command_line import run_command
from weaver_tasks.base.errors import ResultError
from weaver_tasks.base.progress import track
from weaver_tasks.records.read import Run, Task, is_run
from weaver_tasks.records.rerun import Rerun, TaskRerun, chosen


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m weaver_tasks.reproduce",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("run", type=Path, help="the folder of the run, results/<run>")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--epoch", type=int, nargs="+", default=[], metavar="N", help="these epochs (default: every epoch)")
    what.add_argument("--stage", nargs="+", default=[], metavar="STAGE", help="every task of these stages")
    what.add_argument("--all", action="store_true", help="every task of the run")
    parser.add_argument("--member", metavar="NAME", help="only of this training of several: fold-<k> or seed-<s>")
    parser.add_argument(
        "--folder", type=Path, metavar="DIR", help="where to work (default: a temporary folder); what is written stays there"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    arguments = parser.parse_args(argv)
    if not is_run(arguments.run):
        raise ResultError(f"{arguments.run}: not the folder of a run: it has no records in provenance/tasks. Give results/<run>.")
    tasks = Run(arguments.run.absolute()).tasks
    stages = sorted({task.stage for task in tasks}) if arguments.all else arguments.stage
    picked = chosen(tasks, stages=stages, epochs=arguments.epoch, member=arguments.member)
    reruns = _reruns(picked, arguments)
    if arguments.json:
        json.dump([{**vars(rerun), "equal": rerun.is_equal} for rerun in reruns], sys.stdout, indent=1)
        print()
    raise SystemExit(0 if all(rerun.is_equal for rerun in reruns) else 1)


def _reruns(picked: Sequence[tuple[Task, int | None]], arguments: argparse.Namespace) -> list[Rerun]:
    console = Console(soft_wrap=True, highlight=False, markup=False, quiet=arguments.json)
    reruns, differences = [], set[str]()
    for number, (task, epoch) in enumerate(track(picked, "running again", unit="tasks")):
        start = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="weaver-tasks-reproduce-") as temporary:
            folder = arguments.folder / str(number) if arguments.folder else Path(temporary)
            folder.mkdir(parents=True, exist_ok=True)
            if any(folder.iterdir()):
                raise ResultError(f"{folder}: not empty. Give an empty --folder.")
            rerun = TaskRerun(task, folder.absolute(), epoch=epoch).run_it()
        _tell(rerun, time.monotonic() - start, console)
        differences.update(rerun.environment)
        reruns.append(rerun)
    different = sum(not rerun.is_equal for rerun in reruns)
    for line in sorted(differences):
        console.print(f"  {line}", style="yellow")
    if different:
        console.print(f"{different} of {len(reruns)} tasks differ", style="red")
    else:
        console.print(f"{len(reruns)} tasks, all equal, bit by bit", style="green")
    return reruns


def _tell(rerun: Rerun, seconds: float, console: Console) -> None:
    verdict, style = ("equal", "green") if rerun.is_equal else ("DIFFERS", "red")
    console.print(f"{verdict:<8} {rerun.name}  ({rerun.compared} files, {seconds:.1f} s)", style=style)
    for path, found in rerun.differing.items():
        console.print(f"         {path}: {'; '.join(found)}", style="red")


if __name__ == "__main__":
    run_command(main)
