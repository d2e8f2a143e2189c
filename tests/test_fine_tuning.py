"""Fine-tuning through Snakemake: the published ParticleNet with a new last layer and a frozen body, on real jets."""

import json
from pathlib import Path

import pytest
import torch
import yaml

import workflow_run

pytestmark = pytest.mark.filterwarnings("default")

PUBLISHED = Path(__file__).parent / "files" / "pretrained" / "ParticleNet_full.pt"
LAST_LAYER = r"mod\.fc\.1\."
BODY = [r"mod\.bn_fts", r"mod\.edge_convs", r"mod\.fc\.0"]


def fine_tuning(folder, repository, jets, *, load) -> workflow_run.Run:
    """Two epochs on three classes and the 48 leading particles of each jet."""
    folder.mkdir()
    run = workflow_run.Run(folder, repository, jets)
    run.data = yaml.safe_load((repository / "config/data/jetclass_full.yaml").read_text())
    run.data |= {"labels": {"type": "simple", "value": [f"label_{name}" for name in workflow_run.CLASSES]}, "treename": "tree"}
    for group in run.data["inputs"].values():
        group["length"] = 48
    run.config["network"] = {"config": str(repository / "config/networks/particle_net.py")}
    if load:
        run.config["network"] |= {"load_weights": str(PUBLISHED), "exclude_weights": [LAST_LAYER], "freeze_weights": BODY}
    run.config["training"] |= {"epochs": 2, "batch_size": 64, "lr": 0.01, "optimizer": {"name": "adamW"}}
    return run


@pytest.mark.slow
def test_a_new_last_layer_learns_on_a_frozen_body(tmp_path, repository, jets):
    tuned = fine_tuning(tmp_path / "tuned", repository, jets, load=True)
    tuned.snakemake()
    published = torch.load(PUBLISHED, map_location="cpu", weights_only=True)
    first, last = tuned.state("init"), tuned.state("net_epoch-1")
    statistics = ("running_mean", "running_var", "num_batches_tracked")
    for name, tensor in published.items():
        if not name.startswith("mod.fc.1."):
            assert torch.equal(first[name], tensor), name
            # As weaver's, a frozen batch norm goes on to follow the mean and variance of what it sees.
            assert name.endswith(statistics) or torch.equal(last[name], tensor), name
    assert last["mod.fc.1.weight"].shape == (3, 256)
    assert not torch.equal(last["mod.fc.1.weight"], first["mod.fc.1.weight"])
    counts = json.loads((tuned.results / "metrics/init_model.json").read_text())
    assert counts["trainable_parameters"] == 3 * 256 + 3
    assert counts["parameters"] > 300_000

    scratch = fine_tuning(tmp_path / "scratch", repository, jets, load=False)
    scratch.snakemake("--until", "validate_epoch")
    better, worse = (json.loads((run.results / "metrics/val_epoch-1.json").read_text())["accuracy"] for run in (tuned, scratch))
    assert better > worse + 0.1
    assert better > 0.8
    assert json.loads((tuned.results / "export/parity.json").read_text())["max_abs_difference"] <= 1e-5

    # Other weights under the same name are trained from anew.
    assert tuned.planned() == {}
    tuned.config["network"]["freeze_weights"] = BODY[:1]
    assert {"init_model", "train_epoch"} <= tuned.planned().keys()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"load_weights": "nowhere.pt"}, ["network.load_weights", "no such file 'nowhere.pt'"]),
        ({"load_weights": "{fold}.pt"}, ["network.load_weights", "{fold}", "cross_validation"]),
    ],
)
def test_weights_that_are_not_there_are_told_before_anything_runs(tmp_path, repository, jets, change, words):
    run = fine_tuning(tmp_path / "run", repository, jets, load=True)
    run.config["network"] |= change
    output = run.snakemake("--dry-run", code=2)
    (error,) = (line for line in output.splitlines() if line.startswith("ERROR: "))
    assert all(word in error for word in words), output
