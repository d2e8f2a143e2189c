"""The baskets of a TTree's simple branches: numbers, and lists of numbers, straight from the file's bytes to arrays.

uproot gives the same arrays, but takes its way through some hundred Python calls for each basket, more time than unpacking it.
What is out of the ordinary is left to it: other types, remote files, baskets within the tree's description, damage.

A basket is a record of the file: a key, whose last bytes describe the basket, and its data, packed in blocks. Lists have, behind
their values, the place of each entry; or a branch tells their lengths, whose baskets may end elsewhere (which uproot 5.7 does not read).
Numbers are big endian. (ROOT's reference, "TFile: the physical layout" and "TBasket".)
"""

from __future__ import annotations

import bisect
import lzma
import math
import os
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import awkward as ak
import cramjam
import numpy as np
import uproot
import xxhash

_KEY = struct.Struct(">ihiIhh")  # bytes in all, version, bytes of the data unpacked, date, bytes of the key, cycle
_BASKET = struct.Struct(">hiiiib")  # at the key's end: version, size of the buffer, size of an entry, entries, end of the values, flag
_BLOCK = struct.Struct("<2s7B")  # algorithm, method, bytes packed (3) and unpacked (3)
_CHECKSUM = struct.Struct(">Q")  # in front of what LZ4 packed, and counted with it

_UNPACK: dict[bytes, Callable[[memoryview, int], Any]] = {
    b"L4": lambda packed, size: cramjam.lz4.decompress_block(_checked(packed), output_len=size),
    b"ZL": lambda packed, size: zlib.decompress(packed, bufsize=size),
    b"ZS": lambda packed, size: cramjam.zstd.decompress(packed, output_len=size),
    b"XZ": lambda packed, _: lzma.decompress(packed),
}


