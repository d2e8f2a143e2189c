"""Find a learning rate: train some steps with increasing rates and plot the loss against the rate.

Starts from the weights of init_model and changes nothing of the run. `tools.find_lr` of config.yaml says from which rate to which.
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from weaver_tasks.base.command_line import run_command, task
from weaver_tasks.base.errors import TrainingError
from weaver_tasks.base.files import write_json
from weaver_tasks.base.record import TaskRecord
from weaver_tasks.jobs.fresh import endless_batches, fresh_trainer, tool_parser
from weaver_tasks.settings.model import TrainingSettings
from weaver_tasks.training.launch import is_first_rank, launch_ranks

logger = logging.getLogger("weaver_tasks")


def main(argv: list[str] | None = None) -> None:
    parser = tool_parser("find_lr", __doc__)
    parser.add_argument("--output", type=Path, required=True, metavar="JSON", help="write rates and losses here")
    parser.add_argument("--plot", type=Path, required=True, metavar="PNG", help="draw them here")
    arguments = parser.parse_args(argv)
    training = arguments.settings.training
    launch_ranks("find_lr", argv, training)
    with task(arguments, first_rank=is_first_rank()) as record:
        history = _sweep(arguments, training, record)
        if is_first_rank():
            _write(arguments, training, history, record)


def _sweep(arguments: argparse.Namespace, training: TrainingSettings, record: TaskRecord) -> dict[str, list[float]]:
    from weaver_tasks.training.device import choose_device, prepare_process
    from weaver_tasks.training.distributed import joined_ranks
    from weaver_tasks.training.lr_finder import sweep_rates

    device = choose_device(training.device)
    prepare_process(training, device, cache=arguments.checkpoints / ".compiled")
    with joined_ranks(device):
        trainer = fresh_trainer(arguments, training, device, record)
        return sweep_rates(trainer.engine, endless_batches(trainer), **arguments.settings.find_lr.plain())


def _write(arguments: argparse.Namespace, training: TrainingSettings, history: dict[str, list[float]], record: TaskRecord) -> None:
    from weaver_tasks.results.plots.training import plot_rate_sweep
    from weaver_tasks.training.lr_finder import suggested_rate

    if not history["lr"]:
        raise TrainingError(f"{arguments.network}: the loss of the first batch is not finite. Look at the data.")
    suggested = suggested_rate(history)
    write_json(arguments.output, {"suggested": suggested, "training.lr": training.lr, **history})
    paths = [arguments.output, *plot_rate_sweep(history, arguments.plot, suggested=suggested, configured=training.lr)]
    for path in paths:
        record.wrote(path)
    if suggested is None:
        logger.info("the loss falls nowhere between %.1e and %.1e: see %s", history["lr"][0], history["lr"][-1], arguments.plot)
    else:
        logger.info("the loss falls most steeply at %.1e (training.lr is %.1e): see %s", suggested, training.lr, arguments.plot)


if __name__ == "__main__":
    run_command(main)
