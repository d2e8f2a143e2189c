"""Reads Parquet files as a stream, so that each page is decompressed once, and only if it is needed."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import awkward as ak
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from weaver_tasks.base.errors import InputFileError
from weaver_tasks.data.events.ordinary import missing_rows, without_missing
from weaver_tasks.data.readers.chunks import Steps
from weaver_tasks.data.readers.place import Place
from weaver_tasks.data.readers.remote import open_stream

_BATCH_ROWS = 4096


class ParquetReader:
    """A Parquet file; its columns are the branches.

    Missing floating-point numbers are read as NaN and missing lists as empty. Other missing numbers stay missing. Missing text is refused.
    """

    tree = None

    def __init__(self, place: Place) -> None:
        self._source = place.name
        self._place = place
        self._handle: Any = None
        with _refusing_damage(place):
            if place.remote is not None:
                self._handle = open_stream(place.path, place.remote)
            self._file = pq.ParquetFile(self._handle or place.path, memory_map=self._handle is None, pre_buffer=False, buffer_size=1 << 16)
        self.entries = int(self._file.metadata.num_rows)
        self._columns = list(self._file.schema_arrow.names)
        # The state of the stream of batches: its branches, its current row, and the unread rest of the last batch.
        self._streamed: tuple[str, ...] = ()
        self._position = -1
        self._batches: Iterator[pa.RecordBatch] = iter(())
        self._rest: list[pa.RecordBatch] = []

    def known(self) -> set[str]:
        return set(self._columns)

    def read(self, branches: Sequence[str], first: int, last: int) -> dict[str, ak.Array]:
        with _refusing_damage(self._place):
            if self._streamed != tuple(branches) or self._position != first:
                self._start(branches, first)
            batches = list(self._take(last - first))
            table = pa.Table.from_batches(batches, self._schema(branches))
        self._position = last
        return {name: self._array(name, table.column(name), first) for name in branches}

    def _array(self, name: str, column: pa.ChunkedArray, first: int) -> ak.Array:
        wanted = _read_as(column.type)
        if wanted is None:
            raise InputFileError(
                f"{self._source}: '{name}' is of type {column.type}, which is not read: only numbers, text and lists of them are. "
                "Leave it out, or write it as numbers."
            )
        with _refusing_damage(self._place):
            return _without_missing(self._source, name, ak.from_arrow(column if wanted == column.type else column.cast(wanted)), first)

    def _schema(self, branches: Sequence[str]) -> pa.Schema:
        return pa.schema([self._file.schema_arrow.field(name) for name in branches])

    def _start(self, branches: Sequence[str], first: int) -> None:
        """Start a new stream at row `first`."""
        metadata = self._file.metadata
        starts = np.cumsum([0, *(metadata.row_group(group).num_rows for group in range(metadata.num_row_groups))])
        group = int(np.searchsorted(starts, first, side="right")) - 1
        self._streamed = tuple(branches)
        self._batches = self._file.iter_batches(
            _BATCH_ROWS, row_groups=range(group, metadata.num_row_groups), columns=list(branches), use_threads=False
        )
        self._rest = []
        for _ in self._take(first - int(starts[group])):
            pass

    def _take(self, rows: int) -> Iterator[pa.RecordBatch]:
        """Yield the next rows of the stream."""
        while rows > 0:
            batch = self._rest.pop() if self._rest else next(self._batches, None)
            if batch is None:
                raise InputFileError(f"{self._source}: ends {rows} rows before its own description says. Fetch it again.")
            if batch.num_rows > rows:
                self._rest.append(_cut(batch, rows, batch.num_rows))
                batch = _cut(batch, 0, rows)
            rows -= batch.num_rows
            # In the order of the requested columns, which may differ from that of the file.
            yield batch.select(list(self._streamed))

    def step(self, branches: Sequence[str], first: int, size: int) -> int:
        metadata = self._file.metadata
        total = 0
        for group in range(metadata.num_row_groups):
            chunks = metadata.row_group(group)
            for column in range(chunks.num_columns):
                if chunks.column(column).path_in_schema.partition(".")[0] in branches:
                    total += chunks.column(column).total_uncompressed_size
        # The stored size can be much smaller than the size in memory: repeated values are stored once.
        return Steps(4 * total, self.entries, ()).step(first, size)

    def close(self) -> None:
        self._file.close()
        if self._handle is not None:
            self._handle.close()


@contextlib.contextmanager
def _refusing_damage(place: Place) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError, ValueError) as error:
        place.raise_failure(error)
        reason = " ".join(str(error).split())[:200]
        raise InputFileError(
            f"{place.name}: cannot be read as Parquet ({type(error).__name__}: {reason}). It is damaged, incomplete or of another kind: "
            "fetch it again."
        ) from error


def _cut(batch: pa.RecordBatch, first: int, last: int) -> pa.RecordBatch:
    """Return rows of a batch: a view, or a copy if values may be missing, since awkward 2.14 ignores the offset of a view's mask."""
    cut = batch.slice(first, last - first)
    if any(column.null_count or pa.types.is_struct(column.type) or pa.types.is_fixed_size_list(column.type) for column in batch.columns):
        return cut.take(pa.array(np.arange(cut.num_rows)))
    return cut


def _read_as(kind: pa.DataType) -> pa.DataType | None:
    """Return the type as which a column is read: text and lists get a common representation. None if the type is not supported.

    Dictionaries (categories of pandas) differ between row groups, and string views have no counterpart in awkward arrays.
    """
    if pa.types.is_dictionary(kind):
        return _read_as(kind.value_type)
    if pa.types.is_string_view(kind) or pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind):
        return pa.large_string()
    if pa.types.is_null(kind):
        return pa.float32()
    if pa.types.is_struct(kind):
        fields = {field.name: _read_as(field.type) for field in kind}
        return None if None in fields.values() else pa.struct(list(fields.items()))
    if pa.types.is_fixed_size_list(kind):
        inner = _read_as(kind.value_type)
        return inner if inner is None else pa.list_(inner, kind.list_size)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_list_view(kind) or pa.types.is_large_list_view(kind):
        inner = _read_as(kind.value_type)
        return inner if inner is None else pa.large_list(inner)
    read = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)
    return kind if read or pa.types.is_string(kind) or pa.types.is_large_string(kind) else None


def _without_missing(source: str, name: str, array: ak.Array, first: int) -> ak.Array:
    """Remove the option type, which Parquet columns have even if no value is missing.

    Missing integers and booleans stay missing, because their replacement depends on their use. first: number of the first entry.
    """

    def plain(layout: Any, **_: Any) -> Any:
        if not layout.is_option:
            return None
        content = layout.content
        if not isinstance(layout, ak.contents.UnmaskedArray):
            missing = np.asarray(layout.mask_as_bool(valid_when=False))
            if not missing.any():
                content = layout.project()
            elif content.is_list and content.parameter("__array__") is not None:
                rows = missing_rows(array)
                raise InputFileError(
                    f"{source}: text is missing in '{name}': in entry {first + int(rows.argmax())} and in "
                    f"{np.count_nonzero(rows) - 1} more of {len(rows)}. Fill it in the file."
                )
            elif content.is_list or (content.is_numpy and np.asarray(content.data).dtype.kind == "f"):
                content = ak.to_layout(without_missing(ak.Array(layout)))
            else:
                return layout
        return ak.to_layout(ak.transform(plain, ak.Array(content), highlevel=False))

    return ak.transform(plain, array)
