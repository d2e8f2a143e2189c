"""Opens local and remote files as streams of bytes."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import IO

import fsspec

from weaver_tasks.base.errors import InputFileError

# By default XRootD's client silently tries for ten minutes to reach an absent server. It reads these variables at import.
_PATIENCE = {"XRD_CONNECTIONWINDOW": "30", "XRD_CONNECTIONRETRY": "2"}
for _name, _value in _PATIENCE.items():
    os.environ.setdefault(_name, _value)


def is_remote(source: str | os.PathLike[str]) -> bool:
    """Whether `source` is a URL: root://, https:// …"""
    return "://" in os.fspath(source)


@contextlib.contextmanager
def open_stream(source: str, *, forward: bool = False) -> Iterator[IO[bytes]]:
    """Open a file for reading bytes. Raises InputFileError when that fails, or reading does while the block runs.

    forward: read only from beginning to end, which also works with web servers that do not support range requests.
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
    """Return the size of a local or remote file in bytes; None if the server does not report it. Raises InputFileError if unreachable."""
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
