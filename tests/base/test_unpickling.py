"""Checkpoints that torch refuses: what they are is said, and nobody is advised to load them all the same."""

import os
import pickle

import pytest
import torch

from weaver_tasks.base.digests import telling_parts
from weaver_tasks.base.errors import WeaverTasksError
from weaver_tasks.base.files import check_regular
from weaver_tasks.networks.weights import read_state
from weaver_tasks.records.compare import differences
from weaver_tasks.training.checkpoint import load_tensors


class Runs:
    """What runs a command when it is loaded."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def whole_model(path, _):
    torch.save(torch.nn.Linear(2, 2), path)


def command(path, made):
    torch.save({"weight": Runs(made)}, path)


def bare_pickle(path, made):
    with path.open("wb") as handle:
        pickle.dump({"weight": Runs(made)}, handle, protocol=2)


@pytest.mark.parametrize(("write", "named"), [(whole_model, "torch.nn.modules.linear.Linear"), (command, "mkdir"), (bare_pickle, "mkdir")])
@pytest.mark.parametrize("read", [load_tensors, read_state, lambda path: differences(path, path.with_name("other.pt"))])
def test_a_pickle_that_runs_code_is_called_that(tmp_path, write, named, read):
    path = tmp_path / "net.pt"
    write(path, tmp_path / "made")
    torch.save({"weight": torch.zeros(2)}, tmp_path / "other.pt")
    with pytest.raises(WeaverTasksError) as caught:
        read(path)
    told = str(caught.value)
    assert "would run code when it is loaded" in told
    assert named in told
    assert str(path) in told
    assert "weights_only" not in told
    assert "safe_globals" not in told
    assert "\x1b" not in told
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("read", [load_tensors, read_state, check_regular])
def test_a_pipe_is_not_waited_for(tmp_path, read):
    os.mkfifo(tmp_path / "net.pt")
    with pytest.raises(WeaverTasksError, match="is a named pipe, not a file"):
        read(tmp_path / "net.pt")


def test_checksums_are_shortened_where_they_differ():
    first, second = "ab" * 32, "ac" + "ab" * 31
    assert telling_parts(first, second) == ("abababababababab…", "acababababababab…")
    late = "ab" * 31 + "ff"
    assert telling_parts(first, late) == (first, late)
