"""The parts of files that make up a window: of staged files rows of the mapped columns, of others blocks made for it."""

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
    """Rows first to last of a block. file: the staged file that the block is a view of."""

    block: Block
    first: int
    last: int
    file: StagedFile | None = None

    def check_values(self, rows: np.ndarray, columns: Collection[str]) -> None:
        """Raise InputFileError where the values of packed columns, rows (n,), are not what was staged."""
        if self.file is not None:
            self.file.check_values(rows, columns)

    def of(self, array: Any) -> Any:
        return array[self.first : self.last]


class OpenFiles:
    """The files of a manifest, opened when they are first wanted. Loaders of several epochs may share one.

    custom_functions: the file of functions that expressions call; it matters where files are transformed on the fly.
    """

    def __init__(self, manifest: Mapping[str, Any], configuration: DataConfiguration, *, custom_functions: Path | None = None) -> None:
        self.records: list[dict[str, Any]] = manifest["files"]
        self._configuration = configuration
        self._options = StagingOptions.from_manifest(manifest)
        self._custom_functions = custom_functions
        self._sources: dict[int, Source] = {}
        self._staged: dict[int, Block] = {}

    def are_staged(self, files: Sequence[int]) -> bool:
        """Whether all of these files (by their index) are staged as columns."""
        return all(isinstance(self._source(file), StagedSource) for file in files)

    def read(
        self, file: int, first: int, last: int, columns: Collection[str] | None, *, training: bool = False, seed: Sequence[int] = ()
    ) -> Part:
        """The selected events among first <= entry < last. columns, training, seed: as of `Source.read`.

        Of a staged file all columns are there, as views: the system reads what is used, and keeps it as long as there is room. These rows
        of `columns` were checked; for the values of packed columns call `Part.check_values` before they are read.
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
        """Close the files that are read on the fly, until they are wanted again."""
        for source in list(self._sources.values()):
            if isinstance(source, OriginalSource):
                source.close()

    def _source(self, file: int) -> Source:
        """The source of a file; it is kept, unless it is an original and as many as may stay open are kept already.

        The first ones stay: files are read in turn, again and again, so that of the latest ones each would be gone when its turn comes.
        """
        if (source := self._sources.get(file)) is None:
            source = open_source(self.records[file], self._configuration, self._options, custom_functions=self._custom_functions)
            originals = sum(isinstance(each, OriginalSource) for each in list(self._sources.values()))
            if isinstance(source, StagedSource) or originals < _MOST_ORIGINALS:
                self._sources[file] = source
        return source


class Table:
    """Plain columns over the parts of a window in a row, joined when asked for."""

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
