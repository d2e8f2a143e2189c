"""The test of the loader's speed, as a user runs it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from weaver_tasks.base.errors import ConfigError
from weaver_tasks.base.files import write_json
from weaver_tasks.data.configuration import load_data_configuration
from weaver_tasks.data.events.block import StagingOptions
from weaver_tasks.data.staging.manifest import make_manifest
from weaver_tasks.data.staging.stage import Staging, stage_file
from weaver_tasks.io_test import described, main, measure

DOCUMENT: dict[str, Any] = {
    "inputs": {"points": {"length": 128, "pad_mode": "constant", "vars": ["part_deta", "part_dphi"]}},
    "labels": {"type": "simple", "value": ["label_QCD", "label_Hbb"]},
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, jets: Path) -> Path:
    """A folder with a data configuration and the manifest of two files."""
    folder = tmp_path_factory.mktemp("run")
    (folder / "data.yaml").write_text(yaml.safe_dump(DOCUMENT, sort_keys=False))
    configuration = load_data_configuration(folder / "data.yaml")
    records = []
    for split, process in (("train", "HToBB"), ("train", "ZJetsToNuNu"), ("test", "HToBB")):
        staging = Staging(configuration=configuration, split=split, mode="columnar", options=StagingOptions())
        source = jets / split / f"{process}.root"
        records.append(stage_file(str(source), folder / f"{split}_{process}.arrow", staging, group=process))
    write_json(folder / "inputs.json", make_manifest(records, on_bad_file="fail", max_bad_fraction=0))
    return folder


def command(run: Path, *options: str) -> list[str]:
    return ["--data-config", str(run / "data.yaml"), "--inputs", str(run / "inputs.json"), *options]


@pytest.mark.parametrize(("split", "events"), [("train", 384), ("val", 100), ("test", 100)])
def test_the_figures_are_those_of_the_split(run: Path, tmp_path: Path, split: str, events: int, capsys: pytest.CaptureFixture[str]) -> None:
    settings = '{"training": {"batch_size": 32}, "loading": {"num_workers": 2}}'
    main(command(run, "--split", split, "--epochs", "2", "--output", str(tmp_path / "io.json"), "--settings", settings))
    metrics = json.loads((tmp_path / "io.json").read_text())
    for epoch in metrics["epochs"]:
        assert epoch["jets"] == events
        assert epoch["megabytes"] == pytest.approx(events * 2 * 128 * 4 / 1e6)
        assert epoch["jets_per_second"] == pytest.approx(events / epoch["seconds"])
        assert 0 < epoch["first_batch_seconds"] + epoch["waited_seconds"] <= epoch["seconds"]
    assert f"epoch 1: {events} jets in" in capsys.readouterr().err


def test_without_padding_fewer_bytes_are_served(run: Path, tmp_path: Path) -> None:
    for name, settings in (("padded", "{}"), ("unpadded", '{"loading": {"pad_on_device": true}}')):
        main(command(run, "--output", str(tmp_path / f"{name}.json"), "--settings", settings))
    padded, unpadded = (json.loads((tmp_path / f"{name}.json").read_text())["epochs"][0] for name in ("padded", "unpadded"))
    assert padded["jets"] == unpadded["jets"]
    assert unpadded["megabytes"] < padded["megabytes"] / 2  # of 128 places, particles take fewer than half


def test_a_group_that_is_not_there_is_named(run: Path) -> None:
    with pytest.raises(ConfigError, match=r"group 'HtoBB'. Did you mean: HToBB"):
        main(command(run, "--split", "test", "--group", "HtoBB"))


@pytest.mark.parametrize(("split", "events"), [("train", 200), ("val", 50)])
def test_the_files_of_one_group_can_be_read_alone(run: Path, tmp_path: Path, split: str, events: int) -> None:
    settings = '{"training": {"batch_size": 10}}'
    main(command(run, "--split", split, "--group", "HToBB", "--output", str(tmp_path / "io.json"), "--settings", settings))
    assert json.loads((tmp_path / "io.json").read_text())["epochs"][0]["jets"] == events
    with pytest.raises(ConfigError, match=r"train files of group 'HtoBB'. Did you mean: HToBB"):
        main(command(run, "--split", split, "--group", "HtoBB"))


def test_what_the_run_has_set_holds(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Whole batches of 130 jets, as in the run, of 400 training events; not of 128, the default."""
    folder = tmp_path / "run"
    shutil.copytree(run, folder)
    record = folder / "provenance" / "tasks" / "train_epoch" / "epoch-0.json"
    write_json(record, {"settings": {"training": {"batch_size": 130}}})
    found = {}
    for name, options in (("run", ()), ("given", ("--settings", '{"training": {"batch_size": 100}}'))):
        main(command(folder, *options, "--output", str(tmp_path / f"{name}.json")))
        found[name] = json.loads((tmp_path / f"{name}.json").read_text())["epochs"][0]["jets"]
    assert found == {"run": 390, "given": 400}
    assert f"settings of {record}" in capsys.readouterr().err


def test_nothing_to_measure_is_told_as_such() -> None:
    metrics = measure([], begin=0.0, samples=None, description="nothing")
    assert metrics["jets"] == 0
    assert "0 jets/s" in described(metrics)
