"""Where a reader finds the bytes of its file, and what messages call it."""

from __future__ import annotations

from typing import NamedTuple

from weaver_tasks.data.readers.remote import RemoteFile


class Place(NamedTuple):
    """path: a path or an address without credentials. name: the file in messages. remote: the open file, if it is remote."""

    path: str
    name: str
    remote: RemoteFile | None

    def raise_failure(self, error: BaseException) -> None:
        """Raise what the server has done wrong, if that is why a library failed."""
        if self.remote is not None and self.remote.failure is not None:
            raise self.remote.failure from error


def local(path: str) -> Place:
    """A local file, called by its path."""
    return Place(path, path, None)
