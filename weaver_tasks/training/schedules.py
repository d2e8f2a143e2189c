"""Learning-rate schedules, as plain functions of (epoch, step).

This module uses the standard library only, since the workflow calls `epoch_rates` for each epoch whenever the Snakefile is parsed.

With N epochs (the horizon) of S steps, and T = epoch x S + step counted from the start of training:

    none        constant
    steps       x 0.1 at epoch round(N/3) and again at twice that
    flat+decay  constant, then from epoch N - D on x 0.01^(1/D) each epoch, D = max(1, int(0.3 N));
                where `lr_mult` multiplies the rate of some parameters, only those decay
    flat+linear linear warm-up, constant up to step 0.7 N S, then linearly down to a floor of 0.001
    flat+cos    the same with half a cosine
    warmup+cos  linear warm-up, then half a cosine to 0
    one-cycle   up over 30 % of all steps from 1/25, then down to 1/250000, both by half a cosine; the first
                momentum goes from 0.95 to 0.85 and back (Smith and Topin, arXiv:1708.07120; torch's OneCycleLR)

Warm-up is given in epochs here. Beyond the horizon a schedule keeps its last value.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from weaver_tasks.base.errors import ConfigError, did_you_mean

NAMES = ("none", "steps", "flat+decay", "flat+linear", "flat+cos", "warmup+cos", "one-cycle")

_FLOOR = 0.001  # of flat+linear and flat+cos
_LAST = {"flat+linear": _FLOOR, "flat+cos": _FLOOR, "warmup+cos": 0.0}
_FLAT_PART = 0.7
_RISING_PART = 0.3  # of one-cycle
_FIRST_DIVISOR, _LAST_DIVISOR = 25.0, 1e4
_HIGH_MOMENTUM, _LOW_MOMENTUM = 0.95, 0.85

Rates = float | dict[str, Any]


class StepRates(NamedTuple):
    """Factors of the learning rate in one step (in general, and for parameters of lr_mult), and the first momentum (None: unchanged)."""

    factor: float
    multiplied: float
    momentum: float | None = None


def epoch_rates(name: str | None, *, horizon: int, warmup: float, epoch: int) -> Rates:
    """The learning-rate factors of one epoch, as a plain value. Two configurations with equal rates in an epoch give equal values.

    horizon: number of epochs of the schedule; warmup: number of warm-up epochs.
    Returns a number if the factor is constant in the epoch, otherwise the arguments of `step_rates` as a dictionary.
    Raises ConfigError for an unknown name or a horizon that is not positive.
    """
    name = name or "none"
    if name not in NAMES:
        raise ConfigError(
            f"training.scheduler.name: '{name}' is not a schedule. Choose from {', '.join(NAMES)}.{did_you_mean(name, NAMES)}"
        )
    if horizon < 1 or warmup < 0:
        raise ConfigError(f"training.scheduler: horizon {horizon} must be at least 1 and warmup {warmup} not negative.")
    if name in ("none", "steps", "flat+decay"):
        return _rates_by_epoch(name, horizon, epoch)
    if epoch >= horizon:
        return {"name": name, "ended": True} if name == "one-cycle" else _LAST[name]
    if name == "one-cycle":
        return {"name": name, "horizon": horizon, "epoch": epoch}
    flat_until = 0 if name == "warmup+cos" else _FLAT_PART * horizon
    if epoch + 1 <= max(flat_until, warmup if name == "warmup+cos" else 0):
        return {"name": "warmup", "warmup": warmup, "epoch": epoch} if epoch < warmup else 1.0
    described: dict[str, Any] = {"name": name, "horizon": horizon, "epoch": epoch}
    # The descent of warmup+cos starts at the end of the warm-up; the other schedules do not depend on it later.
    return {**described, "warmup": warmup} if epoch < warmup or name == "warmup+cos" else described


def step_rates(rates: Rates, step: int, steps: int) -> StepRates:
    """The rates of step `step` (from 0) of an epoch of `steps` steps. rates: result of `epoch_rates`."""
    if not isinstance(rates, Mapping):
        return StepRates(float(rates), float(rates))
    if rates["name"] == "flat+decay":
        return StepRates(1.0, rates["factor"])
    if rates.get("ended"):
        last = 1 / _FIRST_DIVISOR / _LAST_DIVISOR
        return StepRates(last, last, _HIGH_MOMENTUM)
    position = rates["epoch"] * steps + step
    if rates["name"] == "one-cycle":
        factor, momentum = _one_cycle(position, rates["horizon"] * steps)
        return StepRates(factor, factor, momentum)
    factor = _factor(rates, position, steps)
    return StepRates(factor, factor)


def constant_in_epoch(rates: Rates) -> bool:
    """Whether all steps of the epoch use the same rates."""
    return not isinstance(rates, Mapping) or "epoch" not in rates


def _rates_by_epoch(name: str, horizon: int, epoch: int) -> Rates:
    if name == "none":
        return 1.0
    if name == "steps":
        first = round(horizon / 3)
        return 0.1 ** ((epoch >= first) + (epoch >= 2 * first))
    decaying = max(1, int(horizon * 0.3))
    count = min(max(0, epoch - (horizon - decaying) + 1), decaying)
    # Return the name too, since lr_mult decides to which parameters this applies.
    return {"name": "flat+decay", "factor": 0.01 ** (count / decaying)} if count else 1.0


def _factor(rates: Mapping[str, Any], position: int, steps: int) -> float:
    name = rates["name"]
    warmup = rates.get("warmup", 0) * steps
    if position < warmup:
        return position / (max(1.0, warmup) if name == "warmup+cos" else warmup)
    if name == "warmup":
        return 1.0
    total = rates["horizon"] * steps
    if name == "warmup+cos":
        progress = (position - warmup) / max(1.0, total - warmup)
        return max(0.0, 0.5 * (1 + math.cos(math.pi * min(1.0, progress))))
    flat = _FLAT_PART * total - 1
    if position <= flat:
        return 1.0
    progress = min(1.0, (position - flat) / (total - flat))
    return max(_FLOOR, 1 - progress if name == "flat+linear" else 0.5 * (math.cos(math.pi * progress) + 1))


def _one_cycle(position: int, total: int) -> tuple[float, float]:
    """The factor of the learning rate, and the first momentum, at step `position` of `total`."""
    first, last = 1 / _FIRST_DIVISOR, 1 / _FIRST_DIVISOR / _LAST_DIVISOR
    top = _RISING_PART * total - 1
    if position <= top:
        progress = position / top
        return _half_cosine(first, 1.0, progress), _half_cosine(_HIGH_MOMENTUM, _LOW_MOMENTUM, progress)
    progress = min(1.0, (position - top) / (total - 1 - top))
    return _half_cosine(1.0, last, progress), _half_cosine(_LOW_MOMENTUM, _HIGH_MOMENTUM, progress)


def _half_cosine(start: float, end: float, progress: float) -> float:
    return end + (start - end) / 2 * (1 + math.cos(math.pi * progress))
