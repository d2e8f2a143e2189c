"""A training begun by weaver-core itself, on the jets of this repository, goes on here as it would there."""

import argparse
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import stage_run
from weaver_tasks.base.errors import CheckpointError, ConfigError
from weaver_tasks.data.configuration import load_data_configuration
from weaver_tasks.jobs.new_network import continue_training, fresh_network
from weaver_tasks.settings.stage import stage_settings
from weaver_tasks.training.optimizers import build_optimizer
from weaver_tasks.weaver_compat import imports

OPTIMIZERS = {
    "ranger": {"weight_decay": 0.01, "lr_mult": ("jet", 5.0)},
    "adamW": {"weight_decay": 0.02},
    "plain": {},
}
LR = 0.01

TWICE = """
import sys
from weaver.train import main
command = sys.argv[1:]
for name, options in {optimizers}.items():
    optimizer = "ranger" if name == "plain" else name
    given = [word for key, value in options.items() for word in ("--optimizer-option", key, repr(value))]
    sys.argv = ["weaver", *command, "--optimizer", optimizer, "--model-prefix", name + "/net", *given]
    main()
"""


@pytest.fixture(scope="module")
def begun(tmp_path_factory, jets) -> Path:
    """A folder in which weaver trained epochs 0 and 1 with each optimizer: <name>/net_epoch-1_state.pt and _optimizer.pt."""
    pytest.importorskip("weaver")
    folder = tmp_path_factory.mktemp("weaver")
    run = stage_run.StageRun(folder / "ours", staged=folder / "staged")
    command = [f"{process}:{jets}/train/{process}.root" for process in stage_run.PROCESSES]
    command = ["--data-train", *command, "--data-config", str(run.data_config), "--network-config", str(run.network), "--gpus", ""]
    command += ["--num-epochs", "2", "--batch-size", "100", "--start-lr", str(LR), "--num-workers", "0", "--fetch-step", "1"]
    command += ["--steps-per-epoch", "4", "--lr-scheduler", "none"]
    done = subprocess.run(
        [sys.executable, "-c", TWICE.format(optimizers=OPTIMIZERS), *command],
        cwd=folder, capture_output=True, text=True, env=stage_run.environment(), check=False,
    )  # fmt: skip
    assert (folder / "plain" / "net_epoch-1_optimizer.pt").exists(), done.stderr[-3000:]
    return folder


def settings(begun: Path, name: str, **options) -> dict:
    optimizer = {"name": "ranger" if name == "plain" else name, "options": {**OPTIMIZERS[name], **options}}
    training = {"lr": LR, "threads": 1, "optimizer": optimizer, "epochs": 4, "scheduler": {"name": "none"}}
    return {"seed": 1, "training": {**training, "continue_from": {"prefix": str(begun / name / "net"), "epoch": 1}}}


def network_of(begun: Path, given: dict):
    configuration = load_data_configuration(begun / "ours" / "data_config.auto.yaml")
    network, optimizer = fresh_network(stage_settings(given), configuration, begun / "ours" / "network.py")
    return network, optimizer


def steps(model, optimizer, count: int) -> list[torch.Tensor]:
    """The weights after `count` updates on one fixed batch."""
    generator = torch.Generator().manual_seed(3)
    features, mask = torch.randn(64, 4, 40, generator=generator), torch.ones(64, 1, 40)
    truth = torch.randint(0, 3, (64,), generator=generator)
    model.eval()  # no dropout
    for _ in range(count):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(features, mask), truth).backward()
        optimizer.step()
    return [parameter.detach().clone() for parameter in model.parameters()]


@pytest.mark.filterwarnings("ignore")  # weaver-core's own
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_next_updates_are_weavers(begun, name):
    given = settings(begun, name)
    theirs, _ = network_of(begun, given)
    imports.restore()
    weaver = pytest.importorskip("weaver.train")
    arguments = argparse.Namespace(
        optimizer=given["training"]["optimizer"]["name"], start_lr=LR, load_epoch=1, model_prefix=str(begun / name / "net"),
        lr_finder=None, lr_scheduler="none", compile_optimizer=False,
    )  # fmt: skip
    their_optimizer, _ = weaver.init_opt(arguments, theirs.model, **OPTIMIZERS[name])
    # One update, and as many as take Lookahead through two of its synchronizations.
    for count in (1, 13):
        ours, our_optimizer = network_of(begun, given)
        continue_training(stage_settings(given), ours, our_optimizer)
        before = [parameter.detach().clone() for parameter in ours.model.parameters()]
        found = steps(ours.model, our_optimizer, count)
        theirs, _ = network_of(begun, given)
        imports.restore()
        their_optimizer, _ = weaver.init_opt(arguments, theirs.model, **OPTIMIZERS[name])
        expected = steps(theirs.model, their_optimizer, count)
        assert max(float((a - b).abs().max()) for a, b in zip(found, expected, strict=True)) < 1e-6
        assert max(float((a - b).abs().max()) for a, b in zip(found, before, strict=True)) > 1e-4


