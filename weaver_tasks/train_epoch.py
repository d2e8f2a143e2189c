"""Train one epoch, or several in a row, each from the complete state after the epoch before.

Epochs that are in the journal already (checkpoints/.journal) are only published under their names, in a fraction of a second.
For what is missing this process trains, or, with `training.ranks` and `training.nodes`, starts the ranks that do.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from weaver_tasks.base.command_line import run_command, task
from weaver_tasks.base.files import exclusive
from weaver_tasks.jobs.epoch_chain import EpochChain
from weaver_tasks.jobs.options import add_data_configuration, add_inputs, add_network
from weaver_tasks.jobs.trainer import make_trainer
from weaver_tasks.settings.stage import stage_parser
from weaver_tasks.training.launch import is_first_rank, is_rank, launch_ranks


def main(argv: list[str] | None = None) -> None:
    parser = stage_parser("train_epoch", __doc__)
    add_data_configuration(parser)
    add_inputs(parser)
    add_network(parser)
    parser.add_argument("--epochs", type=int, nargs="+", required=True, metavar="N", help="the epochs to train, consecutive, from 0")
    parser.add_argument("--checkpoints", type=Path, required=True, metavar="FOLDER", help="where checkpoints are")
    parser.add_argument("--metrics", type=Path, required=True, metavar="FOLDER", help="where metrics are")
    parser.add_argument("--validation", type=Path, nargs="*", default=[], metavar="FILE", help="val_epoch-<n>.json so far")
    arguments = parser.parse_args(argv)
    training = arguments.settings.training
    chain = EpochChain(arguments, training)
    if not is_rank() and chain.missing():
        launch_ranks("train_epoch", argv, training)
    if not is_rank() and training.nodes > 1 and os.environ.get("SLURM_NODEID", "0") != "0":
        return
    with task(arguments, first_rank=is_first_rank()) as record:
        lock = exclusive(arguments.checkpoints / ".lock") if is_first_rank() else contextlib.nullcontext()
        with lock:
            chain.run(record, make_trainer)


if __name__ == "__main__":
    run_command(main)
