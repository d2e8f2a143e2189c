"""The checksum that an input file had when it was first staged, and whether it still has it.

It lies beside the file's record, as `sha256sum` writes it. No rule declares it, so Snakemake, which deletes a job's outputs before it
runs the job again, leaves it: a source that was changed or damaged since is told, not staged as if nothing had happened.
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
    """A SHA-256, and what to do when a new file is meant to take the place of the recorded one."""

    checksum: str
    accept: str

    def compare(self, source: str, checksum: str) -> None:
        """Raise InputFileError when the file has another checksum."""
        if checksum != self.checksum:
            now, then = telling_parts(checksum, self.checksum)
            raise InputFileError(
                f"{source}: its SHA-256 is {now}, but {then} was recorded: the file has changed or is "
                f"damaged. Fetch the recorded one again; or, if the new one is right, {self.accept}."
            )


def recorded(record: Path, source: str) -> StoredChecksum | None:
    """What is recorded of a source beside its record; None when nothing is, or another source had its place."""
    path = _beside(record)
    if not path.exists():
        return None
    checksum, _, name = path.read_text().rstrip("\n").partition("  ")
    return StoredChecksum(checksum, f"delete {path} and run again") if name == source else None


def keep_checksum(record: Path, source: str, checksum: str) -> Path:
    """Record the checksum of a source that could be staged. Returns the file that holds it."""
    path = _beside(record)
    with atomic_path(path) as temporary:
        temporary.write_text(f"{checksum}  {source}\n")
    return path


def _beside(record: Path) -> Path:
    return record.with_suffix(".sha256")


def check_unchanged(record: Mapping[str, Any]) -> None:
    """Raise InputFileError when a source that is read in place is not what its record (of inputs.json) says.

    Its bytes are looked at only when its size or its time is another.
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
    """The SHA-256 of a local file; of one that takes values from others, a digest of all of theirs."""
    others = companions(source)
    if not others:
        return file_checksum(source)
    folder = Path(source).parent
    return digest([file_checksum(source), *([os.path.relpath(path, folder), file_checksum(path)] for path in others)])


def source_status(source: str) -> tuple[int, int]:
    """The size of a local file in bytes, and its time of modification in nanoseconds: sums, where it takes values from other files."""
    found = [path.stat() for path in (Path(source), *companions(source))]
    return sum(each.st_size for each in found), sum(each.st_mtime_ns for each in found)
