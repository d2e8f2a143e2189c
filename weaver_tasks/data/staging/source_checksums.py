"""Stores the checksum of an input file when it is first staged, or what a server says of it, and detects later changes of the file.

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
from weaver_tasks.base.files import atomic_path, read_json, write_json
from weaver_tasks.data.readers.hdf5_links import companions
from weaver_tasks.data.readers.remote import RemoteFileError, RemoteState


class StoredChecksum(NamedTuple):
    """A stored SHA-256, and the advice for a user who has replaced the file on purpose. remote: the state of a remote file."""

    checksum: str
    accept: str
    remote: RemoteState | None = None

    def compare_remote(self, source: str, now: RemoteState) -> None:
        """Raise RemoteFileError when the state of a remote file differs from the stored one."""
        if self.remote is not None and (difference := self.remote.difference(now)):
            raise RemoteFileError(
                f"{source}: was replaced on the server after it was first read: {difference}. Put the recorded file back; or, if the new "
                f"one is right, {self.accept}."
            )

    def compare(self, source: str, checksum: str) -> None:
        """Raise InputFileError when `checksum`, that of the file now, differs from the stored one."""
        if checksum != self.checksum:
            now, then = telling_parts(checksum, self.checksum)
            raise InputFileError(
                f"{source}: its SHA-256 is {now}, but {then} was recorded: the file has changed or is "
                f"damaged. Fetch the recorded one again; or, if the new one is right, {self.accept}."
            )


def recorded(record: Path, source: str) -> StoredChecksum | None:
    """Return what is stored of a source; None if there is nothing, or if it belongs to another source."""
    path, state = _beside(record), _state_beside(record)
    accept = f"delete {' and '.join(str(each) for each in (path, state) if each.exists())} and run again"
    checksum, remote = "", None
    if path.exists():
        found, _, name = path.read_text().rstrip("\n").partition("  ")
        checksum = found if name == source else ""
    if state.exists() and (content := read_json(state))["source"] == source:
        remote = RemoteState.recorded(content["remote"])
    return StoredChecksum(checksum, accept, remote) if checksum or remote else None


def keep(record: Path, file: Mapping[str, Any]) -> list[Path]:
    """Store the checksum of a source that was staged successfully, or the state of a remote one. Returns the files that hold them."""
    kept = []
    if file["checksum"]:
        with atomic_path(_beside(record)) as temporary:
            temporary.write_text(f"{file['checksum']}  {file['source']}\n")
        kept.append(_beside(record))
    if file.get("remote"):
        write_json(_state_beside(record), {"source": file["source"], "remote": file["remote"]})
        kept.append(_state_beside(record))
    return kept


def _beside(record: Path) -> Path:
    return record.with_suffix(".sha256")


def _state_beside(record: Path) -> Path:
    return record.with_suffix(".remote")


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
