"""The learning-rate finder: raise the learning rate at each step and record the loss (Smith, arXiv:1506.01186)."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from weaver_tasks.base.progress import Progress
from weaver_tasks.training.distributed import rank, sum_over_ranks, world_size
from weaver_tasks.training.optimizers import apply_rates
from weaver_tasks.training.schedules import StepRates
from weaver_tasks.training.step import TrainStep

_MEMORY = 0.9  # weight of the old value in the running mean of the losses
_DIVERGED = 5.0  # stop when the loss exceeds this many times the smallest smoothed loss


def sweep_rates(engine: TrainStep, batches: Iterable[Any], *, start: float, end: float, steps: int) -> dict[str, list[float]]:
    """Train one step at each of `steps` learning rates, logarithmically spaced from `start` to `end`.

    batches: at least `steps` batches of this rank. Stops early if the loss diverges. Returns `lr`, `loss` (mean over the batches
    of all ranks) and `smoothed` (bias-corrected running mean of the loss), with one value per step with a finite loss.
    """
    history: dict[str, list[float]] = {"lr": [], "loss": [], "smoothed": []}
    running, weight = 0.0, 0.0
    engine.model.train()
    engine.runner.train()
    with Progress("learning rates", total=None, quiet=rank() > 0) as bar:
        for step, batch in zip(range(steps), batches, strict=False):
            lr = start * (end / start) ** (step / max(steps - 1, 1))
            apply_rates(engine.optimizer, StepRates(1.0, 1.0), lr=lr)
            outcome, _ = engine.step(batch)
            loss = sum_over_ranks([float(outcome.loss.detach())])[0] / world_size()
            if not math.isfinite(loss):
                break
            running, weight = _MEMORY * running + (1 - _MEMORY) * loss, _MEMORY * weight + 1 - _MEMORY
            for name, value in (("lr", lr), ("loss", loss), ("smoothed", running / weight)):
                history[name].append(value)
            bar.advance(len(batch.entry) * world_size(), lr=f"{lr:.1e}", loss=f"{loss:.4f}")
            if history["smoothed"][-1] > _DIVERGED * min(history["smoothed"]):
                break
    return history


def suggested_rate(history: dict[str, list[float]]) -> float | None:
    """The learning rate of the steepest descent of the smoothed loss, as a function of log(rate), before its minimum.

    None if the loss never falls.
    """
    smoothed, rates = history["smoothed"], history["lr"]
    lowest = min(range(len(smoothed)), key=smoothed.__getitem__, default=0)
    # Take slopes over several steps, and skip the first values, which are means of few batches, to suppress noise.
    span = max(1, len(smoothed) // 25)
    first = max(span, min(lowest, round(1 / (1 - _MEMORY))))
    slopes = {
        step: (smoothed[step + span] - smoothed[step - span]) / math.log(rates[step + span] / rates[step - span])
        for step in range(first, min(lowest, len(smoothed) - 1 - span) + 1)
    }
    steepest = min(slopes, key=slopes.__getitem__, default=None)
    return None if steepest is None or slopes[steepest] >= 0 else rates[steepest]
