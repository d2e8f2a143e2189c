"""The bytes of files, here or far away."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import IO

import fsspec

from weaver_tasks.base.errors import InputFileError

# XRootD's client would try for ten minutes to reach a server that is not there, without a word. It reads these when it is imported.
_PATIENCE = {"XRD_CONNECTIONWINDOW": "30", "XRD_CONNECTIONRETRY": "2"}
for _name, _value in _PATIENCE.items():
    os.environ.setdefault(_name, _value)


def is_remote(source: str | os.PathLike[str]) -> bool:
    """Whether `source` is a URL: root://, https:// …"""
    return "://" in os.fspath(source)


@contextlib.contextmanager
def open_stream(source: str, *, forward: bool = False) -> Iterator[IO[bytes]]:
    """Open a file for reading bytes. Raises InputFileError when that fails, or reading does while the block runs.

    forward: only from the beginning to the end, which works with web servers that know no ranges too.
    """
    options = {"block_size": 0} if forward and source.startswith("http") else {}
    try:
        with fsspec.open(source, "rb", **options) if is_remote(source) else open(source, "rb") as stream:
            yield stream
    except (OSError, ImportError, ValueError) as error:
        raise InputFileError(
            f"{source}: cannot be read ({type(error).__name__}: {error}). Correct the address, or fetch the file again."
        ) from error


def file_size(source: str) -> int | None:
    """Bytes of a file, here or far away; None where its server does not say. Raises InputFileError when it cannot be reached."""
    try:
        if not is_remote(source):
            return os.stat(source).st_size
        files, path = fsspec.core.url_to_fs(source)
        size: int | None = files.size(path)
    except (OSError, ImportError, ValueError) as error:
        raise InputFileError(
            f"{source}: cannot be read ({type(error).__name__}: {error}). Correct the address, or fetch the file again."
        ) from error
    return size
