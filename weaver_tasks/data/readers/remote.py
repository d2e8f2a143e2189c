"""Opens remote files of any protocol: requests are repeated where that helps, and failures are RemoteFileErrors."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from typing import IO, Any

from fsspec.caching import BlockCache

from weaver_tasks.base.addresses import is_remote
from weaver_tasks.base.errors import InputFileError
from weaver_tasks.data.readers.remote_failures import RemoteFileError, failure_of, persistently, wait_or_refuse
from weaver_tasks.data.readers.remote_http import HttpFile
from weaver_tasks.data.readers.remote_others import OtherFile
from weaver_tasks.data.readers.remote_state import RemoteState

_BLOCK, _BLOCKS = 1 << 20, 64  # bytes and number of the blocks that a stream keeps
_PROGRESS = 1 << 22  # bytes after which a lost connection counts as the first one

__all__ = ["RemoteFile", "RemoteFileError", "RemoteState", "file_size", "is_remote", "open_remote", "open_stream", "remote_state"]


class RemoteFile:
    """An open remote file. source: its address without credentials. failure: the latest error, which libraries may hide.

    parts: whether parts of it will be read, not only the whole. expected: the state that was recorded when the file was first read.
    Raises RemoteFileError when the file cannot be read or is another one than expected.
    """

    def __init__(self, source: str, *, parts: bool = True, expected: RemoteState | None = None) -> None:
        self.source = source
        self.failure: RemoteFileError | None = None
        http = source.startswith(("http://", "https://"))
        self._file: HttpFile | OtherFile = persistently(source, lambda: HttpFile(source) if http else OtherFile(source))
        self.state: RemoteState = persistently(source, lambda: self._file.state(parts=parts), before_repeating=self._file.forget)
        if expected is not None and (difference := expected.difference(self.state)):
            raise RemoteFileError(
                f"{source}: was replaced on the server after it was first read: {difference}. Put the recorded file back; or, if the new "
                "one is right, run the workflow again; it says what to do."
            )

    @property
    def size(self) -> int:
        """Its size in bytes."""
        assert self.state.size is not None, "files whose parts are read have a size"
        return self.state.size

    def read(self, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        """The bytes of ranges (first, last + 1)."""
        wanted = [(start, min(stop, self.size)) for start, stop in ranges]
        asked = [each for each in wanted if each[0] < each[1]]
        try:
            request = lambda: self._file.read(asked, self.state) if asked else []  # noqa: E731
            found = iter(persistently(self.source, request, before_repeating=self._file.forget))
        except RemoteFileError as error:
            self.failure = error
            raise
        return [next(found) if start < stop else b"" for start, stop in wanted]

    def copy_to(self, out: Any) -> None:
        """Write the whole file to `out`. A lost connection goes on where it ended, if the server can."""
        copied = _Counting(out)
        tries, since = 0, 0
        while True:
            tries += 1
            try:
                self._file.send(copied.bytes, self.state, copied.write)
                if self.state.size not in (None, copied.bytes):
                    raise ConnectionError(f"the server sent {copied.bytes} of {self.state.size} bytes")
                return
            except Exception as error:
                failure = None if error is copied.error else failure_of(error)
                if failure is None:
                    raise
                if copied.bytes - since >= _PROGRESS:
                    tries, since = 1, copied.bytes
                wait_or_refuse(self.source, failure, tries, error)
                self._file.forget()


class _Counting:
    """Counts the bytes that are written, and keeps the error of a write (a full disk), which is none of the server."""

    def __init__(self, out: Any) -> None:
        self._out = out
        self.bytes = 0
        self.error: Exception | None = None

    def write(self, data: bytes) -> None:
        try:
            self._out.write(data)
        except Exception as error:
            self.error = error
            raise
        self.bytes += len(data)


class _Stream(io.RawIOBase):
    """A remote file as a stream of bytes for libraries that seek in it."""

    def __init__(self, file: RemoteFile) -> None:
        super().__init__()
        self._blocks = BlockCache(_BLOCK, lambda start, stop: file.read([(start, stop)])[0], file.size, _BLOCKS)
        self._size = file.size
        self._place = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._place

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._place = max(0, offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._place, os.SEEK_END: self._size}[whence])
        return self._place

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        stop = min(self._size, self._place + len(view))
        if stop <= self._place:
            return 0
        data = self._blocks._fetch(self._place, stop)
        view[: len(data)] = data
        self._place += len(data)
        return len(data)


def open_remote(source: str, *, expected: RemoteState | None = None) -> RemoteFile | None:
    """Open a remote file to read parts of it; None for a local one. See `RemoteFile`."""
    return RemoteFile(source, expected=expected) if is_remote(source) else None


def open_stream(source: str, remote: RemoteFile | None) -> IO[bytes]:
    """A local file, or one that `open_remote` has opened, as a stream of bytes. Raises InputFileError when it cannot be opened."""
    if remote is not None:
        return io.BufferedReader(_Stream(remote), 1 << 16)
    try:
        return open(source, "rb")
    except OSError as error:
        raise InputFileError(f"{source}: cannot be read ({type(error).__name__}: {error}). Correct its path or permissions.") from error


def remote_state(source: str, *, parts: bool = True) -> RemoteState | None:
    """What the server says of a remote file now; None for a local one. parts: as of `RemoteFile`."""
    return RemoteFile(source, parts=parts).state if is_remote(source) else None


def file_size(source: str) -> int | None:
    """Return the size of a local or remote file in bytes; None if the server does not report it. Raises InputFileError if unreachable."""
    state = remote_state(source, parts=False)
    if state is not None:
        return state.size
    try:
        return os.stat(source).st_size
    except OSError as error:
        raise InputFileError(f"{source}: cannot be read ({type(error).__name__}: {error}). Correct its path or permissions.") from error
