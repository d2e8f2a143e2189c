"""Convert batch sizes, steps, samples and warm-up: weaver counts per process, while here jets are counted over all ranks.

With DataParallel, weaver's batch size B is the total; here the batch size is per rank, B/ranks. With one process per rank (torchrun),
weaver's batch size is per rank, as here, and its n samples per epoch are n x ranks here. Steps are the same in both.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from types import SimpleNamespace
from typing import Any

from weaver_tasks.import_weaver.processes import Processes
from weaver_tasks.import_weaver.result import TODO

Amount = tuple[str, Any, str]


def amounts(o: SimpleNamespace, processes: Processes) -> Iterator[Amount]:
    """Yield (key, value, comment) of `training`. The value is TODO if there is no exact equivalent; the comment then says what to do."""
    yield from _batches(o, processes)
    if o.steps_per_epoch is not None and o.samples_per_epoch is not None:
        yield "training.samples_per_epoch", TODO, _both(o, "")
        steps = None
    else:
        steps = yield from _training(o, processes)
    if o.steps_per_epoch_val is not None and o.samples_per_epoch_val is not None:
        yield "training.samples_per_epoch_val", TODO, _both(o, "_val")
    else:
        yield from _validation(o, processes, steps)
    yield from _warmup(o, steps)


def _both(o: SimpleNamespace, suffix: str) -> str:
    steps, samples, option = getattr(o, f"steps_per_epoch{suffix}"), getattr(o, f"samples_per_epoch{suffix}"), suffix.replace("_", "-")
    return f"--steps-per-epoch{option} {steps} and --samples-per-epoch{option} {samples} are both given. Keep one of them"


def _batches(o: SimpleNamespace, processes: Processes) -> Iterator[Amount]:
    shares = processes.shares
    if o.batch_size % shares:
        lower = o.batch_size // shares * shares
        yield (
            "training.batch_size",
            TODO,
            f"--batch-size {o.batch_size} is shared by {shares} GPUs, which have to get the same number of jets here. "
            f"Give {f'{lower // shares} or ' if lower else ''}{lower // shares + 1}, or another number of ranks",
        )
    else:
        yield "training.batch_size", o.batch_size // shares, f"{o.batch_size} in all" if shares > 1 else ""
    for split in ("val", "test"):
        size = getattr(o, f"batch_size_{split}")
        if size is not None:
            # This batch size does not change results, so it is rounded up if it is not divisible.
            yield f"training.batch_size_{split}", -(-size // shares), f"{size} in all" if shares > 1 else ""


def _training(o: SimpleNamespace, processes: Processes) -> Generator[Amount, None, int | None]:
    """Steps and samples of an epoch. Returns the number of steps, which is the same in weaver; None if the command does not give it."""
    yield "training.steps_per_epoch", o.steps_per_epoch, ""
    if o.samples_per_epoch is None:
        return o.steps_per_epoch
    steps = o.samples_per_epoch // o.batch_size
    if steps < 1:
        yield (
            "training.samples_per_epoch",
            TODO,
            f"--samples-per-epoch {o.samples_per_epoch} is less than one batch of {o.batch_size}. Give more samples",
        )
        return None
    yield _over_all_ranks("training.samples_per_epoch", o.samples_per_epoch, processes, f"{o.samples_per_epoch}")
    return steps


def _over_all_ranks(key: str, samples: int, processes: Processes, amount: str) -> Amount:
    if processes.copies is None:
        return key, TODO, f"weaver: {amount} in each of the ranks. Give the number over all ranks"
    return key, samples * processes.copies, f"weaver: {amount} in each of {processes.copies} ranks" if processes.copies > 1 else ""


def _validation(o: SimpleNamespace, processes: Processes, steps: int | None) -> Iterator[Amount]:
    """Jets or batches of a validation, over all ranks; weaver's default if the command sets only those of training."""
    size = o.batch_size_val or o.batch_size
    one_process = processes.shares == processes.copies == 1
    if o.samples_per_epoch_val is not None:
        samples = o.samples_per_epoch_val
        if samples < 0:
            yield "training.samples_per_epoch_val", -1, "all"
        elif samples < size:
            yield (
                "training.samples_per_epoch_val",
                TODO,
                f"--samples-per-epoch-val {samples} is less than one batch of {size}. Give more samples",
            )
        elif processes.copies == 1:
            yield "training.samples_per_epoch_val", samples, ""
        else:
            yield _over_all_ranks("training.samples_per_epoch_val", samples // size * size, processes, f"{samples}, in whole batches,")
        return
    comment = ""
    validated = o.steps_per_epoch_val
    if validated is None and steps is not None:
        share = (1 - o.train_val_split) / o.train_val_split
        validated = max(1, round(steps * o.batch_size * share / size))
        comment = "weaver's default: as many as --train-val-split leaves for the training samples"
    if validated is None:
        return
    if validated == 0:
        yield (
            "training.steps_per_epoch_val",
            TODO,
            "--steps-per-epoch-val 0 validates nothing, and no epoch would be the best. Give 1 or more",
        )
    elif validated < 0:
        yield "training.steps_per_epoch_val", -1, "all"
    elif one_process:
        yield "training.steps_per_epoch_val", validated, comment
    else:
        key, value, text = _over_all_ranks("training.samples_per_epoch_val", validated * size, processes, f"{validated} batches of {size}")
        yield key, value, text if value == TODO else comment or f"weaver: {validated} batches of {size} in each process"


def _warmup(o: SimpleNamespace, steps: int | None) -> Iterator[Amount]:
    """Convert --warmup-steps (a fraction of all steps if below 1, otherwise a number of steps) to epochs."""
    if o.lr_scheduler not in ("flat+linear", "flat+cos", "warmup+cos"):
        return
    if o.warmup_steps < 1:
        yield "training.scheduler.warmup", round(o.warmup_steps * o.num_epochs, 12), f"epochs: {o.warmup_steps:g} of all steps"
    elif steps is None:
        yield (
            "training.scheduler.warmup",
            TODO,
            f"--warmup-steps {o.warmup_steps:g} are steps, and how many make an epoch is not given. Give it in epochs; or add "
            "--steps-per-epoch or --samples-per-epoch to the command, or a fraction of all steps, such as --warmup-steps 0.05",
        )
    else:
        yield "training.scheduler.warmup", o.warmup_steps / steps, f"epochs: {o.warmup_steps:g} steps of {steps} an epoch"
