"""HDF5 files with one array per branch at the root: (N,) numbers, (N, length) padded ones, or lists of variable length."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import awkward as ak
import fsspec
import numpy as np

from weaver_tasks.base.errors import InputFileError
from weaver_tasks.data.readers.chunks import Steps

try:
    import h5py
except ImportError:
    h5py = None

_BYTES_OF_LIST = 256


class Hdf5Reader:
    """An HDF5 file. Padding stays: a branch of shape (N, 128) has 128 particles in each event."""

    tree = None

    def __init__(self, source: str) -> None:
        if h5py is None:
            raise InputFileError(f"{source}: reading HDF5 takes the package h5py. Install weaver-tasks[formats].")
        self._source = source
        self._handle: Any = None
        with _refusing_damage(source):
            if "://" in source:
                self._handle = fsspec.open(source, "rb").open()
            self._file = h5py.File(self._handle or source, "r")
            self._arrays = {name: item for name, item in self._file.items() if isinstance(item, h5py.Dataset) and item.ndim > 0}
        lengths = Counter(len(array) for array in self._arrays.values())
        self.entries = lengths.most_common(1)[0][0] if lengths else 0

    def known(self) -> set[str]:
        return set(self._arrays)

    def read(self, branches: Sequence[str], first: int, last: int) -> dict[str, ak.Array]:
        for name in branches:
            if len(self._arrays[name]) != self.entries:
                raise InputFileError(
                    f"{self._source}: '{name}' has {len(self._arrays[name])} entries, but others have {self.entries}. Make the file again."
                )
        with _refusing_damage(self._source):
            return {name: _as_awkward(self._arrays[name], first, last) for name in branches}

    def step(self, branches: Sequence[str], first: int, size: int) -> int:
        arrays = [self._arrays[name] for name in branches]
        per_entry = sum((_BYTES_OF_LIST if a.dtype.kind == "O" else a.dtype.itemsize) * int(np.prod(a.shape[1:])) for a in arrays)
        chunk = max((array.chunks[0] for array in arrays if array.chunks), default=0)
        ends = range(chunk, self.entries + chunk, chunk) if chunk else ()
        return min(Steps(per_entry * self.entries, self.entries, ends).step(first, size), self.entries)

    def close(self) -> None:
        self._file.close()
        if self._handle is not None:
            self._handle.close()


@contextlib.contextmanager
def _refusing_damage(source: str) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputFileError(
            f"{source}: cannot be read as HDF5 ({type(error).__name__}: {reason}). It is damaged, incomplete or of another kind: fetch it "
            "again; if it was compressed with a plugin, install hdf5plugin."
        ) from error


def _as_awkward(dataset: Any, first: int, last: int) -> ak.Array:
    """Lists of variable length come as an array of arrays; truth values of PyTables as a type that h5py shows as integers."""
    values = dataset[first:last]
    if dataset.id.get_type().get_class() == h5py.h5t.BITFIELD:
        return ak.Array(values.astype(bool))
    if values.dtype.kind != "O":
        # As lists, numbers of the event combine with those of its particles.
        array = ak.Array(values.astype(values.dtype.newbyteorder("=")))
        return ak.from_regular(array, axis=1) if values.ndim > 1 else array
    if len(values) and isinstance(values[0], (bytes, str)):
        return ak.Array([value.decode() if isinstance(value, bytes) else value for value in values])
    counts = np.array([len(value) for value in values], dtype=np.int64)
    content = np.concatenate([np.zeros(0, dtype=h5py.check_vlen_dtype(dataset.dtype)), *values])
    return ak.unflatten(content, counts)
