"""Train one epoch: restore the checkpoint before it, train, and write the result into the journal of finished epochs."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from weaver_tasks.base.errors import CheckpointError
from weaver_tasks.training import checkpoint
from weaver_tasks.training.device import seed_generators
from weaver_tasks.training.distributed import from_all_ranks, from_first_rank, rank, world_size
from weaver_tasks.training.journal import Journal
from weaver_tasks.training.metric_sums import MetricSums, averages
from weaver_tasks.training.schedules import Rates
from weaver_tasks.training.step import StepCallbacks, TrainStep, train
from weaver_tasks.training.tensorboard import TensorBoard, wanted_board

logger = logging.getLogger("weaver_tasks")

_CLOCK_EVERY = 16  # steps between two checks of the clock, which all ranks must do in the same step


@dataclass(frozen=True, kw_only=True)
class EpochTask:
    """One epoch to train: its number, its digest, the digest of the epoch before, and its learning rates."""

    epoch: int
    digest: str
    previous: str
    rates: Rates


@dataclass(kw_only=True)
class Trainer:
    """Trains consecutive epochs on one rank.

    open_batches: (epoch, stream position or None) -> an iterable of batches with `steps` and `samples`.
    describe: returns a text that names the files and entries of a batch. board_folder: the folder for the TensorBoard scalars of each step.
    custom: a function that trains an epoch instead of the loop here (the network's own train function):
        (batches, epoch, TensorBoard or None) -> sums, stream position.
    """

    engine: TrainStep
    journal: Journal
    seed: int
    open_batches: Callable[[int, Any], Any]
    describe: Callable[[Any], str]
    board_folder: Path | None = None
    custom: Callable[[Any, EpochTask, TensorBoard | None], tuple[dict[str, Any], Any]] | None = None
    _after: str | None = None
    _position: Any = None
    _global_step: int = 0

    def train(self, task: EpochTask, *, before_writing: Callable[[], None] | None = None) -> dict[str, Any]:
        """Train an epoch and write it into the journal. Returns the metrics of the epoch.

        before_writing: called on the first rank when all steps are done.
        """
        if self._after != task.previous:
            self._load(task)
        seed_generators(self.seed, "epoch", task.epoch, "rank", rank())
        self.engine.join()
        start = time.perf_counter()
        sums = self._train(task)
        metrics = self._metrics(task, sums, time.perf_counter() - start)
        self._after = task.digest
        self._global_step += int(sums["steps"])
        if rank() == 0:
            if before_writing is not None:
                before_writing()
            self._write(task, metrics)
        return metrics

    def _load(self, task: EpochTask) -> None:
        """Restore the state of training after the epoch before."""
        state, training_state = self.journal.state(task.epoch - 1), self.journal.training_state(task.epoch - 1)
        content = checkpoint.load_training_state(training_state, state=state, expected_digest=task.previous)
        checkpoint.load_state(self.engine.model, state)
        self._restore(content, str(training_state))
        self._position, self._global_step = content["position"], content["global_step"]

    def _restore(self, content: Mapping[str, Any], where: str) -> None:
        checkpoint.restore_hidden_buffers(self.engine.model, content["buffers"])
        if content["optimizer"] is not None:
            try:
                self.engine.optimizer.load_state_dict(content["optimizer"])
            except (ValueError, KeyError) as error:
                raise CheckpointError(f"{where}: of another optimizer ({error}). Delete it and run again.") from error
        if self.engine.scaler is not None and content["scaler"] is not None:
            self.engine.scaler.load_state_dict(content["scaler"])
        if self.engine.scheduler is not None and content["scheduler"] is not None:
            self.engine.scheduler.load_state_dict(content["scheduler"])

    def _train(self, task: EpochTask) -> dict[str, Any]:
        snapshot = self._find_snapshot(task)
        if snapshot is None:
            first, position, sums = 0, self._position, None
        else:
            logger.info("epoch %d: goes on from its snapshot after step %d", task.epoch, snapshot["step"])
            first, position, sums = snapshot["step"], snapshot["position"][rank()], snapshot["sums"][rank()]
        batches = self.open_batches(task.epoch, position)
        board = wanted_board(self.engine.settings, self.board_folder, first_step=self._global_step + first)
        watch = StepCallbacks(
            description=f"epoch {task.epoch}",
            samples=batches.samples,
            describe=self.describe,
            board=board,
            steps_before=self._global_step,
            epoch=task.epoch,
            on_step=self._after_step(task, batches.steps),
        )
        with contextlib.closing(board) if board else contextlib.nullcontext():
            if self.custom is not None:
                sums, self._position = self.custom(batches, task, board)
                return sums
            return train(self.engine, batches, rates=task.rates, steps=batches.steps, watch=watch, first_step=first, sums=sums)

    def _after_step(self, task: EpochTask, steps: int) -> Callable[[int, Any, MetricSums], None]:
        minutes = self.engine.settings.snapshot_minutes
        last = time.monotonic()

        def after_step(done: int, batch: Any, tally: MetricSums) -> None:
            nonlocal last
            self._position = batch.end_position
            if minutes is None or done % _CLOCK_EVERY or done == steps:
                return
            if from_first_rank(time.monotonic() - last > 60 * minutes):
                self._take_snapshot(task, done, tally)
                last = time.monotonic()

        return after_step

    def _take_snapshot(self, task: EpochTask, done: int, tally: MetricSums) -> None:
        tally.flush()
        positions, sums = from_all_ranks(self._position), from_all_ranks(tally.sums)
        generators = from_all_ranks(checkpoint.random_states(self.engine.device))
        if rank() == 0:
            content = {
                **self._training_state(task),
                "step": done,
                "position": positions,
                "sums": sums,
                "generators": generators,
                "model": self.engine.model.state_dict(),
            }
            checkpoint.save_snapshot(self.journal.snapshot(task.digest), content)
        self.engine.join()

    def _find_snapshot(self, task: EpochTask) -> dict[str, Any] | None:
        path = self.journal.snapshot(task.digest)
        if not from_first_rank(path.exists()):
            return None
        content = checkpoint.load_snapshot(path)
        if content.get("digest") != task.digest or len(content["generators"]) != world_size():
            raise CheckpointError(f"{path}: of another training. Delete it and run again.")
        self.engine.model.load_state_dict(content["model"])
        self._restore(content, str(path))
        checkpoint.restore_random_states(content["generators"][rank()], self.engine.device)
        return content

    def _training_state(self, task: EpochTask) -> dict[str, Any]:
        engine = self.engine
        return {
            "epoch": task.epoch,
            "digest": task.digest,
            "global_step": self._global_step,
            "position": self._position,
            "optimizer": engine.optimizer.state_dict(),
            "scheduler": None if engine.scheduler is None else engine.scheduler.state_dict(),
            "scaler": None if engine.scaler is None else engine.scaler.state_dict(),
            "buffers": checkpoint.hidden_buffers(engine.model),
        }

    def _metrics(self, task: EpochTask, sums: dict[str, Any], seconds: float) -> dict[str, Any]:
        events = int(sums["events"])
        return {
            "epoch": task.epoch,
            **averages(sums),
            "samples": events,
            "samples_per_second": events / max(seconds, 1e-9),
            "lr": sums["lr"],
            "seconds": seconds,
            "steps": int(sums["steps"]),
            "ranks": world_size(),
            "device": str(self.engine.device.type),
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
        }

    def _write(self, task: EpochTask, metrics: dict[str, Any]) -> None:
        entry = self.journal.entry(task.digest)
        checkpoint.save_state(entry / "state.pt", self.engine.model)
        checkpoint.save_training_state(entry / "optimizer.pt", self._training_state(task), state=entry / "state.pt")
        self.journal.finish(task.digest, metrics)


def first_training_state(optimizer: torch.optim.Optimizer | None, model: torch.nn.Module, digest: str) -> dict[str, Any]:
    """The training state before the first step, which init_model writes.

    optimizer: None if the network's own init_opt creates it.
    """
    return {
        "epoch": -1,
        "digest": digest,
        "global_step": 0,
        "position": None,
        "optimizer": None if optimizer is None else optimizer.state_dict(),
        "scheduler": None,
        "scaler": None,
        "buffers": checkpoint.hidden_buffers(model),
    }
