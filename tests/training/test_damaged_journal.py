"""Whatever of an epoch is damaged after it was written: it is made again to the same bits, or refused with a remedy that works."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch

import stage_run
from weaver_tasks.base.errors import CheckpointError
from weaver_tasks.training import checkpoint


@pytest.fixture(scope="module")
def finished(tmp_path_factory, staged):
    """Two epochs, trained, validated, selected."""
    run = stage_run.StageRun(tmp_path_factory.mktemp("run") / "run", staged=staged)
    run.settings |= {"meaning": "of the workflow", "validation": {"metric": "loss", "mode": "min"}}
    run.call("init_model")
    for epoch in range(2):
        run.call("train_epoch", epochs=[epoch])
        run.call("validate_epoch", epoch=epoch)
    run.call("select_best_epoch")
    return run


@pytest.fixture
def run(finished, tmp_path):
    copy = finished.copied(tmp_path / "run")
    # With the hard links that the run has.
    for epoch in range(2):
        for name in ("state", "optimizer"):
            copy.checkpoint(f"net_epoch-{epoch}_{name}").unlink()
            os.link(entry(copy, epoch) / f"{name}.pt", copy.checkpoint(f"net_epoch-{epoch}_{name}"))
    return copy


def entry(run, epoch) -> Path:
    return run.checkpoints / ".journal" / run.read(f"train_epoch-{epoch}.json")["digest"]


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def flipped(path: Path) -> None:
    """A bit in the middle, in place: links of the file have it too."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


DAMAGES = [emptied, flipped, cut]


def rerun(run, epoch) -> None:
    """As Snakemake runs a job again."""
    for path in [*run.checkpoints.glob(f"net_epoch-{epoch}_*"), run.metrics / f"train_epoch-{epoch}.json"]:
        path.unlink(missing_ok=True)
    run.call("train_epoch", epochs=[epoch])


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", ["metrics.json", "checksums.json", "made_by.json", "state.pt", "optimizer.pt"])
def test_an_entry_with_a_damaged_file_is_trained_again(run, finished, name, damage):
    damage(entry(run, 1) / name)
    rerun(run, 1)
    assert run.record("train_epoch")["trained_epochs"] == [1]
    for part in ("state", "optimizer"):
        assert run.checkpoint(f"net_epoch-1_{part}").read_bytes() == finished.checkpoint(f"net_epoch-1_{part}").read_bytes()
    rerun(run, 1)
    assert run.record("train_epoch")["trained_epochs"] == []


@pytest.mark.parametrize("damage", DAMAGES)
def test_published_metrics_are_copies(run, damage):
    path = run.metrics / "train_epoch-1.json"
    before = path.read_bytes()
    damage(path)
    rerun(run, 1)
    assert run.record("train_epoch")["trained_epochs"] == []
    assert path.read_bytes() == before


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_validation_is_made_again(run, damage):
    (kept,) = entry(run, 1).glob("validation-*.json")
    before, published = json.loads(kept.read_text()), run.read("val_epoch-1.json")
    assert "checksum" not in published
    damage(kept)
    run.call("validate_epoch", epoch=1)
    for metrics, expected in ((json.loads(kept.read_text()), before), (run.read("val_epoch-1.json"), published)):
        assert facts(metrics) == facts(expected)
    # Whole again, it is only published, to the last character.
    text = (run.metrics / "val_epoch-1.json").read_text()
    (run.metrics / "val_epoch-1.json").unlink()
    run.call("validate_epoch", epoch=1)
    assert (run.metrics / "val_epoch-1.json").read_text() == text


