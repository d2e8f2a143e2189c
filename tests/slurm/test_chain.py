"""The whole chain on a real Slurm cluster, and trainings of several ranks and nodes: the same weights as on one machine."""

import json
import shutil

import pytest
import torch

pytestmark = [pytest.mark.slow, pytest.mark.slurm, pytest.mark.filterwarnings("default")]

TRAINED = "results/small/metrics/train_epoch-1.json"


def assert_same_weights(run, reference):
    expected = reference.weights()
    assert run.weights().keys() == expected.keys()
    assert all(torch.equal(run.weights()[name], value) for name, value in expected.items())


def test_the_chain_with_the_profile_of_the_user(cluster, reference, fresh, repository):
    # The README's one step.
    shutil.copytree(repository / "profiles" / "slurm", fresh.folder / "user" / "snakemake" / "slurm")
    output = fresh.run("--profile", "slurm")
    assert_same_weights(fresh, reference)
    assert json.loads((fresh.results / "export/parity.json").read_text())["max_abs_difference"] <= 1e-5
    assert (fresh.results / "provenance/ro-crate-metadata.json").exists()
    # Each stage that works longer than seconds ran in a job; the others did not.
    assert output.count("has been submitted with SLURM jobid") == 13
    assert "Nothing to be done" in fresh.run("--profile", "slurm")


@pytest.fixture(scope="module")
def two_ranks(prepared, tmp_path_factory):
    """Trained with two ranks by the local executor."""
    run = prepared.copy(tmp_path_factory.mktemp("two_ranks") / "run", ranks=2)
    run.run("--cores", "2", TRAINED)
    return run


@pytest.mark.parametrize(("ranks", "nodes"), [(2, 1), (1, 2)])
def test_ranks_and_nodes(cluster, prepared, two_ranks, tmp_path, ranks, nodes):
    run = prepared.copy(tmp_path / "run", ranks=ranks, nodes=nodes)
    output = run.run("--workflow-profile", "slurm", TRAINED, "results/small/metrics/val_epoch-1.json")
    assert output.count("has been submitted with SLURM jobid") == 2
    assert_same_weights(run, two_ranks)
