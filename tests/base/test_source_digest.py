"""The digest of a network file changes with its code and with nothing else."""

from pathlib import Path

import pytest

from weaver_tasks.base.errors import NetworkError
from weaver_tasks.base.source_digest import source_digest, source_files

SOURCE = """
import torch
from blocks import width

def get_model(data_config, **kwargs):
    return torch.nn.Linear(4, width(3)), {}
"""
SAME = '''"""A network."""
import torch  # the framework
from blocks import (
    width,
)


def get_model(data_config, **kwargs):
    """Build it."""

    # one layer
    return torch.nn.Linear(
        4, width(3)), {}
'''


@pytest.fixture
def network(tmp_path: Path) -> Path:
    path = tmp_path / "net.py"
    path.write_text(SOURCE)
    (tmp_path / "blocks.py").write_text("def width(n):\n    return n\n")
    return path


def test_comments_formatting_and_docstrings_do_not_count(network: Path) -> None:
    before = source_digest(network)
    network.write_text(SAME)
    assert source_digest(network) == before


@pytest.mark.parametrize(
    ("old", "new"), [("4,", "5,"), ("Linear", "LazyLinear"), ("width(3)", "width(-3)"), ("{}", "{1: 2}"), ("4,", "'4',")]
)
def test_code_counts(network: Path, old: str, new: str) -> None:
    before = source_digest(network)
    network.write_text(SOURCE.replace(old, new))
    assert source_digest(network) != before


def test_a_sibling_module_counts_and_other_files_do_not(network: Path) -> None:
    before = source_digest(network)
    (network.parent / "other.py").write_text("x = 1\n")
    assert source_digest(network) == before
    (network.parent / "blocks.py").write_text("def width(n):\n    return n + 1\n")
    assert source_digest(network) != before
    assert source_files(network) == [network, network.parent / "blocks.py"]


def test_siblings_of_siblings_packages_and_files_named_as_strings_are_followed(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text("import pack.part\nfrom weaver.utils.import_tools import import_module\nm = import_module('far.py')\n")
    (tmp_path / "pack").mkdir()
    (tmp_path / "pack" / "__init__.py").write_text("")
    (tmp_path / "pack" / "part.py").write_text("from . import deep\nimport net\n")
    (tmp_path / "pack" / "deep.py").write_text("y = 1\n")
    (tmp_path / "far.py").write_text("z = 1\n")
    names = [path.relative_to(tmp_path).as_posix() for path in source_files(tmp_path / "net.py")]
    assert names == ["net.py", "far.py", "pack/__init__.py", "pack/deep.py", "pack/part.py"]


def test_the_place_and_name_of_the_file_do_not_count(network: Path, tmp_path: Path) -> None:
    before = source_digest(network)
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    (moved / "blocks.py").write_text((tmp_path / "blocks.py").read_text())
    assert source_digest(network.rename(moved / "renamed.py")) == before


def test_a_missing_or_broken_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(NetworkError, match=r"none\.py: no such file"):
        source_digest(tmp_path / "none.py")
    broken = tmp_path / "broken.py"
    broken.write_text("x = 1\ndef f(:\n")
    with pytest.raises(NetworkError, match=r"broken\.py, line 2: not valid Python"):
        source_digest(broken)
