"""Select the best epoch from the validation metrics, and decide on early stopping."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from numbers import Real
from typing import Any

from weaver_tasks.base.errors import ResultError, did_you_mean

METRICS = {"classification": ("accuracy", "auc", "loss"), "regression": ("loss", "mae", "mse")}
"""The metrics of a validation, by task. A network's own evaluate function may give others."""

_NOT_METRICS = ("epoch", "digest", "samples", "seconds", "samples_per_second", "stopped", "threads")


def best_epoch(validations: Iterable[Mapping[str, Any]], *, metric: str, mode: str) -> dict[str, Any] | None:
    """{epoch, metric, value, mode} of the best validation. None if there is none (all stopped). Ties: the earlier epoch wins.

    Raises ResultError if an epoch does not have the metric, or its value is not finite.
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
    """Whether early stopping skips `epoch`: among the epochs up to epoch - 2, the best one is `patience` or more epochs before the last.

    The caller must check first whether an earlier epoch was stopped: no epoch is trained after a stopped one. The last epoch considered
    is epoch - 2, so that the validation of one epoch can run while the next one is trained.
    """
    seen = [each for each in validations if each["epoch"] <= epoch - 2 and not each.get("stopped")]
    best = best_epoch(seen, metric=metric, mode=mode)
    return best is not None and max(each["epoch"] for each in seen) - best["epoch"] >= patience


def chosen_epochs(validations: Iterable[Mapping[str, Any]], choices: Iterable[Mapping[str, Any]]) -> set[int]:
    """The best epoch according to each of `choices`. Empty if no epoch has the metric.

    choices: metric, mode, epochs and patience of each training.
    """
    trained = sorted((each for each in validations if not each.get("stopped")), key=lambda each: each["epoch"])
    return {epoch for choice in choices if (epoch := _chosen(trained, **choice)) is not None}


def _chosen(trained: Iterable[Mapping[str, Any]], *, metric: str, mode: str, epochs: int, patience: int | None) -> int | None:
    """The best epoch of a training with `epochs` epochs and this early stopping. trained: validations in the order of epochs."""
    seen: list[tuple[int, int]] = []  # (epoch, best epoch up to it)
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
    """The result of `should_stop` for `epoch`. seen: pairs (earlier epoch, best epoch up to it)."""
    known = next((each for each in reversed(seen) if each[0] <= epoch - 2), None)
    return known is not None and known[0] - known[1] >= patience