class _UnusualError(Exception):
    """A basket is not as expected."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Baskets:
    """Where the B baskets of a branch are, and what they hold.

    places, sizes: (B,) bytes of the file. entries: (B + 1,) the first of each, and at last the number of all. dtype: of the numbers
    in the file. header: bytes before the values of each list; None where an entry is one number. lengths: the branch that tells how
    long the lists are, for files that leave out their places.
    """

    places: list[int]
    sizes: list[int]
    entries: list[int]
    dtype: np.dtype
    header: int | None
    lengths: Baskets | None = None

    def read(self, file: int, first: int, last: int) -> ak.Array | None:
        """Entries first <= entry < last: (N,), or N lists. None where uproot must read them, or say what is wrong.

        file: its descriptor. Raises OSError when it cannot be read.
        """
        if not 0 <= first < last <= self.entries[-1]:
            return None
        which = range(bisect.bisect_right(self.entries, first) - 1, bisect.bisect_left(self.entries, last))
        try:
            parts = [self._part(file, basket, first, last) for basket in which]
            return self._joined(parts)
        except (_UnusualError, ValueError, struct.error, zlib.error, lzma.LZMAError, cramjam.DecompressionError):
            return None

    def _part(self, file: int, basket: int, first: int, last: int) -> tuple[np.ndarray, np.ndarray]:
        """The bytes (b,) of the wanted entries of a basket, and the place of each in them (n + 1,)."""
        values, places = self._basket(file, basket)
        start, stop = self.entries[basket : basket + 2]
        places = places[max(first - start, 0) : min(last, stop) - start + 1]
        return values[places[0] : places[-1]], places - places[0]

    def _basket(self, file: int, basket: int) -> tuple[np.ndarray, np.ndarray]:
        """The same of all entries of a basket."""
        record = memoryview(os.pread(file, self.sizes[basket], self.places[basket]))
        size, _, unpacked, _, key, _ = _KEY.unpack_from(record)
        _expect(size == len(record) == self.sizes[basket] and _KEY.size + _BASKET.size <= key <= size)
        _, _, _, count, end, _ = _BASKET.unpack_from(record, key - _BASKET.size)
        _expect(count == self.entries[basket + 1] - self.entries[basket])
        packed, end = record[key:], end - key
        data = np.frombuffer(packed, dtype=np.uint8) if len(packed) == unpacked else _unpacked(packed, unpacked)
        if self.header is None:
            _expect(len(data) == end)
            places = np.arange(count + 1) * self.dtype.itemsize
        elif len(data) == end:
            places = self._places_from_lengths(file, basket)
        else:
            # How many places follow; the place of each entry, counted from the key's beginning; and one that means nothing.
            _expect(end >= 0 and len(data) == end + 4 * (count + 2))
            places = data[end + 4 :].view(">i4").astype(np.int64) - key
            places[-1] = end
        _expect(places[-1] == end)
        return data[:end], places

    def _places_from_lengths(self, file: int, basket: int) -> np.ndarray:
        """(n + 1,) bytes."""
        lengths = self.lengths and self.lengths.read(file, *self.entries[basket : basket + 2])
        if lengths is None:
            raise _UnusualError
        return np.cumsum(np.concatenate([np.zeros(1, dtype=np.int64), ak.to_numpy(lengths)]), dtype=np.int64) * self.dtype.itemsize

    def _joined(self, parts: list[tuple[np.ndarray, np.ndarray]]) -> ak.Array:
        values = np.concatenate([part for part, _ in parts])
        native = self.dtype.newbyteorder("=")
        if self.header is None:
            return ak.Array(ak.contents.NumpyArray(values.view(self.dtype).astype(native)))
        sizes = np.concatenate([places[1:] - places[:-1] for _, places in parts])
        lengths, rest = np.divmod(sizes - self.header, self.dtype.itemsize)
        _expect(lengths.min() >= 0 and not rest.any() and sizes.sum() == len(values))
        if self.header:
            values = _without_headers(values, np.cumsum(sizes) - sizes, self.header, self.dtype.itemsize)
        offsets = np.zeros(len(sizes) + 1, dtype=np.int64)
        np.cumsum(lengths, out=offsets[1:])
        content = ak.contents.NumpyArray(values.view(self.dtype).astype(native))
        return ak.Array(ak.contents.ListOffsetArray(ak.index.Index64(offsets), content))


def baskets_of(branch: uproot.TBranch) -> Baskets | None:
    """The baskets of a branch; None when they are not simple."""
    numbers, header = branch.interpretation, None
    if type(numbers) is uproot.AsJagged:
        numbers, header = numbers.content, numbers.header_bytes
    if type(numbers) is not uproot.AsDtype or numbers.from_dtype.kind not in "biuf" or branch.embedded_baskets:
        return None
    dtype, count = numbers.from_dtype, branch.num_baskets
    if numbers.to_dtype != dtype.newbyteorder("="):
        return None
    places, sizes = branch.member("fBasketSeek")[:count].tolist(), branch.member("fBasketBytes")[:count].tolist()
    entries = list(map(int, branch.entry_offsets))
    if min(places, default=0) < 0 or min(sizes, default=0) < 0 or entries != sorted(entries):
        return None
    # Of split collections uproot gives their first member as the branch that counts, which holds values, not lengths.
    counts = branch.count_branch if header == 0 else None
    lengths = baskets_of(counts) if counts is not None and type(counts.interpretation) is uproot.AsDtype else None
    return Baskets(places=places, sizes=sizes, entries=entries, dtype=dtype, header=header, lengths=lengths)


def _expect(as_expected: bool) -> None:
    if not as_expected:
        raise _UnusualError


def _unpacked(packed: memoryview, size: int) -> np.ndarray:
    """(size,) bytes."""
    blocks = []
    while packed:
        algorithm, _, *sizes = _BLOCK.unpack_from(packed)
        _expect(algorithm in _UNPACK)
        length, whole = (low | middle << 8 | high << 16 for low, middle, high in (sizes[:3], sizes[3:]))
        body, packed = packed[_BLOCK.size : _BLOCK.size + length], packed[_BLOCK.size + length :]
        blocks.append(np.frombuffer(_UNPACK[algorithm](body, whole), dtype=np.uint8))
        _expect(len(body) == length and len(blocks[-1]) == whole)
    data = blocks[0] if len(blocks) == 1 else np.concatenate(blocks)
    _expect(len(data) == size)
    return data


def _checked(packed: memoryview) -> memoryview:
    """What follows its checksum."""
    body = packed[_CHECKSUM.size :]
    _expect(xxhash.xxh64_intdigest(body) == _CHECKSUM.unpack_from(packed)[0])
    return body


def _without_headers(values: np.ndarray, starts: np.ndarray, header: int, itemsize: int) -> np.ndarray:
    """Bytes without those of the headers, one of which is at each of these places."""
    unit = math.gcd(header, itemsize)
    whole = values.view(f"u{unit}")
    keep = np.ones(len(whole), dtype=bool)
    keep[starts[:, None] // unit + np.arange(header // unit)] = False
    return whole[keep].view(np.uint8)
