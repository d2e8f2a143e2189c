"""Reads ranges of entries from input files of any supported format, as awkward arrays.

`open_reader` chooses the reader by the suffix of the file. This package turns every exception of a library about a missing or
damaged file into an InputFileError that names the file.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any, Protocol

import awkward as ak
import numpy as np

from weaver_tasks.base.errors import InputFileError, did_you_mean
from weaver_tasks.data.events.ordinary import ordinary
from weaver_tasks.data.readers.place import Place
from weaver_tasks.data.readers.remote import RemoteState, is_remote, open_remote

STEP_BYTES = 1 << 24
"""Uncompressed bytes read at a time: what bounds the memory of staging."""


class Reader(Protocol):
    """An open input file. entries: number of events. tree: name of the tree, or None for formats without trees."""

    @property
    def entries(self) -> int: ...

    @property
    def tree(self) -> str | None: ...

    def known(self) -> set[str]:
        """Return the names of the branches."""

    def read(self, branches: Sequence[str], first: int, last: int) -> dict[str, ak.Array]:
        """Read the entries first <= entry < last of these branches, all of which must be in `known()`."""

    def step(self, branches: Sequence[str], first: int, size: int) -> int:
        """Return the entry at which to stop, to read about `size` bytes from entry `first` on. Always greater than `first`."""

    def close(self) -> None: ...


@contextlib.contextmanager
def open_reader(
    source: str | os.PathLike[str],
    *,
    tree: str | None = None,
    branches: Sequence[str] = (),
    fields: Mapping[str, Sequence[str]] | None = None,
    name: str | None = None,
    expected: RemoteState | None = None,
) -> Iterator[Reader]:
    """Open an input file. tree: name of the tree in a ROOT file; by default its only tree.

    branches: the branches that will be read. In formats without trees they determine the number of entries. fields: branch of
    records -> the fields to read; branches that are not listed are read with all fields.
    name: what messages call the file, if not by its path (a copy by its source). expected: the recorded state of a remote file.
    Raises InputFileError, here or while reading, when the file is missing, damaged or of an unsupported format.
    """
    source = os.fspath(source)
    name = name or source
    suffix = PurePosixPath(source.partition("?")[0] if is_remote(source) else source).suffix.lower()
    if suffix not in _FORMATS:
        raise InputFileError(
            f"{name}: files ending in '{suffix}' are not read. Known: {', '.join(_FORMATS)}. Convert it, or correct the name."
        )
    if not is_remote(source) and not os.path.exists(source):
        raise InputFileError(f"{source}: no such file. Correct the path.")
    place = Place(source, name, open_remote(source, expected=expected))
    reader = _FORMATS[suffix](place, tree, branches, fields)
    try:
        yield reader
    finally:
        reader.close()


def read_arrays(
    reader: Reader,
    source: str,
    branches: Sequence[str],
    first: int,
    last: int,
    *,
    branch_magic: Mapping[str, str],
    file_magic: Mapping[str, Mapping[str, Any]],
) -> dict[str, ak.Array]:
    """Read branches of a range of entries: name in the data configuration -> (N, …).

    branch_magic: substring of a name -> its replacement in the file. file_magic: variable -> {regular expression: value}, for
    variables that the path of the file determines. Raises InputFileError naming the branches that are missing or damaged.
    """
    names = branch_names(reader, source, branches, branch_magic=branch_magic, file_magic=file_magic)
    read = reader.read(list(dict.fromkeys(names.values())), first, last) if names else {}
    for branch, array in read.items():
        _check_lists(array.layout, f"{source}: branch '{branch}'")
        read[branch] = ordinary(array)
    arrays = {name: read[branch] for name, branch in names.items()}
    for name in file_magic:
        if name in branches:
            value = next((value for pattern, value in file_magic[name].items() if re.search(pattern, source)), 0)
            arrays[name] = ak.Array(np.full(last - first, value))
    if not arrays:
        arrays["_entries_"] = ak.Array(np.zeros(last - first, dtype=np.int8))
    return arrays


def _check_lists(layout: Any, where: str) -> None:
    """Raise InputFileError if lists overlap or extend beyond their values. Later code relies on valid lists to access memory."""
    while isinstance(layout, ak.contents.ListOffsetArray):
        offsets = np.asarray(layout.offsets.data)
        if offsets[0] < 0 or offsets[-1] > len(layout.content) or (offsets[1:] < offsets[:-1]).any():
            raise InputFileError(f"{where}: its lists overlap or reach beyond its values: the file is damaged. Fetch it again.")
        layout = layout.content


def branch_names(
    reader: Reader,
    source: str,
    branches: Sequence[str],
    *,
    branch_magic: Mapping[str, str],
    file_magic: Mapping[str, Mapping[str, Any]],
    describe_use: Callable[[str], str] = lambda _: "",
) -> dict[str, str]:
    """Return name -> branch in the file. Raises InputFileError naming the branches that the file does not have.

    describe_use: name -> text for the message that says where a missing variable is used.
    """
    names = {name: _magic(name, branch_magic) if reader.tree else name for name in branches if name not in file_magic}
    known = reader.known()
    missing = [branch for branch in names.values() if branch not in known]
    if missing:
        use = describe_use(next(name for name, branch in names.items() if branch == missing[0]))
        where = f"tree '{reader.tree}' has" if reader.tree else "there is"
        more = f" (and {len(missing) - 1} more: {', '.join(missing[1:6])}{' …' if len(missing) > 6 else ''})" if len(missing) > 1 else ""
        raise InputFileError(f"{source}: {where} no branch '{missing[0]}'{more}.{did_you_mean(missing[0], known)}{use}")
    return names


def _magic(name: str, branch_magic: Mapping[str, str]) -> str:
    for old, new in branch_magic.items():
        name = name.replace(old, new)
    return name


Fields = Mapping[str, Sequence[str]] | None


def _open_root(place: Place, tree: str | None, _branches: Sequence[str], _fields: Fields) -> Reader:
    from weaver_tasks.data.readers.root import open_root

    return open_root(place, tree)


def _open_parquet(place: Place, _tree: str | None, _branches: Sequence[str], _fields: Fields) -> Reader:
    from weaver_tasks.data.readers.parquet import ParquetReader

    return ParquetReader(place)


def _open_hdf5(place: Place, _tree: str | None, branches: Sequence[str], fields: Fields) -> Reader:
    from weaver_tasks.data.readers.hdf5 import Hdf5Reader

    return Hdf5Reader(place, branches, fields)


def _open_awkward0(place: Place, _tree: str | None, branches: Sequence[str], _fields: Fields) -> Reader:
    from weaver_tasks.data.readers.awkward0 import Awkward0Reader

    return Awkward0Reader(place, branches)


# The library of a format is imported only when such a file is read: two of the libraries are optional.
_FORMATS = {
    ".root": _open_root,
    ".parquet": _open_parquet,
    ".h5": _open_hdf5,
    ".hdf5": _open_hdf5,
    ".awkd": _open_awkward0,
}
