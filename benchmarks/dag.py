"""How long Snakemake takes to know what to do: dry runs of large configurations.

    python benchmarks/dag.py [--json FILE]

Limits: 15 s for 10,000 new input files, 5 s for 1,000 epochs, 20 s to find that a finished run of 10,000 files has nothing to do.
Exits with 1 when one of them is exceeded. The settings are the defaults. No file is read: empty ones stand for the inputs and the
results, and `snakemake --touch` records these as if they had been made.
Beside them: 10,000 files in as many jobs, a plain Snakefile of as many (what Snakemake itself takes), and what each job on a
cluster pays again: reading the Snakefile, with 10,000 files and with 1,000 epochs. Takes about two minutes.
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

import yaml

REPOSITORY = Path(__file__).resolve().parent.parent
PLAIN = """
rule all:
    input: expand("out/{i}.json", i=range(FILES))
rule one:
    input: "config.yaml"
    output: "out/{i}.arrow", "out/{i}.json", "record/{i}.json"
    log: "log/{i}.log"
    benchmark: "benchmark/{i}.tsv"
    shell: "stage {input} {output} {log}"
"""
ONE_A_JOB = ("--config", "staging={files_per_job: 1}")
LIMITS = {"files_10000_seconds": 15.0, "epochs_1000_seconds": 5.0, "finished_10000_seconds": 20.0}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here")
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--epochs", type=int, default=1_000)
    arguments = parser.parse_args()
    metrics: dict[str, float] = {}
    with tempfile.TemporaryDirectory(prefix="weaver-tasks-dag-") as folder:
        many_files = configure(Path(folder) / "files", files=arguments.files, epochs=10)
        measure(metrics, "files_10000", many_files, "--dry-run", expect="total")
        measure(metrics, "files_10000_one_a_job", many_files, "--dry-run", *ONE_A_JOB, expect="total")
        measure(metrics, "parsing_files_10000", many_files, "--list-rules", expect="stage_inputs")
        plain = Path(folder) / "plain.smk"
        plain.write_text(PLAIN.replace("FILES", str(arguments.files)))
        measure(metrics, "plain_snakefile_10000", many_files, "--dry-run", snakefile=plain, expect="total")
        many_epochs = configure(Path(folder) / "epochs", files=12, epochs=arguments.epochs)
        measure(metrics, "epochs_1000", many_epochs, "--dry-run", expect="total")
        measure(metrics, "parsing_epochs_1000", many_epochs, "--list-rules", expect="train_epoch")
        pretend_finished(many_files)
        measure(metrics, "finished_10000", many_files, "--dry-run", expect="Nothing to be done")
    for name, value in metrics.items():
        print(f"{name:48} {value:8.1f}" + (f"   (limit {LIMITS[name]:.0f})" if name in LIMITS else ""))
    if arguments.json:
        arguments.json.write_text(json.dumps(metrics, indent=1) + "\n")
    raise SystemExit(any(metrics[name] > limit for name, limit in LIMITS.items()))


def configure(folder: Path, *, files: int, epochs: int) -> Path:
    """A run of ten classes with so many files and epochs."""
    (folder / "jets").mkdir(parents=True)
    config = yaml.safe_load((REPOSITORY / "config" / "demo.yaml").read_text())
    config["run"] = "large"
    for split in ("train", "test"):
        for group in config["data"][split]:
            config["data"][split][group] = f"jets/{split}_{group}_*.root"
    groups = [(split, group) for split in ("train", "test") for group in config["data"][split]]
    for number in range(files):
        split, group = groups[number % len(groups)]
        (folder / "jets" / f"{split}_{group}_{number}.root").touch()
    config["data"]["config"] = str(REPOSITORY / config["data"]["config"])
    config["network"]["config"] = str(REPOSITORY / config["network"]["config"])
    config["training"] |= {"epochs": epochs, "scheduler": {"name": "none"}}
    (folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    return folder


def snakemake(folder: Path, *options: str, snakefile: Path = REPOSITORY / "workflow" / "Snakefile") -> str:
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(snakefile)]
    command += ["--configfile", "config.yaml", "--cores", "2", *options]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stdout[-3000:] + done.stderr[-3000:])
    return done.stdout + done.stderr


def measure(metrics: dict[str, float], name: str, folder: Path, *options: str, expect: str, **which: Path) -> None:
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    output = snakemake(folder, *options, **which)
    metrics[f"{name}_seconds"] = time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    metrics[f"{name}_processor_seconds"] = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    metrics[f"{name}_peak_megabytes"] = after.ru_maxrss / 1024
    if expect not in output:
        sys.exit(f"{name}: Snakemake did not say '{expect}':\n{output[-3000:]}")


def pretend_finished(folder: Path) -> None:
    """Make every declared output, all of one age, and let Snakemake record them as if it had made them."""
    rows = [line.split("\t") for line in snakemake(folder, "--summary").splitlines() if "\t" in line][1:]
    now = time.time()
    for row in rows:
        path = folder / row[0]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        os.utime(path, (now, now))
    snakemake(folder, "--touch", "--forceall")


if __name__ == "__main__":
    main()
