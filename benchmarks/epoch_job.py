"""What one epoch's job costs beside its training: the time to its first optimizer step, and writing its checkpoint.

    python benchmarks/epoch_job.py [--rounds 5] [--json FILE]

The start: from the start of the process of `train_epoch` to the end of its first optimizer step, for a small network on staged events
of the repository's jets; and of the same job when its epoch is in the journal, until it has ended. The checkpoint: both files of an
epoch of 2 million parameters with ranger, written and synced.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

REPOSITORY = Path(__file__).resolve().parent.parent
LIMITS = {"seconds_to_first_step": 5.0, "checkpoint_seconds": 0.5}
FIRST_STEP = """
import sys, time
from weaver_tasks.training import step
step = step.Engine.step
def first(self, batch):
    result = step(self, batch)
    print("FIRST STEP", time.time(), flush=True)
    step.Engine.step = step
    return result
step.Engine.step = first
from weaver_tasks.train_epoch import main
main(sys.argv[1:])
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="weaver-tasks-epoch-job-") as folder:
        metrics = {**start_up(Path(folder), arguments.rounds), **checkpoint(Path(folder), arguments.rounds)}
    for name, value in metrics.items():
        print(f"{name:28} {value:10.3f}" + (f"   at most {LIMITS[name]}" if name in LIMITS else ""))
    if arguments.json:
        arguments.json.write_text(json.dumps(metrics, indent=1) + "\n")
    raise SystemExit(any(metrics[name] > limit for name, limit in LIMITS.items()))


def start_up(folder: Path, rounds: int) -> dict[str, float]:
    """Medians over rounds; the first round, which reads files from disk, does not count."""
    jets = REPOSITORY / "tests" / "files" / "jets" / "train"
    config = {
        "run": "job",
        "data": {"config": str(REPOSITORY / "config/data/demo.yaml"), "train": {"all": f"{jets}/*.root"}},
        "network": {"config": str(REPOSITORY / "config/networks/pfn.py"), "options": {"Phi_sizes": [32, 32], "F_sizes": [32]}},
        "training": {"epochs": 1, "batch_size": 64, "threads": 1},
        "staging": {"files_per_job": 10},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    target = "results/job/checkpoints/net_epoch-0_state.pt"
    snakemake = [sys.executable, "-m", "snakemake", "--snakefile", str(REPOSITORY / "workflow/Snakefile"), "--cores", "2"]
    subprocess.run([*snakemake, target, "--configfile", "config.yaml"], cwd=folder, check=True, capture_output=True)
    record = json.loads((folder / "results/job/provenance/tasks/train_epoch/epoch-0.json").read_text())
    arguments = shlex.split(record["command"])[3:]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")])}
    first_steps, published = [], []
    for _ in range(rounds + 1):
        shutil.rmtree(folder / "results/job/checkpoints/.journal")
        begin = time.time()
        command = [sys.executable, "-c", FIRST_STEP, *arguments]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=environment, check=True)
        first_steps.append(float(done.stdout.split("FIRST STEP")[1].split()[0]) - begin)
        begin = time.time()
        subprocess.run(
            [sys.executable, "-m", "weaver_tasks.train_epoch", *arguments], cwd=folder, capture_output=True, env=environment, check=True
        )
        published.append(time.time() - begin)
    return {
        "seconds_to_first_step": statistics.median(first_steps[1:]),
        "seconds_to_publish_a_finished_epoch": statistics.median(published[1:]),
    }


def checkpoint(folder: Path, rounds: int) -> dict[str, float]:
    import torch

    from weaver_tasks.training.checkpoint import save_state, save_training_state
    from weaver_tasks.training.epoch import first_training_state
    from weaver_tasks.training.optimizers import build_optimizer

    model = torch.nn.Sequential(*(torch.nn.Linear(816, 816) for _ in range(3)))
    optimizer = build_optimizer(model, "ranger", {}, lr=1e-3).optimizer
    model(torch.ones(8, 816)).sum().backward()
    optimizer.step()
    state, training_state = folder / "state.pt", folder / "optimizer.pt"
    seconds = []
    for _ in range(rounds + 1):
        begin = time.perf_counter()
        save_state(state, model)
        save_training_state(training_state, first_training_state(optimizer, model, "digest"), state=state)
        seconds.append(time.perf_counter() - begin)
    return {
        "checkpoint_seconds": statistics.median(seconds[1:]),
        "checkpoint_parameters": sum(parameter.numel() for parameter in model.parameters()),
        "checkpoint_megabytes": (state.stat().st_size + training_state.stat().st_size) / 1e6,
    }


if __name__ == "__main__":
    main()
