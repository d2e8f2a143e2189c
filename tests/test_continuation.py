"""A run that goes on from a checkpoint of another run of this project, as it was or with another learning rate or optimizer."""

import pytest
import torch

import stage_run
from memory_run import same_bits
from weaver_tasks.base.errors import CheckpointError


@pytest.fixture(scope="module")
def first(tmp_path_factory, staged):
    """A run of three epochs with weight decay, its network with a buffer that checkpoints hold apart."""
    network = stage_run.NETWORK.replace(
        "    def forward(self, features, mask):\n",
        "        self.register_buffer('seen', torch.zeros(1), persistent=False)\n\n"
        "    def forward(self, features, mask):\n        self.seen += self.training\n",
    )
    run = stage_run.StageRun(tmp_path_factory.mktemp("first") / "run", staged=staged, network=network)
    run.settings["training"]["optimizer"]["options"] = {"weight_decay": 0.01}
    run.call("init_model")
    run.call("train_epoch", epochs=[0, 1, 2])
    return run


@pytest.fixture
def goes_on(tmp_path, staged, first):
    def make(epoch: int, **training) -> stage_run.StageRun:
        run = stage_run.StageRun(tmp_path / "second", staged=staged, network=first.network.read_text())
        prefix = str(first.checkpoints / "net")
        given = {**first.settings["training"], **training, "continue_from": {"prefix": prefix, "epoch": epoch}}
        run.settings = {**first.settings, "training": given}
        run.call("init_model")
        return run

    return make


def load(run, name):
    return torch.load(run.checkpoint(name), weights_only=True)


def test_as_it_was_it_trains_the_same_epochs(first, goes_on):
    run = goes_on(0)
    run.call("train_epoch", epochs=[1, 2])
    for epoch in (1, 2):
        same_bits(load(run, f"net_epoch-{epoch}_state"), load(first, f"net_epoch-{epoch}_state"))
        ours, theirs = (load(each, f"net_epoch-{epoch}_optimizer") for each in (run, first))
        for name in ("optimizer", "buffers", "global_step", "epoch"):
            same_bits(ours[name], theirs[name])


def test_another_rate_and_other_options_keep_what_the_optimizer_remembers(first, goes_on):
    run = goes_on(1, lr=1e-4, optimizer={"name": "ranger", "options": {"weight_decay": 0.5, "k": 3}})
    ours, theirs = load(run, "init_optimizer")["optimizer"], load(first, "net_epoch-1_optimizer")["optimizer"]
    for index, state in theirs["state"].items():
        assert all(torch.equal(torch.as_tensor(ours["state"][index][name]), torch.as_tensor(value)) for name, value in state.items())
    assert [group["lookahead_step"] for group in ours["param_groups"]] == [group["lookahead_step"] for group in theirs["param_groups"]]
    assert {(group["lr"], group["k"]) for group in ours["param_groups"]} == {(1e-4, 3)}
    assert {group["weight_decay"] for group in ours["param_groups"]} == {0.0, 0.5}
    run.call("train_epoch", epochs=[2])
    assert run.read("train_epoch-2.json")["lr"] == pytest.approx(1e-4)


@pytest.mark.parametrize(
    "optimizer",
    [
        {"name": "adamW", "options": {"weight_decay": 0.01}},
        {"name": "SGD", "options": {"momentum": 0.9}},
        {"name": "ranger", "options": {}},  # one group of weights where there were two
    ],
)
def test_another_optimizer_begins_anew_from_the_weights_and_says_so(first, goes_on, optimizer, capsys):
    run = goes_on(1, optimizer=optimizer)
    assert "net_epoch-1_optimizer.pt: of another optimizer than training.optimizer.name" in capsys.readouterr().err
    assert not load(run, "init_optimizer")["optimizer"]["state"]
    start = load(first, "net_epoch-1_state")
    assert all(torch.equal(value, start[name]) for name, value in load(run, "init_state").items())
    run.call("train_epoch", epochs=[2])
    after = load(run, "net_epoch-2_optimizer")["optimizer"]["state"]
    # Ranger's and adamW's count of steps is that of this epoch alone.
    assert {float(state["step"]) for state in after.values() if "step" in state} <= {run.read("train_epoch-2.json")["steps"]}


def test_halves_of_two_checkpoints_are_refused(first, goes_on, tmp_path):
    for kind, epoch in (("state", 0), ("optimizer", 1)):
        (tmp_path / f"net_epoch-7_{kind}.pt").write_bytes(first.checkpoint(f"net_epoch-{epoch}_{kind}").read_bytes())
    run = goes_on(1)
    run.settings["training"]["continue_from"] = {"prefix": str(tmp_path / "net"), "epoch": 7}
    with pytest.raises(CheckpointError, match=r"net_epoch-7_state\.pt: damaged, or not the weights that net_epoch-7_optimizer\.pt belongs"):
        run.call("init_model")
