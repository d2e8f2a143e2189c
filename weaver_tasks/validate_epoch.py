"""Score the validation events with the network of one epoch, or of several, one after the other.

By default every event counts once; with `validation.reweight` events are drawn as in training. The result does not depend on the
number of ranks.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from weaver_tasks.base.command_line import run_command, task
from weaver_tasks.base.files import read_json, write_json
from weaver_tasks.base.record import TaskRecord
from weaver_tasks.jobs.options import add_data_configuration, add_inputs, add_network
from weaver_tasks.settings.stage import StageSettings, stage_parser
from weaver_tasks.training.journal import Journal, keep_validation, kept_validation, validation_key
from weaver_tasks.training.launch import is_first_rank, launch_ranks

logger = logging.getLogger("weaver_tasks")


def main(argv: list[str] | None = None) -> None:
    parser = stage_parser("validate_epoch", __doc__)
    add_data_configuration(parser)
    add_inputs(parser)
    add_network(parser)
    parser.add_argument("--state", nargs="+", type=Path, required=True, help="the weights, net_epoch-<n>_state.pt of each epoch")
    parser.add_argument("--epoch", nargs="+", type=int, required=True, metavar="N", help="the epochs that they are of")
    parser.add_argument("--training-metrics", nargs="+", type=Path, help="train_epoch-<n>.json of each (default: those beside --output)")
    parser.add_argument("--output", nargs="+", type=Path, required=True, help="write the metrics of each epoch here")
    arguments = parser.parse_args(argv)
    trained = arguments.training_metrics or [
        output.with_name(f"train_epoch-{epoch}.json") for epoch, output in zip(arguments.epoch, arguments.output, strict=False)
    ]
    if not len(arguments.epoch) == len(arguments.state) == len(arguments.output) == len(trained):
        parser.error("--state, --epoch and --output want one value for each epoch")
    epochs = [_Epoch(*values) for values in zip(arguments.epoch, arguments.state, arguments.output, trained, strict=True)]
    # Checked before the ranks communicate, and so before any of these files can be written: all ranks see the same state.
    kept = {epoch: _kept(arguments, epoch) for epoch in epochs}
    found = {epoch: metrics for epoch, place in kept.items() if place and (metrics := kept_validation(place))}
    to_validate = [epoch for epoch in epochs if not (epoch.was_stopped() or epoch in found)]
    if to_validate:
        launch_ranks("validate_epoch", argv, arguments.settings.training)
    with task(arguments, first_rank=is_first_rank()) as record:
        for epoch in epochs:
            if epoch not in to_validate:
                _publish(epoch, found.get(epoch), arguments, record)
        if to_validate:
            _validate(to_validate, kept, arguments, record)


@dataclass(frozen=True)
class _Epoch:
    """An epoch: its number, the file of its weights, the path of its validation metrics, and the metrics of its training."""

    number: int
    state: Path
    output: Path
    trained: Path

    def was_stopped(self) -> bool:
        return self.trained.exists() and bool(read_json(self.trained).get("stopped"))


def _kept(arguments: argparse.Namespace, epoch: _Epoch) -> Path | None:
    """The path in the journal of the result of this validation, whether or not it exists yet; None if it cannot be determined."""
    epoch_digest = read_json(epoch.trained).get("digest") if epoch.trained.exists() else None
    key = validation_key(arguments.settings, manifest=read_json(arguments.inputs)["digest"])
    return Journal(epoch.state.parent, epoch.trained.parent).validation(epoch_digest, key) if epoch_digest and key else None


def _publish(epoch: _Epoch, found: dict[str, Any] | None, arguments: argparse.Namespace, record: TaskRecord) -> None:
    """Write the metrics of an epoch that need not be validated: early stopping skipped it, or the journal has the metrics."""
    record.read(epoch.trained)
    if not is_first_rank():
        return
    if epoch.was_stopped():
        write_json(epoch.output, {"epoch": epoch.number, "stopped": True})
        logger.info("epoch %d was stopped early: nothing to validate", epoch.number)
    else:
        assert found is not None
        record.read(arguments.inputs)
        write_json(epoch.output, found)
        logger.info("epoch %d: found finished in the journal", epoch.number)
    record.wrote(epoch.output)


def _validate(epochs: Sequence[_Epoch], kept: Mapping[_Epoch, Path | None], arguments: argparse.Namespace, record: TaskRecord) -> None:
    """Validate some epochs one after the other, and write the metrics of each as soon as they are known."""
    from weaver_tasks.data.configuration import load_data_configuration
    from weaver_tasks.training.device import choose_device, device_name, prepare_process
    from weaver_tasks.training.distributed import joined_ranks

    training = arguments.settings.training
    configuration = load_data_configuration(arguments.data_config, custom_functions=arguments.custom_functions)
    record.read_configuration(data=arguments.data_config, functions=arguments.custom_functions)
    record.read_code(arguments.network)
    manifest = read_json(record.read(arguments.inputs))
    device = choose_device(training.device)
    record.note(device=device_name(device))
    prepare_process(training, device, cache=epochs[0].state.parent / ".compiled")
    with joined_ranks(device):
        for epoch in epochs:
            for path in (epoch.trained, epoch.state):
                if path == epoch.state or path.exists():
                    record.read(path)
            metrics = validate_one(arguments, epoch, configuration, manifest, device)
            if metrics is None:
                return
            if is_first_rank():
                place = kept[epoch]
                if place is not None and place.parent.is_dir():
                    keep_validation(place, metrics)
                write_json(epoch.output, metrics)
                record.wrote(epoch.output)


def validate_one(
    arguments: argparse.Namespace, epoch: _Epoch, configuration: Any, manifest: dict[str, Any], device: Any
) -> dict[str, Any] | None:
    """The metrics of one epoch over the events of all ranks. They do not depend on epochs that this process validated earlier.

    None on a rank that is not needed, because a network's own evaluate function runs only on the first rank.
    """
    from weaver_tasks.results.metrics.classification import auc
    from weaver_tasks.training import checkpoint
    from weaver_tasks.training.device import compiled, seed_generators
    from weaver_tasks.training.distributed import leave_to_first_rank, rank
    from weaver_tasks.training.step import Task
    from weaver_tasks.training.tensorboard import wanted_board
    from weaver_tasks.training.validation import described, validate
    from weaver_tasks.weaver_compat.adapter import evaluate_by_network
    from weaver_tasks.weaver_compat.imports import configured_network

    settings: StageSettings = arguments.settings
    training = settings.training
    # The network is made anew for each epoch, so that attributes outside of its state do not carry over to the next epoch.
    network = configured_network(arguments.network, configuration.weaver, settings)
    if network.evaluate_fn is not None and not leave_to_first_rank():
        return None
    checkpoint.load_state(network.model, epoch.state)
    seed_generators(settings.seed, "validation", rank())
    pad = not settings.loading.pad_on_device or network.evaluate_fn is not None
    batches = _validation_batches(arguments, epoch, configuration, manifest, device, pad=pad)
    asked = Task.of(network, configuration, training, device)
    model = compiled(network.model.to(device), training)
    board = wanted_board(training, epoch.state.parent.parent / "tensorboard", mode="eval")
    with contextlib.closing(board) if board else contextlib.nullcontext():
        if network.evaluate_fn is not None:
            metrics = evaluate_by_network(network, asked, model, batches, configuration, epoch=epoch.number, board=board)
        else:
            watched = {"description": f"validation {epoch.number}", "samples": batches.samples, "board": board, "epoch": epoch.number}
            metrics = validate(asked, model, batches, area_under_curve=auc, **watched)
    if is_first_rank():
        logger.info("epoch %d: %s", epoch.number, described(metrics))
    return {"epoch": epoch.number, **metrics, "device": str(device.type), "threads": training.threads}


def _validation_batches(
    arguments: argparse.Namespace, epoch: _Epoch, configuration: Any, manifest: dict[str, Any], device: Any, *, pad: bool
) -> Any:
    from weaver_tasks.data.loading.buffers import BufferPool
    from weaver_tasks.data.loading.loader import EpochLoader
    from weaver_tasks.training.device import batch_memory
    from weaver_tasks.training.distributed import rank, world_size

    return EpochLoader(
        manifest,
        configuration,
        arguments.settings,
        split="val",
        seed=arguments.settings.seed,
        epoch=epoch.number,
        rank=rank(),
        world_size=world_size(),
        threads=arguments.settings.loading.num_workers,
        custom_functions=arguments.custom_functions,
        buffers=BufferPool(batch_memory(device)),
        pad=pad,
    )


if __name__ == "__main__":
    run_command(main)
