"""The learning-rate finder as a user runs it: what it writes, and that it leaves the run alone."""

import json
import subprocess

import pytest

import stage_run
from weaver_tasks import find_lr


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    made = stage_run.StageRun(tmp_path_factory.mktemp("run"), staged=tmp_path_factory.mktemp("staged"))
    made.call("init_model")
    return made


def arguments(run, *outputs, **settings) -> list[str]:
    folders = ["--checkpoints", str(run.checkpoints), "--metrics", str(run.metrics)]
    return [*run.common(), *folders, *map(str, outputs), "--settings", json.dumps({**run.settings, **settings})]


def content(run) -> dict:
    return {path: path.read_bytes() for folder in (run.checkpoints, run.metrics) for path in folder.rglob("*.*")}


def test_it_draws_and_suggests_and_leaves_the_run_alone(run, tmp_path, capsys):
    before = content(run)
    outputs = ["--output", tmp_path / "find_lr.json", "--plot", tmp_path / "find_lr.png"]
    options = {"start": 1e-5, "end": 1e-1, "steps": 30}
    find_lr.main(arguments(run, *outputs, find_lr=options))
    history = json.loads((tmp_path / "find_lr.json").read_text())
    assert history["lr"][0] == pytest.approx(1e-5)
    assert history["lr"][-1] == pytest.approx(1e-1)
    assert len(history["loss"]) == 30
    assert 1e-5 < history["suggested"] <= 1e-1
    assert (tmp_path / "find_lr.png").stat().st_size > 10_000
    assert f"steeply at {history['suggested']:.1e}" in capsys.readouterr().err
    assert content(run) == before


@pytest.mark.slow
def test_two_ranks_find_the_same_for_half_the_batch(run, tmp_path):
    losses = []
    for ranks, size in ((1, 100), (2, 50)):
        outputs = ["--output", tmp_path / f"{ranks}.json", "--plot", tmp_path / f"{ranks}.png"]
        training = {**run.settings["training"], "ranks": ranks, "batch_size": size}
        command = [run.command("init_model")[0], "-m", "weaver_tasks.find_lr"]
        options = {"find_lr": {"start": 1e-5, "end": 1e-4, "steps": 10}, "training": training, "network": {"options": {"dropout": 0.0}}}
        subprocess.run([*command, *arguments(run, *outputs, **options)], check=True, env=stage_run.environment())
        losses.append(json.loads((tmp_path / f"{ranks}.json").read_text())["loss"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
