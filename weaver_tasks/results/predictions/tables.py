"""Write prediction tables in bounded memory and read them in chunks, as ROOT (tree `Events`, LZ4) or Parquet files.

A chunk of a table is a dict: name -> column, a numpy array (any number of dimensions, entries first) or an awkward array.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import awkward as ak
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import uproot

from weaver_tasks.base.errors import ResultError
from weaver_tasks.base.files import atomic_path

Column: TypeAlias = "np.ndarray | ak.Array"
Columns: TypeAlias = dict[str, Column]

TREE = "Events"
METADATA_KEY = "weaver_tasks"  # name of a TObjString beside the tree, or key in the metadata of the Parquet schema
SUFFIXES = (".root", ".parquet")

_CHUNK_ENTRIES = 1 << 12
_CHUNK_BYTES = 1 << 24


class TableWriter:
    """Combines chunks into larger ones and writes those. Made by `open_table`.

    entries: the number of entries written so far. paths: the files of the table, empty before the first chunk.
    """

    def __init__(self, path: Path, metadata: Mapping[str, Any], files: contextlib.ExitStack) -> None:
        self.entries = 0
        self.paths: list[Path] = []
        self._path = path
        self._metadata = metadata
        self._files = files
        self._sinks: list[_RootSink | _ParquetSink] = []
        self._pending: list[Columns] = []
        self._pending_entries = 0
        self._pending_bytes = 0

    def write(self, columns: Columns) -> None:
        """Append a chunk. All chunks have the same columns with the same types; the first one may be empty."""
        columns = {name: _simplest(column) for name, column in columns.items()}
        count = len(next(iter(columns.values())))
        if not self._sinks:
            self._sinks = self._open(columns)
        if not count:
            return
        self._pending.append(columns)
        self.entries += count
        self._pending_entries += count
        self._pending_bytes += sum(column.nbytes for column in columns.values())
        if self._pending_entries >= _CHUNK_ENTRIES or self._pending_bytes >= _CHUNK_BYTES:
            self.flush()

    def flush(self) -> None:
        """Write the chunks collected so far."""
        if self._pending:
            names = self._pending[0]
            whole = {name: concatenate([columns[name] for columns in self._pending]) for name in names}
            for sink in self._sinks:
                sink.write(whole)
        self._pending, self._pending_entries, self._pending_bytes = [], 0, 0

    def _open(self, columns: Columns) -> list[_RootSink | _ParquetSink]:
        if self._path.suffix == ".parquet":
            self.paths = [self._path]
            return [self._files.enter_context(_parquet_sink(self._path, columns, self._metadata))]
        sinks: list[_RootSink | _ParquetSink] = []
        if any(column.ndim > 2 or not _fits_a_branch(column) for column in columns.values()):
            self.paths = [self._path.with_suffix(".parquet")]
            sinks.append(self._files.enter_context(_parquet_sink(self._path.with_suffix(".parquet"), columns, self._metadata)))
        self.paths = [self._path, *self.paths]
        sinks.append(self._files.enter_context(_root_sink(self._path, columns, self._metadata)))
        return sinks


@contextlib.contextmanager
def open_table(path: str | Path, metadata: Mapping[str, Any]) -> Iterator[TableWriter]:
    """Open a table for writing. The complete file appears under its name when the block succeeds.

    The suffix selects the format. If a ROOT table has columns with more than two dimensions, or columns that a TTree cannot hold (doubly
    jagged, lists of text), a Parquet file with all columns is written beside it. Columns that a TTree cannot hold are only there.
    metadata: plain data stored in the file. Raises ResultError for another suffix, or if nothing was written.
    """
    path = Path(path)
    if path.suffix not in SUFFIXES:
        raise ResultError(f"{path}: a table of predictions ends in {' or '.join(SUFFIXES)}. Rename it.")
    with contextlib.ExitStack() as files:
        writer = TableWriter(path, metadata, files)
        yield writer
        if not writer._sinks:
            raise ResultError(f"{path}: there is nothing to write, not even an empty chunk. Check that the group has files.")
        writer.flush()


class _RootSink:
    def __init__(self, tree: Any, names: list[str]) -> None:
        self._tree = tree
        self._names = names

    def write(self, columns: Columns) -> None:
        self._tree.extend({name: columns[name] for name in self._names})


@contextlib.contextmanager
def _root_sink(path: Path, columns: Columns, metadata: Mapping[str, Any]) -> Iterator[_RootSink]:
    types = {name: _branch_type(column) for name, column in columns.items() if _fits_a_branch(column)}
    with atomic_path(path) as temporary, uproot.recreate(temporary, compression=uproot.LZ4(4)) as file:
        file[METADATA_KEY] = json.dumps(metadata)
        yield _RootSink(file.mktree(TREE, types), list(types))


def _fits_a_branch(column: Column) -> bool:
    if isinstance(column, np.ndarray) or _is_text(column):
        return True
    if column.ndim != 2 or column.fields:
        return False
    inner = ak.type(column[:, :0]).content.content
    return isinstance(inner, ak.types.NumpyType) and not inner.parameters


def _is_text(column: Column) -> bool:
    return isinstance(column, ak.Array) and column.ndim == 1 and ak.parameters(column).get("__array__") == "string"


def _branch_type(column: Column) -> Any:
    if isinstance(column, np.ndarray):
        return column.dtype if column.ndim == 1 else np.dtype((column.dtype, column.shape[1:]))
    return column.type


class _ParquetSink:
    def __init__(self, writer: pq.ParquetWriter) -> None:
        self._writer = writer

    def write(self, columns: Columns) -> None:
        self._writer.write_table(_arrow(columns).cast(self._writer.schema))


@contextlib.contextmanager
def _parquet_sink(path: Path, columns: Columns, metadata: Mapping[str, Any]) -> Iterator[_ParquetSink]:
    schema = _arrow({name: column[:0] for name, column in columns.items()}).schema
    schema = schema.with_metadata({METADATA_KEY: json.dumps(metadata)})
    with atomic_path(path) as temporary, pq.ParquetWriter(temporary, schema, compression="lz4", compression_level=4) as writer:
        yield _ParquetSink(writer)


def _arrow(columns: Columns) -> pa.Table:
    record = ak.zip({name: ak.Array(column) for name, column in columns.items()}, depth_limit=1)
    return ak.to_arrow_table(record, extensionarray=False, list_to32=True)


def _simplest(column: Column) -> Column:
    """Convert a column of numbers that is not jagged to numpy, so that it has one type in every chunk; pack other columns.

    Packing is needed because a slice of a jagged array keeps all values of the array that it was cut from.
    """
    if isinstance(column, ak.Array) and "var" not in str(column.type) and not column.fields and "?" not in str(column.type):
        return ak.to_packed(column) if _is_text(column) or "string" in str(column.type) else ak.to_numpy(column)
    return ak.to_packed(column) if isinstance(column, ak.Array) else np.ascontiguousarray(column)


def concatenate(pieces: list[Column]) -> Column:
    """Concatenate several chunks of one column."""
    if len(pieces) == 1:
        return pieces[0]
    return np.concatenate(pieces) if isinstance(pieces[0], np.ndarray) else ak.concatenate(pieces)


def table_names(path: str | Path) -> list[str]:
    """The names of the columns of a table. Raises ResultError if it is missing or damaged."""
    with _opened(path) as file:
        return _names(file)


def table_metadata(path: str | Path) -> dict[str, Any]:
    """The metadata that were given to `open_table`; {} for a table written by another program."""
    with _opened(path) as file:
        if isinstance(file, pq.ParquetFile):
            text = (file.schema_arrow.metadata or {}).get(METADATA_KEY.encode())
        else:
            text = str(file[METADATA_KEY]) if METADATA_KEY in file else None
    return json.loads(text) if text else {}


def read_table(path: str | Path, names: list[str], *, step: int = 1 << 17) -> Iterator[Columns]:
    """The named columns of a table, `step` entries at a time, in order.

    Raises ResultError if the file is missing or damaged, or lacks a column.
    """
    with _opened(path) as file:
        present = _names(file)
        missing = [name for name in names if name not in present]
        if missing:
            raise ResultError(f"{path}: no column '{missing[0]}'. It has {', '.join(present)}.")
        if isinstance(file, pq.ParquetFile):
            for batch in file.iter_batches(batch_size=step, columns=names):
                chunk = ak.from_arrow(batch)
                yield {name: _simplest(chunk[name]) for name in names}
        else:
            wanted = set(names)
            for chunk in file[TREE].iterate(filter_name=lambda name: name in wanted, step_size=step, library="ak"):
                yield {name: _simplest(chunk[name]) for name in names}


def empty_columns(path: str | Path, names: list[str]) -> Columns:
    """The named columns of a table without entries, with their types in the file."""
    with _opened(path) as file:
        if isinstance(file, pq.ParquetFile):
            empty = ak.from_arrow(file.schema_arrow.empty_table())
        else:
            empty = file[TREE].arrays(filter_name=lambda name: name in names, entry_stop=0, library="ak")
        return {name: _simplest(empty[name]) for name in names}


def _names(file: Any) -> list[str]:
    """The names of the columns; for a tree, its branches except the counters of jagged branches."""
    if isinstance(file, pq.ParquetFile):
        return file.schema_arrow.names
    branches = file[TREE].branches
    counters = {branch.count_branch.name for branch in branches if branch.count_branch is not None}
    return [branch.name for branch in branches if branch.name not in counters]


@contextlib.contextmanager
def _opened(path: str | Path) -> Iterator[Any]:
    path = Path(path)
    remedy = "Run the rule 'predict' again."
    if not path.is_file():
        raise ResultError(f"{path}: no such file. {remedy}")
    if path.suffix == ".parquet":
        try:
            table = pq.ParquetFile(path)
        except pa.ArrowInvalid as error:
            raise ResultError(f"{path}: damaged ({error}). {remedy}") from error
        with table:
            yield table
        return
    try:
        file = uproot.open(path)
    except (ValueError, OSError, uproot.DeserializationError) as error:
        raise ResultError(f"{path}: not a ROOT file, or damaged ({str(error).splitlines()[0]}). {remedy}") from error
    with file:
        if TREE not in file:
            raise ResultError(f"{path}: no tree '{TREE}' in it. {remedy}")
        yield file