def facts(metrics: dict) -> dict:
    return {name: value for name, value in metrics.items() if "second" not in name and name != "checksum"}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_state_is_not_validated_and_deleting_it_helps(run, finished, damage):
    state = run.checkpoint("net_epoch-1_state")
    damage(state)
    next(entry(run, 1).glob("validation-*.json")).unlink()
    with pytest.raises(CheckpointError, match=r"net_epoch-1_state\.pt: damaged checkpoint .*Delete it and run again"):
        run.call("validate_epoch", epoch=1)
    rerun(run, 1)
    run.call("validate_epoch", epoch=1)
    assert facts(run.read("val_epoch-1.json")) == facts(finished.read("val_epoch-1.json"))


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("part", ["state", "optimizer"])
def test_training_does_not_go_on_from_what_is_damaged_and_deleting_it_helps(run, part, damage):
    damage(run.checkpoint(f"net_epoch-1_{part}"))
    with pytest.raises(CheckpointError, match=rf"net_epoch-1_{part}\.pt: damaged"):
        run.call("train_epoch", epochs=[2])
    rerun(run, 1)
    run.call("train_epoch", epochs=[2])
    assert run.record("train_epoch")["trained_epochs"] == [2]


@pytest.mark.parametrize("part", ["state", "optimizer"])
def test_nor_from_a_damaged_start(run, part):
    flipped(run.checkpoint(f"init_{part}"))
    shutil.rmtree(run.checkpoints / ".journal")
    with pytest.raises(CheckpointError, match=rf"init_{part}\.pt: damaged"):
        run.call("train_epoch", epochs=[0])


@pytest.mark.parametrize("damage", DAMAGES)
def test_the_best_epoch_is_neither_copied_nor_read_when_it_is_damaged(run, finished, damage):
    best = json.loads((run.folder / "best_epoch.json").read_text())["epoch"]
    copied = run.checkpoint("net_best_epoch_state")
    damage(copied)
    model = torch.nn.Linear(1, 1)
    with pytest.raises(CheckpointError, match=r"net_best_epoch_state\.pt: damaged checkpoint"):
        checkpoint.load_state(model, copied)
    damage(run.checkpoint(f"net_epoch-{best}_state"))
    with pytest.raises(CheckpointError, match=rf"net_epoch-{best}_state\.pt: damaged .*val_epoch-{best}\.json and run again"):
        run.call("select_best_epoch")
    # As Snakemake does when these are deleted.
    rerun(run, best)
    run.call("validate_epoch", epoch=best)
    run.call("select_best_epoch")
    assert copied.read_bytes() == finished.checkpoint("net_best_epoch_state").read_bytes()


def test_what_earlier_versions_wrote_is_taken_as_it_is(run):
    for epoch in range(2):
        folder = entry(run, epoch)
        checksums = json.loads((folder / "checksums.json").read_text())
        (folder / "checksums.json").write_text(json.dumps({name: checksums[name] for name in ("state.pt", "optimizer.pt")}))
        (kept,) = folder.glob("validation-*.json")
        kept.write_text(json.dumps({name: value for name, value in json.loads(kept.read_text()).items() if name != "checksum"}))
    first = run.metrics / "init_model.json"
    first.write_text(json.dumps({name: value for name, value in json.loads(first.read_text()).items() if name != "checksums"}))
    before = {epoch: run.read(f"val_epoch-{epoch}.json") for epoch in range(2)}
    for epoch in range(2):
        rerun(run, epoch)
        assert run.record("train_epoch")["trained_epochs"] == []
        run.call("validate_epoch", epoch=epoch)
        assert run.read(f"val_epoch-{epoch}.json") == before[epoch]
    # But not when it cannot be read.
    emptied(entry(run, 1) / "metrics.json")
    rerun(run, 1)
    assert run.record("train_epoch")["trained_epochs"] == [1]


def test_a_flipped_bit_of_a_snapshot_is_told_or_changes_nothing(tmp_path):
    path = tmp_path / "snapshot.pt"
    tensors = {"weight": torch.arange(50.0).reshape(5, 10), "count": torch.tensor(3)}
    content = {
        "step": 7,
        "digest": "d",
        "model": tensors,
        "generators": [{"torch": torch.arange(9, dtype=torch.uint8), "python": [3, [1], None]}],
    }
    checkpoint.save_snapshot(path, content)
    whole = path.read_bytes()
    expected = checkpoint.content_digest(content)
    told = 0
    for position in range(0, len(whole), 7):
        damaged = bytearray(whole)
        damaged[position] ^= 1 << position % 8
        path.write_bytes(bytes(damaged))
        try:
            assert checkpoint.content_digest(checkpoint.load_snapshot(path)) == expected
        except CheckpointError:
            told += 1
    assert told > 20
