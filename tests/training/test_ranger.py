"""Ranger step by step against weaver-core's."""

import copy

import pytest
import torch

from weaver_tasks.training.ranger import Ranger

weaver_ranger = pytest.importorskip("weaver.utils.nn.optimizer.ranger")


def network() -> torch.nn.Module:
    torch.manual_seed(1)
    return torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.BatchNorm1d(16), torch.nn.ReLU(), torch.nn.Linear(16, 3))


def train(model: torch.nn.Module, optimizer, steps: int, *, first: int = 0) -> list[torch.Tensor]:
    weights = []
    for step in range(first, first + steps):
        generator = torch.Generator().manual_seed(step)
        inputs = torch.randn(32, 8, generator=generator)
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(inputs), torch.randint(3, (32,), generator=generator)).backward()
        optimizer.step()
        weights.append(torch.cat([parameter.detach().flatten() for parameter in model.parameters()]))
    return weights


@pytest.mark.filterwarnings("ignore")  # weaver-core's own
@pytest.mark.parametrize(
    "options",
    [{}, {"weight_decay": 0.01}, {"betas": (0.9, 0.99), "eps": 1e-8}, {"alpha": 0.3, "k": 4}],
    ids=["default", "decay", "betas", "k"],
)
def test_steps_as_weavers(options):
    ours, theirs = network(), network()
    expected = train(theirs, weaver_ranger.Ranger(theirs.parameters(), lr=5e-3, **options), 40)
    got = train(ours, Ranger(ours.parameters(), lr=5e-3, **options), 40)
    for step, (mine, weavers) in enumerate(zip(got, expected, strict=True)):
        assert torch.allclose(mine, weavers, rtol=1e-5, atol=1e-6), f"step {step}: {(mine - weavers).abs().max()}"


@pytest.mark.parametrize("cut", [1, 4, 6, 13])
def test_goes_on_from_its_state_to_the_same_bits(cut, tmp_path):
    """Weaver's loses the slow weights and the place within the k steps."""
    whole = network()
    expected = train(whole, Ranger(whole.parameters(), lr=5e-3, weight_decay=0.01), 20)[-1]
    model = network()
    optimizer = Ranger(model.parameters(), lr=5e-3, weight_decay=0.01)
    train(model, optimizer, cut)
    torch.save(optimizer.state_dict(), tmp_path / "optimizer.pt")
    resumed = copy.deepcopy(model)
    optimizer = Ranger(resumed.parameters(), lr=1.0)
    optimizer.load_state_dict(torch.load(tmp_path / "optimizer.pt", weights_only=True))
    assert torch.equal(train(resumed, optimizer, 20 - cut, first=cut)[-1], expected)


def test_leaves_parameters_without_gradient_alone():
    used, unused = torch.nn.Parameter(torch.ones(3)), torch.nn.Parameter(torch.ones(3))
    optimizer = Ranger([used, unused], lr=0.1)
    for _ in range(7):
        used.grad = torch.ones(3)
        optimizer.step()
    assert torch.equal(unused, torch.ones(3))
    assert not torch.equal(used, torch.ones(3))


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # of torch's compiler itself
def test_a_compiled_update_is_the_same_and_is_not_compiled_anew_for_each_rate():
    from torch._dynamo.utils import counters

    from weaver_tasks.training.optimizers import apply_rates, build_optimizer, compiled_step
    from weaver_tasks.training.schedules import StepRates

    weights, graphs = [], []
    for compiles in (False, True):
        torch.manual_seed(0)
        model = torch.nn.Linear(4, 8)
        optimizer = build_optimizer(model, "ranger", {"weight_decay": 0.01}, lr=0.1, compiled_step=compiles).optimizer
        step = compiled_step(optimizer) if compiles else optimizer.step
        for number in range(12):
            apply_rates(optimizer, StepRates(1 - number / 20, 1 - number / 20), lr=0.1)
            optimizer.zero_grad()
            model(torch.ones(3, 4)).square().sum().backward()
            step()
            graphs.append(counters["stats"]["unique_graphs"])
        weights.append([parameter.detach() for parameter in model.parameters()])
    torch.testing.assert_close(*weights, atol=1e-6, rtol=1e-6)
    # Two groups of weights, before and after the variance can be rectified.
    assert graphs[-1] - graphs[11] == 4
