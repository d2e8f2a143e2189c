"""Reads one input file as blocks, whether it was staged as columns or is transformed while it is read.

Statistics, loading and prediction use only this interface, so they do not depend on `staging.mode`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from weaver_tasks.base.errors import InputFileError
from weaver_tasks.data.events.block import Block, StagingOptions, join
from weaver_tasks.data.events.column_types import ColumnType, as_type
from weaver_tasks.data.events.reading import blocks_of, opened, transformed_blocks
from weaver_tasks.data.events.transform import Transformation, plan_transformation
from weaver_tasks.data.readers import Reader
from weaver_tasks.data.readers.remote import RemoteState
from weaver_tasks.data.staging.arrow_file import StagedFile
from weaver_tasks.data.staging.ensure import ensure_staged
from weaver_tasks.data.staging.source_checksums import check_unchanged

if TYPE_CHECKING:
    from weaver_tasks.data.configuration.model import DataConfiguration

_ROWS_PER_BLOCK = 50_000


class Source(Protocol):
    """An input file. entries: number of entries before selection."""

    entries: int

    def read(
        self, first_entry: int, last_entry: int, columns: Collection[str] | None = None, *, training: bool = False, seed: Sequence[int] = ()
    ) -> Block:
        """Read the selected events among the entries first_entry <= entry < last_entry, in order.

        columns: only these packed and plain columns; those that the files of the split do not have are left out. training: value
        of `aux_training_`. seed: for expressions that draw random numbers. Staged columns do not depend on `training` and `seed`.
        """

    def blocks(
        self, first_entry: int, last_entry: int, columns: Collection[str] | None = None, *, training: bool = False, seed: Sequence[int] = ()
    ) -> Iterator[Block]:
        """Like `read`, in blocks of bounded size."""


def open_source(
    record: Mapping[str, Any],
    configuration: DataConfiguration,
    options: StagingOptions | None = None,
    *,
    custom_functions: Path | None = None,
) -> Source:
    """Open a file of inputs.json as a Source.

    record: the entry of the file there. options: `StagingOptions.from_manifest(manifest)`. options and custom_functions matter only
    if the file is not staged as columns. Raises InputFileError when the file cannot be read.
    """
    if record["bad"]:
        raise InputFileError(f"{record['source']}: is a bad file ({record['bad']}). Leave it out.")
    if not record.get("labeled", True):
        configuration = dataclasses.replace(configuration, labels=None)
    if record["staged"] and record["staged"].endswith(".arrow"):
        return StagedSource(record, options or StagingOptions())
    return OriginalSource(record, configuration, options or StagingOptions(), custom_functions)


class StagedSource:
    """A staged file. Its blocks are views of the memory-mapped file."""

    def __init__(self, record: Mapping[str, Any], options: StagingOptions) -> None:
        self.file = StagedFile(ensure_staged(record, options))
        if any(self.file.metadata.get(key) != record[key] for key in ("staging_digest", "checksum")):
            raise InputFileError(
                f"{record['staged']}: was staged with another configuration, or from other bytes, than the list of inputs says. "
                "Delete it and run again."
            )
        self.entries: int = record["entries"]
        self._types: Mapping[str, ColumnType] = record.get("types") or {}

    def rows(self, first_entry: int, last_entry: int) -> tuple[int, int]:
        """Return the range of rows (first, last) that hold these entries."""
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
    """An original file or its copy, transformed while it is read.

    `read` keeps the file open, because opening it takes as long as reading from it.
    """

    def __init__(
        self, record: Mapping[str, Any], configuration: DataConfiguration, options: StagingOptions, custom_functions: Path | None
    ) -> None:
        if not record["staged"]:
            check_unchanged(record)
        self._path: str = str(ensure_staged(record, options)) if record["staged"] else record["source"]
        self._source: str = record["source"]
        self._expected = None if record["staged"] else RemoteState.recorded(record.get("remote"))
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

    @property
    def _named(self) -> dict[str, Any]:
        return {"name": self._source, "expected": self._expected}

    def read(
        self, first_entry: int, last_entry: int, columns: Collection[str] | None = None, *, training: bool = False, seed: Sequence[int] = ()
    ) -> Block:
        with self._reading:
            if self._reader is None:
                self._reader = self._open.enter_context(opened(self._path, self._transformation(None), **self._named))
            transformation = self._transformation(columns)
            options: dict[str, Any] = {"training": training, "seed": (*seed, first_entry)}
            blocks = blocks_of(self._reader, transformation, first_entry, last_entry, name=self._source, **options)
            return join([typed(block, self._types) for block in blocks])

    def close(self) -> None:
        """Close the file. The next `read` opens it again."""
        with self._reading:
            self._reader = None
            self._open.close()
        # uproot objects hold reference cycles: collect them now, or those of many files would fill the memory.
        gc.collect(1)

    def blocks(
        self, first_entry: int, last_entry: int, columns: Collection[str] | None = None, *, training: bool = False, seed: Sequence[int] = ()
    ) -> Iterator[Block]:
        if first_entry < last_entry:
            transformation = self._transformation(columns)
            options: dict[str, Any] = {"training": training, "seed": (*seed, first_entry)}
            blocks = transformed_blocks(self._path, transformation, first_entry, last_entry, **self._named, **options)
            yield from (typed(block, self._types) for block in blocks)

    def _transformation(self, columns: Collection[str] | None) -> Transformation:
        key = None if columns is None else frozenset(columns)
        if key not in self._transformations:
            self._transformations[key] = plan_transformation(
                self._configuration, self._split, self._options, columns=key, custom_functions=self._custom_functions
            )
        return self._transformations[key]


def typed(block: Block, types: Mapping[str, ColumnType]) -> Block:
    """Convert the plain columns of a block to the common types of the split."""
    if not any(name in types for name in block.plain):
        return block
    plain = {name: as_type(array, types[name]) if name in types else array for name, array in block.plain.items()}
    return dataclasses.replace(block, plain=plain)
