"""Figures summed over the steps of an epoch, in float64 and in the order of steps; a loss that is not finite stops the job."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from weaver_tasks.base.errors import TrainingError
from weaver_tasks.training.distributed import sum_over_ranks
from weaver_tasks.training.losses import Outcome

_NAMES = {"classification": ("correct",), "regression": ("absolute_error", "squared_error", "values")}


class Tally:
    """Sums of one rank. On a GPU the figures of some steps are fetched together, since each fetch waits for the device.

    describe: says which files and entries a batch holds, for the error.
    """

    def __init__(self, task: str, device: torch.device, *, where: str, describe: Callable[[Any], str]) -> None:
        self._names = ("loss", *_NAMES[task])
        self._every = 1 if device.type == "cpu" else 32
        self._where, self._describe = where, describe
        self._pending: list[tuple[int, Any, int, list[Tensor]]] = []
        self.sums = dict.fromkeys(("events", "labels", *self._names), 0.0)
        self.last_loss = math.nan

    def add(self, step: int, batch: Any, events: int, outcome: Outcome) -> bool:
        """Count a batch; returns whether the sums now include it. Raises TrainingError when a loss was not finite."""
        figures = [outcome.loss.detach(), *(outcome.sums[name] for name in self._names[1:])]
        self.sums["events"] += events
        self._pending.append((step, batch, outcome.count, figures))
        if len(self._pending) < self._every:
            return False
        self.flush()
        return True

    def flush(self) -> None:
        if not self._pending:
            return
        rows = torch.stack([torch.stack([figure.double().to(figures[0].device) for figure in figures]) for *_, figures in self._pending])
        for (step, batch, count, _), row in zip(self._pending, rows.tolist(), strict=True):
            if not math.isfinite(row[0]) and count:
                raise TrainingError(
                    f"{self._where}, step {step}: the loss is {row[0]}. The batch holds {self._describe(batch)}. "
                    "Look at these entries, or lower training.lr or set training.optimizer.options.clip_grad_norm."
                )
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
        """The sums over all ranks, added in their order."""
        self.flush()
        return dict(zip(self.sums, sum_over_ranks(list(self.sums.values())), strict=True))


def figures(sums: Mapping[str, float]) -> dict[str, float | None]:
    """loss and accuracy, or loss, mae and mse, from sums."""
    labels = sums["labels"]
    result: dict[str, float | None] = {"loss": sums["loss"] / labels if labels else None}
    if "correct" in sums:
        result["accuracy"] = sums["correct"] / labels if labels else None
    if "values" in sums:
        result["mae"] = sums["absolute_error"] / sums["values"] if sums["values"] else None
        result["mse"] = sums["squared_error"] / sums["values"] if sums["values"] else None
    return result
