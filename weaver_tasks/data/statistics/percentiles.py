"""Exact percentiles of any number of values, with memory that depends only on the number of variables.

The bits of a float32 can be mapped to an integer with the same order. A first pass counts the values by the upper 16 bits of this
integer, which shows in which of the 65536 bins the wanted ranks lie. A second pass counts the values in those bins by the lower
16 bits. The values at the wanted ranks are then known exactly. Counts can be added, so the passes can be divided into parts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numba
import numpy as np

from weaver_tasks.data.events.block import ABSENT

PERCENTILES = (16.0, 50.0, 84.0)
_BINS = 1 << 16
_ABSENT = np.uint32(ABSENT)
_MINUS_INFINITY, _PLUS_INFINITY = 0x007F, 0xFF80


def leading_entries(entries: int, fraction: float) -> int:
    """Return how many leading entries of a file the standardization uses: at least one, as in weaver."""
    return min(entries, max(1, math.trunc(fraction * entries)))


class ValueCounts:
    """Counts of the values of k variables by their upper 16 bits. NaN is counted as 0, as in the inputs of the network.

    counts: (k, 65536). not_a_number: (k,) number of NaN values.
    """

    def __init__(self, variables: Sequence[str]) -> None:
        self.variables = tuple(variables)
        self.counts = np.zeros((len(self.variables), _BINS), dtype=np.int64)
        self.not_a_number = np.zeros(len(self.variables), dtype=np.int64)

    def add(self, values: np.ndarray) -> None:
        """Count values: (P, k) float32. Entries marked ABSENT are not counted."""
        _count(np.ascontiguousarray(values).view(np.uint32), self.counts, self.not_a_number)

    def arrays(self) -> dict[str, np.ndarray]:
        """The counts, for a file: most are 0 and left out."""
        return {**_sparse(self.counts), "not_a_number": self.not_a_number}

    def add_arrays(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Add the counts of another part of the data."""
        _add_sparse(self.counts, arrays)
        self.not_a_number += arrays["not_a_number"]

    @property
    def total(self) -> np.ndarray:
        """Number of values counted: (k,)."""
        return self.counts.sum(axis=1)

    @property
    def infinite(self) -> np.ndarray:
        """Number of infinite values: (k,). NaN is counted as 0, so the bins of the infinities hold nothing else."""
        return self.counts[:, [_MINUS_INFINITY, _PLUS_INFINITY]].sum(axis=1)


