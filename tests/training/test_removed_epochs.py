"""keep_checkpoints: best_and_last: what lies on the disk while a training goes on, and what then can still be asked for."""

import json

import pytest

import stage_run
from weaver_tasks import train_epoch, validate_epoch
from weaver_tasks.base.errors import CheckpointError
from weaver_tasks.jobs import epoch_chain
from weaver_tasks.plan import Plan
from weaver_tasks.training.journal import is_placeholder

# By loss the first epoch stays the best, so that every later one is removed.
BEST_FIRST = {"metric": "loss", "mode": "max"}


@pytest.fixture(scope="module")
def finished(tmp_path_factory, staged):
    """Five epochs, each job as Snakemake runs it: after the validations that it waits for."""
    run = stage_run.StageRun(tmp_path_factory.mktemp("run") / "run", staged=staged)
    run.settings["training"] |= {"epochs": 5, "keep_checkpoints": "best_and_last", "scheduler": {"name": "none"}}
    run.settings |= {"validation": BEST_FIRST, "meaning": "of the workflow"}
    run.call("init_model")
    run.held = []
    for epoch in range(5):
        train(run, epoch)
        run.held.append((published(run), kept(run)))
        run.call("validate_epoch", epoch=epoch)
    run.call("select_best_epoch")
    return run


@pytest.fixture
def run(finished, tmp_path):
    return finished.copied(tmp_path / "run")


def train(run, epoch):
    past = [str(run.metrics / f"val_epoch-{number}.json") for number in range(epoch - 1)]
    train_epoch.main([*run.arguments("train_epoch", epochs=[epoch]), "--validation", *past])


def published(run) -> set[int]:
    return {int(path.name.split("-")[1].split("_")[0]) for path in run.checkpoints.glob("net_epoch-*_state.pt")}


def kept(run) -> int:
    return len(list(run.checkpoints.glob(".journal/*/state.pt")))


def test_the_best_so_far_and_the_last_two_are_on_the_disk_while_training(finished):
    assert finished.read("val_epoch-0.json")["loss"] > max(finished.read(f"val_epoch-{epoch}.json")["loss"] for epoch in range(1, 5))
    assert finished.held == [({0}, 1), ({0, 1}, 2), ({0, 1, 2}, 3), ({0, 2, 3}, 3), ({0, 3, 4}, 3)]


def test_the_best_and_the_last_stay(finished):
    assert (published(finished), kept(finished)) == ({0, 4}, 2)
    assert (finished.checkpoints / "net_best_epoch_state.pt").read_bytes() == finished.checkpoint("net_epoch-0_state").read_bytes()


def test_jobs_that_run_again_train_and_validate_nothing(run, monkeypatch):
    """As after a forced rerun, or one upstream with the same result."""
    before = {path.name: path.read_text() for path in run.metrics.iterdir()}
    monkeypatch.setattr(epoch_chain.EpochChain, "_train", lambda *_: pytest.fail("trains"))
    monkeypatch.setattr(validate_epoch, "validate_one", lambda *_: pytest.fail("validates"))
    last = run.checkpoint("net_epoch-4_state").read_bytes()
    for epoch in range(5):
        for path in [*run.checkpoints.glob(f"net_epoch-{epoch}_*"), *run.metrics.glob(f"*_epoch-{epoch}.json")]:
            path.unlink()  # as Snakemake does before it reruns a job
        train(run, epoch)
        run.call("validate_epoch", epoch=epoch)
    run.call("select_best_epoch")
    assert before == {path.name: path.read_text() for path in run.metrics.iterdir()}
    assert published(run) == {0, 4}
    assert run.checkpoint("net_epoch-4_state").read_bytes() == last


