"""The epochs of one train_epoch task: find the finished ones, train the others, publish all, and remove old checkpoints.

The digest of each epoch includes that of the epoch before. The journal stores finished epochs under their digests.
"""

from __future__ import annotations

import argparse
import ast
import functools
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from weaver_tasks.base.digests import digest
from weaver_tasks.base.files import read_json, write_json
from weaver_tasks.base.record import TaskRecord
from weaver_tasks.base.source_digest import source_digest
from weaver_tasks.data.configuration import DataConfiguration, fingerprints, load_data_configuration, trained_on
from weaver_tasks.settings.model import TrainingSettings
from weaver_tasks.settings.stage import StageSettings
from weaver_tasks.training.journal import REMOVAL, Journal, epoch_digest, epoch_uses
from weaver_tasks.training.launch import is_first_rank, is_rank
from weaver_tasks.training.schedules import Rates, epoch_rates
from weaver_tasks.training.selection import best_epoch, chosen_epochs, should_stop

if TYPE_CHECKING:
    import torch

    from weaver_tasks.training.epoch import Trainer

logger = logging.getLogger("weaver_tasks")


class PlannedEpoch(NamedTuple):
    """One epoch of the chain. rates: None if early stopping skips the epoch."""

    epoch: int
    digest: str
    before: str
    rates: Rates | None


