"""The loader, scheduler and options of weaver that a network's own `get_train_fn`, `get_evaluate_fn` and `init_opt` expect."""

from __future__ import annotations

import math
import time
from argparse import Namespace
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from weaver_tasks.settings.model import TrainingSettings
from weaver_tasks.training.distributed import world_size
from weaver_tasks.training.epoch import EpochTask
from weaver_tasks.training.optimizers import apply_rates
from weaver_tasks.training.schedules import Rates, constant_in_epoch, step_rates
from weaver_tasks.training.step import Task, TrainStep
from weaver_tasks.weaver_compat.loops import set_tensorboard_helper


class WeaverLoader:
    """Batches in the form of weaver's loader: (X, y, Z), dicts of tensors (inputs, labels), and of the unchanged observers.

    `dataset.config` is the data configuration; `events` and `served` count events and batches, and `last` is the most recent batch.
    """

    def __init__(self, batches: Iterable[Any], configuration: Any, *, steps: int | None) -> None:
        self.dataset = SimpleNamespace(config=configuration)
        self.events = self.served = 0
        self.last: Any = None
        self._batches = batches
        self._steps = steps

    def __len__(self) -> int:
        if self._steps is None:
            raise TypeError("the number of batches is not known in advance")
        return self._steps

    def __iter__(self) -> Iterator[tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Any]]]:
        for batch in self._batches:
            self.events += len(batch.entry)
            self.last = batch
            self.served += 1
            inputs = {name: torch.from_numpy(array) for name, array in batch.inputs.items()}
            labels = {name: torch.from_numpy(array) for name, array in batch.labels.items()}
            yield inputs, labels, dict(batch.observers or {})


class EpochScheduler:
    """The learning rates of one epoch, with the interface of a torch scheduler. Create a new one for each epoch."""

    def __init__(self, optimizer: torch.optim.Optimizer, rates: Rates, *, lr: float, steps: int) -> None:
        self._optimizer, self._rates, self._lr, self._steps = optimizer, rates, lr, steps
        self._update_per_step = not constant_in_epoch(rates)
        self.last_epoch = -1
        self.step()

    def step(self) -> None:
        self.last_epoch += 1
        # Loops call this once more after the last step.
        apply_rates(self._optimizer, step_rates(self._rates, min(self.last_epoch, self._steps - 1), self._steps), lr=self._lr)

    def get_last_lr(self) -> list[float]:
        return [float(group["lr"]) for group in self._optimizer.param_groups]


def weaver_arguments(settings: TrainingSettings, options: Mapping[str, Any], *, steps: int | None) -> Namespace:
    """The command-line options of weaver that its loops and the `init_opt` of public networks read."""
    total = None if steps is None else steps * settings.horizon
    return Namespace(
        use_amp=settings.amp is not None,
        amp_dtype=settings.amp or "fp16",
        start_lr=settings.lr,
        num_epochs=settings.horizon,
        steps_per_epoch=steps,
        batch_size=settings.batch_size,
        optimizer=settings.optimizer.name,
        optimizer_option=list(settings.optimizer.options.items()),
        lr_scheduler=settings.scheduler.name,
        warmup_steps=0 if total is None else round(settings.scheduler.warmup * (steps or 0)),
        lr_finder=None,
        load_epoch=None,
        compile=bool(settings.compile),
        compile_optimizer=settings.compile_optimizer,
        regression_mode=settings.task == "regression",
        network_option=list(options.items()),
        gpus="" if settings.device == "cpu" else "0",
    )


def optimizer_of_network(network: Any, settings: TrainingSettings, *, steps: int | None) -> tuple[torch.optim.Optimizer, float, Any]:
    """The optimizer, the maximum norm of the gradients, and the scheduler, created by the network's own init_opt."""
    arguments = weaver_arguments(settings, network.options, steps=steps)
    optimizer, scheduler = network.init_opt(arguments, network.model, **settings.optimizer.options)
    return optimizer, float(getattr(optimizer, "_clip_grad_norm", math.inf)), scheduler


def custom_epoch(network: Any, engine: TrainStep, configuration: Any) -> Callable[[Any, EpochTask, Any], tuple[dict[str, Any], Any]]:
    """A function that trains an epoch with the network's own train_fn, which reports no loss.

    Its signature is (batches, epoch, TensorBoard or None) -> sums, stream position.
    """
    settings = engine.settings

    def train_one(batches: Any, task: EpochTask, board: Any) -> tuple[dict[str, Any], Any]:
        set_tensorboard_helper(board)
        scheduler = engine.scheduler or EpochScheduler(engine.optimizer, task.rates, lr=settings.lr, steps=batches.steps)
        engine.optimizer._clip_grad_norm = engine.clip_grad_norm  # type: ignore[attr-defined]
        loader = WeaverLoader(batches, configuration, steps=batches.steps)
        network.train_fn(
            engine.runner,
            engine.task.loss_function,
            engine.optimizer,
            scheduler,
            loader,
            engine.device,
            task.epoch,
            steps_per_epoch=batches.steps if settings.steps_per_epoch or settings.samples_per_epoch else None,
            grad_scaler=engine.scaler,
            tb_helper=board,
            extra_args={"args": weaver_arguments(settings, network.options, steps=batches.steps)},
        )
        lr = float(engine.optimizer.param_groups[0]["lr"])
        sums = {"events": loader.events * world_size(), "labels": 0.0, "loss": 0.0, "lr": lr, "steps": loader.served}
        return sums, None if loader.last is None else loader.last.end_position

    return train_one


def evaluate_by_network(
    network: Any, task: Task, model: Any, batches: Any, configuration: Any, *, epoch: int, board: Any = None
) -> dict[str, Any]:
    """Validation metrics from the network's own evaluate_fn, which returns one number: accuracy, or the loss of a regression.

    evaluate_fn does not support uneven numbers of events per rank, so one rank evaluates alone. A number that is not finite becomes None.
    """
    set_tensorboard_helper(board)
    loader = WeaverLoader(batches, configuration, steps=batches.steps)
    start = time.perf_counter()
    value = network.evaluate_fn(
        model,
        loader,
        task.device,
        epoch,
        for_training=True,
        loss_func=task.loss_function,
        steps_per_epoch=None,
        tb_helper=board,
        extra_args={"args": weaver_arguments(task.settings, network.options, steps=batches.steps)},
    )
    seconds = max(time.perf_counter() - start, 1e-9)
    events = loader.events
    name = "accuracy" if task.settings.task == "classification" else "loss"
    known = float(value) if math.isfinite(value) else None
    return {name: known, "samples": events, "seconds": seconds, "samples_per_second": events / seconds}