def test_what_needs_a_removed_epoch_is_refused_and_can_be_undone(run):
    # Another metric: the last epoch but one would be the best.
    chosen = min(range(5), key=lambda epoch: run.read(f"val_epoch-{epoch}.json")["loss"])
    run.settings["validation"] = {"metric": "epoch_of_test", "mode": "max"}
    for epoch in range(5):
        path = run.metrics / f"val_epoch-{epoch}.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "epoch_of_test": float(epoch == 2)}))
    with pytest.raises(CheckpointError, match=r"net_epoch-2_state\.pt: epoch 2 is the best by epoch_of_test, but its checkpoint is gone"):
        run.call("select_best_epoch")
    assert chosen >= 1

    # Another schedule from epoch 3 on: its state before is a placeholder.
    train(run, 2)
    assert is_placeholder(run.checkpoint("net_epoch-2_state"))
    run.settings["validation"] = BEST_FIRST
    rates = run.settings["training"]["scheduler"]
    run.settings["training"]["scheduler"] = {"name": "steps", "horizon": 3}
    with pytest.raises(CheckpointError, match=r"net_epoch-2_(state|optimizer)\.pt: was removed by training\.keep_checkpoints"):
        train(run, 3)
    run.settings["training"]["scheduler"] = rates
    train(run, 3)

    # Another validation.
    run.settings["training"]["batch_size_val"] = 7
    with pytest.raises(CheckpointError, match=r"net_epoch-2_state\.pt: was removed by training\.keep_checkpoints"):
        run.call("validate_epoch", epoch=2)


def test_more_epochs_go_on_from_the_last(run):
    run.settings["training"]["epochs"] = 6
    train(run, 5)
    assert run.record("train_epoch")["trained_epochs"] == [5]
    assert published(run) == {0, 4, 5}


def weights(run) -> dict:
    return {path: path.read_bytes() for path in run.checkpoints.glob(".journal/*/*.pt")}


def test_a_job_that_is_refused_or_trains_nothing_removes_nothing(run):
    """By the other end of the metric the best epoch is not the best so far."""
    before = weights(run)
    run.settings["validation"] = {"metric": "loss", "mode": "min"}
    for epoch in range(5):
        train(run, epoch)
    assert run.record("train_epoch")["trained_epochs"] == []
    assert weights(run) == before
    assert {epoch for epoch in range(5) if not is_placeholder(run.checkpoint(f"net_epoch-{epoch}_state"))} == {0, 4}
    run.settings["training"]["scheduler"] = {"name": "steps", "horizon": 3}
    with pytest.raises(CheckpointError, match=r"was removed by training\.keep_checkpoints"):
        train(run, 3)
    assert weights(run) == before


def test_another_metric_keeps_what_was_selected_before(run):
    assert json.loads((run.folder / "best_epoch.json").read_text())["epoch"] == 0
    best = run.checkpoint("net_best_epoch_state").read_bytes()
    run.settings["validation"] = {"metric": "loss", "mode": "min"}
    run.settings["training"]["epochs"] = 8
    for epoch in range(5, 8):
        train(run, epoch)
        path = run.metrics / f"val_epoch-{epoch}.json"
        path.write_text(json.dumps({"epoch": epoch, "loss": 0.9 - epoch / 10}))
    run.call("select_best_epoch")
    assert json.loads((run.folder / "best_epoch.json").read_text())["epoch"] == 7
    assert (published(run), kept(run)) == ({0, 7}, 2)
    # Undone.
    for name in ("best_epoch.json", "checkpoints/net_best_epoch_state.pt", "checkpoints/net_best_epoch_optimizer.pt"):
        (run.folder / name).unlink()
    run.settings["validation"] = BEST_FIRST
    run.call("select_best_epoch")
    assert run.checkpoint("net_best_epoch_state").read_bytes() == best


def test_what_earlier_versions_selected_is_noted_when_a_run_starts(run, tmp_path):
    entries = run.checkpoints / ".journal"
    (noted,) = entries.glob("*/selected.json")
    expected = noted.read_text()
    noted.unlink()
    plan = Plan(config={"run": "run", "cross_validation": None, "seeds": None}, where="", results=str(tmp_path))
    plan.note_selected()
    assert noted.read_text() == expected
    run.folder.joinpath("best_epoch.json").unlink()
    plan.note_selected()
