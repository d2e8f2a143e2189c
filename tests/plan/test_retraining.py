"""Finished epochs of other settings: told with their number before anything is trained again, and agreed to once."""

import copy
import json
from pathlib import Path

import pytest

import workflow_run
from weaver_tasks.base.errors import ConfigError
from weaver_tasks.base.maps import merge
from weaver_tasks.plan import check_retraining, make_plan

EPOCHS = [("", 0), ("", 1), ("", 2)]


@pytest.fixture
def run(tmp_path, repository, jets, monkeypatch):
    """A small run as it is after three epochs, of which only what planning reads is there."""
    made = workflow_run.Run(tmp_path, repository, jets)
    made.config["training"]["scheduler"] = {"name": "flat+decay"}
    made.write()
    monkeypatch.chdir(tmp_path)
    finish(plan(made))
    return made


def plan(run):
    return make_plan(copy.deepcopy(run.config), where="config.yaml")


def finish(planned, member: str = "") -> None:
    """Write what finished epochs leave: metrics, journal and the records of their tasks."""
    folder = Path(planned.run)
    write(folder / "staged/fitting.json", {"files": [vars(file) for file in planned.files_of("train", "val")]})
    start = merge(planned.untracked(), planned.settings("init_model", member=member))
    write(folder / f"provenance/tasks/init_model/{member}init_model.json", {"settings": start})
    for epoch in planned.epochs():
        settings = merge(planned.untracked(), planned.settings("train_epoch", member=member, epochs=range(epoch, epoch + 1)))
        write(folder / f"provenance/tasks/train_epoch/{member}epoch-{epoch}.json", {"settings": settings})
        write(folder / f"{member}metrics/train_epoch-{epoch}.json", {"epoch": epoch, "digest": f"digest-{epoch}"})


def write(path: Path, content: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def told(run, planned=EPOCHS) -> str | None:
    try:
        check_retraining(plan(run), planned)
    except ConfigError as error:
        return str(error)
    return None


def test_the_same_settings_are_not_told(run):
    assert told(run) is None
    run.config["loading"] = {"num_workers": 3}  # of no effect
    run.config["validation"] = {"metric": "loss"}
    run.config["training"]["early_stopping"] = {"patience": 2}
    assert told(run) is None


@pytest.mark.parametrize(
    ("section", "change", "named"),
    [
        ("training", {"lr": 0.001}, "training.lr: 0.005 there, 0.001 now"),
        ("network", {"options": {"Phi_sizes": [8], "F_sizes": [16]}}, "network.options.Phi_sizes: [16, 16] there, [8] now"),
        ("network", {"options": {"Phi_sizes": [16, 16]}}, "network.options.F_sizes: [16] there, nothing now"),
        ("sampling", {"max_resample": 3}, "sampling.max_resample: 10 there, 3 now"),
        ("training", {"optimizer": {"options": {"weight_decay": 0.1}}}, "training.optimizer.options.weight_decay: nothing there, 0.1 now"),
    ],
)
def test_a_change_is_told_with_the_epochs_that_it_costs(run, section, change, named):
    run.config[section] = {**run.config.get(section, {}), **change}
    said = told(run)
    assert named in said
    assert "3 finished epochs, from epoch 0 on" in said
    assert "--config retrain=true" in said
    assert told(run, []) is None, "nothing is to be trained: another target is asked for"


def test_a_changed_data_configuration_or_network_is_told(run):
    run.data["weights"]["class_weights"] = [1, 1, 2]
    run.write()
    assert "data.config: other inputs" in told(run)
    run.data["weights"]["class_weights"] = [1, 1, 1]
    run.write()
    assert told(run) is None
    network = run.folder / "network.py"
    network.write_text(Path(run.config["network"]["config"]).read_text())
    run.config["network"]["config"] = str(network)
    assert told(run) is None, "the same code under another name"
    network.write_text(network.read_text() + "\nOTHER = 1\n")
    assert "network.config: other code" in told(run)


def test_other_files_are_told(run):
    del run.config["data"]["train"]["Tbl"]
    assert "data.train: 1 of 3 files less, 0 new" in told(run)


def test_more_epochs_cost_those_whose_rates_change(run):
    """With flat+decay over three epochs the last one decays; over six it does not."""
    run.config["training"]["epochs"] = 6
    said = told(run, [("", epoch) for epoch in range(6)])
    assert "1 finished epoch, from epoch 2 on" in said
    assert "training.scheduler.horizon: 3 would keep" in said
    run.config["training"]["scheduler"]["horizon"] = 3
    assert told(run) is None


def test_what_was_stopped_or_never_trained_is_no_loss(run):
    run.config["training"]["lr"] = 0.001
    write(Path("results/small/metrics/train_epoch-2.json"), {"epoch": 2, "stopped": True, "digest": "x"})
    Path("results/small/metrics/train_epoch-1.json").unlink()
    assert "1 finished epoch, from epoch 0 on" in told(run)
    Path("results/small/metrics/train_epoch-0.json").unlink()
    assert told(run) is None


def test_what_cannot_be_had_again_is_said(run):
    run.config["training"]["lr"] = 0.001
    assert "The old epochs stay in checkpoints/.journal" in told(run)
    write(Path("results/small/checkpoints/.journal/digest-1/removed.json"), {})
    assert "The old epochs, but for 1 that training.keep_checkpoints has removed, stay" in told(run)


def test_agreement_is_for_these_settings_alone(run):
    run.config["training"]["lr"] = 0.001
    assert told(run)
    run.config["retrain"] = True
    assert told(run) is None
    run.config["retrain"] = False
    assert told(run) is None, "interrupted, the run goes on by the same command"
    run.config["training"]["lr"] = 0.002
    assert told(run)


def test_each_seed_is_looked_at(run):
    run.config["seeds"] = [4, 5]
    for member in ("seed-4/", "seed-5/"):
        finish(plan(run), member)
    planned = [("seed-4/", 0), ("seed-4/", 1), ("seed-5/", 2)]
    assert told(run, planned) is None
    run.config["training"]["batch_size"] = 16
    assert "training.batch_size: 32 there, 16 now" in told(run, planned)
    assert "3 finished epochs" in told(run, planned)


def test_files_that_were_moved_are_not_told(run, tmp_path):
    """Of the same names and sizes: the journal knows them by their checksums."""
    manifest = Path(plan(run).run) / "staged/fitting.json"
    files = json.loads(manifest.read_text())["files"]
    write(manifest, {"files": [{**file, "bytes": Path(file["source"]).stat().st_size} for file in files]})
    for name, source in run.config["data"]["train"].items():
        moved = tmp_path / "moved" / Path(source).name
        moved.parent.mkdir(exist_ok=True)
        moved.write_bytes(Path(source).read_bytes())
        run.config["data"]["train"][name] = str(moved)
    assert told(run) is None
    moved.write_bytes(moved.read_bytes() + b"more")
    assert "data.train: 1 of 3 files less, 1 new" in told(run)
