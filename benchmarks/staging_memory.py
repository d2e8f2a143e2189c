"""Peak memory of stage_inputs, standardize and reweight for 4 and for 64 times the events.

    python benchmarks/staging_memory.py [--json FILE] [--small 4] [--large 64]

Only anonymous memory counts (RssAnon in /proc): pages of mapped files can be dropped by the system at any time. The
events are the jets of tests/data, repeated in one ROOT file. With memory that does not depend on the data its ratio is 1; CPU
time that grows linearly is as long for the second half of the further events as for the first.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import awkward as ak
import uproot

REPOSITORY = Path(__file__).parent.parent
JETS = REPOSITORY / "tests" / "files" / "jets" / "train"
DATA_CONFIG = REPOSITORY / "config" / "data" / "demo.yaml"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here")
    parser.add_argument("--small", type=int, default=4, help="times the events of the repository's jets")
    parser.add_argument("--large", type=int, default=64)
    arguments = parser.parse_args()
    metrics = {}
    factors = (arguments.small, (arguments.small + arguments.large) // 2, arguments.large)
    for factor in factors:
        with tempfile.TemporaryDirectory() as folder:
            metrics[f"{factor}x"] = measure(Path(folder), factor)
    print(f"{'stage':<16}" + "".join(f"{size:>24}" for size in metrics))
    for stage in ("stage_inputs", "standardize", "reweight"):
        row = [metrics[size][stage] for size in metrics]
        print(f"{stage:<16}" + "".join(f"{f['peak_anonymous_mb']:>14.0f} MB {f['cpu_seconds']:>5.1f} s" for f in row))
    print("events".ljust(16) + "".join(f"{metrics[size]['events']:>24,}" for size in metrics))
    metrics["summary"] = summary(*metrics.values())
    for name, value in metrics["summary"].items():
        print(f"{name:<40}{value:>8.3f}")
    if arguments.json:
        arguments.json.write_text(json.dumps(metrics, indent=1) + "\n")


def summary(small: dict, middle: dict, large: dict) -> dict[str, float]:
    """Memory: large to small. CPU time of a further event, and its ratio: between middle and large to between small and middle."""
    found = {}
    for stage in ("stage_inputs", "standardize", "reweight"):
        found[f"{stage}_memory_ratio"] = large[stage]["peak_anonymous_mb"] / small[stage]["peak_anonymous_mb"]
        per_event = [
            (after[stage]["cpu_seconds"] - before[stage]["cpu_seconds"]) / (after["events"] - before["events"])
            for before, after in ((small, middle), (middle, large))
        ]
        found[f"{stage}_microseconds_per_event"] = sum(per_event) / 2 * 1e6
        found[f"{stage}_time_ratio"] = per_event[1] / per_event[0]
    return found


def measure(folder: Path, factor: int) -> dict:
    """The figures of each stage over `factor` times the events."""
    source, record = folder / "jets.root", folder / "jets.json"
    events = repeat(source, factor)
    stage_inputs = run(
        "stage_inputs", "--data-config", DATA_CONFIG, "--split", "train", "--group", "jets",
        "--sources", source, "--records", record, "--staged", folder / "jets.arrow",
    )  # fmt: skip
    inputs = folder / "inputs.json"
    run("stage_inputs", "--gather", record, "--output", inputs)
    common = ("--data-config", DATA_CONFIG, "--inputs", inputs)
    standardization = folder / "standardization.json"
    standardize = run("standardize", *common, "--output", standardization)
    reweight = run(
        "reweight", *common, "--standardization", standardization, "--output", folder / "r.json", "--auto-config", folder / "a.yaml"
    )
    return {"events": events, "stage_inputs": stage_inputs, "standardize": standardize, "reweight": reweight}


def repeat(target: Path, factor: int) -> int:
    """Write the jets of all classes `factor` times, in baskets of 2,500 entries. Returns the number of events."""
    parts = []
    for path in sorted(JETS.glob("*.root")):
        with uproot.open(path) as file:
            parts.append(file["tree"].arrays())
    arrays = ak.concatenate(parts)
    columns = {name: ak.to_packed(arrays[name]) for name in arrays.fields if not name.startswith("npart")}
    with uproot.recreate(target, compression=uproot.LZ4(1)) as file:
        tree = file.mktree("tree", {name: ak.type(array).content for name, array in columns.items()})
        for _ in range(factor):
            tree.extend(columns)
    return factor * len(arrays)


def run(stage: str, *options: object) -> dict[str, float]:
    """Run a stage and watch its anonymous memory. Raises CalledProcessError when it fails."""
    return watched([sys.executable, "-m", f"weaver_tasks.{stage}", *map(str, options)])


def watched(command: list[str]) -> dict[str, float]:
    """Run a command and watch its anonymous memory. Raises CalledProcessError when it fails."""
    start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)}
    peak = 0
    # A file, not a pipe: progress that nobody reads would fill a pipe.
    with tempfile.TemporaryFile() as messages:
        process = subprocess.Popen(command, cwd=REPOSITORY, stderr=messages, env=environment)
        while process.poll() is None:
            peak = max(peak, anonymous_kilobytes(process.pid))
            time.sleep(0.01)
        if process.returncode:
            messages.seek(0)
            print(messages.read().decode(), file=sys.stderr)
            raise subprocess.CalledProcessError(process.returncode, command)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"peak_anonymous_mb": peak / 1024, "seconds": time.perf_counter() - start, "cpu_seconds": cpu}


def anonymous_kilobytes(pid: int) -> int:
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return next((int(line.split()[1]) for line in status.splitlines() if line.startswith("RssAnon")), 0)


if __name__ == "__main__":
    main()
