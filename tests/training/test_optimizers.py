"""Optimizers by name, their groups, and what users get wrong. The reference for groups is weaver-core's init_opt."""

import argparse
import subprocess
import sys

import pytest
import torch
from torch import nn

from weaver_tasks.base.errors import ConfigError
from weaver_tasks.training.optimizers import apply_rates, build_optimizer
from weaver_tasks.training.schedules import StepRates
from weaver_tasks.weaver_compat import imports

USABLE = [
    name
    for name, value in vars(torch.optim).items()
    if isinstance(value, type) and issubclass(value, torch.optim.Optimizer) and name not in ("Optimizer", "LBFGS", "SparseAdam", "Muon")
]


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8))
        self.head = nn.Linear(8, 2)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, 8))
        self.table = nn.Parameter(torch.zeros(3, 3))

    def no_weight_decay(self):
        return {"table"}


def groups(optimizer, model):
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {
        frozenset(names[id(parameter)] for parameter in group["params"]): (group["weight_decay"], group["lr"])
        for group in optimizer.param_groups
        if group["params"]
    }


@pytest.mark.filterwarnings("ignore")  # weaver-core's own
@pytest.mark.parametrize("options", [{"weight_decay": 0.02}, {"weight_decay": 0.02, "lr_mult": ["head", 10.0]}, {"lr_mult": ["body", 0.1]}])
@pytest.mark.parametrize("name", ["ranger", "adamW"])
def test_groups_are_weavers(options, name):
    imports.restore()  # some test before may have put our stand-ins in its place
    weaver = pytest.importorskip("weaver.train")
    model = Model()
    arguments = argparse.Namespace(
        optimizer=name, start_lr=0.01, load_epoch=None, lr_finder=None, lr_scheduler="none", compile_optimizer=False
    )
    expected, _ = weaver.init_opt(arguments, model, **options)
    assert groups(build_optimizer(model, name, options, lr=0.01).optimizer, model) == groups(expected, model)


def test_defaults_are_weavers():
    optimizer = build_optimizer(Model(), "adamW", {}, lr=1.0).optimizer
    assert (optimizer.defaults["betas"], optimizer.defaults["weight_decay"]) == ((0.95, 0.999), 0.0)


@pytest.mark.parametrize("name", USABLE)
def test_every_class_of_torch_steps_as_in_torch(name):
    """By its name in lower case, without the decorators that we leave out."""
    results = []
    for make in (lambda model: build_optimizer(model, name.lower(), {}, lr=0.01).optimizer, lambda model: theirs(name, model)):
        torch.manual_seed(1)
        model = nn.Linear(4, 2)
        optimizer = make(model)
        for step in range(3):
            optimizer.zero_grad()
            model(torch.full((2, 4), float(step))).square().sum().backward()
            optimizer.step()
        results.append((model.weight, optimizer.state_dict()["state"]))
    assert torch.equal(results[0][0], results[1][0])
    assert str(results[0][1]) == str(results[1][1])


def theirs(name, model):
    defaults = {"betas": (0.95, 0.999), "weight_decay": 0.0} if name == "AdamW" else {}
    return getattr(torch.optim, name)(model.parameters(), lr=0.01, **defaults)


def test_the_step_imports_no_compiler():
    code = """
import sys, torch
from weaver_tasks.training.optimizers import build_optimizer
for name in ("ranger", "adamW", "SGD"):
    model = torch.nn.Linear(2, 2)
    optimizer = build_optimizer(model, name, {}, lr=0.1).optimizer
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    optimizer.load_state_dict(optimizer.state_dict())
assert 'torch._dynamo' not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_rates_reach_the_groups():
    built = build_optimizer(Model(), "adam", {"lr_mult": ["head", 10.0]}, lr=0.01).optimizer
    apply_rates(built, StepRates(1.0, 0.5, 0.9), lr=0.02)
    assert sorted({group["lr"] for group in built.param_groups}) == pytest.approx([0.02, 0.1])
    assert all(group["betas"] == (0.9, 0.999) for group in built.param_groups)
    plain = build_optimizer(Model(), "adam", {}, lr=0.01).optimizer
    apply_rates(plain, StepRates(1.0, 0.5), lr=0.02)
    assert plain.param_groups[0]["lr"] == pytest.approx(0.01)


def test_frozen_weights_are_left_out_and_gradients_clipped():
    model = Model()
    model.body.requires_grad_(False)
    optimizer, clip = build_optimizer(model, "ranger", {"weight_decay": 0.1, "clip_grad_norm": 2}, lr=0.1)
    assert clip == 2.0
    trained = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    assert trained == {id(parameter) for parameter in model.parameters() if parameter.requires_grad}


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("rangr", {}, r"training\.optimizer\.name: there is no 'rangr'.*Did you mean: ranger"),
        ("LBFGS", {}, "needs a closure"),
        ("adam", {"weight_decai": 1}, r"adam has no option 'weight_decai'.*Did you mean: weight_decay"),
        ("adam", {"betas": [2.0, 0.9]}, "Invalid beta"),
        ("ranger", {"lr_mult": ["tail", 2]}, "no weight matches 'tail'"),
        ("ranger", {"lr_mult": 3}, r"options\.lr_mult: 3 does not fit\. Write \[regular expression, factor\]"),
        ("ranger", {"lr_mult": ["(", 3]}, r"lr_mult: '\(' is not a regular expression"),
        ("ranger", {"lr": 3}, r"options\.lr: 3 would not be used\. Give training\.lr"),
    ],
)
def test_mistakes_are_named(name, options, message):
    with pytest.raises(ConfigError, match=message):
        build_optimizer(Model(), name, options, lr=0.1)
