"""The profiler as a user runs it."""

import gzip
import json

import pytest

import stage_run
from weaver_tasks import profile_training


@pytest.mark.filterwarnings("ignore")  # the profiler's own
def test_trace_and_table_hold_the_steps_that_were_asked_for(tmp_path, capsys):
    run = stage_run.StageRun(tmp_path / "run", staged=tmp_path / "staged")
    run.call("init_model")
    trace, table = tmp_path / "trace.json.gz", tmp_path / "table.txt"
    folders = ["--checkpoints", str(run.checkpoints), "--metrics", str(run.metrics), "--trace", str(trace), "--table", str(table)]
    # An epoch has six steps: the recorded ones go on into the next.
    settings = json.dumps({**run.settings, "profile_training": {"steps": 7}})
    profile_training.main([*run.common(), *folders, "--settings", settings])
    events = json.loads(gzip.decompress(trace.read_bytes()))["traceEvents"]
    for name in ("training step", "wait for the batch", "Optimizer.step#Ranger.step"):
        assert sum(event.get("name") == name and event.get("ph") == "X" for event in events) == 7, name
    assert "aten::convolution" in table.read_text()
    assert "waits" in capsys.readouterr().err
