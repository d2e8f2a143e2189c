"""Sum metrics over the steps of an epoch, in float64 and in the order of steps. A loss that is not finite stops the job."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from weaver_tasks.base.errors import TrainingError
from weaver_tasks.training.distributed import sum_over_ranks
from weaver_tasks.training.losses import StepOutput

logger = logging.getLogger("weaver_tasks")

_MOST_SKIPPED = 50  # consecutive steps; the gradient scale is halved each time
_NAMES = {"classification": ("correct",), "regression": ("absolute_error", "squared_error", "values")}


class MetricSums:
    """Metric sums of one rank. The values of several steps are copied from a GPU together, since each copy waits for the device.

    describe: returns a text that names the files and entries of a batch, for error messages.
    on_step: called for each step when its values arrive: (step, its sums, number of counted labels, `besides` of `add`).
    skips: the gradient scaler skips steps whose loss is not finite, and they are not counted. Too many consecutive ones stop the job.
    """

    def __init__(
        self,
        task: str,
        device: torch.device,
        *,
        where: str,
        describe: Callable[[Any], str],
        on_step: Callable[[int, Mapping[str, float], int, Mapping[str, float]], None] | None = None,
        skips: bool = False,
    ) -> None:
        self._names = ("loss", *_NAMES[task])
        self._on_step = on_step
        self._skips, self._skipped = skips, 0
        self._every = 1 if device.type == "cpu" else 32
        self._where, self._describe = where, describe
        self._pending: list[tuple[int, Any, int, dict[str, Any], list[Tensor]]] = []
        self.sums = dict.fromkeys(("events", "labels", *self._names), 0.0)
        self.last_loss = math.nan

    def add(self, step: int, batch: Any, events: int, outcome: StepOutput, **besides: Any) -> bool:
        """Add a batch. Returns whether the sums already include it. Raises TrainingError if a loss is not finite.

        besides: other numbers of the step (tensors or plain) for `on_step`.
        """
        averages = [outcome.loss.detach(), *(outcome.sums[name] for name in self._names[1:])]
        self.sums["events"] += events
        self._pending.append((step, batch, outcome.count, besides, averages))
        if len(self._pending) < self._every:
            return False
        self.flush()
        return True

    def flush(self) -> None:
        if not self._pending:
            return
        rows = torch.stack([torch.stack([figure.double().to(averages[0].device) for figure in averages]) for *_, averages in self._pending])
        for (step, batch, count, besides, _), row in zip(self._pending, rows.tolist(), strict=True):
            if self._on_step is not None:
                self._on_step(step, dict(zip(self._names, row, strict=True)), count, {key: float(value) for key, value in besides.items()})
            if not math.isfinite(row[0]) and count:
                if self._skips and self._skipped < _MOST_SKIPPED:
                    self._skipped += 1
                    logger.warning("%s, step %d: the loss is %s; fp16 passes over the step and lowers its scale", self._where, step, row[0])
                    continue
                raise TrainingError(
                    f"{self._where}, step {step}: the loss is {row[0]}. The batch holds {self._describe(batch)}. "
                    "Look at these entries, or lower training.lr or set training.optimizer.options.clip_grad_norm."
                )
            self._skipped = 0
            if count:
                self.sums["labels"] += count
                self.sums["loss"] += row[0] * count
                self.last_loss = row[0]
            for name, value in zip(self._names[1:], row[1:], strict=True):
                self.sums[name] += value
        self._pending.clear()

    def restore(self, sums: Mapping[str, float]) -> None:
        self.sums = dict(sums)

    def over_ranks(self) -> dict[str, float]:
        """The sums over all ranks, added in the order of ranks."""
        self.flush()
        return dict(zip(self.sums, sum_over_ranks(list(self.sums.values())), strict=True))


def averages(sums: Mapping[str, float]) -> dict[str, float | None]:
    """Averages from sums: loss and accuracy (classification), or loss, mae and mse (regression)."""
    labels = sums["labels"]
    result: dict[str, float | None] = {"loss": sums["loss"] / labels if labels else None}
    if "correct" in sums:
        result["accuracy"] = sums["correct"] / labels if labels else None
    if "values" in sums:
        result["mae"] = sums["absolute_error"] / sums["values"] if sums["values"] else None
        result["mse"] = sums["squared_error"] / sums["values"] if sums["values"] else None
    return result
