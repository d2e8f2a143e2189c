"""Gives uproot the bytes of a remote ROOT file."""

from __future__ import annotations

import queue
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import uproot
from uproot.source.chunk import Chunk, Source
from uproot.source.coalesce import coalesce_requests
from uproot.source.futures import TrivialFuture

from weaver_tasks.data.readers.remote import RemoteFile


class RemoteSource(Source):
    """uproot's source of the bytes of a RemoteFile. Ranges that lie close together are one request."""

    def __init__(self, file_path: str, *, remote: RemoteFile, **_options: Any) -> None:
        super().__init__()
        self._file_path = file_path
        self._remote = remote
        self._executor = ThreadPoolExecutor(2)
        self._closed = False

    def chunk(self, start: int, stop: int) -> Chunk:
        (data,) = self._remote.read([(start, stop)])
        return Chunk(self, start, stop, TrivialFuture(data))

    def chunks(self, ranges: list[tuple[int, int]], notifications: queue.Queue) -> list[Chunk]:
        def submit(together: list[tuple[int, int]]) -> Future:
            return self._executor.submit(self._remote.read, together)

        return coalesce_requests(ranges, submit, self, notifications)

    @property
    def num_bytes(self) -> int:
        return self._remote.size

    @property
    def closed(self) -> bool:
        return self._closed

    def __enter__(self) -> RemoteSource:
        return self

    def __exit__(self, *_error: object) -> None:
        self._closed = True
        self._executor.shutdown()


def open_by_uproot(remote: RemoteFile, **options: Any) -> Any:
    """Open a remote file with uproot."""
    return uproot.open({remote.source: None}, handler=RemoteSource, remote=remote, **options)
