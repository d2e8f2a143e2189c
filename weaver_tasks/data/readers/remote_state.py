"""What a server says of a file, by which another file of the same name is known: size, ETag, time, checksum."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from weaver_tasks.data.readers.remote_failures import Failure


class RemoteState(NamedTuple):
    """size: bytes. etag, modified: as the server says them. checksum: 'algorithm value'. server: which has answered. None: not known."""

    size: int | None = None
    etag: str | None = None
    modified: str | None = None
    checksum: str | None = None
    server: str | None = None

    @classmethod
    def recorded(cls, state: Mapping[str, Any] | None) -> RemoteState | None:
        """The state in a record of a file; None for records of versions before."""
        return None if state is None else cls(**state)

    def difference(self, now: RemoteState) -> str:
        """What tells another file, in words; '' if nothing does."""
        if None not in (self.size, now.size) and self.size != now.size:
            return f"it has {now.size} bytes, but {self.size} were recorded"
        if self.checksum and now.checksum:
            # Copies of a file on several servers have times of their own.
            same = self.checksum == now.checksum
            return "" if same else f"its checksum is {now.checksum}, but {self.checksum} was recorded"
        if self.server != now.server:
            # Servers that a redirection chooses among make ETags and times of their own.
            return ""
        if self.etag and now.etag:
            same = self.etag.removeprefix("W/") == now.etag.removeprefix("W/")
            return "" if same else f"its ETag is {now.etag}, but {self.etag} was recorded"
        if self.modified and now.modified and self.modified != now.modified:
            return f"it was modified at {now.modified}, but {self.modified} was recorded"
        return ""

    def check(self, now: RemoteState) -> None:
        """Raise `Failure` when the file of state `now` is another one."""
        if difference := self.difference(now):
            raise Failure(f"the file was replaced while it was read: {difference}", "Run the workflow again; it says what to do.")

    def identity(self) -> str | None:
        """What tells the content for digests: the best that is known besides the size."""
        return self.checksum or self.etag or self.modified
