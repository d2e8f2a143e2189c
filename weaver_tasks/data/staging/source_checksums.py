"""Stores the checksum of an input file when it is first staged, and detects later changes of the file.

The checksum is stored beside the record of the file, in the format of `sha256sum`. Snakemake deletes the outputs of a job before it
reruns the job. No rule declares the checksum, so it is kept, and a source that was changed or damaged in the meantime is reported.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from weaver_tasks.base.digests import digest, file_checksum, telling_parts
from weaver_tasks.base.errors import InputFileError
from weaver_tasks.base.files import atomic_path
from weaver_tasks.data.readers.hdf5_links import companions


class StoredChecksum(NamedTuple):
    """A stored SHA-256, and the advice for a user who has replaced the file on purpose."""

    checksum: str
    accept: str

    def compare(self, source: str, checksum: str) -> None:
        """Raise InputFileError when `checksum`, that of the file now, differs from the stored one."""
        if checksum != self.checksum:
            now, then = telling_parts(checksum, self.checksum)
            raise InputFileError(
                f"{source}: its SHA-256 is {now}, but {then} was recorded: the file has changed or is "
                f"damaged. Fetch the recorded one again; or, if the new one is right, {self.accept}."
            )


def recorded(record: Path, source: str) -> StoredChecksum | None:
    """Return the stored checksum of a source; None if there is none, or if it belongs to another source."""
    path = _beside(record)
    if not path.exists():
        return None
    checksum, _, name = path.read_text().rstrip("\n").partition("  ")
    return StoredChecksum(checksum, f"delete {path} and run again") if name == source else None


def keep_checksum(record: Path, source: str, checksum: str) -> Path:
    """Store the checksum of a source that was staged successfully. Returns the file that holds it."""
    path = _beside(record)
    with atomic_path(path) as temporary:
        temporary.write_text(f"{checksum}  {source}\n")
    return path


def _beside(record: Path) -> Path:
    return record.with_suffix(".sha256")


def check_unchanged(record: Mapping[str, Any]) -> None:
    """Raise InputFileError when a source that is read in place differs from its record in inputs.json.

    The checksum is computed only when the size or the modification time of the file has changed.
    """
    path = Path(record["source"])
    if record["checksum"] is None or not path.exists():
        return
    now = source_status(record["source"])
    if now != (record["bytes"], record.get("modified_ns")):
        accept = "run the workflow again; it says what to do"
        StoredChecksum(record["checksum"], accept).compare(record["source"], _checksum(record["source"], now))


@functools.cache
def _checksum(source: str, _status: tuple[int, int]) -> str:
    return source_checksum(source)


def source_checksum(source: str) -> str:
    """Return the SHA-256 of a local file. If the file refers to other files, return a digest of the checksums of all of them."""
    others = companions(source)
    if not others:
        return file_checksum(source)
    folder = Path(source).parent
    return digest([file_checksum(source), *([os.path.relpath(path, folder), file_checksum(path)] for path in others)])


def source_status(source: str) -> tuple[int, int]:
    """Return size (bytes) and modification time (ns) of a local file, or the sums over it and the files that it refers to."""
    found = [path.stat() for path in (Path(source), *companions(source))]
    return sum(each.st_size for each in found), sum(each.st_mtime_ns for each in found)
