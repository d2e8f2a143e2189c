"""Verifies the columns of a staged file: checksums of the data, and valid offsets before they are used to access values.

A column consists of arrays: the offsets of each level, then the values. Each array is divided into chunks, and a chunk is checked
when it is first used. Opening a file is therefore cheap, and a process checks each byte that it uses only once.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

import numpy as np
import xxhash

from weaver_tasks.data.events.nested import Nested

CHUNK_BYTES = 1 << 18


def describe(nested: Nested) -> dict[str, Any]:
    """Return the metadata of a column: its type and shape, and the checksums of the chunks of each of its arrays."""
    return {
        **_shape(nested),
        "checksums": [base64.b64encode(_checksums(array).tobytes()).decode() for array in (*nested.offsets, nested.values)],
    }


def fall_in(offsets: Sequence[np.ndarray], values: int) -> str | None:
    """Return what is wrong with complete arrays of offsets (outermost first) for this number of values; None if they are valid."""
    for level, array in enumerate(offsets):
        end = len(offsets[level + 1]) - 1 if level + 1 < len(offsets) else values
        if len(array) == 0 or array[0] != 0 or array[-1] != end:
            return "do not span its values"
        if falls(array):
            return "fall"
    return None


def falls(array: np.ndarray, *, least: int = 0) -> bool:
    """Whether any number is smaller than its predecessor plus `least`. Uses bounded memory."""
    step = CHUNK_BYTES
    return any((np.diff(array[at : at + step + 1]) < least).any() for at in range(0, len(array), step))


def _checksums(array: np.ndarray) -> np.ndarray:
    data = _bytes(array)
    return np.array([xxhash.xxh3_64_intdigest(data[at : at + CHUNK_BYTES].data) for at in range(0, len(data), CHUNK_BYTES)], dtype="<u8")


def _bytes(array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)


class Damaged(Exception):
    """A column or the metadata of a staged file differ from what was written. The message says how."""


class CheckedColumn:
    """A memory-mapped column of a staged file, with a record of which chunks have been checked.

    described: the result of `describe` when the column was written; None for files of older versions, where only offsets are checked.
    Raises Damaged if the parts of the column are inconsistent.
    """

    def __init__(self, nested: Nested, described: dict[str, Any] | None) -> None:
        self.nested = nested
        checksums: list[np.ndarray | None] = [None] * (len(nested.offsets) + 1)
        if described is not None:
            own = {**_shape(nested), "checksums": described["checksums"]}
            if own != described or len(described["checksums"]) != len(checksums):
                raise Damaged("is of another type or length than it was written with")
            checksums = [np.frombuffer(base64.b64decode(text), dtype="<u8") for text in described["checksums"]]
        self._offsets = []
        for level, offsets in enumerate(nested.offsets):
            items = len(nested.offsets[level + 1]) - 1 if level + 1 < len(nested.offsets) else len(nested.values)
            self._offsets.append(_CheckedOffsets(offsets, checksums[level], items))
        self._values = _CheckedArray(nested.values, checksums[-1])

    def check(self, first: int, last: int, *, values: bool = True) -> None:
        """Check the offsets of rows first <= row < last. values: check their values too. Raises Damaged."""
        for offsets in self._offsets:
            offsets.check(first, last + 1)
            first, last = int(offsets.array[first]), int(offsets.array[last])
        if values:
            self._values.check(first, last)

    def check_values(self, rows: np.ndarray) -> None:
        """Check the values of these rows (n,), whose offsets must have been checked before. Raises Damaged."""
        if self._values.all_checked or len(rows) == 0:
            return
        assert len(self._offsets) <= 1
        first, last = rows, rows + 1
        if self._offsets:
            first, last = self._offsets[0].array[rows], self._offsets[0].array[rows + 1]
        self._values.check_many(first, last)


def _shape(nested: Nested) -> dict[str, Any]:
    """Like `describe`, without checksums."""
    return {
        "dtype": nested.values.dtype.str,
        "shape": list(nested.values.shape),
        "text": nested.text,
        "levels": [len(offsets) for offsets in nested.offsets],
    }


class _CheckedArray:
    """An array (n, …) whose chunks are compared with their checksums, if there are any."""

    def __init__(self, array: np.ndarray, checksums: np.ndarray | None) -> None:
        self.array = array
        self._data = _bytes(array)
        self._item = array.nbytes // len(array) if len(array) else 1
        chunks = -(-array.nbytes // CHUNK_BYTES)
        if checksums is not None and len(checksums) != chunks:
            raise Damaged("has another number of checksums than it was written with")
        self._checksums = checksums
        self._pending = bytearray(b"\x01" * (chunks if self._to_check() else 0))
        self.all_checked = not self._pending

    def _to_check(self) -> bool:
        return self._checksums is not None

    def check(self, first: int, last: int) -> None:
        """Check items first <= item < last."""
        if self.all_checked or first >= last:
            return
        self._check_chunks(range(first * self._item // CHUNK_BYTES, (last * self._item - 1) // CHUNK_BYTES + 1))

    def check_many(self, first: np.ndarray, last: np.ndarray) -> None:
        """Check the items first[i] <= item < last[i] for every i."""
        some = last > first
        begins, ends = first[some] * self._item // CHUNK_BYTES, (last[some] * self._item - 1) // CHUNK_BYTES
        self._check_chunks(np.unique(np.concatenate([begins, ends])).tolist())
        for begin, end in zip(begins[ends > begins + 1].tolist(), ends[ends > begins + 1].tolist(), strict=True):
            self._check_chunks(range(begin, end))

    def _check_chunks(self, chunks: Sequence[int]) -> None:
        for chunk in chunks:
            if self._pending[chunk]:
                self._check_chunk(chunk)
                self._pending[chunk] = 0
        self.all_checked = 1 not in self._pending

    def _check_chunk(self, chunk: int) -> None:
        if self._checksums is not None:
            data = self._data[chunk * CHUNK_BYTES : (chunk + 1) * CHUNK_BYTES]
            if xxhash.xxh3_64_intdigest(data.data) != int(self._checksums[chunk]):
                raise Damaged("is not what was written (its checksum is another)")


class _CheckedOffsets(_CheckedArray):
    """Offsets (n + 1,) of lists with `items` items in total: they must go from 0 to `items` and must not decrease."""

    def __init__(self, array: np.ndarray, checksums: np.ndarray | None, items: int) -> None:
        super().__init__(array, checksums)
        self._items = items
        if len(array) == 0 or array[0] != 0 or array[-1] != items:
            raise Damaged("has offsets that do not span its values")

    def _to_check(self) -> bool:
        return True

    def _check_chunk(self, chunk: int) -> None:
        super()._check_chunk(chunk)
        size = CHUNK_BYTES // self._item
        # Include the first offset of the next chunk.
        part = self.array[chunk * size : (chunk + 1) * size + 1]
        if part.min() < 0 or part.max() > self._items or (np.diff(part) < 0).any():
            raise Damaged("has offsets that fall or reach beyond its values")
