"""The processor time that the loader takes for a batch of 512 jets from staged files, in one thread.

    python benchmarks/batch_time.py [--epochs 8] [--json FILE]

Processor time says more than jets/s on a machine that does other things too. The files and the data configuration are those of `loader.py`.
Padded: as most networks take batches. Trimmed: padded to the longest event of a batch. Unpadded: for `loading.pad_on_device`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from loader import BATCH_SIZE, REPOSITORY, prepare, stage

from weaver_tasks.data.configuration import load_data_configuration
from weaver_tasks.data.loading.buffers import BufferPool
from weaver_tasks.data.loading.loader import EpochLoader
from weaver_tasks.data.loading.parts import OpenFiles
from weaver_tasks.settings.stage import stage_settings

KINDS: dict[str, dict[str, Any]] = {"padded": {}, "trimmed": {"trim": True}, "unpadded": {"pad": False}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--json", type=Path, help="write the figures here")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="benchmark-batch-") as name:
        folder = Path(name)
        prepare(argparse.Namespace(files=None, data_config=REPOSITORY / "config" / "data" / "jetclass_full.yaml"), folder)
        stage(folder)
        figures = measure(folder, arguments.epochs)
    print("| batches | processor time of a batch, ms, median | lowest |\n|---|---:|---:|")
    for kind, times in figures.items():
        print(f"| {kind} | {times['median']:.2f} | {times['lowest']:.2f} |")
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n")


def measure(folder: Path, epochs: int) -> dict[str, dict[str, float]]:
    """For each kind of batch the median and the lowest of the epochs after the first, in ms. The kinds take turns."""
    configuration, manifest = load_data_configuration(folder / "data.yaml"), json.loads((folder / "columnar.json").read_text())
    settings = stage_settings({"data": {"train_val_split": 0.9999}, "loading": {"fetch_step": 1.0}, "training": {"batch_size": BATCH_SIZE}})
    shared: dict[str, Any] = {"files": OpenFiles(manifest, configuration), "buffers": BufferPool()}
    times: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for epoch in range(epochs + 1):
        for kind, options in KINDS.items():
            loader = EpochLoader(manifest, configuration, settings, split="train", seed=1, epoch=epoch, threads=0, **shared, **options)
            begin = time.thread_time()
            batches = sum(1 for _ in loader)
            times[kind].append(1e3 * (time.thread_time() - begin) / batches)
    return {kind: {"median": statistics.median(taken[1:]), "lowest": min(taken[1:])} for kind, taken in times.items()}


if __name__ == "__main__":
    main()
