"""The best epoch: ties, directions, stopped epochs, mistakes, and which checkpoints stay."""

import json

import pytest

from weaver_tasks.base.errors import CheckpointError, ResultError
from weaver_tasks.select_best_epoch import main
from weaver_tasks.training.selection import should_stop


@pytest.fixture
def run(tmp_path):
    """A finished training: run({epoch: metrics}) -> a function that selects."""
    checkpoints, metrics = tmp_path / "checkpoints", tmp_path / "metrics"
    checkpoints.mkdir()
    metrics.mkdir()

    def make(validations: list[dict]):
        for epoch, values in enumerate(validations):
            (metrics / f"val_epoch-{epoch}.json").write_text(json.dumps({"epoch": epoch, **values}))
            (metrics / f"train_epoch-{epoch}.json").write_text(json.dumps({"epoch": epoch, "digest": f"d{epoch}"}))
            for part in ("state", "optimizer"):
                (checkpoints / f"net_epoch-{epoch}_{part}.pt").write_text(f"{part} {epoch}")

        def select(**settings) -> dict:
            files = [str(path) for path in sorted(metrics.glob("val_epoch-*.json"), reverse=True)]
            best = tmp_path / "best_epoch.json"
            main(["--validation", *files, "--checkpoints", str(checkpoints), "--best", str(best), "--settings", json.dumps(settings)])
            return json.loads(best.read_text())

        return select

    return make


def accuracy(metric="accuracy", mode="max") -> dict:
    return {"metric": metric, "mode": mode}


def test_the_best_and_of_equals_the_earliest(run, tmp_path):
    select = run([{"accuracy": 0.5}, {"accuracy": 0.7}, {"accuracy": 0.7}, {"accuracy": 0.6}])
    assert select(validation=accuracy()) == {"epoch": 1, "metric": "accuracy", "value": 0.7, "mode": "max"}
    for part in ("state", "optimizer"):
        assert (tmp_path / "checkpoints" / f"net_best_epoch_{part}.pt").read_text() == f"{part} 1"


def test_smaller_may_be_better_and_selecting_again_replaces(run, tmp_path):
    select = run([{"accuracy": 0.9, "loss": 0.3}, {"accuracy": 0.7, "loss": 0.2}])
    assert select(validation=accuracy())["epoch"] == 0
    assert select(validation=accuracy("loss", "min"))["epoch"] == 1
    assert (tmp_path / "checkpoints" / "net_best_epoch_state.pt").read_text() == "state 1"
    assert (tmp_path / "checkpoints" / "net_epoch-0_state.pt").read_text() == "state 0"


def test_stopped_epochs_do_not_count(run):
    assert run([{"accuracy": 0.5}, {"stopped": True}])(validation=accuracy())["epoch"] == 0


def test_mistakes_are_named(run):
    select = run([{"accuracy": 0.5, "loss": 1.0, "auc": None, "digest": "x"}])
    with pytest.raises(
        ResultError, match=r"'acuracy' is not in metrics/val_epoch-0\.json, which holds accuracy, loss, auc\. Did you mean: accuracy"
    ):
        select(validation=accuracy("acuracy"))
    with pytest.raises(ResultError, match="auc is not a finite number"):
        select(validation=accuracy("auc"))


def test_only_the_best_and_the_last_stay(run, tmp_path):
    select = run(
        [{"accuracy": 0.5, "loss": 0.1}, {"accuracy": 0.7, "loss": 0.2}, {"accuracy": 0.6, "loss": 0.3}, {"accuracy": 0.6, "loss": 0.4}]
    )
    checkpoints = tmp_path / "checkpoints"
    for epoch in range(4):
        entry = checkpoints / ".journal" / f"d{epoch}"
        entry.mkdir(parents=True)
        for name in ("state.pt", "optimizer.pt", "metrics.json"):
            (entry / name).write_text("{}")
    select(validation=accuracy(), training={"keep_checkpoints": "best_and_last"})
    assert sorted(path.name for path in checkpoints.glob("net_epoch-*_state.pt")) == ["net_epoch-1_state.pt", "net_epoch-3_state.pt"]
    assert sorted(path.parent.name for path in (checkpoints / ".journal").glob("*/*.pt")) == ["d1", "d1", "d3", "d3"]
    with pytest.raises(CheckpointError, match=r"net_epoch-0_state\.pt: epoch 0 is the best by loss, but its checkpoint is gone"):
        select(validation=accuracy("loss", "min"))


@pytest.mark.parametrize(
    ("values", "epoch", "patience", "stops"),
    [
        ([0.5, 0.4, 0.3], 4, 2, True),
        ([0.5, 0.4, 0.3], 4, 3, False),
        ([0.5, 0.4, 0.6], 4, 2, False),
        ([0.5, 0.4, 0.3], 3, 2, False),  # looks at epochs 0 and 1 only
        ([], 0, 1, False),
        ([0.5, 0.5], 3, 1, True),  # equal is not better
    ],
)
def test_early_stopping_looks_two_epochs_back(values, epoch, patience, stops):
    validations = [{"epoch": number, "accuracy": value} for number, value in enumerate(values)]
    assert should_stop(validations, epoch=epoch, patience=patience, metric="accuracy", mode="max") is stops
