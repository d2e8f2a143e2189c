"""Decodes the baskets (data blocks) of simple TTree branches: converts numbers and lists of numbers from file bytes to arrays.

uproot gives the same arrays, but needs about a hundred Python calls per basket, which take longer than the decompression.
uproot still reads all unusual cases: other types, remote files, baskets embedded in the tree's description, damaged files.

A basket is a record in the file: a key, whose last bytes describe the basket, and its data in compressed blocks. Lists are stored
as values followed by the byte offset of each entry. Alternatively, another branch holds the lengths of the lists; its baskets may
have other boundaries (which uproot 5.7 cannot read). Numbers are big endian. See "TFile: the physical layout" and "TBasket" in
ROOT's reference.
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

_KEY = struct.Struct(">ihiIhh")  # total bytes, version, uncompressed bytes, date, bytes of the key, cycle
_BASKET = struct.Struct(">hiiiib")  # at the key's end: version, size of the buffer, size of an entry, entries, end of the values, flag
_BLOCK = struct.Struct("<2s7B")  # algorithm, method, compressed bytes (3), uncompressed bytes (3)
_CHECKSUM = struct.Struct(">Q")  # precedes LZ4 data and is included in its size

_UNPACK: dict[bytes, Callable[[memoryview, int], Any]] = {
    b"L4": lambda packed, size: cramjam.lz4.decompress_block(_checked(packed), output_len=size),
    b"ZL": lambda packed, size: zlib.decompress(packed, bufsize=size),
    b"ZS": lambda packed, size: cramjam.zstd.decompress(packed, output_len=size),
    b"XZ": lambda packed, _: lzma.decompress(packed),
}


class _UnusualError(Exception):
    """A basket has an unexpected layout."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Baskets:
    """The positions and the layout of the B baskets of a branch.

    places, sizes: (B,) position and size in the file, in bytes. entries: (B + 1,) first entry of each basket, then the total number
    of entries. dtype: of the numbers in the file. header: bytes before the values of each list; None if an entry is one number.
    lengths: the branch with the lengths of the lists, for files that do not store the offsets of the entries.
    """

    places: list[int]
    sizes: list[int]
    entries: list[int]
    dtype: np.dtype
    header: int | None
    lengths: Baskets | None = None

    def read(self, file: int, first: int, last: int) -> ak.Array | None:
        """Read entries first <= entry < last: (N,), or N lists. None if uproot must read them or report the problem.

        file: a file descriptor. Raises OSError when it cannot be read.
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
        """Return the bytes (b,) of entries first <= entry < last of a basket, and the offset of each entry in them (n + 1,)."""
        values, places = self._basket(file, basket)
        start, stop = self.entries[basket : basket + 2]
        places = places[max(first - start, 0) : min(last, stop) - start + 1]
        return values[places[0] : places[-1]], places - places[0]

    def _basket(self, file: int, basket: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the bytes and offsets of all entries of a basket."""
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
            # The number of offsets, the offset of each entry from the beginning of the key, and one unused offset.
            _expect(end >= 0 and len(data) == end + 4 * (count + 2))
            places = data[end + 4 :].view(">i4").astype(np.int64) - key
            places[-1] = end
        _expect(places[-1] == end)
        return data[:end], places

    def _places_from_lengths(self, file: int, basket: int) -> np.ndarray:
        """Compute the byte offsets (n + 1,) of the entries from the branch with the lengths."""
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
    """Return the baskets of a branch; None if the branch is not simple."""
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
    # For split collections uproot returns the first member as the count branch, but that holds values, not lengths.
    counts = branch.count_branch if header == 0 else None
    lengths = baskets_of(counts) if counts is not None and type(counts.interpretation) is uproot.AsDtype else None
    return Baskets(places=places, sizes=sizes, entries=entries, dtype=dtype, header=header, lengths=lengths)


def _expect(as_expected: bool) -> None:
    if not as_expected:
        raise _UnusualError


def _unpacked(packed: memoryview, size: int) -> np.ndarray:
    """Decompress to (size,) bytes."""
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
    """Verify the checksum and return the data after it."""
    body = packed[_CHECKSUM.size :]
    _expect(xxhash.xxh64_intdigest(body) == _CHECKSUM.unpack_from(packed)[0])
    return body


def _without_headers(values: np.ndarray, starts: np.ndarray, header: int, itemsize: int) -> np.ndarray:
    """Remove the headers, which begin at the byte positions `starts`."""
    unit = math.gcd(header, itemsize)
    whole = values.view(f"u{unit}")
    keep = np.ones(len(whole), dtype=bool)
    keep[starts[:, None] // unit + np.arange(header // unit)] = False
    return whole[keep].view(np.uint8)
