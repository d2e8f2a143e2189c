"""The best epoch, from the metrics of the validations; early stopping asks the same question earlier."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from numbers import Real
from typing import Any

from weaver_tasks.base.errors import ResultError, did_you_mean

METRICS = {"classification": ("accuracy", "auc", "loss"), "regression": ("loss", "mae", "mse")}
"""What a validation measures, by task; a network's own evaluate function may measure something else."""

_NOT_METRICS = ("epoch", "digest", "samples", "seconds", "samples_per_second", "stopped", "threads")


def best_epoch(validations: Iterable[Mapping[str, Any]], *, metric: str, mode: str) -> dict[str, Any] | None:
    """{epoch, metric, value, mode} of the best validation; None when there is none (all stopped). The earlier of equals wins.

    Raises ResultError when `metric` is not among the metrics of an epoch or has no value there.
    """
    best: dict[str, Any] | None = None
    for validation in sorted((each for each in validations if not each.get("stopped")), key=lambda each: each["epoch"]):
        value = metric_value(validation, metric)
        if best is None or (value > best["value"] if mode == "max" else value < best["value"]):
            best = {"epoch": validation["epoch"], "metric": metric, "value": value, "mode": mode}
    return best


def metric_value(validation: Mapping[str, Any], metric: str) -> float:
    known = [name for name, value in validation.items() if name not in _NOT_METRICS and (value is None or isinstance(value, Real))]
    where = f"metrics/val_epoch-{validation['epoch']}.json"
    if metric not in known:
        raise ResultError(f"validation.metric: '{metric}' is not in {where}, which holds {', '.join(known)}.{did_you_mean(metric, known)}")
    value = validation[metric]
    if value is None or not math.isfinite(value):
        raise ResultError(f"{where}: {metric} is not a finite number. Choose another validation.metric, or look for the cause in its log.")
    return float(value)


def should_stop(validations: Iterable[Mapping[str, Any]], *, epoch: int, patience: int, metric: str, mode: str) -> bool:
    """Whether `epoch` is not worth training: the best of the epochs up to epoch - 2 is `patience` or more of them old.

    Asked as long as no epoch before was stopped: none is trained after one that was. Two back, so that the validation of one epoch runs
    beside the training of the next.
    """
    seen = [each for each in validations if each["epoch"] <= epoch - 2 and not each.get("stopped")]
    best = best_epoch(seen, metric=metric, mode=mode)
    return best is not None and max(each["epoch"] for each in seen) - best["epoch"] >= patience


def chosen_epochs(validations: Iterable[Mapping[str, Any]], choices: Iterable[Mapping[str, Any]]) -> set[int]:
    """The epochs that trainings which choose in these ways would choose of these; empty where none has the metric.

    choices: metric, mode, epochs and patience of each.
    """
    trained = sorted((each for each in validations if not each.get("stopped")), key=lambda each: each["epoch"])
    return {epoch for choice in choices if (epoch := _chosen(trained, **choice)) is not None}


def _chosen(trained: Iterable[Mapping[str, Any]], *, metric: str, mode: str, epochs: int, patience: int | None) -> int | None:
    """What a training of `epochs` epochs with this early stopping would choose of these epochs, given in their order."""
    seen: list[tuple[int, int]] = []  # (epoch, the best up to it)
    best: tuple[int, float] | None = None
    for validation in trained:
        epoch, value = validation["epoch"], _number(validation.get(metric))
        if epoch >= epochs or (patience is not None and _stopped_before(seen, epoch, patience)):
            break
        if value is not None and (best is None or (value > best[1] if mode == "max" else value < best[1])):
            best = epoch, value
        if best is not None:
            seen.append((epoch, best[0]))
    return None if best is None else best[0]


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def _stopped_before(seen: list[tuple[int, int]], epoch: int, patience: int) -> bool:
    """Whether `should_stop` says so of `epoch`. seen: the epochs before it, each with the best up to it."""
    known = next((each for each in reversed(seen) if each[0] <= epoch - 2), None)
    return known is not None and known[0] - known[1] >= patience
