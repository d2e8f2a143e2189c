"""Reads HDF5 files with one dataset per branch at the root: (N,) numbers, (N, length) padded arrays, or variable-length lists."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import awkward as ak
import numpy as np

from weaver_tasks.base.errors import InputFileError
from weaver_tasks.data.events.ordinary import ordinary
from weaver_tasks.data.readers.chunks import Steps
from weaver_tasks.data.readers.hdf5_links import check_links, opened_links
from weaver_tasks.data.readers.place import Place
from weaver_tasks.data.readers.remote import open_stream

try:
    import h5py
except ImportError:
    h5py = None

_BYTES_OF_LIST = 256


class Hdf5Reader:
    """An HDF5 file. Padding is kept: a branch of shape (N, 128) has 128 particles in each event.

    branches: the ones that will be read; they determine the number of entries. Without them it is the most common length of the
    datasets. fields: dataset of records -> the fields to read; datasets that are not listed are read with all fields.
    """

    tree = None

    def __init__(self, place: Place, branches: Sequence[str] = (), fields: Mapping[str, Sequence[str]] | None = None) -> None:
        source = place.name
        if h5py is None:
            raise InputFileError(f"{source}: reading HDF5 takes the package h5py. Install weaver-tasks[formats].")
        self._source = source
        self._place = place
        self._handle: Any = None
        self._fields = fields or {}
        with _refusing_damage(place):
            if place.remote is not None:
                self._handle = open_stream(place.path, place.remote)
            self._file = h5py.File(self._handle or place.path, "r")
            self._arrays, self._wrong = opened_links(self._file, source, remote=self._handle is not None)
        try:
            check_links(source, self._wrong, branches)
            self.entries = self._length(branches)
        except InputFileError:
            self.close()
            raise

    def _length(self, branches: Sequence[str]) -> int:
        used = [name for name in branches if name in self._arrays]
        for name in used:
            if len(self._arrays[name]) != len(self._arrays[used[0]]):
                raise self._unequal(name, used[0])
        if used:
            return len(self._arrays[used[0]])
        lengths = Counter(len(array) for array in self._arrays.values())
        return lengths.most_common(1)[0][0] if lengths else 0

    def _unequal(self, name: str, other: str) -> InputFileError:
        lengths = [len(self._arrays[each]) for each in (name, other)]
        return InputFileError(f"{self._source}: '{name}' has {lengths[0]} entries, but '{other}' has {lengths[1]}. Make the file again.")

    def known(self) -> set[str]:
        return {*self._arrays, *self._wrong}

    def read(self, branches: Sequence[str], first: int, last: int) -> dict[str, ak.Array]:
        check_links(self._source, self._wrong, branches)
        for name in branches:
            if len(self._arrays[name]) != self.entries:
                raise InputFileError(
                    f"{self._source}: '{name}' has {len(self._arrays[name])} entries, but others have {self.entries}. Make the file again."
                )
        try:
            with _refusing_damage(self._place):
                return {name: self._read(name, first, last) for name in branches}
        except TypeError as error:
            raise InputFileError(f"{self._source}: {error}. Leave it out, or write it as one of them.") from error

    def _read(self, name: str, first: int, last: int) -> ak.Array:
        dataset = self._arrays[name]
        if not dataset.dtype.names:
            return _as_awkward(dataset, name, first, last)
        return _record(dataset.fields(self._wanted(name))[first:last], name)

    def _wanted(self, name: str) -> list[str]:
        """Return the fields of a dataset of records to read: all of them, unless only fields are used."""
        there, asked = self._arrays[name].dtype.names, self._fields.get(name)
        return [field for field in there if field in asked] if asked and set(asked) <= set(there) else list(there)

    def step(self, branches: Sequence[str], first: int, size: int) -> int:
        arrays = {name: self._arrays[name] for name in branches}
        per_entry = sum(self._bytes(name, a) * int(np.prod(a.shape[1:])) for name, a in arrays.items())
        chunk = max((array.chunks[0] for array in arrays.values() if array.chunks), default=0)
        ends = range(chunk, self.entries + chunk, chunk) if chunk else ()
        return min(Steps(per_entry * self.entries, self.entries, ends).step(first, size), self.entries)

    def _bytes(self, name: str, array: Any) -> int:
        if array.dtype.names:
            return sum(array.dtype[field].itemsize for field in self._wanted(name))
        return _BYTES_OF_LIST if array.dtype.kind == "O" else array.dtype.itemsize

    def close(self) -> None:
        self._file.close()
        if self._handle is not None:
            self._handle.close()


@contextlib.contextmanager
def _refusing_damage(place: Place) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        place.raise_failure(error)
        reason = " ".join(str(error).split())[:200]
        raise InputFileError(
            f"{place.name}: cannot be read as HDF5 ({type(error).__name__}: {reason}). It is damaged, incomplete or of another kind: fetch "
            "it again; if it was compressed with a plugin, install hdf5plugin."
        ) from error


def _as_awkward(dataset: Any, name: str, first: int, last: int) -> ak.Array:
    """Read entries as an awkward array.

    h5py returns variable-length lists as an array of arrays, and the booleans of PyTables as integers.
    """
    values = dataset[first:last]
    if dataset.id.get_type().get_class() == h5py.h5t.BITFIELD:
        return ak.Array(values.astype(bool))
    return _column(values, dataset.dtype, name)


def _column(values: np.ndarray, dtype: np.dtype, name: str) -> ak.Array:
    if values.dtype.kind in "SU" or h5py.check_string_dtype(dtype) is not None:
        return _text(values)
    if values.dtype.kind == "O":
        content = h5py.check_vlen_dtype(dtype)
        if content is None or content.kind not in "biuf" or values.ndim != 1:
            raise TypeError(f"'{name}' holds {content or dtype}, which is not read: only numbers, lists of them and text are")
        counts = np.array([len(value) for value in values], dtype=np.int64)
        return ak.unflatten(np.concatenate([np.zeros(0, dtype=content), *values]), counts)
    if values.dtype.kind not in "biuf":
        raise TypeError(f"'{name}' holds {values.dtype}, which is not read: only numbers, lists of them and text are")
    # With lists, a number per event broadcasts to the particles of the event.
    array = ak.Array(np.ascontiguousarray(values.astype(values.dtype.newbyteorder("="))))
    return ak.from_regular(array, axis=1) if values.ndim > 1 else array


def _text(values: np.ndarray) -> ak.Array:
    flat = [value.decode() if isinstance(value, bytes) else str(value) for value in values.reshape(-1).tolist()]
    # An extra item, removed again, gives an empty column the type text too.
    array = ak.Array([*flat, ""])[:-1]
    for length in values.shape[:0:-1]:
        array = ak.unflatten(array, np.full(len(array) // length if length else values.shape[0], length))
    return array


def _record(values: np.ndarray, name: str) -> ak.Array:
    """Convert to records with one array per field: (N,), or for example (N, length) for the particles of an event."""
    assert values.dtype.names is not None
    flat = values.reshape(-1)
    columns = [ordinary(_column(flat[field], values.dtype[field].base, f"{name}.{field}")) for field in values.dtype.names]
    layout: Any = ak.contents.RecordArray([ak.to_layout(column) for column in columns], list(values.dtype.names), length=len(flat))
    for axis in range(values.ndim - 1, 0, -1):
        layout = ak.contents.RegularArray(layout, values.shape[axis], zeros_length=int(np.prod(values.shape[:axis])))
    return ak.Array(layout)
