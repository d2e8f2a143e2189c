"""Reads the row ranges that make up a window: memory-mapped rows of staged files, or blocks transformed on the fly."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import awkward as ak
import numpy as np

from weaver_tasks.data.events.block import Block, StagingOptions
from weaver_tasks.data.staging.arrow_file import StagedFile
from weaver_tasks.data.staging.sources import OriginalSource, Source, StagedSource, open_source

if TYPE_CHECKING:
    from weaver_tasks.data.configuration import DataConfiguration

_MOST_ORIGINALS = 20
"""Original files that stay open: each takes about half a megabyte."""


class Part(NamedTuple):
    """Rows first <= row < last of a block. file: the staged file that the block is a view of, or None."""

    block: Block
    first: int
    last: int
    file: StagedFile | None = None

    def check_values(self, rows: np.ndarray, columns: Collection[str]) -> None:
        """Raise InputFileError if the values of packed columns in these rows (n,) differ from what was staged."""
        if self.file is not None:
            self.file.check_values(rows, columns)

    def of(self, array: Any) -> Any:
        return array[self.first : self.last]


class OpenFiles:
    """The files of a manifest, opened at first use. Loaders of several epochs may share one instance.

    custom_functions: the file of functions that expressions call; only needed for files that are transformed on the fly.
    """

    def __init__(self, manifest: Mapping[str, Any], configuration: DataConfiguration, *, custom_functions: Path | None = None) -> None:
        self.records: list[dict[str, Any]] = manifest["files"]
        self._configuration = configuration
        self._options = StagingOptions.from_manifest(manifest)
        self._custom_functions = custom_functions
        self._sources: dict[int, Source] = {}
        self._staged: dict[int, Block] = {}

    def are_staged(self, files: Sequence[int]) -> bool:
        """Whether all of these files (indices in the manifest) are staged as columns."""
        return all(isinstance(self._source(file), StagedSource) for file in files)

    def read(
        self, file: int, first: int, last: int, columns: Collection[str] | None, *, training: bool = False, seed: Sequence[int] = ()
    ) -> Part:
        """Read the selected events among the entries first <= entry < last. columns, training, seed: as in `Source.read`.

        A staged file gives views of all its columns: the operating system reads the pages that are used and caches them. These rows
        of `columns` are checked here, except the values of packed columns: call `Part.check_values` before using those.
        """
        source = self._source(file)
        if not isinstance(source, StagedSource):
            block = source.read(first, last, columns, training=training, seed=seed)
            if file not in self._sources and isinstance(source, OriginalSource):
                source.close()
            return Part(block, 0, len(block))
        if file not in self._staged:
            self._staged[file] = source.file.unchecked_block(0, len(source.file.entries))
        begin, end = source.rows(first, last)
        source.file.check(begin, end, columns, packed_values=False)
        return Part(self._staged[file], begin, end, source.file)

    def close(self) -> None:
        """Close the files that are transformed on the fly. They are opened again when needed."""
        for source in list(self._sources.values()):
            if isinstance(source, OriginalSource):
                source.close()

    def _source(self, file: int) -> Source:
        """Return the source of a file and keep it open, unless it is an original file and the maximum number is already open.

        The files opened first stay open. Files are read cyclically, so an LRU cache would always evict the one needed next.
        """
        if (source := self._sources.get(file)) is None:
            source = open_source(self.records[file], self._configuration, self._options, custom_functions=self._custom_functions)
            originals = sum(isinstance(each, OriginalSource) for each in list(self._sources.values()))
            if isinstance(source, StagedSource) or originals < _MOST_ORIGINALS:
                self._sources[file] = source
        return source


class Table:
    """The plain columns of a window, concatenated over its parts at first access."""

    def __init__(self, parts: Sequence[Part]) -> None:
        self._parts = parts
        self._joined: dict[str, Any] = {}
        self.events = sum(part.last - part.first for part in parts)

    def __contains__(self, name: object) -> bool:
        return bool(self._parts) and name in self._parts[0].block.plain

    def __getitem__(self, name: str) -> Any:
        if name not in self._joined:
            arrays = [part.of(part.block.plain[name]) for part in self._parts]
            jagged = any(isinstance(array, ak.Array) for array in arrays)
            self._joined[name] = ak.concatenate(arrays) if jagged else np.concatenate(arrays)
        return self._joined[name]
