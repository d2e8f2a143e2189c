"""Folds, seeds and keep_checkpoints through Snakemake, on real jets."""

import json
import signal
import subprocess
import threading
import time

import numpy as np
import pytest
import uproot

import workflow_run

pytestmark = [pytest.mark.filterwarnings("default"), pytest.mark.slow]


@pytest.fixture
def run(tmp_path, repository, jets):
    """One epoch on two classes."""
    made = workflow_run.Run(tmp_path, repository, jets)
    classes = ["label_QCD", "label_Hbb"]
    made.config["data"]["train"].pop("Tbl")
    made.data["labels"]["value"] = classes
    made.data["weights"] |= {"reweight_classes": classes, "class_weights": [1, 1]}
    made.data["new_variables"]["number"] = "jet_nparticles"
    made.config["training"]["epochs"] = 1
    return made


def branches(path, *names):
    with uproot.open(path) as file:
        return [file["Events"][name].array(library="np") for name in names]


def test_folds_predict_the_training_events_that_they_did_not_see(run, jets, tmp_path):
    source = jets / "train" / "HToBB.root"
    run.config["cross_validation"] = {"variable": "number", "folds": 2}
    run.config["data"]["test"] = {"signal": [str(source)]}
    output = run.snakemake()
    assert "is a copy of" not in output
    with uproot.open(source) as file:
        number, pt = (file["tree"][name].array(library="np") for name in ("jet_nparticles", "jet_pt"))
    scores, observed = branches(run.results / "predictions/signal.root", "score_label_Hbb", "jet_pt")
    assert observed.tolist() == pt.tolist()
    for fold in (0, 1):
        own = branches(run.results / f"fold-{fold}/predictions/signal.root", "score_label_Hbb")[0]
        assert own.tolist() == scores[number % 2 == fold].tolist()
        assert (run.results / f"fold-{fold}/export/parity.json").exists()
        used = json.loads((run.results / f"fold-{fold}/reweighting.json").read_text())["events_used"]
        assert used["label_Hbb"] == (number % 2 != fold).sum()
    metrics = json.loads((run.results / "evaluation/metrics.json").read_text())
    assert metrics["entries"] == len(pt)
    assert set(metrics["members"]["accuracy"]["members"]) == {"fold-0", "fold-1"}
    assert "accuracy of 2 members" in output
    crate = (run.results / "provenance/ro-crate-metadata.json").read_text()
    assert '"predictions/signal.root"' in crate
    assert '"fold-1/predictions/signal.root"' in crate
    assert run.planned() == {}

    # Other files, by the models of these folds: nothing is trained.
    again = workflow_run.Run(tmp_path / "again", run.repository, jets)
    again.folder.mkdir()
    again.data, again.config = run.data, run.config | {"prediction": {"format": "parquet"}}
    again.config["prediction"]["model"] = str(run.results / "fold-{fold}/checkpoints/net_best_epoch_state.pt")
    again.config["data"] |= {"config": str(run.results / "fold-0/data_config.auto.yaml"), "train": {}}
    assert set(again.planned()) == {
        *("stage_inputs", "gather_inputs", "gather_test_inputs", "predict", "merge_predictions", "evaluate", "provenance")
    }
    again.snakemake("--until", "merge_predictions")
    import pyarrow.parquet as pq

    table = pq.read_table(again.results / "predictions/signal.parquet")
    assert np.abs(np.array(table["scores"].to_pylist())[:, 1] - scores).max() < 1e-6


def test_seeds_become_an_ensemble(run):
    run.config["seeds"] = [3, 11]
    run.snakemake()
    merged = branches(run.results / "predictions/all.root", "score_label_Hbb", "spread_label_Hbb")
    one, other = (branches(run.results / f"seed-{seed}/predictions/all.root", "score_label_Hbb")[0] for seed in (3, 11))
    assert (one != other).any()
    assert np.abs(merged[0] - (one + other) / 2).max() < 1e-6
    assert np.abs(merged[1] - np.abs(one - other) / 2**0.5).max() < 1e-6
    metrics = json.loads((run.results / "evaluation/metrics.json").read_text())
    assert metrics["members"]["auc"]["mean"] == pytest.approx(np.mean(list(metrics["members"]["auc"]["members"].values())))
    assert "## The members" in (run.results / "evaluation/metrics.md").read_text()
    assert (run.results / "evaluation/training.png").exists()
    assert run.planned() == {}


