"""Choose the epoch with the best validation metric, and give its checkpoint the name net_best_epoch."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import Any

from weaver_tasks.base.command_line import run_command, task
from weaver_tasks.base.errors import CheckpointError, ResultError
from weaver_tasks.base.files import copy_file, read_json, write_json
from weaver_tasks.base.record import TaskRecord
from weaver_tasks.settings.stage import stage_parser
from weaver_tasks.training.journal import REMOVAL, Journal
from weaver_tasks.training.selection import best_epoch, chosen_epochs

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
    found = journal.tensors(best["epoch"])
    if found is None:
        raise CheckpointError(
            f"{journal.state(best['epoch'])}: epoch {best['epoch']} is the best by {metric}, but its checkpoint is gone. If {REMOVAL} "
            "removed it, undo the change of the configuration: what was selected before is kept. Or set it to all, "
            f"delete {arguments.checkpoints} and {journal.metrics}, and train again."
        )
    own = journal.published_digest(best["epoch"]) if journal.metrics_file(best["epoch"]).exists() else None
    written = journal.checksums(own) if own else {}
    for source, name in zip(found, ("state", "optimizer"), strict=True):
        checksum = record.inputs[str(record.read(source))]
        if written.get(f"{name}.pt", checksum) != checksum:
            validated = journal.metrics / f"val_epoch-{best['epoch']}.json"
            raise CheckpointError(
                f"{source}: damaged checkpoint (it is not what was written). Delete it and {validated} and run again: "
                f"epoch {best['epoch']} is then trained again."
            )
    if own:
        # Note it before publishing, because an epoch that best_epoch.json has named is never removed.
        journal.note_selected(own, best)
    for source, name in zip(found, ("state", "optimizer"), strict=True):
        target = arguments.checkpoints / f"net_best_epoch_{name}.pt"
        copy_file(source, target)
        record.wrote(target)
    write_json(arguments.best, best)
    record.wrote(arguments.best)
    logger.info("epoch %d is the best of %d: %s %.5f", best["epoch"], len(validations), metric, best["value"])
    if arguments.settings.training.keep_checkpoints == "best_and_last":
        _make_room(journal, best["epoch"], validations, record)


def _make_room(journal: Journal, best: int, validations: list[dict[str, Any]], record: TaskRecord) -> None:
    """Remove all epochs except the best one, the last trained one, and those that other configurations of this run would select."""
    last_trained = max(each["epoch"] for each in validations if not each.get("stopped"))
    keep = {best, last_trained} | chosen_epochs(validations, journal.choices())
    gone = journal.prune(keep, below=max(each["epoch"] for each in validations) + 1)
    record.note(removed=[str(path) for epoch in gone for path in (journal.state(epoch), journal.training_state(epoch))])
    logger.info("%s: removed %d epochs", REMOVAL, len(gone))


if __name__ == "__main__":
    run_command(main)
