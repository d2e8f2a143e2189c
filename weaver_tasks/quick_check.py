"""Try a whole configuration in a minute or two: every stage of its workflow, on a few entries of a few files.

Two epochs of a few steps each are trained, with the batch size, device, ranks and precision of the configuration, then validated,
predicted, evaluated and exported, in a run of its own, results/<run>-quick_check, which is made anew each time and may be deleted. The
metrics mean nothing; only that they are computed matters.
"""

from __future__ import annotations

import glob
import json
import logging
import os
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from weaver_tasks.base import run_ownership
from weaver_tasks.base.command_line import run_command, stage_parser, task
from weaver_tasks.base.errors import WeaverTasksError
from weaver_tasks.base.files import atomic_path, read_json
from weaver_tasks.base.maps import merge
from weaver_tasks.plan import InputFile, Plan, make_plan
from weaver_tasks.plan.settings_files import SETTINGS
from weaver_tasks.settings.reading import resolved_before

logger = logging.getLogger("weaver_tasks")

_FILES = 20  # of each split, spread over its groups and within them
_LEAST_ENTRIES = 500  # of each file
_STEPS = 10  # of an epoch
_CONFIG = "quick_check.yaml"


def main(argv: list[str] | None = None) -> None:
    parser = stage_parser("quick_check", __doc__)
    parser.add_argument("--workflow", type=Path, required=True, metavar="SNAKEFILE", help="workflow/Snakefile of this project")
    parser.add_argument("--cores", type=int, default=2)
    arguments = parser.parse_args(argv)
    with task(arguments):
        plan = make_plan(resolved_before(arguments.settings), where="the configuration")
        scratch = make_plan(resolved_before(shrunk(plan)), where="the quick check")
        begin = time.perf_counter()
        _run(scratch, arguments.workflow, arguments.cores)
        _report(scratch, time.perf_counter() - begin)


def shrunk(plan: Plan) -> dict[str, Any]:
    """The configuration of the quick check: settings that cost time are reduced, everything else is unchanged."""
    config = plan.config
    training, files = config["training"], {split: few(plan.files_of(split)) for split in ("train", "val", "test")}
    jets = 4 * training["batch_size"] * training["ranks"] * training["nodes"]
    fitting = len(files["train"]) or 1
    first = plan.epochs().start
    changes: dict[str, Any] = {
        "run": f"{config['run']}-quick_check",
        "staging": {"files_per_job": _FILES, "max_entries": max(_LEAST_ENTRIES, -(-jets // fitting))},
        "training": {
            "epochs": first + 2,
            "epochs_per_job": 1,
            "steps_per_epoch": _STEPS,
            "samples_per_epoch": None,
            "steps_per_epoch_val": None,
            "samples_per_epoch_val": None,
            "early_stopping": None,
            "snapshot_minutes": None,
            "scheduler": {"horizon": None},
        },
        "data": {"data_fraction": 1.0, "data_fraction_val": None, "data_fraction_test": 1.0, "file_fraction": 1.0},
    }
    small = merge(config, changes)
    for split, chosen in files.items():
        small["data"][split] = _groups(chosen) or (None if split == "val" else {})
    if config["seeds"]:
        small["seeds"] = config["seeds"][:2]
    if config["cross_validation"]:
        small["cross_validation"] = {**config["cross_validation"], "folds": 2}
    return small


def few(files: Sequence[InputFile]) -> list[InputFile]:
    """Some files of each group, at least one. They are evenly spread, because files may be sorted by class."""
    groups: dict[str, list[InputFile]] = {}
    for file in files:
        groups.setdefault(file.group, []).append(file)
    each = max(1, _FILES // max(1, len(groups)))
    return [group[index * len(group) // min(each, len(group))] for group in groups.values() for index in range(min(each, len(group)))]


def _groups(files: Sequence[InputFile]) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = {}
    for file in files:
        groups.setdefault(file.group, []).append(glob.escape(file.source) if file.is_local else file.source)
    return groups


def _run(scratch: Plan, snakefile: Path, cores: int) -> None:
    """Run the workflow with the configuration of the quick check in this process, so that ending it also ends the workflow's tasks."""
    from snakemake.cli import main as snakemake

    folder = Path(scratch.run)
    config = folder / _CONFIG
    # The folder also contains the settings of this task.
    there = [path for path in folder.iterdir() if path.name != SETTINGS] if folder.exists() else []
    if there and not config.exists():
        raise WeaverTasksError(f"{scratch.run}: not made by a quick check. Move it away, or give the run another name.")
    for path in there:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    with atomic_path(config) as temporary:
        # JSON is valid YAML with quoted text, so text in options stays text.
        temporary.write_text(json.dumps(scratch.config, indent=1))
    for variable in (run_ownership.VARIABLE, "SNAKEMAKE_PROFILE"):
        os.environ.pop(variable, None)
    options = ["--executor", "local", "--cores", str(cores), "--rerun-incomplete"]
    try:
        snakemake(["--snakefile", str(snakefile), "--configfile", str(config), *options])
    except SystemExit as end:
        if end.code:
            raise WeaverTasksError(
                f"{scratch.run}: the quick check failed; the error is shown above and in {scratch.run}/logs/. Correct it and run again."
            ) from None


def _report(scratch: Plan, seconds: float) -> None:
    """Say how long every stage took, and how fast training was."""
    table = Table(title="Quick check")
    for name in ("stage", "jobs", "seconds", "memory in MB"):
        table.add_column(name, justify="left" if name == "stage" else "right")
    for folder in sorted(Path(scratch.run, "benchmarks").iterdir(), key=lambda folder: folder.stat().st_mtime):
        rows = [path.read_text().splitlines()[1].split("\t") for path in folder.rglob("*.tsv")]
        memory = max((float(row[2]) for row in rows if row[2] not in ("-", "NA")), default=0.0)
        table.add_row(folder.name, str(len(rows)), f"{sum(float(row[0]) for row in rows):.1f}", f"{memory:.0f}")
    console = Console(stderr=True)
    (console if console.is_terminal else Console(stderr=True, width=120)).print(table)
    trained = Path(scratch.run, *filter(None, scratch.members()[:1]), "metrics", f"train_epoch-{scratch.epochs()[-1]}.json")
    speed = f"; training {read_json(trained)['samples_per_second']:,.0f} jets/s" if trained.exists() else ""
    logger.info("the configuration works: %.0f s%s. Everything is in %s, which may be deleted", seconds, speed, scratch.run)


if __name__ == "__main__":
    run_command(main)
