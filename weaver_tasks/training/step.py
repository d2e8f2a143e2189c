"""Train a model on the batches of an epoch: the single training step, and the loop over steps.

A batch has `inputs` {group: float32 array, or another input of `padding.on_device`}, `labels` {name: array}, `file` and `entry` (B,),
and `end_position`.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from weaver_tasks.base.errors import NetworkError
from weaver_tasks.base.progress import Progress
from weaver_tasks.base.user_code import users_code
from weaver_tasks.settings.model import TrainingSettings
from weaver_tasks.training.device import compiled, enough_memory, gradient_scaler, mixed_precision
from weaver_tasks.training.distributed import rank, synchronize_batch_norm, world_size
from weaver_tasks.training.losses import LossFunction, StepOutput, default_loss, outcome
from weaver_tasks.training.metric_sums import MetricSums, averages
from weaver_tasks.training.optimizers import apply_rates, compiled_step
from weaver_tasks.training.padding import on_device
from weaver_tasks.training.schedules import Rates, step_rates
from weaver_tasks.training.tensorboard import TensorBoard


@dataclass(frozen=True, kw_only=True)
class Task:
    """The task of a model (inputs, labels, loss function) and the device that computes it.

    input_names: groups in the order of the model's arguments. label_names: labels and their masks. classes: the number of classes, if
    known.
    """

    settings: TrainingSettings
    device: torch.device
    input_names: Sequence[str]
    label_names: Sequence[str]
    loss_function: LossFunction
    classes: int | None = None

    @classmethod
    def of(cls, network: Any, configuration: Any, settings: TrainingSettings, device: torch.device) -> Task:
        """The task of `network` in training and validation. configuration: that of the data, with input_names and label_names."""
        loss = default_loss(settings.task) if network.loss is None else network.loss
        return cls(
            settings=settings,
            device=device,
            input_names=configuration.input_names,
            label_names=configuration.label_names,
            loss_function=loss.to(device) if hasattr(loss, "to") else loss,
            classes=configuration.class_count,
        )

    def run(self, runner: nn.Module, batch: Any) -> StepOutput:
        """Evaluate the model `runner` on a batch, and compute its loss."""
        inputs, labels = on_device(batch.inputs, self.device), on_device(batch.labels, self.device)
        with mixed_precision(self.settings, self.device):
            # With several ranks, an error may also come from the communication between them.
            options: dict[str, Any] = {"only_inside": world_size() > 1, "passing": (torch.OutOfMemoryError,)}
            with users_code(_file_of(runner), NetworkError, doing="its model", **options):
                output = runner(*(inputs[name] for name in self.input_names))
            return outcome(self.settings.task, output, labels, self.label_names, self.loss_function, classes=self.classes)


def _file_of(runner: nn.Module) -> str:
    """The file that defines a model (bare, compiled or distributed), or its module if there is no file."""
    alone = runner.module if isinstance(runner, DistributedDataParallel) else runner
    module = type(getattr(alone, "_orig_mod", alone)).__module__
    return getattr(sys.modules.get(module), "__file__", None) or module


@dataclass(kw_only=True)
class TrainStep:
    """A model with its optimizer, which performs training steps on one rank.

    model: the bare model, on the device of the task. scheduler: a torch scheduler created by the network's own init_opt; None: the rates of
    the epoch are applied.
    """

    task: Task
    model: nn.Module
    optimizer: torch.optim.Optimizer
    clip_grad_norm: float = math.inf
    scheduler: Any = None
    scaler: torch.amp.GradScaler | None = field(init=False)
    runner: nn.Module = field(init=False)

    def __post_init__(self) -> None:
        self.settings, self.device = self.task.settings, self.task.device
        self.scaler = gradient_scaler(self.settings, self.device)
        if world_size() > 1:
            self.model = synchronize_batch_norm(self.model, self.device)
        self._compiled = compiled(self.model, self.settings)
        self._optimizer_step = compiled_step(self.optimizer) if self.settings.compile_optimizer else self.optimizer.step
        self.join()

    @property
    def schedules_steps(self) -> bool:
        """Whether `scheduler` advances after every step rather than every epoch (weaver's attribute `_update_per_step`)."""
        return bool(getattr(self.scheduler, "_update_per_step", False))

    def join(self) -> None:
        """Wrap the model in a new DistributedDataParallel, which averages gradients over ranks.

        This is done for each epoch and after each snapshot. DistributedDataParallel fixes the order of gradient sums in its first steps,
        and a rerun from a checkpoint or snapshot must get the same order.
        """
        self.runner = self._compiled
        if world_size() > 1:
            on = [self.device] if self.device.type == "cuda" else None
            self.runner = DistributedDataParallel(self._compiled, device_ids=on)

    def step(self, batch: Any) -> tuple[StepOutput, Tensor]:
        """Forward pass, backward pass, gradient clipping, update.

        Returns the output of the step and the norm of the gradients (nan unless needed for clipping or TensorBoard).
        Raises NetworkError if the code of the network fails, and TrainingError if the memory of the GPU is too small.
        """
        with enough_memory("batch_size", len(batch.entry)):
            return self._step(batch)

    def _step(self, batch: Any) -> tuple[StepOutput, Tensor]:
        self.optimizer.zero_grad(set_to_none=True)
        result = self.task.run(self.runner, batch)
        loss = self._share_of_all_ranks(result)
        norm = torch.tensor(math.nan)
        scaler = self.scaler
        (loss if scaler is None else scaler.scale(loss)).backward()
        if self.clip_grad_norm != math.inf:
            if scaler is not None:
                scaler.unscale_(self.optimizer)
            norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.clip_grad_norm).detach()
        elif self.settings.tensorboard:
            # Compute the norm only: monitoring must not change the gradients.
            if scaler is not None:
                scaler.unscale_(self.optimizer)
            norm = nn.utils.get_total_norm([parameter.grad for parameter in self.model.parameters() if parameter.grad is not None])
        if scaler is None:
            self._optimizer_step()
        else:
            scaler.step(self.optimizer)
            scaler.update()
        return result, norm

    def _share_of_all_ranks(self, result: StepOutput) -> Tensor:
        """The loss, weighted such that the mean of gradients over ranks is the gradient of the mean loss over all labels.

        All ranks have the same number of events; only the number of unmasked particles differs.
        """
        if world_size() == 1 or not any(name.endswith("_mask") for name in self.task.label_names):
            return result.loss
        total = torch.tensor(float(result.count), device=self.device)
        dist.all_reduce(total)
        if not result.count:
            # Return zero, but as part of the graph, so that this rank takes part in the averaging of gradients.
            return result.loss.nan_to_num(0.0) * 0.0
        return result.loss * (result.count * world_size() / total)


