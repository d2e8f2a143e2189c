"""This project's loader beside weaver-core's, from the same ROOT files with the same data configuration.

    python benchmarks/loader.py [--files '/data/*/*.root'] [--rounds 3 | --quick] [--json FILE]

Every measurement is a process of its own, that goes through an epoch to warm up and is then timed; the contestants
take turns, round after round, and the table shows the median with the lowest and the highest. weaver-core (PyPI) is its own
SimpleIterDataset and DataLoader, with 1 and 2 workers and fetch steps of 0.05, 0.2 and 1: its best counts. Both deliver
padded float32 tensors. The copy limit is memcpy of the bytes of those tensors.
"""

from __future__ import annotations

import argparse
import glob
import json
import logging
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import torch

REPOSITORY = Path(__file__).parent.parent
FETCH_STEPS = (0.05, 0.2, 1.0)
WORKERS = (1, 2)
BATCH_SIZE = 512
LEAST_SECONDS = 1.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--files",
        help="glob of ROOT files named <class>_<anything>.root (default: 20 files of 1,000 jets, those of this repository repeated)",
    )
    parser.add_argument("--data-config", type=Path, default=REPOSITORY / "config" / "data" / "jetclass_full.yaml")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="one round, and of weaver-core only what is usually best: a first impression")
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        # Either side has loaded torch, for its network, long before it asks for data.
        print(json.dumps(CONTESTANTS[arguments.measure](arguments.folder)))
        return
    with tempfile.TemporaryDirectory(prefix="benchmark-loader-") as folder:
        metrics = run(arguments, Path(folder))
    print_table(metrics)
    if arguments.json:
        arguments.json.write_text(json.dumps(metrics, indent=1) + "\n")


