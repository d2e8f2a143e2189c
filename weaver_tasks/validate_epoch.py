"""Score the validation events with the network of one epoch.

By default every event counts once; with `validation.reweight` events are drawn as in training. The result does not depend on the
number of ranks.
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import Any

from weaver_tasks.base.command_line import run_command, stage_parser, task
from weaver_tasks.base.files import copy_file, read_json, write_json
from weaver_tasks.base.record import TaskRecord
from weaver_tasks.training.journal import Journal, validation_key
from weaver_tasks.training.launch import is_first_rank, launch_ranks
from weaver_tasks.training.settings import TrainingSettings

logger = logging.getLogger("weaver_tasks")


def main(argv: list[str] | None = None) -> None:
    parser = stage_parser("validate_epoch", __doc__)
    parser.add_argument("--data-config", type=Path, required=True, help="data_config.auto.yaml")
    parser.add_argument("--custom-functions", type=Path, help="functions that the data configuration's expressions use")
    parser.add_argument("--inputs", type=Path, required=True, help="the manifest of input files")
    parser.add_argument("--network", type=Path, required=True, help="the network configuration (Python)")
    parser.add_argument("--state", type=Path, required=True, help="the weights, net_epoch-<n>_state.pt")
    parser.add_argument("--epoch", type=int, required=True, metavar="N", help="the epoch that they are of")
    parser.add_argument("--training-metrics", type=Path, help="train_epoch-<n>.json (default: the one beside --output)")
    parser.add_argument("--output", type=Path, required=True, help="write the metrics here")
    arguments = parser.parse_args(argv)
    training = TrainingSettings.of(arguments.settings)
    if _was_stopped(arguments):
        with task(arguments, first_rank=is_first_rank()) as record:
            record.read(_training_metrics(arguments))
            write_json(arguments.output, {"epoch": arguments.epoch, "stopped": True})
            record.wrote(arguments.output)
            logger.info("epoch %d was stopped early: nothing to validate", arguments.epoch)
        return
    kept = _kept(arguments)
    if kept is not None and kept.exists():
        with task(arguments, first_rank=is_first_rank()) as record:
            for path in (arguments.inputs, _training_metrics(arguments)):
                record.read(path)
            copy_file(kept, arguments.output)
            record.wrote(arguments.output)
            logger.info("epoch %d: found finished in the journal", arguments.epoch)
        return
    launch_ranks("validate_epoch", argv, training)
    with task(arguments, first_rank=is_first_rank()) as record:
        metrics = validate_one(arguments, training, record)
        if is_first_rank():
            if kept is not None and kept.parent.is_dir():
                write_json(kept, metrics)
            write_json(arguments.output, metrics)
            record.wrote(arguments.output)


def _kept(arguments: argparse.Namespace) -> Path | None:
    """Where the journal keeps what this validation finds, or has found before; None where that cannot be told."""
    trained = _training_metrics(arguments)
    epoch_digest = read_json(trained).get("digest") if trained.exists() else None
    key = validation_key(arguments.settings, manifest=read_json(arguments.inputs)["digest"])
    return Journal(arguments.state.parent, trained.parent).validation(epoch_digest, key) if epoch_digest and key else None


def _training_metrics(arguments: argparse.Namespace) -> Path:
    return arguments.training_metrics or arguments.output.with_name(f"train_epoch-{arguments.epoch}.json")


def _was_stopped(arguments: argparse.Namespace) -> bool:
    trained = _training_metrics(arguments)
    return trained.exists() and bool(read_json(trained).get("stopped"))


def validate_one(arguments: argparse.Namespace, training: TrainingSettings, record: TaskRecord) -> dict[str, Any]:
    """The metrics of one epoch over the events of all ranks."""
    from weaver_tasks.data.configuration import load_data_configuration
    from weaver_tasks.networks.loading import configured_network
    from weaver_tasks.training import checkpoint
    from weaver_tasks.training.device import choose_device, compiled, device_name, prepare_process, seed_generators
    from weaver_tasks.training.distributed import joined_ranks, rank
    from weaver_tasks.training.loop import Task
    from weaver_tasks.training.validation import described, validate
    from weaver_tasks.training.weaver_adapter import evaluate_by_network

    settings = arguments.settings
    configuration = load_data_configuration(arguments.data_config, custom_functions=arguments.custom_functions)
    record.read_configuration(data=arguments.data_config, functions=arguments.custom_functions)
    if _training_metrics(arguments).exists():
        record.read(_training_metrics(arguments))
    manifest = read_json(record.read(arguments.inputs))
    device = choose_device(training.device)
    record.note(device=device_name(device))
    prepare_process(training, device, cache=arguments.state.parent / ".compiled")
    with joined_ranks(device):
        network = configured_network(record.read_code(arguments.network), configuration.weaver, settings)
        checkpoint.load_state(network.model, record.read(arguments.state))
        seed_generators(settings.get("seed", 1), "validation", rank())
        pad = not (settings.get("loading") or {}).get("pad_on_device") or network.evaluate_fn is not None
        batches = _validation_batches(arguments, configuration, manifest, device, pad=pad)
        asked = Task.of(network, configuration, training, device)
        model = compiled(network.model.to(device), training)
        if network.evaluate_fn is not None:
            metrics = evaluate_by_network(network, asked, model, batches, configuration, epoch=arguments.epoch)
        else:
            metrics = validate(asked, model, batches, description=f"validation {arguments.epoch}", samples=batches.samples)
    logger.info("epoch %d: %s", arguments.epoch, described(metrics))
    return {"epoch": arguments.epoch, **metrics, "device": str(device.type), "threads": training.threads}


def _validation_batches(arguments: argparse.Namespace, configuration: Any, manifest: dict[str, Any], device: Any, *, pad: bool) -> Any:
    from weaver_tasks.data.buffers import BufferPool
    from weaver_tasks.data.loader import EpochLoader
    from weaver_tasks.training.device import batch_memory
    from weaver_tasks.training.distributed import rank, world_size

    return EpochLoader(
        manifest,
        configuration,
        arguments.settings,
        split="val",
        seed=arguments.settings.get("seed", 1),
        epoch=arguments.epoch,
        rank=rank(),
        world_size=world_size(),
        threads=(arguments.settings.get("loading") or {}).get("num_workers", 1),
        custom_functions=arguments.custom_functions,
        buffers=BufferPool(batch_memory(device)),
        pad=pad,
    )


if __name__ == "__main__":
    run_command(main)
