"""Choose the epoch with the best validation metric, and give its checkpoint the name net_best_epoch."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from weaver_tasks.base.command_line import run_command, task
from weaver_tasks.base.errors import CheckpointError, ResultError
from weaver_tasks.base.files import copy_file, read_json, write_json
from weaver_tasks.base.record import TaskRecord
from weaver_tasks.settings.stage import stage_parser
from weaver_tasks.training.journal import REMOVAL, Journal, is_placeholder
from weaver_tasks.training.selection import best_epoch

logger = logging.getLogger("weaver_tasks")


def main(argv: list[str] | None = None) -> None:
    parser = stage_parser("select_best_epoch", __doc__)
    parser.add_argument("--validation", type=Path, nargs="+", required=True, metavar="FILE", help="val_epoch-<n>.json of all epochs")
    parser.add_argument("--checkpoints", type=Path, required=True, metavar="FOLDER", help="where checkpoints are")
    parser.add_argument("--best", type=Path, required=True, help="write the chosen epoch here")
    arguments = parser.parse_args(argv)
    with task(arguments) as record:
        select(arguments, record)


def select(arguments: argparse.Namespace, record: TaskRecord) -> None:
    choice = arguments.settings.best_epoch_by()
    metric = choice["metric"]
    validations = [read_json(record.read(path)) for path in arguments.validation]
    best = best_epoch(validations, **choice)
    if best is None:
        raise ResultError(f"{arguments.validation[0].parent}: no epoch was validated. Train at least one (training.epochs).")
    journal = Journal(arguments.checkpoints, arguments.validation[0].parent)
    for source, name in ((journal.state(best["epoch"]), "state"), (journal.companion(best["epoch"]), "optimizer")):
        if not source.exists() or is_placeholder(source):
            raise CheckpointError(
                f"{source}: epoch {best['epoch']} is the best by {metric}, but its checkpoint is gone. If {REMOVAL} removed it, choose the "
                f"metric that was used before; or set it to all, delete {arguments.checkpoints} and {journal.metrics}, and train again."
            )
        target = arguments.checkpoints / f"net_best_epoch_{name}.pt"
        copy_file(record.read(source), target)
        record.wrote(target)
    write_json(arguments.best, best)
    record.wrote(arguments.best)
    logger.info("epoch %d is the best of %d: %s %.5f", best["epoch"], len(validations), metric, best["value"])
    if arguments.settings.training.keep_checkpoints == "best_and_last":
        last = max(each["epoch"] for each in validations)
        gone = journal.prune({best["epoch"], last}, below=last)
        record.note(removed=[str(path) for epoch in gone for path in (journal.state(epoch), journal.companion(epoch))])
        logger.info("%s: removed %d epochs", REMOVAL, len(gone))


if __name__ == "__main__":
    run_command(main)
