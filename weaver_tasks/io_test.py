"""Measure how fast the loader serves the batches of a configuration, without a network behind it.

    python -m weaver_tasks.io_test --data-config results/demo/data_config.auto.yaml --inputs results/demo/inputs.json

Batch size, fractions, windows and the like are those of the run, once it has trained, validated or predicted (as --split says);
--settings gives others.
"""

from __future__ import annotations

import argparse
import logging
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from weaver_tasks.base.command_line import run_command, task
from weaver_tasks.base.errors import ConfigError, did_you_mean
from weaver_tasks.base.files import read_json, write_json
from weaver_tasks.base.maps import merge
from weaver_tasks.base.progress import Progress
from weaver_tasks.data.configuration import DataConfiguration, load_data_configuration
from weaver_tasks.data.loading.batch import Batch
from weaver_tasks.data.loading.loader import EpochLoader
from weaver_tasks.data.loading.prediction_order import prediction_batches, prediction_entries
from weaver_tasks.jobs.options import add_data_configuration, add_inputs
from weaver_tasks.settings.stage import StageSettings, stage_parser, stage_settings

logger = logging.getLogger("weaver_tasks")

_READERS = {"train": "train_epoch", "val": "validate_epoch", "test": "predict"}


def main(argv: list[str] | None = None) -> None:
    parser = stage_parser("io_test", __doc__)
    add_data_configuration(parser)
    add_inputs(parser)
    parser.add_argument("--split", choices=["train", "val", "test"], default="train")
    parser.add_argument("--group", help="only the files of this group (default: all; of the test files the first)")
    parser.add_argument("--epochs", type=int, default=1, help="how many epochs to go through")
    parser.add_argument("--output", type=Path, metavar="JSON", help="write the results here as well")
    arguments = parser.parse_args(argv)
    with task(arguments) as record:
        configuration = load_data_configuration(record.read(arguments.data_config), custom_functions=arguments.custom_functions)
        manifest = read_json(record.read(arguments.inputs))
        given = arguments.settings.model_dump(exclude_unset=True)
        settings = stage_settings(merge(_settings_of_run(arguments.inputs.parent, arguments.split), given), "io_test")
        epochs = []
        for epoch in range(arguments.epochs):
            begin = time.perf_counter()
            batches, samples = _batches(arguments, settings, configuration, manifest, epoch)
            epochs.append(measure(batches, begin=begin, samples=samples, description=f"epoch {epoch}"))
            logger.info("epoch %d: %s", epoch, described(epochs[-1]))
        if arguments.output:
            write_json(arguments.output, {"split": arguments.split, "epochs": epochs})
            record.wrote(arguments.output)


def measure(batches: Iterable[Batch], *, begin: float, samples: int | None, description: str) -> dict[str, Any]:
    """Iterate over batches and measure the rate.

    begin: time.perf_counter() when the loader was created. Returns jets, megabytes (10^6 bytes of inputs), seconds and the
    rates; first_batch_seconds; waited_seconds, for batches after the first, which threads had a chance to have ready.
    """
    jets, size, waited, first = 0, 0, 0.0, 0.0
    with Progress(description, total=samples) as bar:
        asked = time.perf_counter()
        for batch in batches:
            now = time.perf_counter()
            if jets:
                waited += now - asked
            else:
                first = now - begin
            jets += len(batch)
            size += sum(array.nbytes for array in batch.inputs.values())
            bar.advance(len(batch))
            del batch
            asked = time.perf_counter()
    seconds = time.perf_counter() - begin
    return {
        "jets": jets,
        "megabytes": size / 1e6,
        "seconds": seconds,
        "jets_per_second": jets / seconds,
        "megabytes_per_second": size / 1e6 / seconds,
        "first_batch_seconds": first,
        "waited_seconds": waited,
    }


def described(metrics: dict[str, Any]) -> str:
    """The result of `measure` in one line."""
    return (
        f"{metrics['jets']:,} jets in {metrics['seconds']:.2f} s: {metrics['jets_per_second']:,.0f} jets/s, "
        f"{metrics['megabytes_per_second']:,.0f} MB/s; first batch after {metrics['first_batch_seconds']:.2f} s, "
        f"then waited {metrics['waited_seconds']:.2f} s"
    )


def _settings_of_run(folder: Path, split: str) -> dict[str, Any]:
    """The settings of the latest task of the run that read this split; {} if there is none."""
    stage = _READERS[split]
    records = sorted((folder / "provenance" / "tasks" / stage).rglob("*.json"), key=lambda path: path.stat().st_mtime)
    if not records:
        logger.info("%s: no task of %s yet: the settings are those of --settings, or the defaults", folder, stage)
        return {}
    settings = read_json(records[-1])["settings"]
    logger.info("settings of %s", records[-1])
    return settings


def _batches(
    arguments: argparse.Namespace, settings: StageSettings, configuration: DataConfiguration, manifest: dict[str, Any], epoch: int
) -> tuple[Iterable[Batch], int | None]:
    loading = settings.loading
    options = {
        "threads": loading.num_workers,
        "custom_functions": arguments.custom_functions,
        "pad": not loading.pad_on_device,
    }
    # If there are no separate validation files, a part of the training files is used for validation.
    own = any(record["split"] == arguments.split for record in manifest["files"])
    split = arguments.split if own else "train"
    groups = list(dict.fromkeys(record["group"] for record in manifest["files"] if record["split"] == split))
    if arguments.group and arguments.group not in groups:
        raise ConfigError(
            f"{arguments.inputs}: has no {split} files of group '{arguments.group}'.{did_you_mean(arguments.group, groups)} "
            f"See data.{split}."
        )
    if arguments.split != "test":
        if arguments.group:
            manifest = {**manifest, "files": [record for record in manifest["files"] if record["group"] == arguments.group]}
        loader = EpochLoader(manifest, configuration, settings, split=arguments.split, seed=settings.seed, epoch=epoch, **options)
        return loader, None
    if not own:
        raise ConfigError(f"{arguments.inputs}: has no test files. Name some in data.test, or give --split train.")
    group: str = arguments.group or groups[0]
    entries = prediction_entries(manifest, settings, group=group)
    return prediction_batches(manifest, configuration, settings, group=group, **options), entries


if __name__ == "__main__":
    run_command(main)
