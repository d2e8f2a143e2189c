"""Two files of one kind: the same bit by bit, or what differs."""

import json

import awkward as ak
import numpy as np
import torch

from weaver_tasks.records.compare import differences
from weaver_tasks.results.predictions.tables import open_table


def checkpoint(path, **content):
    with path.open("wb") as file:
        torch.save({"model": {"weight": torch.tensor([1.0, float("nan")])}, "step": 3, **content}, file)
    return path


def test_checkpoints_are_compared_value_by_value(tmp_path):
    one = checkpoint(tmp_path / "a_state.pt", bias=torch.tensor([0.0, 1.0, 2.0]))
    assert differences(one, checkpoint(tmp_path / "b_state.pt", bias=torch.tensor([0.0, 1.0, 2.0]))) == []
    moved = checkpoint(tmp_path / "c.pt", bias=torch.tensor([0.0, 1.5, 2.0]))
    assert differences(one, moved) == ["'bias': by 0.5 at most, in 1 of 3 values"]
    # Equal numbers, other bits.
    assert differences(one, checkpoint(tmp_path / "d.pt", bias=torch.tensor([-0.0, 1.0, 2.0])))[0].startswith("'bias': by 0 at most")
    assert differences(one, checkpoint(tmp_path / "e.pt", bias=torch.tensor([[0.0, 1.0, 2.0]]))) == ["'bias': shapes (3,) and (1, 3)"]
    assert differences(one, checkpoint(tmp_path / "f.pt", bias=torch.tensor([0.0, 1.0, 2.0]), step=4)) == ["'step': 3 and 4"]
    assert differences(one, checkpoint(tmp_path / "g.pt")) == ["'bias' is only in one of them"]


def test_json_is_compared_without_times_and_with_folders_mapped(tmp_path):
    one, two = tmp_path / "a.json", tmp_path / "b.json"
    one.write_text(json.dumps({"loss": 0.5, "seconds": 1.0, "staged": "results/demo/a.arrow", "list": [{"samples_per_second": 3.0}]}))
    two.write_text(json.dumps({"loss": 0.5, "seconds": 2.0, "staged": "/tmp/x/demo/a.arrow", "list": [{"samples_per_second": 4.0}]}))
    assert differences(one, two, moved=("/tmp/x/demo", "results/demo")) == []
    assert differences(one, two) == ["'staged': 'results/demo/a.arrow' and '/tmp/x/demo/a.arrow'"]


def test_prediction_tables_are_compared_by_their_columns(tmp_path):
    def table(name, score, group="all"):
        with open_table(tmp_path / name, {"group": group}) as writer:
            writer.write({"score": np.array(score, dtype=np.float32), "part_pt": ak.Array([[1.0, 2.0], [3.0]])})
        return tmp_path / name

    one = table("a.root", [0.25, 0.75])
    again = table("b.root", [0.25, 0.75])
    assert one.read_bytes() != again.read_bytes()
    assert differences(one, again) == []
    assert differences(one, table("c.root", [0.25, 0.5])) == ["column 'score': by 0.25 at most"]
    assert differences(one, table("d.root", [0.25, 0.75], group="other")) == ["what it says of itself: group"]
    assert differences(table("a.parquet", [0.1, 0.2]), table("b.parquet", [0.1, 0.2])) == []


def test_other_files_are_compared_by_their_bytes(tmp_path):
    (tmp_path / "a.png").write_bytes(b"abc")
    (tmp_path / "b.png").write_bytes(b"abcd")
    assert differences(tmp_path / "a.png", tmp_path / "a.png") == []
    assert differences(tmp_path / "a.png", tmp_path / "b.png") == ["the bytes (3 and 4)"]
