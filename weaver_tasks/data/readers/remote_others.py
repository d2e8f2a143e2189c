"""Reads parts of a file by any other file system of fsspec: XRootD, S3, SFTP …"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Sequence
from datetime import datetime

import fsspec

from weaver_tasks.base.addresses import complete
from weaver_tasks.base.remote_limits import limits
from weaver_tasks.data.readers.remote_failures import Failure, lost
from weaver_tasks.data.readers.remote_state import RemoteState

_AT_A_TIME = 1 << 23  # bytes of a copy
_ETAGS = ("ETag", "etag", "md5Hash", "content_md5")
_TIMES = ("mtime", "LastModified", "last_modified", "updated", "modified")


class OtherFile:
    """A file of a protocol that fsspec knows. source: its address without credentials."""

    def __init__(self, source: str) -> None:
        self.source = source
        self._address = complete(source)
        self._xrootd = source.startswith(("root://", "roots://", "xroot://", "xroots://"))
        if self._xrootd:
            _limit_xrootd()
        self._files, self._path = fsspec.core.url_to_fs(self._address)

    def state(self, *, parts: bool) -> RemoteState:
        info = self._files.info(self._path)
        etag = next((str(info[name]) for name in _ETAGS if info.get(name)), None)
        modified = next((info[name] for name in _TIMES if info.get(name)), None)
        if isinstance(modified, datetime):
            modified = modified.isoformat()
        if info.get("type") == "directory":
            raise Failure("it is a folder", "Give the address of a file.")
        modified = None if modified is None else str(modified)
        return RemoteState(size=info.get("size"), etag=etag, modified=modified, checksum=self._checksum())

    def _checksum(self) -> str | None:
        """The checksum that an XRootD server keeps; None where it keeps none."""
        if not self._xrootd:
            return None
        from XRootD import client
        from XRootD.client.flags import QueryCode

        url = client.URL(self._address)
        status, answer = client.FileSystem(f"{url.protocol}://{url.hostid}").query(QueryCode.CHECKSUM, url.path_with_params)
        if not status.ok or not answer:
            return None
        return " ".join(answer.decode(errors="replace").rstrip("\0\n").split()[:2]) or None

    def read(self, ranges: Sequence[tuple[int, int]], _state: RemoteState) -> list[bytes]:
        starts, stops = [start for start, _ in ranges], [stop for _, stop in ranges]
        found = [bytes(part) for part in self._files.cat_ranges([self._path] * len(ranges), starts, stops, on_error="raise")]
        for part, start, stop in zip(found, starts, stops, strict=True):
            if len(part) != stop - start:
                raise lost(f"the server sent {len(part)} of {stop - start} bytes")
        return found

    def send(self, start: int, state: RemoteState, write: Callable[[bytes], None]) -> None:
        size = state.size
        if size is None:
            raise Failure("the server does not say how large the file is", "Copy it by hand.")
        for first in range(start, size, _AT_A_TIME):
            (part,) = self.read([(first, min(first + _AT_A_TIME, size))], state)
            write(part)

    def forget(self) -> None:
        """Drop what the file system keeps of a connection that has failed."""
        with contextlib.suppress(OSError, NotImplementedError):
            self._files.invalidate_cache(self._path)


def _limit_xrootd() -> None:
    """Let XRootD's client give up on a silent server as `remote.silence` says. By default it tries for ten minutes to reach an absent one.

    The client reads the environment when it is imported. What the user has set stays.
    """
    silence = max(1, round(limits().silence))
    wanted = {"ConnectionWindow": min(30, silence), "ConnectionRetry": 2, "StreamTimeout": silence, "RequestTimeout": 3 * silence}
    names = {name: f"XRD_{name.upper()}" for name in wanted}
    left = {name: value for name, value in wanted.items() if names[name] not in os.environ or names[name] in _set_here}
    _set_here.update(names[name] for name in left)
    os.environ.update({names[name]: str(value) for name, value in left.items()})
    from XRootD.client import EnvPutInt

    for name, value in left.items():
        EnvPutInt(name, value)


_set_here: set[str] = set()