@pytest.mark.filterwarnings("ignore")
def test_the_state_matters(begun):
    """Without the optimizer's state the next update is another one: what the test above compares is not only the weights."""
    given = settings(begun, "ranger")
    ours, continued = network_of(begun, given)
    continue_training(stage_settings(given), ours, continued)
    fresh, optimizer = network_of(begun, given)
    fresh.model.load_state_dict(torch.load(begun / "ranger" / "net_epoch-1_state.pt", weights_only=True))
    difference = zip(steps(ours.model, continued, 1), steps(fresh.model, optimizer, 1), strict=True)
    assert max(float((a - b).abs().max()) for a, b in difference) > 1e-4


def test_the_chain_goes_on_with_weavers_next_epoch(begun, tmp_path):
    run = stage_run.StageRun(tmp_path / "run", staged=begun / "staged")
    run.settings = settings(begun, "adamW")
    run.settings["training"] |= {"batch_size": 100, "scheduler": {"name": "flat+decay", "warmup": 0, "horizon": None}}
    run.call("init_model")
    run.call("train_epoch", epochs=[2])
    run.call("train_epoch", epochs=[3])
    assert sorted(path.name for path in run.checkpoints.glob("net_*_state.pt")) == ["net_epoch-2_state.pt", "net_epoch-3_state.pt"]
    start = torch.load(begun / "adamW" / "net_epoch-1_state.pt", weights_only=True)
    assert all(torch.equal(start[name], value) for name, value in torch.load(run.checkpoint("init_state"), weights_only=True).items())
    after = torch.load(run.checkpoint("net_epoch-2_optimizer"), weights_only=True)["optimizer"]
    # weaver took 8 steps before; of 4 epochs the last one decays.
    assert after["state"][0]["step"] == 8 + run.read("train_epoch-2.json")["steps"]
    assert run.read("train_epoch-2.json")["lr"] == pytest.approx(LR)
    assert run.read("train_epoch-3.json")["lr"] == pytest.approx(0.01 * LR)


@pytest.mark.parametrize(
    ("begun_with", "here", "options", "message"),
    [
        ("ranger", "adamW", {}, r"ranger/net_epoch-1_optimizer\.pt: written by ranger, not by AdamW\. Set training\.optimizer\.name"),
        ("adamW", "ranger", {}, r"written by another optimizer, not by Ranger"),
        ("adamW", "adamW", {"weight_decay": 0.5}, r"weaver's weight_decay was 0\.02, here it is 0\.5"),
        ("adamW", "adamW", {"betas": [0.95, 0.9]}, r"weaver's betas was"),
        ("ranger", "plain", {}, r"its groups hold \[.+\] parameters, those here \[10\]"),
    ],
)
def test_another_optimizer_is_refused(begun, begun_with, here, options, message):
    given = settings(begun, here, **options)
    given["training"]["continue_from"]["prefix"] = str(begun / begun_with / "net")
    network, optimizer = network_of(begun, given)
    with pytest.raises(CheckpointError, match=message):
        continue_training(stage_settings(given), network, optimizer)


def test_another_network_is_refused(begun, tmp_path):
    given = settings(begun, "adamW")
    text = (begun / "ours" / "network.py").read_text()
    (tmp_path / "network.py").write_text(
        text.replace("Linear(24, 24)", "Linear(24, 48)").replace("Linear(24, outputs)", "Linear(48, outputs)")
    )
    network, optimizer = fresh_network(
        stage_settings(given), load_data_configuration(begun / "ours" / "data_config.auto.yaml"), tmp_path / "network.py"
    )
    with pytest.raises(CheckpointError, match=r"net_epoch-1_state\.pt: does not fit the network"):
        continue_training(stage_settings(given), network, optimizer)


def test_files_that_are_not_there_or_not_weavers_are_named(begun, tmp_path):
    given = settings(begun, "adamW")
    network, optimizer = network_of(begun, given)
    given["training"]["continue_from"]["epoch"] = 7
    with pytest.raises(CheckpointError, match=r"net_epoch-7_state\.pt: no such checkpoint.*correct the path"):
        continue_training(stage_settings(given), network, optimizer)
    given["training"]["continue_from"] = {"prefix": str(tmp_path / "net"), "epoch": 0}
    for kind in ("state", "optimizer"):
        (tmp_path / f"net_epoch-0_{kind}.pt").write_bytes((begun / "adamW" / "net_epoch-1_state.pt").read_bytes())
    with pytest.raises(CheckpointError, match=r"net_epoch-0_optimizer\.pt: not the state of an optimizer"):
        continue_training(stage_settings(given), network, optimizer)
    with pytest.raises(ConfigError, match=r"makes its own optimizer.*network\.load_weights"):
        continue_training(stage_settings(given), network, None)


def test_a_built_optimizer_without_a_state_for_frozen_weights(begun):
    """Parameters that never had a gradient have no state in weaver's file either."""
    given = settings(begun, "plain")
    network, _ = network_of(begun, given)
    content = torch.load(begun / "plain" / "net_epoch-1_optimizer.pt", weights_only=True)
    del content["state"][3]
    torch.save(content, begun / "plain" / "net_epoch-5_optimizer.pt")
    torch.save(network.model.state_dict(), begun / "plain" / "net_epoch-5_state.pt")
    optimizer = build_optimizer(network.model, "ranger", {}, lr=LR).optimizer
    given["training"]["continue_from"]["epoch"] = 5
    continue_training(stage_settings(given), network, optimizer)
    assert len(optimizer.state) == len(list(network.model.parameters())) - 1
