"""The quick check: what it makes small, what it leaves as it is, and that the real run is not touched."""

import json
import subprocess
import sys

import pytest
import yaml

from weaver_tasks.plan import make_plan
from weaver_tasks.quick_check import few, shrunk


@pytest.fixture
def config(jets, repository) -> dict:
    document = yaml.safe_load((repository / "config/demo.yaml").read_text())
    text = json.dumps(document).replace("tests/files/jets", str(jets)).replace("config/", f"{repository}/config/")
    return json.loads(text)


def plan_of(config):
    return make_plan(config, where="config.yaml")


def test_what_costs_time_is_small_and_the_rest_is_kept(config, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config["training"] |= {"epochs": 50, "batch_size": 4000, "samples_per_epoch": 10**8, "amp": "bf16", "early_stopping": {"patience": 3}}
    config["data"] |= {"data_fraction": 0.01}
    config["seeds"] = [7, 8, 9]
    small = plan_of(shrunk(plan_of(config)))
    assert small.config["run"] == "demo-quick_check"
    training = small.config["training"]
    assert {name: training[name] for name in ("batch_size", "amp", "lr")} == {"batch_size": 4000, "amp": "bf16", "lr": 0.02}
    assert (training["epochs"], training["steps_per_epoch"], training["samples_per_epoch"]) == (2, 10, None)
    assert training["early_stopping"] is None
    assert small.config["seeds"] == [7, 8]
    # Enough for some batches: ten files of this many.
    assert small.config["staging"]["max_entries"] == 1600
    assert small.config["data"]["data_fraction"] == 1
    assert {file.source for file in small.files} == {file.source for file in plan_of(config).files}


def test_a_training_that_is_continued_is_tried_from_where_it_stands(config, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config["training"] |= {"epochs": 50, "continue_from": {"prefix": "first/net", "epoch": 9}}
    small = plan_of(shrunk(plan_of(config)))
    assert list(small.epochs()) == [10, 11]
    assert small.config["training"]["continue_from"] == {"prefix": "first/net", "epoch": 9}


def test_files_are_spread_over_groups_and_within_them(config, jets, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for number in range(100):
        (tmp_path / f"{number:03}[a].root").touch()
    config["data"] |= {"train": [str(tmp_path / "*.root")], "test": {"a": {"files": str(tmp_path / "*.root"), "split": 50}}}
    plan = plan_of(config)
    names = [file.name for file in few(plan.files_of("train"))]
    assert names == [f"{number:03}[a]" for number in range(0, 100, 5)]
    small = plan_of(shrunk(plan))
    assert [file.name for file in small.files_of("train")] == names
    assert {file.group: file.name for file in small.files_of("test")} == {"a_0": "045[a]", "a_1": "095[a]"}


@pytest.mark.slow
def test_the_whole_workflow_is_tried_in_a_run_of_its_own(config, repository, tmp_path):
    config["network"]["options"] = {"Phi_sizes": [16, 16], "F_sizes": [16]}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(repository / "workflow/Snakefile"), "--directory", str(tmp_path)]
    command += ["quick_check", "--cores", "2", "--configfile", str(tmp_path / "config.yaml")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "the configuration works" in done.stderr
    assert [path.name for path in (tmp_path / "results").iterdir()] == ["demo-quick_check"]
    made = tmp_path / "results/demo-quick_check"
    assert json.loads((made / "export/parity.json").read_text())["max_abs_difference"] < 1e-5
    assert json.loads((made / "metrics/train_epoch-1.json").read_text())["steps"] == 10
    config["network"]["options"] = {"Phi_size": [16]}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode != 0
    assert any(line.startswith("ERROR: ") and "Phi_size" in line for line in done.stderr.splitlines())
    assert "ERROR: results/demo-quick_check: the quick check failed" in done.stderr
