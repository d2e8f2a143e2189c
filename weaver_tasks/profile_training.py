"""Profile some training steps: a trace file, and a table of the most expensive operations.

One rank, with its own batch size, from the weights of init_model; nothing of the run is changed. `tools.profile_training.steps` says how
many.
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from weaver_tasks.base.command_line import run_command, task
from weaver_tasks.base.record import TaskRecord
from weaver_tasks.jobs.fresh import endless_batches, fresh_trainer, tool_parser

logger = logging.getLogger("weaver_tasks")


def main(argv: list[str] | None = None) -> None:
    parser = tool_parser("profile_training", __doc__)
    parser.add_argument("--trace", type=Path, required=True, metavar="JSON", help="write the Chrome trace here (.json or .json.gz)")
    parser.add_argument("--table", type=Path, required=True, metavar="FILE", help="write the table of operators here")
    arguments = parser.parse_args(argv)
    with task(arguments) as record:
        _profile(arguments, record)


def _profile(arguments: argparse.Namespace, record: TaskRecord) -> None:
    from weaver_tasks.training.device import choose_device, prepare_process
    from weaver_tasks.training.profiler import profile_steps

    training = arguments.settings.training.model_copy(update={"ranks": 1, "nodes": 1})
    device = choose_device(training.device)
    prepare_process(training, device, cache=arguments.checkpoints / ".compiled")
    trainer = fresh_trainer(arguments, training, device, record)
    steps = arguments.settings.profile_training.steps
    spent = profile_steps(trainer.engine, endless_batches(trainer), steps=steps, trace=arguments.trace, table=arguments.table)
    for path in (arguments.trace, arguments.table):
        record.wrote(path)
    logger.info(
        "a step waits %.1f ms for its batch and computes %.1f ms (more than without the profiler): see %s, and open %s in ui.perfetto.dev",
        1e3 * spent["seconds_waiting"],
        1e3 * spent["seconds_computing"],
        arguments.table,
        arguments.trace,
    )


if __name__ == "__main__":
    run_command(main)
