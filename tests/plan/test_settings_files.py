"""Settings as Snakemake compares them, and as a command names them."""

import json
from pathlib import Path

import pytest
from snakemake.utils import format as snakemake_format

from weaver_tasks.base.errors import WeaverTasksError
from weaver_tasks.plan import SettingsFile

CONTENT = {"training": {"lr": 0.02, "optimizer": {"name": "ranger"}}, "data": {"file": "fold-{fold}.root", "text": "é"}}


def settings(folder: Path, *, writes: bool = True, content: dict | None = None) -> SettingsFile:
    return SettingsFile("train_epoch", content or CONTENT, folder=str(folder), writes=lambda: writes)


def in_a_command(given: SettingsFile) -> str:
    """As Snakemake puts it there, quoted."""
    return snakemake_format("--settings {given:q}")


def test_snakemake_compares_the_content(tmp_path):
    given = settings(tmp_path)
    assert isinstance(given, str)
    assert repr(given) == repr(json.dumps(CONTENT, sort_keys=True))
    assert given == settings(tmp_path / "elsewhere")
    assert given != settings(tmp_path, content={"seed": 1})


def test_a_command_names_a_file_that_holds_it(tmp_path):
    folder = tmp_path / "a run"
    command = in_a_command(settings(folder))
    (file,) = (folder / ".settings").iterdir()
    assert command == f"--settings '{file}'"
    assert file.name.startswith("train_epoch-")
    assert json.loads(file.read_text()) == CONTENT
    # Two contents are two files, and one stays as it is.
    before = file.stat()
    in_a_command(settings(folder, content={"seed": 1}))
    in_a_command(settings(folder))
    assert len(list((folder / ".settings").iterdir())) == 2
    assert (file.stat().st_mtime_ns, file.stat().st_ino) == (before.st_mtime_ns, before.st_ino)


def test_a_command_that_is_only_shown_writes_nothing(tmp_path):
    shown = in_a_command(settings(tmp_path / "run", writes=False))
    assert not (tmp_path / "run").exists()
    assert shown == in_a_command(settings(tmp_path / "run"))


def test_a_file_that_was_edited_is_written_again(tmp_path):
    given = settings(tmp_path)
    in_a_command(given)
    Path(given.path).write_text("{}")
    in_a_command(given)
    assert json.loads(Path(given.path).read_text()) == CONTENT


def test_a_file_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / ".settings").write_text("a file")
    with pytest.raises(WeaverTasksError, match="cannot be written"):
        in_a_command(settings(tmp_path))
