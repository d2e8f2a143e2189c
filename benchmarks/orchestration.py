"""What running on Slurm costs beside the work: wall time minus the time inside tasks, for 10 epochs in jobs of 5.

    python benchmarks/orchestration.py [--json FILE] [--profile slurm] [-- options of snakemake]

Runs the small chain of the tests (three classes, a small network) in a new folder, on the cluster that `sbatch` finds, or brings up
the one of tests/slurm/cluster.sh. The time inside tasks is the time during which at least one task of the run was at work,
from the records that tasks write (`provenance/tasks`), plus the Python start of each, which its benchmark file adds.
Exits with 1 when the orchestration's share is more than 120 s.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from datetime import datetime
from pathlib import Path

import yaml

REPOSITORY = Path(__file__).resolve().parent.parent
LIMIT = 120.0
CLASSES = {"QCD": "ZJetsToNuNu", "Hbb": "HToBB", "Tbl": "TTBarLep"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here")
    parser.add_argument("--profile", default="slurm", help="the workflow profile (default: slurm)")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--epochs-per-job", type=int, default=5)
    parser.add_argument("options", nargs="*", help="more options of snakemake, after --")
    arguments = parser.parse_args()
    cluster = None
    if arguments.profile == "slurm" and not (shutil.which("sinfo") and subprocess.run(["sinfo"], capture_output=True).returncode == 0):
        cluster = REPOSITORY / "tests" / "slurm" / "cluster.sh"
        subprocess.run([cluster, "up"], check=True)
        os.environ["SLURM_CONF"] = str(Path(os.environ.get("CLUSTER", "/tmp/weaver-tasks-slurm")) / "slurm.conf")
    try:
        with tempfile.TemporaryDirectory(prefix="weaver-tasks-orchestration-") as folder:
            metrics = measure(Path(folder), arguments)
    finally:
        if cluster:
            subprocess.run([cluster, "down"], check=True)
    for name, value in metrics.items():
        print(f"{name:26} {value:8.1f}")
    if arguments.json:
        arguments.json.write_text(json.dumps(metrics, indent=1) + "\n")
    raise SystemExit(metrics["orchestration_seconds"] > LIMIT)


def measure(folder: Path, arguments: argparse.Namespace) -> dict[str, float]:
    configure(folder, arguments)
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(REPOSITORY / "workflow" / "Snakefile")]
    command += ["--configfile", "config.yaml", "--workflow-profile", arguments.profile, *arguments.options]
    start = time.time()
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    wall = time.time() - start
    if done.returncode:
        sys.exit(done.stdout + done.stderr)
    inside = covered(task_times(folder / "results" / "small"))
    return {
        "wall_seconds": wall,
        "inside_tasks_seconds": inside,
        "orchestration_seconds": wall - inside,
        "jobs_submitted": (done.stdout + done.stderr).count("has been submitted with SLURM jobid"),
    }


def configure(folder: Path, arguments: argparse.Namespace) -> None:
    jets = REPOSITORY / "tests" / "files" / "jets"
    data = yaml.safe_load((REPOSITORY / "config" / "data" / "demo.yaml").read_text())
    classes = [f"label_{name}" for name in CLASSES]
    data["labels"]["value"] = classes
    data["weights"] |= {"reweight_classes": classes, "class_weights": [1, 1, 1]}
    config = {
        "run": "small",
        "data": {
            "config": "data.yaml",
            "train": {name: str(jets / "train" / f"{process}.root") for name, process in CLASSES.items()},
            "test": {"all": [str(jets / "test" / f"{process}.root") for process in CLASSES.values()]},
        },
        "staging": {"files_per_job": 3},
        "network": {"config": str(REPOSITORY / "config" / "networks" / "pfn.py"), "options": {"Phi_sizes": [16, 16], "F_sizes": [16]}},
        "training": {"epochs": arguments.epochs, "epochs_per_job": arguments.epochs_per_job, "batch_size": 32, "threads": 1},
    }
    (folder / "data.yaml").write_text(yaml.safe_dump(data, sort_keys=False))
    (folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))


def task_times(results: Path) -> list[tuple[float, float]]:
    """(start, end) of each task. A record starts after the imports: the benchmark file knows how long the whole process took."""
    times = []
    records = results / "provenance" / "tasks"
    for record in records.rglob("*.json"):
        facts = json.loads(record.read_text())
        start, end = (datetime.fromisoformat(facts[key]).timestamp() for key in ("start", "end"))
        benchmark = results / "benchmarks" / record.relative_to(records).with_suffix(".tsv")
        if benchmark.exists():
            with benchmark.open() as lines:
                (row,) = csv.DictReader(lines, delimiter="\t")
            start = min(start, end - float(row["s"]))
        times.append((start, end))
    return times


def covered(intervals: list[tuple[float, float]]) -> float:
    """The length of the union of intervals."""
    total, reached = 0.0, float("-inf")
    for start, end in sorted(intervals):
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total


if __name__ == "__main__":
    main()
