"""Chooses the entry ranges in which a file is read, so that memory is bounded and nothing is decompressed twice."""

from __future__ import annotations

import bisect
from collections.abc import Iterable

_MOST_ENTRIES = 50_000
_LARGEST_CLUSTER = 8
"""How many times the wanted size a cluster may have to be read whole."""


class Steps:
    """The entry ranges of a file whose selected branches have `total_bytes` uncompressed bytes.

    ends: the entries at which units that are decompressed as a whole (baskets, clusters) end in all branches.
    """

    def __init__(self, total_bytes: float, entries: int, ends: Iterable[int]) -> None:
        self._entries = entries
        self._bytes_per_entry = max(1.0, total_bytes / max(1, entries))
        self._ends = sorted(ends)

    def step(self, first: int, size: int) -> int:
        """Return the entry at which to stop, to read about `size` bytes from entry `first` on. Always greater than `first`."""
        most = min(self._entries, first + max(1, min(_MOST_ENTRIES, int(size / self._bytes_per_entry))))
        last_before = bisect.bisect_right(self._ends, most) - 1
        if last_before >= 0 and self._ends[last_before] > first:
            return self._ends[last_before]
        if last_before + 1 < len(self._ends):
            cluster = self._ends[last_before + 1]
            if (cluster - first) * self._bytes_per_entry <= _LARGEST_CLUSTER * size:
                return min(cluster, self._entries)
        return max(most, min(first + 1, self._entries))
