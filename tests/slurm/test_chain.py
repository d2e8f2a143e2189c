"""The whole chain on a real Slurm cluster, and trainings of several ranks and nodes: the same weights as on one machine."""

import json
import re
import shutil
import subprocess

import pytest
import torch

pytestmark = [pytest.mark.slow, pytest.mark.slurm, pytest.mark.filterwarnings("default")]

TRAINED = "results/small/metrics/train_epoch-1.json"
VALIDATED = "results/small/metrics/val_epoch-1.json"
NODES = ("elsewhere", "wt-node1", "wt-node2")
PROCESSES = ("HToBB", "TTBarLep", "ZJetsToNuNu")


def assert_same_weights(run, reference):
    expected = reference.weights()
    assert run.weights().keys() == expected.keys()
    assert all(torch.equal(run.weights()[name], value) for name, value in expected.items())


def whole_chain(prepared, folder):
    """With the profile where the README's one step puts it."""
    run = type(prepared)(folder, prepared.repository)
    shutil.copytree(run.repository / "profiles" / "slurm", folder / "user" / "snakemake" / "slurm")
    run.run("--profile", "slurm")
    return run


@pytest.mark.parametrize("scenario", [whole_chain])
def test_the_chain_with_the_profile_of_the_user(played, reference, scenario):
    run = played(scenario)
    assert_same_weights(run, reference)
    assert json.loads((run.results / "export/parity.json").read_text())["max_abs_difference"] <= 1e-5
    assert (run.results / "provenance/ro-crate-metadata.json").exists()
    # Each stage that works longer than seconds ran in a job; the others did not.
    assert run.output().count("has been submitted with SLURM jobid") == 10
    assert "Nothing to be done" in run.run("--profile", "slurm", "--dry-run")


def allocated(run, rule) -> tuple[str, list[str]]:
    """The GPUs of the job of a rule, and its nodes, as Slurm tells them."""
    (job,) = re.findall(rf"SLURM jobid (\d+) \(log: \S*rule_{rule}/", run.output())
    told = subprocess.run(["scontrol", "--details", "show", "job", job], capture_output=True, text=True, check=True).stdout
    gpus, nodes = re.search(r"JOB_GRES=(\S+)", told)[1], re.search(r" NodeList=(\S+)", told)[1]
    return gpus, subprocess.run(["scontrol", "show", "hostnames", nodes], capture_output=True, text=True, check=True).stdout.split()


def two_ranks_on_one_node(prepared, folder):
    """With the GPUs that `device: cuda` would ask for; they are only pretended, so it trains on CPUs."""
    run = prepared.copy(folder, ranks=2)
    run.run("--workflow-profile", "slurm", TRAINED, "--set-resources", "train_epoch:gpu=2")
    return run


@pytest.mark.parametrize("scenario", [two_ranks_on_one_node])
def test_two_ranks_on_one_node(played, two_ranks, scenario):
    run = played(scenario)
    assert_same_weights(run, two_ranks)
    gpus, nodes = allocated(run, "train_epoch_0_to_1")
    assert gpus == "gpu:2"
    assert len(nodes) == 1


def two_nodes_with_scratch(prepared, folder):
    """Staged on the scratch of another machine, trained on two nodes, each with a scratch folder of its own."""
    run = prepared.copy(folder)
    run.config["staging"]["directory"] = f"{folder}/scratch/$SLURMD_NODENAME"
    run.run("--cores", "2", "--until", "init_model", SLURMD_NODENAME="elsewhere")
    run.config["training"]["nodes"] = 2
    run.run("--workflow-profile", "slurm", TRAINED, VALIDATED, "--set-resources", "train_epoch:gres=gpu:2")
    return run


@pytest.mark.parametrize("scenario", [two_nodes_with_scratch])
def test_two_nodes_stage_again_what_is_not_on_their_scratch(played, two_ranks, scenario):
    run = played(scenario)
    assert run.output().count("has been submitted with SLURM jobid") == 2
    assert_same_weights(run, two_ranks)
    assert allocated(run, "train_epoch_0_to_1") == ("gpu:4", ["wt-node1", "wt-node2"])
    staged = {node: sorted(path.name for path in (run.folder / "scratch" / node).rglob("*.arrow")) for node in NODES}
    assert staged["elsewhere"] == [f"{process}.arrow" for process in PROCESSES]
    assert staged["wt-node1"] == staged["wt-node2"] == staged["elsewhere"]