def run(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Prepare the files, let the contestants take turns, and compare."""
    prepare(arguments, folder)
    staging, conversion = stage(folder), convert(folder)
    names = [name for name in CONTESTANTS if not (arguments.quick and SLOW.search(name))]
    results: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    for number in range(1 if arguments.quick else arguments.rounds):
        for name in names:
            command = [sys.executable, __file__, "--measure", name, "--folder", str(folder)]
            done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
            if done.returncode:
                raise SystemExit(f"{name} failed:\n{done.stderr}")
            results[name].append(json.loads(done.stdout.splitlines()[-1]))
            print(f"round {number + 1}: {name}: {results[name][-1]['jets_per_second']:,.0f} jets/s", file=sys.stderr)
    return {**compare(results), "staging": staging, "weaver_conversion": conversion, "measurements": results}


def prepare(arguments: argparse.Namespace, folder: Path) -> None:
    """Lay out the files: raw/<class>_<number>.root, and a copy of the data configuration."""
    (folder / "raw").mkdir()
    (folder / "data.yaml").write_text(arguments.data_config.read_text())
    if arguments.files:
        for number, path in enumerate(sorted(glob.glob(arguments.files))):
            (folder / "raw" / f"{Path(path).stem.split('_')[0]}_{number}.root").symlink_to(Path(path).resolve())
        return
    for path in sorted((REPOSITORY / "tests" / "files" / "jets" / "train").glob("*.root")):
        for number in range(2):
            repeat(path, folder / "raw" / f"{path.stem}_{number}.root", times=4)


def repeat(source: Path, target: Path, *, times: int) -> None:
    """Write the jets of a file several times to one file, in as many baskets."""
    import awkward as ak
    import uproot

    with uproot.open(source) as file:
        arrays = file["tree"].arrays()
    columns = {name: ak.to_packed(arrays[name]) for name in arrays.fields if not name.startswith("npart")}
    with uproot.recreate(target, compression=uproot.LZ4(1)) as file:
        tree = file.mktree("tree", {name: ak.type(array).content for name, array in columns.items()})
        for _ in range(times):
            tree.extend(columns)


def stage(folder: Path) -> dict[str, float]:
    """Stage the files as this project does, for training and for prediction; the time is that of one split."""
    from weaver_tasks.data.configuration import load_data_configuration
    from weaver_tasks.data.staging.manifest import make_manifest
    from weaver_tasks.data.staging.stage import Staging, stage_file

    # It would warn of the copies.
    logging.getLogger("weaver_tasks").setLevel(logging.ERROR)
    configuration = load_data_configuration(folder / "data.yaml")
    for mode in ("columnar", "none"):
        records = []
        for split in ("train", "test"):
            begin = time.perf_counter()
            staging = Staging(configuration=configuration, split=split, mode=mode)
            for path in sorted((folder / "raw").iterdir()):
                target = folder / "staged" / split / f"{path.stem}.arrow" if mode == "columnar" else None
                records.append(stage_file(str(path), target, staging, group=path.stem.split("_")[0] if split == "train" else "all"))
            if (mode, split) == ("columnar", "train"):
                seconds = time.perf_counter() - begin
        (folder / f"{mode}.json").write_text(json.dumps(make_manifest(records, on_bad_file="fail", max_bad_fraction=0)))
    return {"seconds": seconds, "megabytes": _megabytes(folder / "staged" / "train"), "source_megabytes": _megabytes(folder / "raw")}


def convert(folder: Path) -> dict[str, float]:
    """Convert the files by weaver-core's own tool."""
    begin = time.perf_counter()
    sources = [str(path) for path in sorted((folder / "raw").iterdir())]
    command = [sys.executable, "-m", "weaver.utils.convert_to_parquet", *sources, "-o", str(folder / "parquet")]
    subprocess.run([*command, "--data-config", str(folder / "data.yaml")], check=True, capture_output=True)
    return {"seconds": time.perf_counter() - begin, "megabytes": _megabytes(folder / "parquet")}


def _megabytes(folder: Path) -> float:
    return sum(path.stat().st_size for path in folder.iterdir()) / 1e6


def timed(open_epoch: Callable[[int], Iterable[tuple[int, int]]]) -> dict[str, float]:
    """Jets per second over whole epochs after the first, for at least LEAST_SECONDS. open_epoch: gives (jets, bytes) of batches."""
    begin = time.perf_counter()
    epochs = [iter(open_epoch(0))]
    next(epochs[0])
    first = time.perf_counter() - begin
    for _ in epochs[0]:
        pass
    jets, size, epoch, begin = 0, 0, 1, time.perf_counter()
    while (seconds := time.perf_counter() - begin) < LEAST_SECONDS:
        for events, count in open_epoch(epoch):
            jets, size = jets + events, size + count
        epoch += 1
    return {"jets_per_second": jets / seconds, "megabytes_per_second": size / 1e6 / seconds, "first_batch_seconds": first}


def ours_training(mode: str, fetch_step: float) -> Callable[[Path], dict[str, float]]:
    def measure(folder: Path) -> dict[str, float]:
        from weaver_tasks.data.configuration import load_data_configuration
        from weaver_tasks.data.loading.buffers import BufferPool
        from weaver_tasks.data.loading.loader import EpochLoader
        from weaver_tasks.data.loading.parts import OpenFiles
        from weaver_tasks.settings.stage import stage_settings

        configuration, manifest = load_data_configuration(folder / "data.yaml"), json.loads((folder / f"{mode}.json").read_text())
        settings = stage_settings(
            {
                "data": {"train_val_split": 0.9999},
                "loading": {"fetch_step": fetch_step},
                "training": {"batch_size": BATCH_SIZE},
            }
        )
        # As a training job does, which goes through several epochs.
        shared = {"files": OpenFiles(manifest, configuration), "buffers": BufferPool()}
        options = {"split": "train", "seed": 1, "threads": 2, **shared}
        return timed(lambda epoch: _as_tensors(EpochLoader(manifest, configuration, settings, epoch=epoch, **options)))

    return measure


def ours_prediction(folder: Path) -> dict[str, float]:
    from weaver_tasks.data.configuration import load_data_configuration
    from weaver_tasks.data.loading.prediction_order import prediction_batches
    from weaver_tasks.settings.stage import stage_settings

    configuration, manifest = load_data_configuration(folder / "data.yaml"), json.loads((folder / "columnar.json").read_text())
    settings = stage_settings({"training": {"batch_size_test": BATCH_SIZE}})
    return timed(lambda _: _as_tensors(prediction_batches(manifest, configuration, settings, group="all", threads=2)))


def _as_tensors(batches: Iterable[Any]) -> Iterator[tuple[int, int]]:
    for batch in batches:
        inputs = [torch.from_numpy(array) for array in batch.inputs.values()]
        yield len(batch), sum(tensor.nbytes for tensor in inputs)
        del batch, inputs


def weaver(kind: str, *, workers: int, fetch_step: float, training: bool) -> Callable[[Path], dict[str, float]]:
    def measure(folder: Path) -> dict[str, float]:
        from torch.utils.data import DataLoader
        from weaver.utils.dataset import SimpleIterDataset

        groups: dict[str, list[str]] = {}
        for path in sorted((folder / kind).iterdir()):
            groups.setdefault(path.stem.split("_")[0] if training else "all", []).append(str(path))
        reading: dict[str, Any] = {"fetch_by_files": True, "fetch_step": 1}
        if training:
            reading = {"fetch_step": fetch_step, "batch_size": BATCH_SIZE}
        dataset = SimpleIterDataset(
            groups, str(folder / "data.yaml"), for_training=training, load_range_and_fraction=((0, 1), 1, 1),
            name="train" if training else "test", **reading,
        )  # fmt: skip
        loader = DataLoader(
            dataset, batch_size=BATCH_SIZE, drop_last=training, num_workers=workers, persistent_workers=True
        )  # fmt: skip
        return timed(lambda _: ((len(next(iter(X.values()))), sum(x.nbytes for x in X.values())) for X, _, _ in loader))

    return measure


def copy_limit(folder: Path) -> dict[str, float]:
    """Copy the bytes of a batch, as assembled, from one place to another, over buffers as many as a loader has in use."""
    import numpy as np

    from weaver_tasks.data.configuration import load_data_configuration
    from weaver_tasks.data.loading.loader import EpochLoader
    from weaver_tasks.settings.stage import stage_settings

    configuration, manifest = load_data_configuration(folder / "data.yaml"), json.loads((folder / "columnar.json").read_text())
    settings = stage_settings({"training": {"batch_size": BATCH_SIZE}, "loading": {"fetch_step": 1.0}})
    batches = [
        batch.inputs
        for batch, _ in zip(EpochLoader(manifest, configuration, settings, split="train", seed=1, epoch=0), range(6), strict=False)
    ]
    targets = [{name: np.empty_like(array) for name, array in batch.items()} for batch in batches]
    size = sum(array.nbytes for array in batches[0].values())

    def epoch(_: int) -> Iterator[tuple[int, int]]:
        for source, target in zip(batches, targets, strict=True):
            for name, array in source.items():
                np.copyto(target[name], array)
            yield BATCH_SIZE, size

    return timed(epoch)


CONTESTANTS: dict[str, Callable[[Path], dict[str, float]]] = {
    **{f"training, staged, fetch step {step:g}": ours_training("columnar", step) for step in FETCH_STEPS},
    **{f"training, on the fly, fetch step {step:g}": ours_training("none", step) for step in FETCH_STEPS[1:]},
    "prediction, staged": ours_prediction,
    **{
        f"weaver-core, {kind}, {workers} workers, fetch step {step:g}": weaver(folder, workers=workers, fetch_step=step, training=True)
        for kind, folder in (("ROOT", "raw"), ("Parquet", "parquet"))
        for workers in WORKERS
        for step in FETCH_STEPS
    },
    **{f"weaver-core, prediction, {workers} workers": weaver("raw", workers=workers, fetch_step=1, training=False) for workers in WORKERS},
    "copy limit": copy_limit,
}


SLOW = re.compile("1 workers|Parquet.* 0\\.05|ROOT.* 0\\.05")


def compare(results: dict[str, list[dict[str, float]]]) -> dict[str, Any]:
    """The figures: medians of the rounds, each side at its best setting."""

    def best(prefix: str) -> float:
        return max(_median(runs) for name, runs in results.items() if name.startswith(prefix))

    staged, on_the_fly, root = best("training, staged"), best("training, on the fly"), best("weaver-core, ROOT")
    return {
        "jets_per_second": staged,
        "jets_per_second_on_the_fly": on_the_fly,
        "jets_per_second_prediction": best("prediction"),
        "weaver_jets_per_second": root,
        "ratio_train_staged": staged / root,
        "ratio_train_staged_to_parquet": staged / best("weaver-core, Parquet"),
        "ratio_train_on_the_fly": on_the_fly / root,
        "ratio_predict": best("prediction") / best("weaver-core, prediction"),
        "fraction_of_copy_limit": staged / best("copy limit"),
        "first_batch_seconds": statistics.median(run["first_batch_seconds"] for run in results["training, staged, fetch step 1"]),
    }


def _median(runs: list[dict[str, float]]) -> float:
    return statistics.median(run["jets_per_second"] for run in runs)


def print_table(metrics: dict[str, Any]) -> None:
    print("| loader | jets/s, median | lowest | highest |\n|---|---:|---:|---:|")
    for name, runs in metrics["measurements"].items():
        rates = [run["jets_per_second"] for run in runs]
        print(f"| {name} | {_median(runs):,.0f} | {min(rates):,.0f} | {max(rates):,.0f} |")
    staging, conversion = metrics["staging"], metrics["weaver_conversion"]
    print(
        f"\nStaging: {staging['seconds']:.1f} s, {staging['source_megabytes']:.0f} MB of ROOT to {staging['megabytes']:.0f} MB. "
        f"weaver-core's conversion to Parquet: {conversion['seconds']:.1f} s, {conversion['megabytes']:.0f} MB."
    )
    for name, value in metrics.items():
        if isinstance(value, float):
            print(f"{name}: {value:,.2f}")


if __name__ == "__main__":
    main()
