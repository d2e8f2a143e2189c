"""A whole training beside weaver-core's: the same files, data configuration, optimizer and schedule, in one command.

    python benchmarks/training.py --files FOLDER [--epochs 10] [--json FILE]

FOLDER holds train/, val/ and test/ with <class>_<anything>.root of JetClass-like jets. Both train a Particle Flow Network (three layers
of 128 on either side of the sum; ranger, flat+decay, batch 256, learning rate 2e-3), validate after each epoch, and predict the test
files. weaver-core runs as its users run it: one process, one worker, windows of whole files. Here all jobs of the workflow count, with
their starts, evaluation and ONNX export too.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml

REPOSITORY = Path(__file__).resolve().parent.parent
BATCH, RATE = 256, 2e-3

# As the public example's: 1x1 convolutions, a masked sum, linear layers.
PEER_NETWORK = """
import torch

class Network(torch.nn.Module):
    def __init__(self, inputs, classes):
        super().__init__()
        sizes = [inputs, 128, 128, 128]
        particle = [(torch.nn.Conv1d(sizes[i], sizes[i + 1], 1), torch.nn.ReLU()) for i in range(3)]
        jet = [(torch.nn.Linear(128, 128), torch.nn.ReLU()) for _ in range(3)]
        self.phi = torch.nn.Sequential(*(part for layer in particle for part in layer))
        self.f = torch.nn.Sequential(*(part for layer in jet for part in layer), torch.nn.Linear(128, classes))

    def forward(self, points, features, lorentz_vectors, mask):
        return self.f((self.phi(features) * mask).sum(-1))

def get_model(data_config, **kwargs):
    names = list(data_config.input_names)
    info = {
        "input_names": names,
        "input_shapes": {k: (1, *s[1:]) for k, s in data_config.input_shapes.items()},
        "output_names": ["softmax"],
        "dynamic_axes": {**{k: {0: "N", 2: "n"} for k in names}, "softmax": {0: "N"}},
    }
    return Network(len(data_config.input_dicts["pf_features"]), len(data_config.label_value)), info

def get_loss(data_config, **kwargs):
    return torch.nn.CrossEntropyLoss()
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--epochs-per-job", type=int, default=5)
    parser.add_argument("--cores", type=int, default=os.cpu_count())
    parser.add_argument("--threads", type=int, default=1, help="torch threads of a training job here (weaver-core's may use all cores)")
    parser.add_argument("--only", choices=["weaver_tasks", "weaver_core"], help="run one of the two")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here")
    arguments = parser.parse_args()
    contestants = {"weaver_tasks": run_ours, "weaver_core": run_peer}
    metrics: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="weaver-tasks-training-") as name:
        folder = Path(name)
        document = yaml.safe_load((REPOSITORY / "config/data/jetclass_full.yaml").read_text())
        document.pop("weights", None)
        (folder / "data.yaml").write_text(yaml.safe_dump(document, sort_keys=False))
        for contestant, run in contestants.items():
            if arguments.only in (None, contestant):
                metrics |= {f"{contestant}_{key}": value for key, value in run(folder, arguments).items()}
    for key, value in metrics.items():
        print(f"{key:40} {value}")
    if arguments.json:
        arguments.json.write_text(json.dumps(metrics, indent=1) + "\n")


def run_ours(folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    config = {
        "run": "ten",
        "data": {"config": "data.yaml", **{split: [f"{arguments.files.resolve()}/{split}/*.root"] for split in ("train", "val", "test")}},
        "staging": {"files_per_job": 10},
        "loading": {"fetch_step": 1.0},
        "network": {"config": str(REPOSITORY / "config/networks/pfn.py")},
        "training": {
            "epochs": arguments.epochs,
            "epochs_per_job": arguments.epochs_per_job,
            "batch_size": BATCH,
            "lr": RATE,
            "threads": arguments.threads,
            "optimizer": {"name": "ranger"},
            "scheduler": {"name": "flat+decay"},
        },
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(REPOSITORY / "workflow/Snakefile"), "--configfile", "config.yaml"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")])}
    begin = time.time()
    done = subprocess.run([*command, "--cores", str(arguments.cores)], cwd=folder, capture_output=True, text=True, env=environment)
    wall = time.time() - begin
    if done.returncode:
        sys.exit(done.stdout + done.stderr)
    results = folder / "results" / "ten"
    validations = [json.loads((results / f"metrics/val_epoch-{epoch}.json").read_text()) for epoch in range(arguments.epochs)]
    trainings = [json.loads((results / f"metrics/train_epoch-{epoch}.json").read_text()) for epoch in range(arguments.epochs)]
    return {
        "wall_seconds": wall,
        "seconds_to_best_epoch": (results / "best_epoch.json").stat().st_mtime - begin,
        "validation_accuracy": max(each["accuracy"] for each in validations),
        "test_accuracy": json.loads((results / "evaluation/metrics.json").read_text())["accuracy"],
        "train_jets_per_second": sum(each["samples"] for each in trainings) / sum(each["seconds"] for each in trainings),
        "seconds_of_stages": stage_seconds(results),
    }


def stage_seconds(results: Path) -> dict[str, float]:
    """Seconds of all jobs of each stage, their starts included."""
    seconds: dict[str, float] = {}
    for path in (results / "benchmarks").rglob("*.tsv"):
        stage = path.relative_to(results / "benchmarks").parts[0]
        seconds[stage] = round(seconds.get(stage, 0.0) + float(path.read_text().splitlines()[1].split("\t")[0]), 1)
    return seconds


def run_peer(folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    weaver = Path(sys.executable).with_name("weaver")
    if not weaver.exists() and not shutil.which("weaver"):
        sys.exit("weaver-core is not installed: pip install weaver-core==0.5.3, or give --only weaver_tasks.")
    (folder / "network.py").write_text(PEER_NETWORK)
    files = {split: sorted(map(str, arguments.files.resolve().glob(f"{split}/*.root"))) for split in ("train", "val", "test")}
    command = [str(weaver) if weaver.exists() else "weaver", "--data-config", "data.yaml", "--network-config", "network.py", "--gpus", ""]
    for split, paths in files.items():
        command += [f"--data-{split}", *paths]
    command += ["--num-epochs", str(arguments.epochs), "--batch-size", str(BATCH), "--start-lr", str(RATE), "--optimizer", "ranger"]
    command += ["--lr-scheduler", "flat+decay", "--num-workers", "1", "--fetch-step", "1"]
    command += ["--model-prefix", "peer/net", "--predict-output", "pred.root", "--log-file", "peer.log"]
    begin = time.time()
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    wall = time.time() - begin
    if done.returncode:
        sys.exit(done.stdout + done.stderr)
    log = done.stdout + done.stderr
    accuracies = [float(value) for value in re.findall(r"Current validation metric: ([0-9.]+)", log)]
    tests = re.findall(r"Test metric ([0-9.]+)", log)
    return {
        "wall_seconds": wall,
        "validation_accuracy": max(accuracies),
        "validation_accuracies": accuracies,
        "test_accuracy": float(tests[-1]) if tests else None,
    }


if __name__ == "__main__":
    main()
