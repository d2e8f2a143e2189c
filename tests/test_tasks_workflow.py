"""Regressions, labels of particles and a network's own loops, from files to ONNX through Snakemake, on real jets."""

import json

import awkward as ak
import numpy as np
import pytest
import uproot

import workflow_run

pytestmark = [pytest.mark.filterwarnings("default"), pytest.mark.slow]


@pytest.fixture
def run(tmp_path, repository, jets):
    """Two epochs on two files, without weights."""
    made = workflow_run.Run(tmp_path, repository, jets)
    made.config["data"] |= {
        "train": {name: str(jets / "train" / f"{name}.root") for name in ("HToBB", "ZJetsToNuNu")},
        "test": {name: str(jets / "test" / f"{name}.root") for name in ("HToBB", "ZJetsToNuNu")},
    }
    made.config["training"]["epochs"] = 2
    made.data.pop("weights")
    return made


def read(run, name):
    return json.loads((run.results / name).read_text())


def parity(run) -> float:
    return read(run, "export/parity.json")["max_abs_difference"]


def network(run, text: str) -> None:
    """Give the run a network file of its own, after the PFN's."""
    path = run.folder / "network.py"
    path.write_text((run.repository / "config/networks/pfn.py").read_text() + text)
    run.config["network"]["config"] = str(path)


def test_a_regression_of_two_targets(run, jets):
    run.data["labels"] = {"type": "custom", "value": {"mass": "jet_sdmass / 100", "pt": "jet_pt / 500"}}
    run.config["training"] |= {"task": "regression", "epochs": 4, "lr": 0.01}
    network(run, "\n\ndel get_loss\n")
    run.snakemake()
    best = read(run, "best_epoch.json")
    losses = [read(run, f"metrics/val_epoch-{epoch}.json")["loss"] for epoch in range(4)]
    assert (best["metric"], best["mode"], best["value"]) == ("loss", "min", min(losses))
    with uproot.open(run.results / "predictions/HToBB.root") as file, uproot.open(jets / "test/HToBB.root") as source:
        output, mass, pt = (file["Events"][name].array(library="np") for name in ("output", "mass", "pt"))
        np.testing.assert_allclose(mass, source["tree"]["jet_sdmass"].array(library="np") / 100, rtol=1e-6)
    assert output.shape == (100, 2)
    metrics = read(run, "evaluation/metrics.json")
    for place, (name, target) in enumerate({"mass": mass, "pt": pt}.items()):
        error = output[:, place].astype(float) - target
        group = metrics["targets"][name]["groups"]["HToBB"]
        low, high = np.quantile(error, (0.158655, 0.841345))
        assert group["bias"] == pytest.approx(error.mean(), abs=1e-6)
        assert group["resolution"] == pytest.approx((high - low) / 2, abs=1e-6)
        assert sum(row["entries"] for row in metrics["targets"][name]["bins"]) == 200
    # A network that has learned nothing is off by the targets themselves.
    assert min(losses) < 0.3 * np.mean(np.square([mass, pt]))
    assert min(losses) < losses[0]
    assert (run.results / "evaluation/regression.png").exists()
    assert parity(run) <= 1e-5


PER_PARTICLE = """

class PerParticle(torch.nn.Module):
    def __init__(self, inputs):
        super().__init__()
        self.layers = torch.nn.Sequential(torch.nn.Conv1d(inputs, 16, 1), torch.nn.ReLU(), torch.nn.Conv1d(16, 2, 1))

    def forward(self, points, features, lorentz_vectors, mask):
        return self.layers(features)


def get_model(data_config, **options):
    return PerParticle(len(data_config.input_dicts["pf_features"])), model_info(data_config)
"""


def test_labels_of_particles_with_a_mask(run, jets):
    run.data["labels"] = {
        "type": "custom",
        "value": {
            "charged": "_pad(part_charge != 0, maxlen=64, value=0)",
            "charged_mask": "_pad(part_energy > 1, maxlen=64, value=0)",
        },
        "names": ["neutral", "charged"],
    }
    network(run, PER_PARTICLE)
    run.config["network"]["options"] = {}
    run.config["training"] |= {"epochs": 5, "lr": 0.05}
    run.snakemake()
    with uproot.open(run.results / "predictions/HToBB.root") as file, uproot.open(jets / "test/HToBB.root") as source:
        truth, scores = (file["Events"][name].array() for name in ("charged", "score_charged"))
        energy, charge = (source["tree"][name].array()[:, :64] for name in ("part_energy", "part_charge"))
    counted = energy > 1
    # The branch `charged` of a class is its flag, and the label of the same name is written once.
    assert ak.num(scores).tolist() == ak.sum(counted, axis=1).tolist()
    assert ak.flatten(truth).to_list() == ak.flatten((charge != 0)[counted]).to_list()
    accuracy = ak.mean((scores > 0.5) == (truth == 1))
    assert accuracy > 0.95  # the charge is among the inputs
    metrics = read(run, "evaluation/metrics.json")
    assert metrics["groups"]["HToBB"]["entries"] == ak.sum(counted)
    assert metrics["groups"]["HToBB"]["accuracy"] == pytest.approx(accuracy, abs=1e-6)
    assert parity(run) <= 1e-5


OWN_LOOPS = """
from weaver.utils.nn.tools import evaluate_classification, train_classification


def get_loss(data_config, **options):
    return torch.nn.CrossEntropyLoss(label_smoothing=0.05)


def get_train_fn(data_config, **options):
    return train_classification


def get_evaluate_fn(data_config, **options):
    return evaluate_classification


def init_opt(args, model, **options):
    optimizer = torch.optim.SGD(model.parameters(), lr=args.start_lr, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)
    return optimizer, scheduler
"""


def test_a_networks_own_loops_loss_and_optimizer(run):
    classes = ["label_QCD", "label_Hbb"]
    run.data["labels"]["value"] = classes
    network(run, OWN_LOOPS)
    run.config["cross_validation"] = {"variable": "number", "folds": 2}
    run.data["new_variables"]["number"] = "jet_nparticles"
    run.snakemake()
    rates = [read(run, f"fold-0/metrics/train_epoch-{epoch}.json")["lr"] for epoch in range(2)]
    assert rates[1] == pytest.approx(rates[0] / 2)
    with uproot.open(run.results / "predictions/HToBB.root") as file:
        scores = [file["Events"][f"score_{name}"].array(library="np") for name in classes]
    assert len(scores[0]) == 100
    assert np.abs(sum(scores) - 1).max() < 1e-5
    assert read(run, "fold-1/export/parity.json")["max_abs_difference"] <= 1e-5
