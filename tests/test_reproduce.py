"""Recorded tasks, run again in a folder of their own."""

import json
import shutil

import pytest

import result_run
from weaver_tasks import reproduce
from weaver_tasks.base.errors import ResultError


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """One task, run as the workflow does: its command is in its record."""
    run = result_run.ResultRun(tmp_path_factory.mktemp("reproduce") / "demo")
    output, record = run.folder / "predictions" / "TTBar.root", run.folder / "provenance" / "tasks" / "predict" / "TTBar.json"
    done = run.run("predict", "--group", "TTBar", "--model", run.state, "--output", output, "--record", record)
    assert done.returncode == 0, done.stderr
    return run


def reproduced(*arguments) -> int:
    with pytest.raises(SystemExit) as ended:
        reproduce.main([*map(str, arguments)])
    return ended.value.code


def test_a_prediction_is_reproduced_where_it_was_made_and_where_it_was_moved(run, tmp_path, capsys):
    before = {path: path.stat().st_mtime_ns for path in run.folder.rglob("*")}
    assert reproduced(run.folder, "--stage", "predict") == 0
    assert "equal    predict/TTBar" in capsys.readouterr().out
    assert before == {path: path.stat().st_mtime_ns for path in run.folder.rglob("*")}
    moved = tmp_path / "moved"
    shutil.copytree(run.folder, moved)
    assert reproduced(moved, "--all", "--folder", tmp_path / "work", "--json") == 0
    [rerun] = json.loads(capsys.readouterr().out)
    assert rerun["equal"]
    assert rerun["environment"] == []
    assert (tmp_path / "work" / "0" / "demo" / "predictions" / "TTBar.root").exists()


def test_other_code_packages_and_inputs_are_told(run, tmp_path, capsys):
    folder = tmp_path / "demo"
    shutil.copytree(run.folder, folder)
    path = folder / "provenance" / "tasks" / "predict" / "TTBar.json"
    record = json.loads(path.read_text())
    record["packages"]["torch"] = "1.0"
    record["host"] = "elsewhere"
    record["inputs"] = {name: "0" * 64 if name.endswith("network.py") else checksum for name, checksum in record["inputs"].items()}
    path.write_text(json.dumps(record))
    assert reproduced(folder, "--all") == 0
    shown = capsys.readouterr().out
    for expected in ("torch: 1.0 then, ", "host: elsewhere then, ", "network.py is not the file that the task read"):
        assert expected in shown


def test_what_cannot_be_tried_is_told_in_one_line(run, tmp_path):
    folder = tmp_path / "demo"
    shutil.copytree(run.folder, folder)
    with pytest.raises(ResultError, match=r"no such task\. It has the stages predict, and no epochs"):
        reproduce.main([str(folder), "--epoch", "3"])
    with pytest.raises(ResultError, match="not the folder of a run"):
        reproduce.main([str(tmp_path)])
    (folder / "net_best_epoch_state.pt").rename(folder / "gone.pt")
    with pytest.raises(ResultError, match=r"predict/TTBar: its input .*net_best_epoch_state\.pt is gone"):
        reproduce.main([str(folder), "--all"])
    (folder / "net_best_epoch_state.pt").write_bytes(b"no weights")
    with pytest.raises(ResultError, match=r"predict/TTBar: the recorded command ended with code 2: ERROR: .*damaged"):
        reproduce.main([str(folder), "--all"])
