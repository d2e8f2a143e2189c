"""Schedules against torch's schedulers, driven as weaver-core drives them."""

import math
import subprocess
import sys

import pytest
import torch

from weaver_tasks.base.errors import ConfigError
from weaver_tasks.training.schedules import NAMES, constant_in_epoch, epoch_rates, step_rates

EPOCHS, STEPS, WARMUP = 10, 7, 1.5


def rates_of_training(name: str, *, epochs: int = EPOCHS, warmup: float = WARMUP) -> list[float]:
    factors = []
    for epoch in range(epochs):
        rates = epoch_rates(name, horizon=epochs, warmup=warmup, epoch=epoch)
        factors += [step_rates(rates, step, STEPS).multiplied for step in range(STEPS)]
    return factors


def torch_rates(make_scheduler, *, per_step: bool, epochs: int = EPOCHS, key: str = "lr") -> list[float]:
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.Adam([parameter], lr=1.0, betas=(0.95, 0.999))
    scheduler = make_scheduler(optimizer)
    factors = []
    for _ in range(epochs):
        for _ in range(STEPS):
            factors.append(optimizer.param_groups[0]["lr"] if key == "lr" else optimizer.param_groups[0]["betas"][0])
            optimizer.step()
            if per_step and len(factors) < epochs * STEPS:
                scheduler.step()
        if not per_step:
            scheduler.step()
    return factors


@pytest.mark.parametrize("epochs", [1, 2, 10, 20])
def test_steps_is_torchs_multi_step(epochs):
    third = round(epochs / 3)
    expected = torch_rates(
        lambda optimizer: torch.optim.lr_scheduler.MultiStepLR(optimizer, [third, 2 * third], gamma=0.1), per_step=False, epochs=epochs
    )
    if epochs == 1:
        expected = [0.01] * STEPS  # torch leaves out milestone 0
    assert rates_of_training("steps", epochs=epochs) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("epochs", [1, 2, 10, 20, 33])
def test_flat_decay_is_torchs_multi_step(epochs):
    count = max(1, int(epochs * 0.3))
    milestones = list(range(epochs - count, epochs))
    if milestones[0] == 0:
        milestones = [1]
    expected = torch_rates(
        lambda optimizer: torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones, gamma=0.01 ** (1 / count)),
        per_step=False,
        epochs=epochs,
    )
    if epochs == 1:
        expected = [0.01] * STEPS
    assert rates_of_training("flat+decay", epochs=epochs) == pytest.approx(expected, rel=1e-12)


def test_flat_decay_spares_what_lr_mult_does_not_name():
    rates = step_rates(epoch_rates("flat+decay", horizon=10, warmup=0, epoch=9), 0, STEPS)
    assert (rates.factor, rates.multiplied) == (1.0, pytest.approx(0.01))


@pytest.mark.parametrize("name", ["flat+linear", "flat+cos"])
@pytest.mark.parametrize("warmup", [0, 0.5, 1.5, 9])
def test_flat_then_down(name, warmup):
    total, warmup_steps = EPOCHS * STEPS, warmup * STEPS
    flat = 0.7 * total - 1

    def weavers(step):
        if step < warmup_steps:
            return step / warmup_steps
        if step <= flat:
            return 1.0
        part = (step - flat) / (total - flat)
        return max(0.001, 1 - part if name == "flat+linear" else 0.5 * (math.cos(math.pi * part) + 1))

    expected = torch_rates(lambda optimizer: torch.optim.lr_scheduler.LambdaLR(optimizer, weavers), per_step=True)
    assert rates_of_training(name, warmup=warmup) == pytest.approx(expected, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("warmup", [0, 0.05, 1.5])
def test_warmup_cos(warmup):
    total, warmup_steps = EPOCHS * STEPS, warmup * STEPS

    def weavers(step):
        if step < warmup_steps:
            return step / max(1, warmup_steps)
        return max(0.0, 0.5 * (1 + math.cos(math.pi * (step - warmup_steps) / max(1, total - warmup_steps))))

    expected = torch_rates(lambda optimizer: torch.optim.lr_scheduler.LambdaLR(optimizer, weavers), per_step=True)
    assert rates_of_training("warmup+cos", warmup=warmup) == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_one_cycle_is_torchs():
    def make(optimizer):
        return torch.optim.lr_scheduler.OneCycleLR(
            optimizer, max_lr=1.0, epochs=EPOCHS, steps_per_epoch=STEPS, pct_start=0.3, anneal_strategy="cos", div_factor=25.0
        )

    assert rates_of_training("one-cycle") == pytest.approx(torch_rates(make, per_step=True), rel=1e-9, abs=1e-12)
    momenta = [
        step_rates(epoch_rates("one-cycle", horizon=EPOCHS, warmup=0, epoch=epoch), step, STEPS).momentum
        for epoch in range(EPOCHS)
        for step in range(STEPS)
    ]
    assert momenta == pytest.approx(torch_rates(make, per_step=True, key="betas"))


def leading_same_epochs(name: str, one: dict, other: dict) -> int:
    return next((epoch for epoch in range(20) if epoch_rates(name, **one, epoch=epoch) != epoch_rates(name, **other, epoch=epoch)), 20)


@pytest.mark.parametrize(
    ("name", "same"),
    [("none", 20), ("flat+decay", 14), ("flat+linear", 14), ("flat+cos", 14), ("steps", 7), ("one-cycle", 0), ("warmup+cos", 2)],
)
def test_a_longer_training_keeps_the_epochs_whose_rates_are_the_same(name, same):
    shorter, longer = {"horizon": 20, "warmup": 2}, {"horizon": 30, "warmup": 2}
    assert leading_same_epochs(name, shorter, longer) == same


@pytest.mark.parametrize("name", NAMES)
def test_rates_are_equal_as_values_exactly_when_they_are_equal_as_numbers(name):
    """Between trainings of the same schedule that differ in horizon or warm-up."""
    shapes = [{"horizon": horizon, "warmup": warmup} for horizon in (8, 10, 12) for warmup in (0, 0.5, 2)]
    for one in shapes:
        for other in shapes:
            for epoch in range(14):
                first, second = epoch_rates(name, **one, epoch=epoch), epoch_rates(name, **other, epoch=epoch)
                numbers = [[tuple(step_rates(rates, step, 50)) for step in range(50)] for rates in (first, second)]
                assert (first == second) == (numbers[0] == numbers[1]), (one, other, epoch)


@pytest.mark.parametrize("name", NAMES)
def test_beyond_the_horizon_the_last_rate_stays(name):
    last = step_rates(epoch_rates(name, horizon=10, warmup=1, epoch=9), 9999, 10000)
    beyond = [step_rates(epoch_rates(name, horizon=10, warmup=1, epoch=epoch), step, 10) for epoch in (10, 15) for step in (0, 9)]
    assert all(rates == beyond[0] for rates in beyond)
    assert constant_in_epoch(epoch_rates(name, horizon=10, warmup=1, epoch=12))
    assert beyond[0].multiplied == pytest.approx(last.multiplied, abs=1e-3)


def test_unknown_schedule_names_the_nearest():
    with pytest.raises(ConfigError, match=r"training\.scheduler\.name: 'flat\+cosine'.*Did you mean: flat\+cos"):
        epoch_rates("flat+cosine", horizon=10, warmup=0, epoch=0)


def test_imports_neither_torch_nor_numpy():
    code = "import sys, weaver_tasks.training.schedules, weaver_tasks.training.journal, weaver_tasks.training.launch; "
    code += "assert not {'torch', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
