"""Prediction beside `weaver --predict`: jets per second, CPU time and memory, from the same ROOT files with the same weights.

    python benchmarks/prediction.py [--rounds 3] [--threads 2] [--network FILE] [--json FILE]     # speed, in alternating rounds
    python benchmarks/prediction.py --memory [--small 4 --large 64] [--json FILE]     # anonymous memory, 4 x and 64 x the jets

The events are the jets of tests/data, repeated; the network is a Particle Flow Network with its first weights: padded_pfn.py, plain
torch as users write one, or `--network config/networks/pfn.py`, which spares itself the padding in either program. Both programs write a
ROOT file with the scores, labels and observers of every jet. A rate counts what lies between two sizes of the same file: start-up and
imports are left out of both. `predict` reads the ROOT file itself (staging.mode none) and, in a row of its own, the staged one.
Anonymous memory is RssAnon in /proc: pages of mapped files can be dropped by the system at any time.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import uproot
from staging_memory import REPOSITORY, anonymous_kilobytes, repeat

from weaver_tasks.base.files import write_json
from weaver_tasks.base.record import package_versions

NETWORK = Path(__file__).parent / "padded_pfn.py"
DATA_CONFIG = REPOSITORY / "config" / "data" / "demo.yaml"
WEAVER_BATCH = 512


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--memory", action="store_true", help="measure memory instead of speed")
    parser.add_argument("--small", type=int, default=4, help="times the jets of the repository")
    parser.add_argument("--large", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3, help="of the speed")
    parser.add_argument("--threads", type=int, default=2, help="training.threads, and the cores that both programs may use")
    parser.add_argument("--network", type=Path, default=NETWORK, help="a network configuration, run by both")
    parser.add_argument("--format", choices=("root", "parquet"), default="root")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here")
    arguments = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        contest = Contest(Path(folder), arguments)
        metrics = contest.memory() if arguments.memory else contest.speed()
    if arguments.json:
        settings = {key: value for key, value in vars(arguments).items() if key != "json"} | {"network": arguments.network.name}
        write_json(arguments.json, {**metrics, "settings": settings, "packages": package_versions()})


class Contest:
    """A folder with two sizes of one file, the configuration and the weights."""

    def __init__(self, folder: Path, arguments: argparse.Namespace) -> None:
        self.folder, self.arguments, self.network = folder, arguments, arguments.network.absolute()
        self.settings = {
            "seed": 1,
            "training": {"task": "classification", "batch_size": WEAVER_BATCH, "device": "cpu", "threads": arguments.threads},
            "network": {"options": {}},
        }
        self.factors = {"small": arguments.small, "large": arguments.large}
        self.events: dict[str, int] = {}
        for size, factor in self.factors.items():
            repeat(folder / f"{size}.root", factor)
            for mode in ("none", "columnar"):
                self._manifest(size, mode)
        self._prepare_model()

    def _manifest(self, size: str, mode: str) -> None:
        """Stage the file as test events, or, with mode none, only count them."""
        record, source = self.folder / f"{size}-{mode}-record.json", self.folder / f"{size}.root"
        options = ["--staged", self.folder / f"{size}.arrow"] if mode == "columnar" else []
        settings = {"staging": {"mode": mode}}
        self._stage(
            "stage_inputs", "--data-config", DATA_CONFIG, "--split", "test", "--group", "jets", "--sources", source, "--records", record,
            *options, settings=settings,
        )  # fmt: skip
        manifest = self.folder / f"{size}-{mode}.json"
        self._stage("stage_inputs", "--gather", record, "--output", manifest, settings=settings)
        self.events[size] = sum(file["kept"] for file in json.loads(manifest.read_text())["files"])

    def _prepare_model(self) -> None:
        """Standardization and weights from the jets themselves, and the network's first weights."""
        record, inputs = self.folder / "train-record.json", self.folder / "train.json"
        self._stage(
            "stage_inputs", "--data-config", DATA_CONFIG, "--split", "train", "--group", "jets",
            "--sources", self.folder / "small.root", "--records", record, "--staged", self.folder / "train.arrow",
        )  # fmt: skip
        self._stage("stage_inputs", "--gather", record, "--output", inputs)
        common = ("--data-config", DATA_CONFIG, "--inputs", inputs)
        standardization, self.auto = self.folder / "standardization.json", self.folder / "data_config.auto.yaml"
        self._stage("standardize", *common, "--output", standardization)
        reweighting = ("--output", self.folder / "reweighting.json", "--auto-config", self.auto)
        self._stage("reweight", *common, "--standardization", standardization, *reweighting)
        self.state = self.folder / "state.pt"
        self._stage(
            "init_model", "--data-config", self.auto, "--inputs", inputs, "--network", self.network, "--state", self.state,
            "--optimizer", self.folder / "optimizer.pt", "--metrics", self.folder / "metrics.json",
        )  # fmt: skip

    def _stage(self, stage: str, *options: object, settings: dict[str, Any] | None = None) -> None:
        chosen = json.dumps({**self.settings, **(settings or {})})
        command = [sys.executable, "-m", f"weaver_tasks.{stage}", *map(str, options), "--settings", chosen]
        done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{stage}: {done.stderr}")

    def ours(self, size: str, mode: str) -> dict[str, float]:
        """Run `predict` on the file of this size, read as `mode` says."""
        output = self.folder / f"ours.{self.arguments.format}"
        metrics = watched(
            [
                sys.executable, "-m", "weaver_tasks.predict", "--data-config", self.auto, "--inputs", self.folder / f"{size}-{mode}.json",
                "--group", "jets", "--network", self.network, "--model", self.state, "--output", output,
                "--settings", json.dumps(self.settings),
            ],
            threads=self.arguments.threads,
        )  # fmt: skip
        self._check(output, size)
        return metrics

    def weaver(self, size: str) -> dict[str, float]:
        """Run `weaver --predict` on the same file."""
        output = self.folder / "weaver.root"
        metrics = watched(
            [
                sys.executable, "-c", "from weaver.train import main; main()", "--predict", "--gpus", "", "--num-workers", "1",
                "--data-test", self.folder / f"{size}.root", "--data-config", self.auto, "--network-config", self.network,
                "--model-prefix", self.state, "--predict-output", output, "--batch-size", str(WEAVER_BATCH),
            ],
            threads=self.arguments.threads,
        )  # fmt: skip
        self._check(output, size)
        return metrics

    def _check(self, output: Path, size: str) -> None:
        """Raises SystemExit when not every jet is in the output."""
        if output.suffix == ".root":
            with uproot.open(output) as file:
                found = file["Events"].num_entries
            if found != self.events[size]:
                raise SystemExit(f"{output.name}: {found} events, expected {self.events[size]}")
        output.unlink()

    def speed(self) -> dict[str, Any]:
        """Rates of each contestant: medians over the rounds, in which they take turns."""
        contestants = {
            "predict_from_root": lambda size: self.ours(size, "none"),
            "predict_from_staged": lambda size: self.ours(size, "columnar"),
            "weaver": self.weaver,
        }
        jets = self.events["large"] - self.events["small"]
        rates: dict[str, list[dict[str, float]]] = {name: [] for name in contestants}
        for _ in range(self.arguments.rounds):
            for name, run in contestants.items():
                small, large = run("small"), run("large")
                rates[name].append(
                    {
                        "jets_per_second": jets / (large["seconds"] - small["seconds"]),
                        "cpu_microseconds_per_jet": 1e6 * (large["cpu_seconds"] - small["cpu_seconds"]) / jets,
                        "seconds_of_all": large["seconds"],
                    }
                )
        metrics: dict[str, Any] = {
            name: {key: statistics.median(found[key] for found in rounds) for key in rounds[0]} for name, rounds in rates.items()
        }
        print(f"{'':<22}{'jets/s':>12}{'CPU us a jet':>14}{'whole run s':>13}")
        for name, row in metrics.items():
            print(f"{name:<22}{row['jets_per_second']:>12,.0f}{row['cpu_microseconds_per_jet']:>14,.0f}{row['seconds_of_all']:>13.1f}")
        for name in ("predict_from_root", "predict_from_staged"):
            ours, theirs = metrics[name], metrics["weaver"]
            metrics[name]["ratio"] = ours["jets_per_second"] / theirs["jets_per_second"]
            metrics[name]["ratio_cpu"] = theirs["cpu_microseconds_per_jet"] / ours["cpu_microseconds_per_jet"]
            print(f"{name}: {ours['ratio']:.1f} x weaver's jets/s, with 1/{ours['ratio_cpu']:.1f} of its CPU time")
        return {**metrics, "events": self.events, "rounds": rates}

    def memory(self) -> dict[str, Any]:
        """Peak anonymous memory of `predict` for both sizes, from ROOT and staged."""
        metrics: dict[str, Any] = {}
        for mode in ("columnar", "none"):
            runs = {size: self.ours(size, mode) for size in self.factors}
            ratio = runs["large"]["peak_anonymous_mb"] / runs["small"]["peak_anonymous_mb"]
            metrics[f"staging_{mode}"] = {**runs, "ratio": ratio}
            sizes = ", ".join(f"{self.events[size]:,} jets: {run['peak_anonymous_mb']:.0f} MB" for size, run in runs.items())
            print(f"staging.mode {mode}: {sizes} (x {ratio:.3f})", flush=True)
        return {**metrics, "events": self.events}


def watched(command: list[object], *, threads: int) -> dict[str, float]:
    """Run a command: its wall and CPU time (with that of its children) and its peak anonymous memory."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    before, start = os.times(), time.perf_counter()
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            [str(part) for part in command], cwd=tempfile.gettempdir(), stdout=subprocess.DEVNULL, stderr=errors, env=environment
        )
        peak = 0
        while process.poll() is None:
            peak = max(peak, anonymous_kilobytes(process.pid))
            time.sleep(0.02)
        seconds, after = time.perf_counter() - start, os.times()
        if process.returncode:
            errors.seek(0)
            raise SystemExit(f"{' '.join(str(part) for part in command[:6])} … failed: {errors.read()[-2000:]}")
    used = (after.children_user - before.children_user) + (after.children_system - before.children_system)
    return {"seconds": seconds, "cpu_seconds": used, "peak_anonymous_mb": peak / 1024}


if __name__ == "__main__":
    main()
