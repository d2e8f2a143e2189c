"""Writes and reads staged files: uncompressed Arrow IPC files that numpy, awkward and pyarrow memory-map without a copy.

Layout. There is one record batch, so that every column of a file is contiguous. Packed columns are
`large_list<fixed_size_list<float, k>>` (jagged) or `fixed_size_list<float, k>` (flat). The type is `large_list` because its 64-bit
offsets can be used without conversion. Plain columns are numbers, lists of any depth, or text. Booleans are stored as uint8 with
`dtype: bool` in the metadata of the field, because numpy cannot view Arrow's bits. The column `_entry_` holds the entry number of
each row in the source file. The metadata of the schema, under `weaver_tasks`, is a JSON text with the variables of each packed
column, the number of entries of the source, the digests of source and configuration, and for each column its type, length and
checksums (`column_checks`). The key `weaver_tasks.digest` holds the checksum of that JSON. Files of older versions have no
checksums and are accepted without these checks.

To write a single batch of any size with bounded memory, columns are first collected in unnamed temporary files, which are then
memory-mapped.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa
import xxhash

from weaver_tasks.base.errors import InputFileError
from weaver_tasks.base.files import atomic_path, writing
from weaver_tasks.data.events.block import Block
from weaver_tasks.data.events.nested import Nested, from_packed, from_plain, to_packed, to_plain
from weaver_tasks.data.staging.column_checks import CheckedColumn, Damaged, describe, fall_in, falls

FORMAT = 1
ENTRY = "_entry_"
_METADATA = b"weaver_tasks"
_DIGEST = b"weaver_tasks.digest"

# Exceptions that pyarrow, numpy and json raise on a damaged file.
_UNREADABLE = (OSError, pa.ArrowException, ValueError, LookupError, TypeError, AttributeError, ArithmeticError, MemoryError, AssertionError)
_VALUES_AT_A_TIME = 1 << 20


class StagedWriter:
    """Writes blocks to a staged file. Use as a context manager: the complete file appears only if the `with` block succeeds.

    metadata: further facts to store in the file, besides those that the format needs.
    """

    def __init__(self, target: str | os.PathLike[str], *, variables: Mapping[str, tuple[str, ...]], metadata: Mapping[str, Any]) -> None:
        self._target = Path(target)
        self._metadata = {"format": FORMAT, "variables": {name: list(names) for name, names in variables.items()}, **metadata}
        self._columns: dict[str, _GrowingColumn] = {}

    def __enter__(self) -> StagedWriter:
        return self

    def append(self, block: Block) -> None:
        """Add events. All blocks must have the same columns. Raises WeaverTasksError when the disk is full or the folder not writable."""
        parts = {ENTRY: Nested(offsets=(), values=np.asarray(block.entries, dtype=np.int64))}
        parts |= {name: from_packed(packed) for name, packed in block.packed.items()}
        parts |= {name: from_plain(name, array) for name, array in block.plain.items()}
        with writing(self._target):
            self._target.parent.mkdir(parents=True, exist_ok=True)
            for name, part in parts.items():
                if name not in self._columns:
                    self._columns[name] = _GrowingColumn(name, part, self._target.parent)
                self._columns[name].append(part)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                with writing(self._target):
                    self._write()
        finally:
            for column in self._columns.values():
                column.close()

    def _write(self) -> None:
        columns = {name: column.finish() for name, column in self._columns.items()}
        for name, nested in columns.items():
            if wrong := fall_in(nested.offsets, len(nested.values)):
                raise InputFileError(f"variable '{name}': the lengths of its lists are wrong: its offsets {wrong}. Check its definition.")
        if any(len(nested) != len(columns[ENTRY]) for nested in columns.values()):
            raise AssertionError("columns of different lengths")
        arrays = [_to_arrow(nested) for nested in columns.values()]
        fields = [
            pa.field(name, array.type, nullable=False, metadata=_field_metadata(nested))
            for (name, nested), array in zip(columns.items(), arrays, strict=True)
        ]
        facts = json.dumps({**self._metadata, "columns": {name: describe(nested) for name, nested in columns.items()}})
        schema = pa.schema(fields, metadata={_METADATA: facts, _DIGEST: xxhash.xxh3_128_hexdigest(facts.encode())})
        batch = pa.record_batch(arrays, schema=schema)
        with (
            atomic_path(self._target) as temporary,
            pa.OSFile(str(temporary), "wb") as sink,
            pa.ipc.new_file(sink, schema) as writer,
        ):
            writer.write_batch(batch)


class _GrowingColumn:
    """A column that is being written: its values and the offsets of each level, in unnamed temporary files."""

    def __init__(self, name: str, first: Nested, folder: Path) -> None:
        self._name = name
        self._folder = folder
        self._dtype = first.values.dtype.newbyteorder("=")
        self._inner = first.values.shape[1:]
        self._text = first.text
        self._values = _temporary(folder)
        self._offsets = [_temporary(folder) for _ in first.offsets]
        self._ends = [0 for _ in first.offsets]
        for offsets in self._offsets:
            offsets.write(np.zeros(1, dtype=np.int64).tobytes())

    def append(self, part: Nested) -> None:
        if len(part.offsets) != len(self._offsets) or part.values.shape[1:] != self._inner:
            raise InputFileError(f"variable '{self._name}' changes its dimensions within the file. Check its definition.")
        self._widen(part.values.dtype.newbyteorder("="))
        first, last = 0, len(part)
        for level, offsets in enumerate(part.offsets):
            own = offsets[first : last + 1]
            first, last = int(own[0]), int(own[-1])
            self._offsets[level].write(_bytes(own[1:] - own[0] + self._ends[level], np.dtype(np.int64)))
            self._ends[level] += last - first
        self._values.write(_bytes(part.values[first:last], self._dtype))

    def _widen(self, dtype: np.dtype) -> None:
        """Convert the values written so far to a type that also holds the next ones, for example when NaN follows integers."""
        wider = np.promote_types(self._dtype, dtype)
        if wider == self._dtype:
            return
        written, self._dtype, previous = self._values, wider, self._dtype
        self._values = _temporary(self._folder)
        values = _mapped(written, previous)
        for first in range(0, len(values), _VALUES_AT_A_TIME):
            self._values.write(_bytes(values[first : first + _VALUES_AT_A_TIME], wider))
        del values
        written.close()

    def finish(self) -> Nested:
        offsets = tuple(_mapped(file, np.dtype(np.int64)) for file in self._offsets)
        return Nested(offsets=offsets, values=_mapped(self._values, self._dtype).reshape(-1, *self._inner), text=self._text)

    def close(self) -> None:
        for file in (self._values, *self._offsets):
            # On a full disk, flushing the rest of the buffer fails again. The rest is not needed.
            with contextlib.suppress(OSError):
                file.close()


def _temporary(folder: Path) -> IO[bytes]:
    return tempfile.TemporaryFile(dir=folder)


def _bytes(array: np.ndarray, dtype: np.dtype) -> memoryview:
    return np.ascontiguousarray(array, dtype=dtype).reshape(-1).view(np.uint8).data


def _mapped(file: IO[bytes], dtype: np.dtype) -> np.ndarray:
    file.flush()
    if os.fstat(file.fileno()).st_size == 0:
        return np.empty(0, dtype=dtype)
    return np.memmap(file, dtype=dtype, mode="r")


def _field_metadata(nested: Nested) -> dict[str, str] | None:
    return {"dtype": "bool"} if nested.values.dtype == bool else None


def _to_arrow(nested: Nested) -> pa.Array:
    values = nested.values.view(np.uint8) if nested.values.dtype == bool else nested.values
    offsets = list(nested.offsets)
    if nested.text:
        characters = offsets.pop()
        array = pa.Array.from_buffers(pa.large_string(), len(characters) - 1, [None, pa.py_buffer(characters), pa.py_buffer(values)])
    else:
        flat = values.reshape(-1)
        array = pa.Array.from_buffers(pa.from_numpy_dtype(flat.dtype), len(flat), [None, pa.py_buffer(flat)])
        for axis in range(values.ndim - 1, 0, -1):
            length = int(np.prod(values.shape[:axis]))
            array = pa.Array.from_buffers(pa.list_(array.type, values.shape[axis]), length, [None], children=[array])
    for level in reversed(offsets):
        array = pa.Array.from_buffers(
            pa.large_list(array.type), len(level) - 1, [None, pa.py_buffer(level)], children=[array]
        )  # fmt: skip
    return array


class StagedFile:
    """A memory-mapped staged file. Its columns are views, and only the accessed pages are read from disk.

    metadata: the facts given to the writer. entries: (N,) int64, the entry number of each row in the source file.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        try:
            with pa.memory_map(os.fspath(path)) as source:
                reader = pa.ipc.open_file(source)
                schema, batch = reader.schema, reader.get_batch(0)
            metadata = _metadata_of(schema)
            described = metadata.pop("columns", {})
            if metadata.get("format") != FORMAT:
                raise InputFileError(f"{path}: staged in format {metadata.get('format')}, not {FORMAT}. Delete it and run again.")
            names = [field.name for field in schema]
            if len(set(names)) != len(names) or (described and described.keys() != set(names)):
                raise Damaged("has other columns than it was written with")
            columns = {}
            for place, field in enumerate(schema):
                columns[field.name] = self._column(field, batch.column(place), described.get(field.name))
            self._entries = columns[ENTRY]
            self.entries: np.ndarray = self._entries.nested.values
            self._packed = {name: columns[name] for name in metadata["variables"]}
            self._plain = {name: column for name, column in columns.items() if name not in (ENTRY, *self._packed)}
            self._check_shapes(columns, metadata["variables"])
        except Damaged as error:
            raise self._refused(str(error)) from None
        except _UNREADABLE as error:
            raise InputFileError(f"{path}: not a staged file ({_line(error)}). Delete it and run again.") from error
        self.metadata: dict[str, Any] = metadata

    def _column(self, field: pa.Field, array: pa.Array, described: dict[str, Any] | None) -> CheckedColumn:
        try:
            return CheckedColumn(_from_arrow(array, field), described)
        except Damaged as error:
            raise self._refused(f"column '{field.name}' {error}") from None

    def _check_shapes(self, columns: Mapping[str, CheckedColumn], variables: Mapping[str, Sequence[str]]) -> None:
        for name, column in columns.items():
            if len(column.nested) != len(self.entries):
                raise self._refused(f"column '{name}' has {len(column.nested)} rows, not {len(self.entries)}")
        for name, names in variables.items():
            nested = columns[name].nested
            if nested.values.dtype != np.float32 or nested.values.shape[1:] != (len(names),) or len(nested.offsets) > 1:
                raise self._refused(f"column '{name}' does not hold its variables")
        if self.entries.dtype != np.int64 or self.entries.ndim != 1:
            raise self._refused(f"column '{ENTRY}' does not hold numbers of entries")
        self._entries.check(0, len(self.entries))
        if len(self.entries) and (self.entries[0] < 0 or falls(self.entries, least=1)):
            raise self._refused(f"column '{ENTRY}' does not rise")

    def _refused(self, what: str) -> InputFileError:
        return InputFileError(f"{self.path}: is damaged: {what}. Delete it and run again: it is then made anew.")

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of the packed and plain columns."""
        return (*self._packed, *self._plain)

    def rows(self, first_entry: int, last_entry: int) -> tuple[int, int]:
        """Return the range of rows (first, last) that hold the entries first_entry <= entry < last_entry of the source."""
        first, last = np.searchsorted(self.entries, [first_entry, last_entry])
        return int(first), int(last)

    def block(self, first_row: int, last_row: int, columns: Collection[str] | None = None) -> Block:
        """Return rows as a block of views. columns: only these; columns that the file does not have are left out.

        Raises InputFileError when the data differ from what was written.
        """
        self.check(first_row, last_row, columns)
        return self.unchecked_block(first_row, last_row, columns)

    def unchecked_block(self, first_row: int, last_row: int, columns: Collection[str] | None = None) -> Block:
        """Like `block` without checks. The caller must call `check` (and `check_values`) before using the rows."""

        def rows(some: Mapping[str, CheckedColumn]) -> dict[str, Nested]:
            wanted = some.keys() if columns is None else some.keys() & set(columns)
            return {name: column.nested.rows(first_row, last_row) for name, column in some.items() if name in wanted}

        return Block(
            entries=self.entries[first_row:last_row],
            packed={name: to_packed(nested) for name, nested in rows(self._packed).items()},
            plain={name: to_plain(nested) for name, nested in rows(self._plain).items()},
        )

    def check(self, first_row: int, last_row: int, columns: Collection[str] | None = None, *, packed_values: bool = True) -> None:
        """Raise InputFileError if rows of columns differ from what was written. packed_values: check those of packed columns too."""
        for some, values in ((self._plain, True), (self._packed, packed_values)):
            for name, column in some.items():
                if columns is None or name in columns:
                    try:
                        column.check(first_row, last_row, values=values)
                    except Damaged as error:
                        raise self._refused(f"column '{name}' {error}") from None

    def check_values(self, rows: np.ndarray, columns: Collection[str]) -> None:
        """Raise InputFileError if values of packed columns differ from what was written. rows: (n,) the rows to check."""
        for name in columns:
            try:
                self._packed[name].check_values(rows)
            except Damaged as error:
                raise self._refused(f"column '{name}' {error}") from None


def _metadata_of(schema: pa.Schema) -> dict[str, Any]:
    """Return the facts stored in a file. Raises Damaged when they differ from what was written."""
    texts = schema.metadata or {}
    facts = texts.get(_METADATA, b"{}")
    metadata: dict[str, Any] = json.loads(facts)
    if texts.keys() - {_METADATA} or "columns" in metadata:
        digest = texts.get(_DIGEST, b"").decode()
        if texts.keys() != {_METADATA, _DIGEST} or digest != xxhash.xxh3_128_hexdigest(facts):
            raise Damaged("its metadata are not what was written")
    return metadata


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def _from_arrow(array: pa.Array, field: pa.Field) -> Nested:
    """View the buffers of an Arrow array as numpy arrays, without a copy."""
    offsets = []
    while pa.types.is_large_list(array.type):
        offsets.append(_view(array.buffers()[1], np.dtype(np.int64), len(array) + 1))
        array = array.values
    if pa.types.is_large_string(array.type):
        _, ends, characters = array.buffers()
        offsets.append(_view(ends, np.dtype(np.int64), len(array) + 1))
        return Nested(offsets=tuple(offsets), values=_view(characters, np.dtype(np.uint8), int(offsets[-1][-1])), text=True)
    shape = [len(array)]
    while pa.types.is_fixed_size_list(array.type):
        shape.append(array.type.list_size)
        array = array.values
    values = _view(array.buffers()[1], array.type.to_pandas_dtype(), int(np.prod(shape))).reshape(shape)
    if (field.metadata or {}).get(b"dtype") == b"bool":
        values = values.view(bool)
    return Nested(offsets=tuple(offsets), values=values)


def _view(buffer: pa.Buffer | None, dtype: Any, count: int) -> np.ndarray:
    if buffer is None or count == 0 or buffer.size == 0:
        return np.zeros(count, dtype=dtype)
    array = np.frombuffer(buffer, dtype=dtype, count=count)
    if not array.flags.aligned:
        raise Damaged("its columns do not begin where they should")
    return array
