"""Batches, steps, samples and warm-up: weaver counts per process, here jets are counted over all ranks.

With DataParallel weaver's batch is the total one, here the batch is per rank: B/ranks. With ranks of their own (torchrun) weaver's
batch is per rank, as here, and its samples n per epoch are n x ranks here. Steps are steps in both.
"""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

from weaver_tasks.base.errors import ConfigError
from weaver_tasks.import_weaver.processes import Processes

Amount = tuple[str, Any, str]


def amounts(o: SimpleNamespace, processes: Processes) -> Iterator[Amount]:
    """(key, value, comment) of `training`. Raises ConfigError when a number has no exact counterpart."""
    for suffix in ("", "_val"):
        if getattr(o, f"steps_per_epoch{suffix}") is not None and getattr(o, f"samples_per_epoch{suffix}") is not None:
            option = suffix.replace("_", "-")
            raise ConfigError(f"the weaver command: --steps-per-epoch{option} and --samples-per-epoch{option} are both given. Keep one.")
    yield from _batches(o, processes)
    steps = _steps(o)
    yield "training.steps_per_epoch", o.steps_per_epoch, ""
    if o.samples_per_epoch is not None:
        comment = f"weaver: {o.samples_per_epoch} in each of {processes.copies} ranks" if processes.copies > 1 else ""
        yield "training.samples_per_epoch", o.samples_per_epoch * processes.copies, comment
    yield from _validation(o, processes, steps)
    yield from _warmup(o, steps)


def _batches(o: SimpleNamespace, processes: Processes) -> Iterator[Amount]:
    shares = processes.shares
    if o.batch_size % shares:
        lower = o.batch_size // shares * shares
        raise ConfigError(
            f"the weaver command: --batch-size {o.batch_size} is shared by {shares} GPUs, which have to get the same number of jets here. "
            f"Use {f'{lower} or ' if lower else ''}{lower + shares}, or another number of GPUs."
        )
    yield "training.batch_size", o.batch_size // shares, f"{o.batch_size} in all" if shares > 1 else ""
    for split in ("val", "test"):
        size = getattr(o, f"batch_size_{split}")
        if size is not None:
            # It changes no result: rounded up where it does not divide.
            yield f"training.batch_size_{split}", -(-size // shares), f"{size} in all" if shares > 1 else ""


def _steps(o: SimpleNamespace) -> int | None:
    """Steps of an epoch, in weaver's processes as here."""
    if o.samples_per_epoch is None:
        return o.steps_per_epoch
    steps = o.samples_per_epoch // o.batch_size
    if steps < 1:
        raise ConfigError(
            f"the weaver command: --samples-per-epoch {o.samples_per_epoch} is less than one batch of {o.batch_size}. Give more samples."
        )
    return steps


def _validation(o: SimpleNamespace, processes: Processes, steps: int | None) -> Iterator[Amount]:
    """Jets or batches of a validation, over all ranks; weaver's own default where the command sets only those of training."""
    size = o.batch_size_val or o.batch_size
    one_process = processes.shares == processes.copies == 1
    if o.samples_per_epoch_val is not None:
        samples = o.samples_per_epoch_val
        if samples < 0:
            yield "training.samples_per_epoch_val", -1, "all"
        elif processes.copies == 1:
            yield "training.samples_per_epoch_val", samples, ""
        else:
            comment = f"weaver: {samples} in each of {processes.copies} ranks, in whole batches"
            yield "training.samples_per_epoch_val", samples // size * size * processes.copies, comment
        return
    comment = ""
    validated = o.steps_per_epoch_val
    if validated is None and steps is not None:
        share = (1 - o.train_val_split) / o.train_val_split
        validated = max(1, round(steps * o.batch_size * share / size))
        comment = "weaver's default: as many as --train-val-split leaves for the training samples"
    if validated is None:
        return
    if validated < 0:
        yield "training.steps_per_epoch_val", -1, "all"
    elif one_process:
        yield "training.steps_per_epoch_val", validated, comment
    else:
        comment = comment or f"weaver: {validated} batches of {size} in each process"
        yield "training.samples_per_epoch_val", validated * size * processes.copies, comment


def _warmup(o: SimpleNamespace, steps: int | None) -> Iterator[Amount]:
    """--warmup-steps is a part of all steps if below 1, else steps; here it is epochs."""
    if o.lr_scheduler not in ("flat+linear", "flat+cos", "warmup+cos"):
        return
    if o.warmup_steps < 1:
        yield "training.scheduler.warmup", round(o.warmup_steps * o.num_epochs, 12), f"epochs: {o.warmup_steps:g} of all steps"
    elif steps is None:
        raise ConfigError(
            f"the weaver command: --warmup-steps {o.warmup_steps:g} are steps, and how many make an epoch is not given. "
            "Add --steps-per-epoch or --samples-per-epoch, or give a fraction of all steps, such as --warmup-steps 0.05."
        )
    else:
        yield "training.scheduler.warmup", o.warmup_steps / steps, f"epochs: {o.warmup_steps:g} steps of {steps} an epoch"
