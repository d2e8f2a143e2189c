"""What made a file, told from its place, its bytes or what it carries; and damage, found and named."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import onnx
import pytest

import result_run
from weaver_tasks import lineage
from weaver_tasks.base.digests import file_checksum
from weaver_tasks.base.errors import ResultError
from weaver_tasks.records import read


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Predictions (ROOT and Parquet) and models, evaluated, of weights that no task made."""
    run = result_run.ResultRun(tmp_path_factory.mktemp("lineage") / "results" / "demo")
    run.predict("TTBar")
    run.predict("HToBB", name="HToBB.parquet")
    run.export()
    run.evaluate()
    return run


def told(capsys, *arguments) -> dict:
    lineage.main([*map(str, arguments), "--json"])
    return json.loads(capsys.readouterr().out)


def damage(path: Path) -> None:
    """Change one byte of a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_chain_of_a_plot_goes_back_to_the_weights(run, capsys):
    document = told(capsys, run.folder / "evaluation" / "roc.png")
    assert [task["stage"] for task in document["tasks"]] == ["evaluate", "predict", "predict"]
    read = {Path(used["path"]).name: used for used in document["tasks"][0]["inputs"]}
    assert read["TTBar.root"]["made_by"] == "predict-TTBar.root"
    sources = {Path(used["path"]).name: used for used in document["tasks"][1]["inputs"]}
    assert sources["net_best_epoch_state.pt"]["made_by"] is None
    assert sources["net_best_epoch_state.pt"]["sha256"] == file_checksum(run.state)
    assert sources.keys() >= {"network.py", "inputs.json", "data_config.auto.yaml"}
    assert len(document["code_versions"]) == 1


def test_tree_shows_file_stage_time_code_and_digest(run, capsys):
    lineage.main([str(run.folder / "export" / "model.onnx")])
    line = capsys.readouterr().out.splitlines()[1]
    record = json.loads((run.folder / "provenance" / "tasks" / "export_onnx.json").read_text())
    for expected in ("model.onnx", "export_onnx", record["start"][:10], "0.1.0", file_checksum(run.folder / "export" / "model.onnx")[:12]):
        assert expected in line


@pytest.mark.parametrize("name", ["predictions/TTBar.root", "predictions/HToBB.parquet", "export/model_raw.onnx", "evaluation/metrics.md"])
def test_a_copy_is_known_by_its_bytes(run, tmp_path, capsys, name):
    copy = tmp_path / f"copy{Path(name).suffix}"
    shutil.copy(run.folder / name, copy)
    document = told(capsys, copy, "--results", run.folder.parent)
    assert document["known_by"] == "bytes"
    assert document["known_as"] == str(run.folder / name)


def test_an_edited_model_still_tells_its_run(run, tmp_path, capsys):
    model = onnx.load(run.folder / "export" / "model.onnx")
    model.doc_string = "deployed"
    onnx.save(model, tmp_path / "deployed.onnx")
    document = told(capsys, tmp_path / "deployed.onnx", "--results", run.folder.parent)
    assert document["known_by"] == "metadata"
    assert document["known_as"] == str(run.folder / "export" / "model.onnx")
    assert document["carries"]["provenance"]["run"] == "demo"
    assert document["carries"]["provenance"]["record"] == "provenance/tasks/export_onnx.json"


def test_without_the_run_a_copy_says_what_it_carries(run, tmp_path):
    shutil.copy(run.folder / "predictions" / "TTBar.root", tmp_path)
    with pytest.raises(ResultError, match=r'no run made it.*"run": "demo".*--results DIR'):
        lineage.main([str(tmp_path / "TTBar.root"), "--results", str(tmp_path)])
    (tmp_path / "own.txt").write_text("mine")
    with pytest.raises(ResultError, match=r"own\.txt: no run made it, of those in .*\(demo\)\. Give the folder"):
        lineage.main([str(tmp_path / "own.txt"), "--results", str(run.folder.parent)])
    with pytest.raises(ResultError, match="no such file"):
        lineage.main([str(tmp_path / "nothing.root")])
    with pytest.raises(ResultError, match="neither a file nor the folder of a run"):
        lineage.main([str(tmp_path)])


def test_a_run_that_was_moved_is_traced_and_intact(run, tmp_path, capsys):
    moved = tmp_path / "archive" / "renamed"
    shutil.copytree(run.folder, moved)
    lineage.main([str(moved), "--verify"])
    shown = capsys.readouterr().out
    assert "0 differ, 0 missing" in shown
    document = told(capsys, moved / "evaluation" / "roc.png", "--verify")
    assert all(Path(made["path"]).is_relative_to(moved) for task in document["tasks"] for made in task["outputs"])


@pytest.mark.parametrize("name", ["predictions/TTBar.root", "export/model.onnx", "net_best_epoch_state.pt"])
def test_a_changed_byte_is_found_and_named(run, tmp_path, name):
    folder = tmp_path / "demo"
    shutil.copytree(run.folder, folder)
    damage(folder / name)
    command = [sys.executable, "-m", "weaver_tasks.lineage", str(folder), "--verify"]
    done = subprocess.run(command, capture_output=True, text=True, env=result_run.environment(), check=False)
    assert done.returncode == 2, done.stderr
    differing = [line for line in done.stdout.splitlines() if line.startswith("DIFFERS")]
    assert len(differing) == 1
    assert differing[0].endswith(name)


def test_a_missing_file_is_named(run, tmp_path, capsys):
    folder = tmp_path / "demo"
    shutil.copytree(run.folder, folder)
    (folder / "predictions" / "TTBar.root").unlink()
    with pytest.raises(SystemExit) as ended:
        lineage.main([str(folder / "evaluation" / "metrics.json"), "--verify"])
    assert ended.value.code == 2
    assert "TTBar.root" in next(line for line in capsys.readouterr().out.splitlines() if line.startswith("MISSING"))


def test_versions_of_the_code_are_told_apart():
    code = {"version": "0.1.0", "commit": "a" * 40, "dirty": False, "package": "one", "modules": ""}
    edited = {**code, "dirty": True, "package": "two"}
    same = [{"stage": "predict", "code": code}, {"stage": "evaluate", "code": code}]
    assert read.mixed_versions_message(read.code_versions(same)) is None
    mixed = [*same, {"stage": "train_epoch", "code": code, "trained_epochs": [], "trained_by": {"3": {"code": edited}}}]
    versions = read.code_versions(mixed)
    assert versions == {"0.1.0 aaaaaaa (one)": ["evaluate", "predict"], "0.1.0 aaaaaaa+ (two)": ["train_epoch"]}
    assert "2 versions" in read.mixed_versions_message(versions)