class RefinedCounts:
    """Counts by the lower 16 bits, in the bins of a complete ValueCounts that contain the wanted percentiles.

    Add the same values as in the first pass; they may be divided differently. counts: (k, slots, 65536).
    """

    def __init__(self, coarse: ValueCounts, percentiles: Sequence[float] = PERCENTILES) -> None:
        self.variables = coarse.variables
        self._ends = coarse.counts.cumsum(axis=1)
        self._ranks = [_ranks(int(total), percentiles) for total in coarse.total]
        bins = [
            sorted({int(np.searchsorted(ends, rank, side="right")) for low, high, _ in ranks for rank in (low, high)})
            for ends, ranks in zip(self._ends, self._ranks, strict=True)
        ]
        slots = max((len(wanted) for wanted in bins), default=0)
        self._slot = np.full((len(bins), _BINS), -1, dtype=np.int8)
        for variable, wanted in enumerate(bins):
            self._slot[variable, wanted] = np.arange(len(wanted))
        self.counts = np.zeros((len(bins), slots, _BINS), dtype=np.int64)

    def add(self, values: np.ndarray) -> None:
        """Count values: (P, k) float32."""
        _refine(np.ascontiguousarray(values).view(np.uint32), self._slot, self.counts)

    def arrays(self) -> dict[str, np.ndarray]:
        """The counts, for a file: most are 0 and left out."""
        return _sparse(self.counts)

    def add_arrays(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Add the counts of another part of the data, based on the same ValueCounts."""
        _add_sparse(self.counts, arrays)

    def percentiles(self) -> list[list[float]]:
        """Return the percentiles of each variable, equal to numpy.percentile (linear) of all values; [] if there are no values."""
        return [
            [self._between(variable, low, high, share) for low, high, share in ranks] for variable, ranks in enumerate(self._ranks)
        ]  # fmt: skip

    def _between(self, variable: int, low: int, high: int, share: float) -> float:
        below, above = self._value(variable, low), self._value(variable, high)
        if below == above:
            return below
        # Interpolate from the nearer end, as numpy does, to get the same rounding.
        return below + (above - below) * share if share < 0.5 else above - (above - below) * (1 - share)

    def _value(self, variable: int, rank: int) -> float:
        """Return the value at a rank (from 0) of the sorted values."""
        upper = int(np.searchsorted(self._ends[variable], rank, side="right"))
        before = int(self._ends[variable, upper - 1]) if upper else 0
        inside = self.counts[variable, self._slot[variable, upper]].cumsum()
        assert inside[-1] == self._ends[variable, upper] - before, "the second pass saw other values than the first"
        lower = int(np.searchsorted(inside, rank - before, side="right"))
        return float(_value_of(np.array([upper << 16 | lower], dtype=np.uint32))[0])


def coarse_histogram(counts: np.ndarray, *, bins: int = 60, margin: float = 0.005) -> tuple[np.ndarray, np.ndarray]:
    """Convert the counts (65536,) of a variable to a histogram of equal bins: edges (bins + 1,) and contents (bins,).

    The fraction `margin` of the values on each side is left out. Values are assumed to be uniform within a bin of the counts,
    whose width is below 1 % of the values in it.
    """
    # The upper edge of a bin is the lower edge of the next one.
    with np.errstate(invalid="ignore"):
        edges = _value_of(np.arange(_BINS, dtype=np.uint32) << np.uint32(16)).astype(np.float64)
    finite = np.flatnonzero(np.isfinite(edges[:-1]) & np.isfinite(edges[1:]) & (counts[:-1] > 0))
    if len(finite) == 0:
        return np.array([0.0, 1.0]), np.zeros(1)
    share = counts[finite].cumsum() / counts[finite].sum()
    low, high = finite[np.searchsorted(share, [margin, 1 - margin])]
    if low == high:
        # Nearly all values are equal: extend the range to show the others too.
        low, high = finite[0], finite[-1]
    if low == high:
        return edges[low] + np.array([-0.5, 0.5]), np.array([float(counts[low])])
    ends = edges[low : high + 2]
    cumulative = np.concatenate([[0], counts[low : high + 1].cumsum()])
    even = np.linspace(ends[0], ends[-1], bins + 1)
    return even, np.diff(np.interp(even, ends, cumulative))


def _sparse(counts: np.ndarray) -> dict[str, np.ndarray]:
    places = np.flatnonzero(counts)
    return {"places": places, "counts": counts.reshape(-1)[places]}


def _add_sparse(counts: np.ndarray, arrays: Mapping[str, np.ndarray]) -> None:
    counts.reshape(-1)[arrays["places"]] += arrays["counts"]


def _ranks(total: int, percentiles: Sequence[float]) -> list[tuple[int, int, float]]:
    """Return for each percentile of `total` sorted values the two ranks it lies between, and its fraction of the way between them."""
    if total == 0:
        return []
    places = [(total - 1) * (percentile / 100) for percentile in percentiles]
    return [(math.floor(place), min(math.floor(place) + 1, total - 1), place - math.floor(place)) for place in places]


def _value_of(key: np.ndarray) -> np.ndarray:
    """Convert ordered integers back to float32: (n,) uint32 -> (n,) float32."""
    bits = np.where(key & np.uint32(0x80000000), key ^ np.uint32(0x80000000), ~key)
    return bits.astype(np.uint32).view(np.float32)


@numba.njit(nogil=True, cache=True)
def _ordered(bits):
    """Convert the bits of a float32 to an integer with the same order. NaN and -0 are treated as 0."""
    magnitude = bits & np.uint32(0x7FFFFFFF)
    if magnitude > np.uint32(0x7F800000) or magnitude == np.uint32(0):
        return np.uint32(0x80000000)
    if bits & np.uint32(0x80000000):
        return ~bits
    return bits | np.uint32(0x80000000)


@numba.njit(nogil=True, cache=True)
def _count(bits, counts, not_a_number):
    for row in range(bits.shape[0]):
        for variable in range(bits.shape[1]):
            value = bits[row, variable]
            if value == _ABSENT:
                continue
            counts[variable, _ordered(value) >> np.uint32(16)] += 1
            if value & np.uint32(0x7FFFFFFF) > np.uint32(0x7F800000):
                not_a_number[variable] += 1


@numba.njit(nogil=True, cache=True)
def _refine(bits, slot, counts):
    for row in range(bits.shape[0]):
        for variable in range(bits.shape[1]):
            if bits[row, variable] == _ABSENT:
                continue
            key = _ordered(bits[row, variable])
            where = slot[variable, key >> np.uint32(16)]
            if where >= 0:
                counts[variable, where, key & np.uint32(0xFFFF)] += 1