@dataclass(frozen=True, kw_only=True)
class StepCallbacks:
    """Monitoring of the training steps: progress bar, TensorBoard, and `on_step(steps done, batch, metric sums)`, called after every step.

    steps_before: number of steps in earlier epochs, the offset of TensorBoard's step count.
    """

    description: str
    samples: int | None = None
    describe: Callable[[Any], str] = lambda batch: f"{len(batch.entry)} events"
    board: TensorBoard | None = None
    epoch: int = 0
    steps_before: int = 0
    on_step: Callable[[int, Any, MetricSums], None] | None = None


def train(
    engine: TrainStep,
    batches: Iterable[Any],
    *,
    rates: Rates,
    steps: int,
    watch: StepCallbacks,
    first_step: int = 0,
    sums: Mapping[str, float] | None = None,
) -> dict[str, float]:
    """Train on `batches`: those of an epoch of `steps` steps, starting at step `first_step`.

    sums: metric sums of the steps before first_step. Returns the sums over all ranks, with `lr` of the last step and `steps`.
    Raises TrainingError if a loss is not finite.
    """
    engine.model.train()
    engine.runner.train()
    board = watch.board

    def on_board(step: int, step_sums: Mapping[str, float], labels: int, besides: Mapping[str, float]) -> None:
        """Write the loss, metrics, learning rate and gradient norm of a step. On a GPU several steps arrive together."""
        if board is not None:
            means = averages({**step_sums, "labels": labels, "loss": step_sums["loss"] * labels})
            board.step(watch.steps_before + step + 1, {**means, **besides})

    tally = MetricSums(
        engine.settings.task,
        engine.device,
        where=watch.description,
        describe=watch.describe,
        on_step=None if board is None else on_board,
        skips=engine.scaler is not None,
    )
    if sums:
        tally.restore(sums)
    done, result = first_step, None
    with Progress(watch.description, total=watch.samples, quiet=rank() > 0) as bar:
        if sums:
            bar.advance(int(sums["events"]) * world_size())
        for batch in batches:
            if engine.scheduler is None:
                apply_rates(engine.optimizer, step_rates(rates, done, steps), lr=engine.settings.lr)
            result, norm = engine.step(batch)
            events = len(batch.entry)
            fetched = tally.add(done, batch, events, result, **({} if board is None else {"lr": _lr(engine), "gradient_norm": norm}))
            done += 1
            bar.advance(events * world_size(), **(_shown(tally, engine) if fetched else {}))
            if board is not None:
                board.output(result.output, engine.model, epoch=watch.epoch, batch=done)
            if engine.scheduler is not None and engine.schedules_steps:
                engine.scheduler.step()
            if watch.on_step is not None:
                watch.on_step(done, batch, tally)
    lr = _lr(engine)
    if engine.scheduler is not None and not engine.schedules_steps:
        engine.scheduler.step()
    whole = tally.over_ranks()
    if board is not None:
        board.epoch(watch.epoch, averages(whole))
        if result is not None:
            board.output(result.output, engine.model, epoch=watch.epoch, batch=-1)
    return {**whole, "lr": lr, "steps": done}


def _lr(engine: TrainStep) -> float:
    return float(engine.optimizer.param_groups[0]["lr"])


def _shown(tally: MetricSums, engine: TrainStep) -> dict[str, str]:
    labels = max(tally.sums["labels"], 1)
    shown = {"loss": f"{tally.sums['loss'] / labels:.4f}", "lr": f"{_lr(engine):.1e}"}
    if "correct" in tally.sums:
        shown["accuracy"] = f"{tally.sums['correct'] / labels:.4f}"
    return shown
