"""What a run does not do by surprise: train over another training, end without test data, start beside itself; through Snakemake."""

import json
import shutil
import subprocess
import time

import pytest

import workflow_run

pytestmark = [pytest.mark.filterwarnings("default"), pytest.mark.slow]


@pytest.fixture
def run(tmp_path, repository, jets):
    made = workflow_run.Run(tmp_path, repository, jets)
    made.config["training"]["epochs"] = 2
    made.data.pop("weights")
    return made


def test_a_training_of_other_settings_is_not_trained_over(run):
    run.snakemake()
    before = {path: path.read_bytes() for path in run.results.rglob("*") if path.is_file() and ".log" not in path.name}
    run.config["training"]["lr"] = 0.001
    said = run.snakemake(code=2)
    last = [line for line in said.splitlines() if line.strip()][-1]
    assert last.startswith("ERROR: config.yaml: results/small holds a training of other settings (training.lr: 0.005 there, 0.001 now)")
    assert "2 finished epochs" in last
    after = {path: path.read_bytes() for path in before}
    assert after == before
    assert not list((run.folder / ".snakemake/locks").glob("*"))
    assert "WARNING: config.yaml: results/small holds a training of other settings" in run.snakemake("--dry-run")
    # Other targets go on; so does the run, when it is agreed to.
    run.snakemake("model_summary")
    trained = run.trained()
    run.config["retrain"] = True
    run.snakemake()
    assert set(trained.values()).isdisjoint(run.trained().values())
    # Undone, the old epochs are there again without training.
    run.config["training"]["lr"] = 0.005
    run.snakemake()
    assert run.trained() == trained
    record = json.loads((run.results / "provenance/tasks/train_epoch/epoch-1.json").read_text())
    assert (record["trained_epochs"], record["epochs_from_journal"]) == ([], [1])


@pytest.mark.parametrize("kind", ["no test files", "nothing passes", "two seeds"])
def test_without_test_events_a_run_finishes(run, kind):
    run.config["training"]["epochs"] = 1
    if kind == "nothing passes":
        run.config["data"]["extra_selection"] = {"test": "jet_pt > 1e9"}
    else:
        del run.config["data"]["test"]
    if kind == "two seeds":
        run.config["seeds"] = [1, 2]
    said = run.snakemake()
    assert ("data.test is empty" in said) == (kind != "nothing passes")
    folder = run.results / "seed-2" if kind == "two seeds" else run.results
    parity = json.loads((folder / "export/parity.json").read_text())
    assert parity["events"] == "training files"
    assert parity["max_abs_difference"] < 1e-5
    assert (run.results / "provenance/ro-crate-metadata.json").exists()
    assert (folder / "evaluation/training.png").exists()
    assert json.loads((folder / "evaluation/metrics.json").read_text())["entries"] == 0
    assert run.planned() == {}
    run.snakemake("--report", "report.html")


def test_one_seed_is_the_beginning_of_several(run):
    """The run's own results are those of all seeds, of one as of several."""
    run.config["training"]["epochs"] = 1
    run.config["seeds"] = [3]
    run.snakemake()
    assert (run.results / "predictions/all.root").exists()
    assert (run.results / "evaluation/metrics.json").exists()
    first = (run.results / "seed-3/checkpoints/net_epoch-0_state.pt").read_bytes()
    run.config["seeds"] = [3, 4]
    assert run.planned()["train_epoch"] == 1
    run.snakemake()
    assert (run.results / "seed-3/checkpoints/net_epoch-0_state.pt").read_bytes() == first
    members = json.loads((run.results / "evaluation/metrics.json").read_text())["members"]
    assert set(members["accuracy"]["members"]) == {"seed-3", "seed-4"}


def test_an_export_needs_neither_training_nor_test_files(run):
    run.config["training"]["epochs"] = 1
    run.snakemake("export")
    trained = run.results
    for source, name in (("data_config.auto.yaml", "d.auto.yaml"), ("checkpoints/net_best_epoch_state.pt", "net.pt")):
        shutil.copy(trained / source, run.folder / name)
    network = run.config["network"]
    run.config = {"run": "exported", "data": {"config": "d.auto.yaml"}, "network": network, "prediction": {"model": "net.pt"}}
    assert run.planned("export") == {"export_onnx": 1, "export": 1}
    run.snakemake("export")
    made = run.folder / "results/exported/export"
    assert json.loads((made / "parity.json").read_text())["events"] == "none: made up"
    assert json.loads((made / "preprocess.json").read_text()) == json.loads((trained / "export/preprocess.json").read_text())
    # Asked for all, that is all there is to make.
    run.snakemake()
    assert (run.folder / "results/exported/provenance/ro-crate-metadata.json").exists()


def test_a_run_in_progress_says_by_whom(run):
    started = subprocess.Popen(run.command(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=run.folder)
    try:
        while not list((run.folder / ".snakemake/locks").glob("*")) or not (run.results / ".workflow").exists():
            assert started.poll() is None
            time.sleep(0.1)
        said = run.snakemake(code=1)
    finally:
        started.terminate()
        started.wait()
    last = [line for line in said.splitlines() if line.strip()][-1]
    assert last.startswith("ERROR: results/small is in progress since 2")
    assert f"by process {started.pid} on " in last