class EpochChain:
    """The requested epochs, with their chained digests."""

    def __init__(self, arguments: argparse.Namespace, training: TrainingSettings) -> None:
        self.arguments, self.training = arguments, training
        self.settings: StageSettings = arguments.settings
        self.journal = Journal(arguments.checkpoints, arguments.metrics, first=training.first_epoch)
        self.configuration = load_data_configuration(arguments.data_config, custom_functions=arguments.custom_functions)
        self.manifest = read_json(arguments.inputs)
        self.validations = [read_json(path) for path in arguments.validation]
        self.before = self.journal.published_digest(arguments.epochs[0] - 1)
        self.stopped_before = bool(read_json(self.journal.metrics_file(arguments.epochs[0] - 1)).get("stopped"))
        self.epochs = list(self._chain())

    def _chain(self) -> Iterator[PlannedEpoch]:
        uses = epoch_uses(
            self.settings,
            data=[self.manifest["digest"], _data_fingerprint(self.configuration)],
            network=source_digest(self.arguments.network),
            whole_schedule=_makes_schedule(self.arguments.network),
        )
        before = self.before
        for epoch in self.arguments.epochs:
            rates = None if self._stops(epoch) else self._rates(epoch)
            own = digest(before, "stopped") if rates is None else epoch_digest(before, epoch=epoch, rates=rates, uses=uses)
            yield PlannedEpoch(epoch, own, before, rates)
            before = own

    def _rates(self, epoch: int) -> Rates:
        given = self.settings.epochs.get(str(epoch))
        if given is not None:
            return given.rates
        scheduler = self.training.scheduler
        return epoch_rates(scheduler.name, horizon=self.training.horizon, warmup=scheduler.warmup, epoch=epoch)

    def _stops(self, epoch: int) -> bool:
        early = self.training.early_stopping
        if not early:
            return False
        # A later validation may find a better epoch than those known at an earlier stop, but no epoch is trained after a skipped one.
        return self.stopped_before or should_stop(self.validations, epoch=epoch, patience=early.patience, **self._choice())

    def missing(self) -> list[int]:
        """The epochs that have to be trained."""
        return [epoch for epoch, own, _, rates in self.epochs if rates is not None and not self.journal.is_finished(own)]

    def run(self, record: TaskRecord, make_trainer: Callable[[EpochChain, torch.device], Trainer]) -> None:
        """Train missing epochs, publish all, and remove those that no task will read again. make_trainer: see `jobs.trainer`."""
        self._read(record)
        if is_first_rank():
            self._tell_inputs(record)
        missing = self.missing()
        best = self._best_so_far()
        # A rank joins the others even if it finds no missing epoch, since the files may have changed since the ranks were started.
        if not missing and not is_rank():
            for epoch, own, _, rates in self.epochs:
                self._publish(epoch, own, rates, record)
            if is_first_rank() and best is not None:
                # Remove copies of the last trained epoch (which is kept), so that many skipped epochs do not leave many copies.
                self._note_removed(self.journal.drop_stopped(below=self._no_longer_read()), record)
        else:
            if missing and best is not None and self.journal.tensors(best) is None:
                logger.warning(
                    "epoch %d is the best so far, but %s has removed its weights: unless a later one is better, no epoch can be selected. "
                    "Undo the change of the configuration to get what was selected before.", best, REMOVAL,
                )  # fmt: skip
            missing = self._train(missing, best, record, make_trainer)
        found = [epoch for epoch, _, _, rates in self.epochs if rates is not None and epoch not in missing]
        stopped = [epoch for epoch, _, _, rates in self.epochs if rates is None]
        trained_by = {planned.epoch: self.journal.made_by(planned.digest) for planned in self.epochs if planned.epoch in found}
        record.note(trained_epochs=missing, epochs_from_journal=found, stopped_epochs=stopped, trained_by=trained_by)
        if found:
            logger.info("found finished in the journal: epoch %s", ", ".join(map(str, found)))
        if stopped:
            logger.info("stopped early: epoch %s", ", ".join(map(str, stopped)))

    def _tell_inputs(self, record: TaskRecord) -> None:
        """Write beside the checkpoints on which inputs they are trained, for later predictions."""
        path, content = self.arguments.checkpoints / trained_on.FILE, trained_on.trained_on(self.configuration)
        if not path.is_file() or read_json(path) != content:
            write_json(path, content)
            record.wrote(path)

    def _best_so_far(self) -> int | None:
        """With keep_checkpoints: best_and_last, the best epoch validated so far, otherwise None.

        Raises ResultError if the metric is missing, before any training.
        """
        if self.training.keep_checkpoints != "best_and_last":
            return None
        best = best_epoch(self.validations, **self._choice())
        return best["epoch"] if best else None

    def _no_longer_read(self) -> int:
        """The first epoch that a task may still read, other than as the best.

        The validations in the input reach up to two epochs before the first one of this task. Snakemake knows that they are finished, so no
        task will read their checkpoints again.
        """
        return min(max(each["epoch"] for each in self.validations), self.arguments.epochs[0] - 2) + 1

    def _make_room(self, best: int | None, record: TaskRecord) -> None:
        """Remove old checkpoints when an epoch is trained and will be written next, so that no error can occur in between.

        With keep_checkpoints: best_and_last, remove all epochs that are no longer needed, except the best so far (of this
        configuration, and of other configurations that trained here).
        """
        early = self.training.early_stopping
        patience = early.patience if early else None
        self.journal.note_choice({**self._choice(), "epochs": self.training.epochs, "patience": patience})
        if best is None:
            return
        keep = {best} | chosen_epochs(self.validations, self.journal.choices())
        self._note_removed(self.journal.prune(keep, below=self._no_longer_read()), record)

    def _note_removed(self, epochs: list[int], record: TaskRecord) -> None:
        record.note(removed=[str(path) for epoch in epochs for path in (self.journal.state(epoch), self.journal.training_state(epoch))])

    def _choice(self) -> dict[str, str]:
        """The metric that selects the best epoch, and its mode (min or max)."""
        return self.settings.best_epoch_by()

    def _read(self, record: TaskRecord) -> None:
        """Record the files from which the first epoch starts. Missing files are reported later, when they are needed."""
        arguments = self.arguments
        record.read_configuration(data=arguments.data_config, functions=arguments.custom_functions)
        record.read_code(arguments.network)
        before = arguments.epochs[0] - 1
        state = [self.journal.state(before), self.journal.training_state(before), self.journal.metrics_file(before)]
        for path in (arguments.inputs, *(path for path in state if path.exists()), *arguments.validation):
            record.read(path)

    def _train(
        self, missing: list[int], best: int | None, record: TaskRecord, make_trainer: Callable[[EpochChain, torch.device], Trainer]
    ) -> list[int]:
        """Train the epochs that the first rank finds missing, and publish all. Returns the trained epochs."""
        # Import torch here, so that publishing finished epochs does not wait for it.
        from weaver_tasks.training.device import choose_device, device_name, prepare_process
        from weaver_tasks.training.distributed import from_first_rank, joined_ranks
        from weaver_tasks.training.epoch import EpochTask
        from weaver_tasks.training.validation import described

        device = choose_device(self.training.device)
        record.note(device=device_name(device))
        prepare_process(self.training, device, cache=self.arguments.checkpoints / ".compiled")
        with joined_ranks(device):
            # The first rank holds the lock, so its list of missing epochs is valid for all ranks.
            missing = from_first_rank(missing)
            trainer = make_trainer(self, device) if missing else None
            make_room: Callable[[], None] | None = functools.partial(self._make_room, best, record)
            for epoch, own, before, rates in self.epochs:
                if trainer is not None and epoch in missing and rates is not None:
                    metrics = trainer.train(EpochTask(epoch=epoch, digest=own, previous=before, rates=rates), before_writing=make_room)
                    make_room = None
                    if is_first_rank():
                        logger.info("epoch %d: %s, %.0f jets/s", epoch, described(metrics), metrics["samples_per_second"])
                if is_first_rank():
                    self._publish(epoch, own, rates, record)
                from_first_rank(None)  # other ranks wait here until the checkpoint is published
        return missing

    def _publish(self, epoch: int, own: str, rates: Rates | None, record: TaskRecord) -> None:
        for path in self.journal.publish_stopped(epoch, own) if rates is None else self.journal.publish(epoch, own):
            record.wrote(path)


def _data_fingerprint(configuration: DataConfiguration) -> str:
    """A digest of the parts of the resolved data configuration that training uses: standardization, weights, inputs, labels."""
    return digest(fingerprints.batches(configuration), fingerprints.weighting(configuration))


def _makes_schedule(network: Path) -> bool:
    """Whether the network configuration defines init_opt, which creates its own optimizer and schedule."""
    return any(isinstance(node, ast.FunctionDef) and node.name == "init_opt" for node in ast.parse(network.read_text()).body)