def test_only_few_checkpoints_are_on_the_disk_even_after_a_kill(run):
    run.config["training"] |= {"epochs": 5, "keep_checkpoints": "best_and_last"}
    checkpoints = run.results / "checkpoints"
    most, over = [0], threading.Event()

    def watch():
        while not over.wait(0.02):
            most[0] = max(most[0], len(list(checkpoints.glob("net_epoch-*_state.pt"))), len(list(checkpoints.glob(".journal/*/state.pt"))))

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        process = subprocess.Popen(
            run.command(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=run.folder, start_new_session=True
        )
        while not (checkpoints / "net_epoch-2_state.pt").exists():
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
        process.wait()
        trained = json.loads((run.results / "metrics/train_epoch-1.json").read_text())
        run.snakemake()
    finally:
        over.set()
        watching.join()
    assert most[0] <= 4
    assert json.loads((run.results / "metrics/train_epoch-1.json").read_text()) == trained
    best = json.loads((run.results / "best_epoch.json").read_text())["epoch"]
    assert {path.name for path in checkpoints.glob("net_epoch-*_state.pt")} == {f"net_epoch-{epoch}_state.pt" for epoch in (best, 4)}
    assert len(list(checkpoints.glob(".journal/*/state.pt"))) == len({best, 4})
    assert run.planned() == {}

    # Forced to run again, the jobs find all that they made.
    before = {path.name: path.read_bytes() for path in [*run.results.glob("metrics/*.json"), *checkpoints.glob("*.pt")]}
    run.snakemake("--forcerun", "init_model", "--until", "select_best_epoch")
    assert {path.name: path.read_bytes() for path in [*run.results.glob("metrics/*.json"), *checkpoints.glob("*.pt")]} == before

    # The other end of the metric: that epoch is gone, unless it is the last.
    run.config["validation"] = {"metric": "accuracy", "mode": "min"}
    worst = min(range(5), key=lambda epoch: json.loads((run.results / f"metrics/val_epoch-{epoch}.json").read_text())["accuracy"])
    if worst not in (best, 4):
        output = run.snakemake("--until", "select_best_epoch", code=1)
        assert f"epoch {worst} is the best by accuracy, but its checkpoint is gone" in output
        run.config["validation"] = {}
        run.snakemake()
        assert json.loads((run.results / "best_epoch.json").read_text())["epoch"] == best


def test_a_change_of_the_selection_that_is_undone_brings_back_the_best_epoch(run):
    """By loss, the largest: the first epoch is the best, and early stopping leaves three of six. By accuracy others are, or are refused."""
    checkpoints = run.results / "checkpoints"
    run.config["training"] |= {"epochs": 6, "early_stopping": {"patience": 1}, "keep_checkpoints": "best_and_last"}
    first, second = {"metric": "loss", "mode": "max"}, {"metric": "accuracy", "mode": "max"}
    run.config["validation"] = first
    run.snakemake("--until", "select_best_epoch")
    best, weights = json.loads((run.results / "best_epoch.json").read_text()), (checkpoints / "net_best_epoch_state.pt").read_bytes()
    stopped = [epoch for epoch in range(6) if json.loads((run.results / f"metrics/train_epoch-{epoch}.json").read_text()).get("stopped")]
    assert stopped
    assert run.planned("--until", "select_best_epoch") == {}
    run.config["validation"] = second
    done = subprocess.run(run.command("--until", "select_best_epoch"), capture_output=True, text=True, cwd=run.folder)
    assert done.returncode == 0 or "Undo the change of the configuration" in done.stderr or "undo the change" in done.stderr
    run.config["validation"] = first
    run.snakemake("--until", "select_best_epoch")
    assert json.loads((run.results / "best_epoch.json").read_text()) == best
    assert (checkpoints / "net_best_epoch_state.pt").read_bytes() == weights
    # A higher patience goes on from the last epoch that was trained.
    run.config["training"]["early_stopping"] = {"patience": 20}
    run.snakemake("--until", "select_best_epoch")
    assert not any("stopped" in json.loads((run.results / f"metrics/train_epoch-{epoch}.json").read_text()) for epoch in range(6))
    assert json.loads((run.results / "best_epoch.json").read_text())["metric"] == "loss"


MODES = {
    "one epoch a job": {},
    "blocks": {"epochs_per_job": 2},
    "early stopping": {"early_stopping": {"patience": 1}},
    "few checkpoints": {"keep_checkpoints": "best_and_last"},
    "all": {"epochs_per_job": 2, "early_stopping": {"patience": 5}, "keep_checkpoints": "best_and_last"},
}


def test_the_target_train_plans_all_epochs_and_nothing_after_them(run):
    for mode in MODES.values():
        run.config["training"] |= {"epochs": 3, "epochs_per_job": None, "early_stopping": None, "keep_checkpoints": "all", **mode}
        whole = run.planned()
        after = {"predict", "evaluate", "export_onnx", "provenance"}
        assert after <= set(whole)
        planned = run.planned("train")
        planned.pop("train")
        left_out = {*after, "gather_test_inputs"}
        stages = {rule: count for rule, count in whole.items() if rule not in (*left_out, "stage_inputs", "gather_inputs")}
        assert stages == {rule: count for rule, count in planned.items() if rule not in ("stage_inputs", "gather_inputs")}


@pytest.mark.parametrize(
    "members", [{}, {"seeds": [3, 11]}, {"cross_validation": {"variable": "number", "folds": 2}}], ids=["one", "seeds", "folds"]
)
def test_the_target_train_stops_after_the_training(run, members):
    run.config |= members
    run.config["training"] |= {"epochs": 4, **MODES["all"]}
    run.snakemake("train")
    folders = {"seeds": ["seed-3", "seed-11"], "cross_validation": ["fold-0", "fold-1"]}.get(next(iter(members), ""), ["."])
    for folder in (run.results / name for name in folders):
        assert [epoch for epoch in range(4) if not (folder / f"metrics/val_epoch-{epoch}.json").exists()] == []
        best = json.loads((folder / "best_epoch.json").read_text())["epoch"]
        accuracies = [json.loads((folder / f"metrics/val_epoch-{epoch}.json").read_text())["accuracy"] for epoch in range(4)]
        assert best == int(np.argmax(accuracies))
        assert (folder / "checkpoints/net_best_epoch_state.pt").exists()
    assert [name for name in ("predictions", "evaluation", "export") if list(run.results.rglob(name))] == []
    assert run.planned("train") == {}


def test_until_the_validation_is_refused_where_it_would_not_stop_after_the_training(run):
    for mode in ("blocks", "early stopping", "few checkpoints"):
        run.config["training"] |= {"epochs": 3, "epochs_per_job": None, "early_stopping": None, "keep_checkpoints": "all", **MODES[mode]}
        output = run.snakemake("--until", "validate_epoch", code=2)
        assert "ERROR: --until validate_epoch: " in output
        assert "Ask for the target `train`" in output
    assert not (run.results / "staged").exists()
    run.config["training"] |= {"epochs_per_job": None, "early_stopping": None, "keep_checkpoints": "all"}
    assert run.planned("--until", "validate_epoch")["validate_epoch"] == 3


def test_a_trained_model_leaves_the_target_train_nothing_to_do(run):
    run.config["prediction"] = {"model": "somewhere/net.pt"}
    for group in run.data["inputs"].values():
        group["vars"] = [[name if isinstance(name, str) else name[0], None] for name in group["vars"]]
    output = run.snakemake("--dry-run", "train", code=2)
    assert "prediction.model: somewhere/net.pt is trained already, so the target `train` has nothing to do" in output
