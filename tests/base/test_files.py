import errno
import json
import math
import multiprocessing
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from weaver_tasks.base.errors import WeaverTasksError
from weaver_tasks.base.files import atomic_path, copy_file, exclusive, link_or_copy, read_json, write_json


def test_a_failing_writer_leaves_the_old_file_and_no_other(tmp_path):
    target = tmp_path / "model.pt"
    target.write_text("old")
    with pytest.raises(RuntimeError, match="midway"):
        _fail_midway(target)
    assert target.read_text() == "old"
    assert os.listdir(tmp_path) == ["model.pt"]


def _fail_midway(target):
    with atomic_path(target) as temporary:
        temporary.write_text("half")
        raise RuntimeError("midway")


def test_a_killed_writer_leaves_nothing_under_the_final_name(tmp_path):
    child = multiprocessing.get_context("fork").Process(target=_write_forever, args=(tmp_path / "a.json",))
    child.start()
    while not any(tmp_path.iterdir()):
        time.sleep(0.01)
    child.kill()
    child.join()
    assert not (tmp_path / "a.json").exists()


def _write_forever(target):
    with atomic_path(target) as temporary:
        temporary.write_text("half")
        time.sleep(60)


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(WeaverTasksError, match=r"file/out\.json: cannot be written"):
        write_json(tmp_path / "file" / "out.json", {})


FULL = """
import sys
from pathlib import Path
import matplotlib.pyplot as plt
import numpy as np
import torch
from weaver_tasks.base.errors import WeaverTasksError
from weaver_tasks.base.files import atomic_path, link_or_copy
from weaver_tasks.data.events.block import Block
from weaver_tasks.data.staging.arrow_file import StagedWriter
from weaver_tasks.training.checkpoint import save_tensors

disk = Path(sys.argv[1])
values = np.random.default_rng(1).random(300_000)

def savez(path):
    with atomic_path(path) as temporary:
        np.savez(temporary, values)

def plot(path):
    figure = plt.figure(figsize=(20, 20))
    figure.figimage(values.reshape(500, 600), resize=True)
    with atomic_path(path) as temporary:
        figure.savefig(temporary)

def stage(path):
    with StagedWriter(path, variables={}, metadata={}) as writer:
        for first in range(0, len(values), 10_000):
            part = values[first : first + 10_000]
            writer.append(Block(entries=first + np.arange(len(part)), packed={}, plain={"x": part}))

writers = {
    "state.pt": lambda path: save_tensors(path, {"x": torch.from_numpy(values)}),
    "sums.npz": savez,
    "roc.png": plot,
    "jets.arrow": stage,
    "link.pt": lambda path: link_or_copy(sys.argv[2], path),
}
for name, write in writers.items():
    try:
        write(disk / name)
    except WeaverTasksError as error:
        print(error, sorted(path.name for path in disk.iterdir()))
"""


def test_a_full_disk_is_told_by_every_writer_and_nothing_is_left(tmp_path):
    """A disk of 128 kB, where this user may mount one."""
    disk, large = tmp_path / "disk", tmp_path / "large.pt"
    disk.mkdir()
    large.write_bytes(bytes(1_000_000))
    (tmp_path / "full.py").write_text(FULL)
    command = f"mount -t tmpfs -o size=128k none {disk} && {sys.executable} {tmp_path / 'full.py'} {disk} {large}"
    environment = {**os.environ, "MPLBACKEND": "agg"}
    done = subprocess.run(["unshare", "-rm", "sh", "-c", command], capture_output=True, text=True, env=environment, check=False)
    if done.returncode and "mount" in done.stderr:
        pytest.skip(f"no file system can be mounted here: {done.stderr.strip()[:100]}")
    assert done.returncode == 0, done.stderr
    told = "cannot be written (No space left on device). Free some space or give a writable folder, then run again. []"
    assert done.stdout.splitlines() == [f"{disk}/{name}: {told}" for name in ("state.pt", "sums.npz", "roc.png", "jets.arrow", "link.pt")]


def test_json_has_no_nan(tmp_path):
    write_json(tmp_path / "a.json", {"x": [math.nan, 1.5, math.inf], "y": (1, 2)})
    assert json.loads((tmp_path / "a.json").read_text()) == {"x": [None, 1.5, None], "y": [1, 2]}


def test_damaged_and_missing_json_are_named(tmp_path):
    (tmp_path / "bad.json").write_text('{"a": ')
    with pytest.raises(WeaverTasksError, match=r"bad\.json: damaged JSON"):
        read_json(tmp_path / "bad.json")
    with pytest.raises(WeaverTasksError, match=r"none\.json: no such file"):
        read_json(tmp_path / "none.json")


def test_link_survives_the_removal_of_its_source(tmp_path):
    (tmp_path / "journal").write_text("state")
    link_or_copy(tmp_path / "journal", tmp_path / "out" / "state.pt")
    link_or_copy(tmp_path / "journal", tmp_path / "out" / "state.pt")
    (tmp_path / "journal").unlink()
    assert (tmp_path / "out" / "state.pt").read_text() == "state"
    assert len(os.listdir(tmp_path / "out")) == 1


def test_copies_where_there_are_no_links(tmp_path, monkeypatch):
    def no_links(*_):
        raise OSError("no links here")

    monkeypatch.setattr(os, "link", no_links)
    (tmp_path / "a").write_text("state")
    link_or_copy(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "b").read_text() == "state"


def test_two_tasks_never_hold_the_lock_together(tmp_path):
    with exclusive(tmp_path / "lock"), pytest.raises(WeaverTasksError, match="another task"), exclusive(tmp_path / "lock", patience=0.1):
        pass
    with exclusive(tmp_path / "lock", patience=0.1):
        pass


def test_a_copy_has_a_time_of_its_own(tmp_path):
    (tmp_path / "a").write_text("state")
    os.utime(tmp_path / "a", (1, 1))
    copy_file(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "b").read_text() == "state"
    assert (tmp_path / "b").stat().st_mtime > 1
    os.utime(tmp_path / "b")
    assert (tmp_path / "a").stat().st_mtime == 1


def test_a_source_that_cannot_be_read_is_named_and_not_the_target(tmp_path, monkeypatch):
    (tmp_path / "source").write_text("content")

    def failing(self, *arguments, **options):
        if self.name == "source":
            raise OSError(errno.EIO, "Input/output error")
        return opened(self, *arguments, **options)

    opened = Path.open
    monkeypatch.setattr(Path, "open", failing)
    with pytest.raises(WeaverTasksError, match=r"source: cannot be read \(Input/output error\)"):
        copy_file(tmp_path / "source", tmp_path / "target")
    assert [path.name for path in tmp_path.iterdir()] == ["source"]
