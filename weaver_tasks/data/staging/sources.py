"""One input file seen as blocks, whether it was staged as columns or is transformed as it is read.

Statistics, loading and prediction see only sources, so `staging.mode` changes nothing else.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import awkward as ak
import numpy as np

from weaver_tasks.base.errors import InputFileError
from weaver_tasks.data.events.block import Block, Packed, StagingOptions
from weaver_tasks.data.events.column_types import ColumnType, as_type
from weaver_tasks.data.events.transform import Transformation, plan_transformation
from weaver_tasks.data.readers import STEP_BYTES, Reader, branch_names, open_reader, read_arrays
from weaver_tasks.data.staging.arrow_file import StagedFile
from weaver_tasks.data.staging.ensure import present
from weaver_tasks.data.staging.source_checksums import check_unchanged

if TYPE_CHECKING:
    from weaver_tasks.data.configuration.model import DataConfiguration

RANDOM_STEP = 10_000
"""Entries read at a time where expressions draw random numbers."""
_ROWS_PER_BLOCK = 50_000


class Source(Protocol):
    """An input file. entries: how many it has, before any selection."""

    entries: int

    def read(
        self, first_entry: int, last_entry: int, columns: Collection[str] | None = None, *, training: bool = False, seed: Sequence[int] = ()
    ) -> Block:
        """The selected events among first_entry <= entry < last_entry, in order.

        columns: only these packed and plain columns; those that the split's files do not have are left out. training: the
        value of `aux_training_`; seed: of expressions that draw random numbers. Neither matters to staged columns.
        """

    def blocks(
        self, first_entry: int, last_entry: int, columns: Collection[str] | None = None, *, training: bool = False, seed: Sequence[int] = ()
    ) -> Iterator[Block]:
        """The same in blocks of bounded size."""


def open_source(
    record: Mapping[str, Any],
    configuration: DataConfiguration,
    options: StagingOptions | None = None,
    *,
    custom_functions: Path | None = None,
) -> Source:
    """The source of a file of inputs.json.

    record: its entry there. options: `StagingOptions.from_manifest(manifest)`; they and `custom_functions` matter only
    where the file is not staged as columns. Raises InputFileError when the file cannot be read.
    """
    if record["bad"]:
        raise InputFileError(f"{record['source']}: is a bad file ({record['bad']}). Leave it out.")
    if not record.get("labeled", True):
        configuration = dataclasses.replace(configuration, labels=None)
    if record["staged"] and record["staged"].endswith(".arrow"):
        return StagedSource(record, options or StagingOptions())
    return OriginalSource(record, configuration, options or StagingOptions(), custom_functions)


class StagedSource:
    """A staged file. Its blocks are views of the file mapped into memory."""

    def __init__(self, record: Mapping[str, Any], options: StagingOptions) -> None:
        self.file = StagedFile(present(record, options))
        if any(self.file.metadata.get(key) != record[key] for key in ("staging_digest", "checksum")):
            raise InputFileError(
                f"{record['staged']}: was staged with another configuration, or from other bytes, than the list of inputs says. "
                "Delete it and run again."
            )
        self.entries: int = record["entries"]
        self._types: Mapping[str, ColumnType] = record.get("types") or {}

    def rows(self, first_entry: int, last_entry: int) -> tuple[int, int]:
        """The rows of the file that hold these entries, as a range."""
        return self.file.rows(first_entry, last_entry)

    def read(
        self, first_entry: int, last_entry: int, columns: Collection[str] | None = None, *, training: bool = False, seed: Sequence[int] = ()
    ) -> Block:
        return typed(self.file.block(*self.file.rows(first_entry, last_entry), columns), self._types)

    def blocks(
        self, first_entry: int, last_entry: int, columns: Collection[str] | None = None, *, training: bool = False, seed: Sequence[int] = ()
    ) -> Iterator[Block]:
        first_row, last_row = self.file.rows(first_entry, last_entry)
        for first in range(first_row, last_row, _ROWS_PER_BLOCK):
            yield typed(self.file.block(first, min(first + _ROWS_PER_BLOCK, last_row), columns), self._types)


class OriginalSource:
    """An original file, or its raw copy, transformed as it is read. `read` leaves it open, since to open it takes as long as to read it."""

    def __init__(
        self, record: Mapping[str, Any], configuration: DataConfiguration, options: StagingOptions, custom_functions: Path | None
    ) -> None:
        if not record["staged"]:
            check_unchanged(record)
        self._path: str = str(present(record, options)) if record["staged"] else record["source"]
        self._source: str = record["source"]
        self._split: str = record["split"]
        self._configuration = configuration
        self._options = options
        self._custom_functions = custom_functions
        self._transformations: dict[frozenset[str] | None, Transformation] = {}
        self._reading = threading.Lock()
        self._open = contextlib.ExitStack()
        self._reader: Reader | None = None
        self._types: Mapping[str, ColumnType] = record.get("types") or {}
        self.entries: int = record["entries"]

    def read(
        self, first_entry: int, last_entry: int, columns: Collection[str] | None = None, *, training: bool = False, seed: Sequence[int] = ()
    ) -> Block:
        with self._reading:
            if self._reader is None:
                self._reader = self._open.enter_context(opened(self._path, self._transformation(None)))
            transformation = self._transformation(columns)
            options: dict[str, Any] = {"training": training, "seed": (*seed, first_entry)}
            blocks = blocks_of(self._reader, transformation, first_entry, last_entry, name=self._source, **options)
            return join([typed(block, self._types) for block in blocks])

    def close(self) -> None:
        """Close the file until it is read again."""
        with self._reading:
            self._reader = None
            self._open.close()
        # What uproot knows of a file goes round in circles: left to itself, that of many files would pile up.
        gc.collect(1)

    def blocks(
        self, first_entry: int, last_entry: int, columns: Collection[str] | None = None, *, training: bool = False, seed: Sequence[int] = ()
    ) -> Iterator[Block]:
        if first_entry < last_entry:
            transformation = self._transformation(columns)
            options: dict[str, Any] = {"training": training, "seed": (*seed, first_entry)}
            blocks = transformed_blocks(self._path, transformation, first_entry, last_entry, name=self._source, **options)
            yield from (typed(block, self._types) for block in blocks)

    def _transformation(self, columns: Collection[str] | None) -> Transformation:
        key = None if columns is None else frozenset(columns)
        if key not in self._transformations:
            self._transformations[key] = plan_transformation(
                self._configuration, self._split, self._options, columns=key, custom_functions=self._custom_functions
            )
        return self._transformations[key]


def opened(path: str, transformation: Transformation) -> contextlib.AbstractContextManager[Reader]:
    """A file opened to be transformed."""
    configuration = transformation.configuration
    return open_reader(path, tree=configuration.treename, branches=transformation.branches, fields=transformation.fields)


def transformed_blocks(
    path: str,
    transformation: Transformation,
    first_entry: int,
    last_entry: int | None,
    *,
    name: str | None = None,
    training: bool = False,
    seed: Sequence[int] = (),
) -> Iterator[Block]:
    """Read entries of a file in steps of bounded size, and transform each; at least one block.

    last_entry: None for all. name: what the file is called where its path matters (file_magic) and in messages.
    Raises InputFileError or DataConfigError.
    """
    with opened(path, transformation) as reader:
        last_entry = reader.entries if last_entry is None else last_entry
        yield from blocks_of(reader, transformation, first_entry, last_entry, name=name or path, training=training, seed=seed)


def blocks_of(
    reader: Reader, transformation: Transformation, first: int, last: int, *, name: str, training: bool = False, seed: Sequence[int] = ()
) -> Iterator[Block]:
    """`transformed_blocks` of an open file."""
    configuration = transformation.configuration
    magic: dict[str, Any] = {"branch_magic": configuration.branch_magic, "file_magic": configuration.file_magic}
    branches = list(branch_names(reader, name, transformation.branches, **magic).values())
    while True:
        # Random numbers are drawn for the events of a step: it must not depend on which columns are read.
        stop = first + RANDOM_STEP if transformation.random else reader.step(branches, first, STEP_BYTES)
        stop = min(stop, last)
        # Nothing of a step is kept here while the next one is read: that would double the memory.
        yield transformation(
            read_arrays(reader, name, transformation.branches, first, stop, **magic),
            first,
            source=name,
            training=training,
            seed=(*seed, first),
        )
        first = stop
        if first >= last:
            return


def typed(block: Block, types: Mapping[str, ColumnType]) -> Block:
    """The block with its plain columns in the types that the files of a split agree on."""
    if not any(name in types for name in block.plain):
        return block
    plain = {name: as_type(array, types[name]) if name in types else array for name, array in block.plain.items()}
    return dataclasses.replace(block, plain=plain)


def join(blocks: Sequence[Block]) -> Block:
    """Blocks that follow one another as one. A single one is returned as it is."""
    if len(blocks) == 1:
        return blocks[0]
    return Block(
        entries=np.concatenate([block.entries for block in blocks]),
        packed={name: _join_packed([block.packed[name] for block in blocks]) for name in blocks[0].packed},
        plain={name: _join_plain([block.plain[name] for block in blocks]) for name in blocks[0].plain},
    )


def _join_packed(parts: Sequence[Packed]) -> Packed:
    values = np.concatenate([part.own_values() for part in parts])
    if parts[0].offsets is None:
        return Packed(values, None)
    counts = np.concatenate([np.diff(part.offsets) for part in parts if part.offsets is not None])
    return Packed(values, np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(counts)]))


def _join_plain(parts: Sequence[Any]) -> Any:
    return np.concatenate(parts) if isinstance(parts[0], np.ndarray) else ak.concatenate(parts)
