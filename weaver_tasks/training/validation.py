"""Compute the validation metrics in one pass over the validation events, independent of the number of ranks.

With W ranks, batch b goes to rank b mod W. The sums of each batch are kept separately and added in the order of batches, in float64.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from weaver_tasks.base.progress import Progress
from weaver_tasks.training.device import enough_memory
from weaver_tasks.training.distributed import from_all_ranks, rank, world_size
from weaver_tasks.training.metric_sums import MetricSums, averages
from weaver_tasks.training.step import Task
from weaver_tasks.training.tensorboard import TensorBoard


def validate(
    task: Task,
    model: nn.Module,
    batches: Iterable[Any],
    *,
    description: str,
    samples: int | None,
    area_under_curve: Callable[[np.ndarray, np.ndarray], float],
    describe: Callable[[Any], str] = str,
    board: TensorBoard | None = None,
    epoch: int = 0,
) -> dict[str, Any]:
    """Metrics of `model` over the batches of all ranks: loss, accuracy, auc, or loss, mae, mse; samples, seconds, samples_per_second.

    batches: those of this rank, in order. area_under_curve: function of scores (N, C) and class numbers (N,). auc is None if it is
    undefined (a class without events), and on all ranks but the first.
    board: TensorBoard on the first rank, for its own batches and for the metrics of this epoch.
    Raises TrainingError if the loss of a batch is not finite.
    """
    kind = task.settings.task
    start = time.perf_counter()
    rows: list[dict[str, float]] = []
    scores: list[np.ndarray] = []
    truth: list[np.ndarray] = []
    shown = 0
    model.eval()
    with torch.inference_mode(), Progress(description, total=samples, quiet=rank() > 0) as bar:
        for number, batch in enumerate(batches):
            with enough_memory("batch_size_val", len(batch.entry)):
                result = task.run(model, batch)
            tally = MetricSums(kind, torch.device("cpu"), where=description, describe=describe)
            tally.add(number * world_size() + rank(), batch, len(batch.entry), result)
            rows.append(tally.sums)
            if board is not None:
                board.output(result.output, model, epoch=epoch, batch=number + 1)
            if kind == "classification":
                scores.append(_probabilities(result.predictions))
                truth.append(result.truth.cpu().numpy())
            # This is an upper limit: batches of other ranks may be smaller or missing at the end.
            counted = len(batch.entry) * world_size()
            counted = counted if samples is None else min(counted, samples - shown)
            shown += counted
            bar.advance(counted, loss=f"{tally.last_loss:.4f}")
    sums = _in_order(from_all_ranks(rows))
    seconds = max(time.perf_counter() - start, 1e-9)
    metrics: dict[str, Any] = dict(averages(sums))
    if kind == "classification":
        gathered = _interleaved(scores, truth)
        metrics["auc"] = None
        if gathered is not None and len(np.unique(gathered[1])) == gathered[0].shape[1]:
            metrics["auc"] = area_under_curve(*gathered)
    if board is not None:
        board.epoch(epoch, metrics)
        if rows:
            board.output(result.output, model, epoch=epoch, batch=-1)
    events = int(sums.get("events", 0))
    return {**metrics, "samples": events, "seconds": seconds, "samples_per_second": events / seconds}


def _probabilities(logits: Tensor) -> np.ndarray:
    return logits.float().softmax(dim=1).cpu().numpy()


def _in_order(rows: list[list[dict[str, float]]]) -> dict[str, float]:
    """Sum the rows of all W ranks in the order of batches: batch b is row b // W of rank b mod W."""
    total: dict[str, float] = {"labels": 0.0, "loss": 0.0}
    for index in range(max(map(len, rows))):
        for of_rank in rows:
            if index < len(of_rank):
                for name, value in of_rank[index].items():
                    total[name] = total.get(name, 0.0) + value
    return total


def _interleaved(scores: list[np.ndarray], truth: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray] | None:
    """All scores (N, C) and labels (N,) in the order of batches. None on all ranks but the first."""
    mine = (scores, truth)
    of_ranks: list[Any] | None = [None] * world_size() if rank() == 0 else None
    if world_size() == 1:
        of_ranks = [mine]
    else:
        dist.gather_object(mine, of_ranks, dst=0)
    if of_ranks is None:
        return None
    ordered: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
    for index in range(max(len(part) for part, _ in of_ranks)):
        for parts in of_ranks:
            if index < len(parts[0]):
                ordered[0].append(parts[0][index])
                ordered[1].append(parts[1][index])
    if not ordered[0]:
        return None
    return np.concatenate(ordered[0]), np.concatenate(ordered[1])


def described(metrics: Mapping[str, Any]) -> str:
    """The metrics as one line of text."""
    names = ("loss", "accuracy", "auc", "mae", "mse")
    return ", ".join(f"{name} {metrics[name]:.5f}" for name in names if metrics.get(name) is not None)
