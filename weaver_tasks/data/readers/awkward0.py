"""Reads files of awkward-array 0 (`.awkd`) without that package, which does not support current versions of numpy.

The file is a ZIP archive. For each array `name`, a description `name.json` lists the calls that rebuild it from raw buffers
(`name-1.raw` …). Only calls that make numbers and lists of numbers are supported. All others are refused, because the format
allows calls of arbitrary code. The format has no entry ranges, so a branch is held in memory while its file is read.
"""

from __future__ import annotations

import contextlib
import json
import struct
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from typing import IO, Any

import awkward as ak
import numpy as np

from weaver_tasks.base.errors import InputFileError
from weaver_tasks.data.readers.chunks import Steps
from weaver_tasks.data.readers.place import Place
from weaver_tasks.data.readers.remote import open_stream

_SUFFIX = ".json"


class Awkward0Reader:
    """An archive of arrays, one per branch. branches: the ones that will be read; they determine the number of entries."""

    tree = None

    def __init__(self, place: Place, branches: Sequence[str] = ()) -> None:
        self._source = place.name
        self._place = place
        self._opened = contextlib.ExitStack()
        stream: IO[bytes] = self._opened.enter_context(open_stream(place.path, place.remote))
        try:
            with _refusing_damage(place):
                self._archive = self._opened.enter_context(zipfile.ZipFile(stream))
            self._look_inside(branches)
        except BaseException:
            self._opened.close()
            raise

    def _look_inside(self, branches: Sequence[str]) -> None:
        self._names = [name.removesuffix(_SUFFIX) for name in self._archive.namelist() if name.endswith(_SUFFIX)]
        self._arrays: dict[str, ak.Array] = {}
        self._first = next((name for name in (*branches, *self._names) if name in self._names), None)
        self.entries = len(self._array(self._first)) if self._first else 0

    def known(self) -> set[str]:
        return set(self._names)

    def read(self, branches: Sequence[str], first: int, last: int) -> dict[str, ak.Array]:
        arrays = {name: self._array(name) for name in branches}
        for name, array in arrays.items():
            if len(array) != self.entries:
                raise InputFileError(
                    f"{self._source}: '{name}' has {len(array)} entries, but '{self._first}' has {self.entries}. Make the file again."
                )
        return {name: array[first:last] for name, array in arrays.items()}

    def _array(self, name: str) -> ak.Array:
        if name not in self._arrays:
            with _refusing_damage(self._place):
                description = json.loads(self._archive.read(name + _SUFFIX))
                builder = _Builder(self._archive, description.get("prefix", ""))
                self._arrays[name] = ak.Array(builder.build(description["schema"]))
        return self._arrays[name]

    def step(self, branches: Sequence[str], first: int, size: int) -> int:
        return Steps(sum(self._array(name).nbytes for name in branches), self.entries, ()).step(first, size)

    def close(self) -> None:
        self._opened.close()


class _Builder:
    """Rebuilds one array from its description."""

    def __init__(self, archive: zipfile.ZipFile, prefix: str) -> None:
        self._archive = archive
        self._prefix = prefix
        self._built: dict[int, Any] = {}

    def build(self, item: dict[str, Any]) -> Any:
        match item:
            case {"call": list(path), **rest}:
                built = self._call(tuple(path), [self.build(argument) for argument in rest.get("args", [])])
            case {"read": str(name)}:
                built = self._archive.read(name if item.get("absolute") else self._prefix + name)
            case {"dtype": dtype}:
                built = _dtype(dtype)
            case {"json": value}:
                built = value
            case {"ref": int(number)}:
                built = self._built[number]
            case _:
                raise ValueError(f"it holds {', '.join(item)}, not only numbers and lists of them")
        if "id" in item:
            self._built[item["id"]] = built
        return built

    def _call(self, path: tuple[str, ...], arguments: list[Any]) -> Any:
        # Older files use the package's first name, awkward.
        match (path[0].replace("awkward0", "awkward"), *path[1:]):
            case ("numpy", "frombuffer") | ("awkward", "numpy", "frombuffer") | ("awkward.util", "frombuffer"):
                return np.frombuffer(arguments[0], *arguments[1:])
            case ("zlib", "decompress"):
                return zlib.decompress(arguments[0])
            case ("awkward", "JaggedArray", "fromcounts"):
                return ak.unflatten(ak.Array(arguments[1]), np.asarray(arguments[0]))
            case ("awkward", "JaggedArray"):
                starts, stops = (ak.index.Index64(np.asarray(index, dtype=np.int64)) for index in arguments[:2])
                return ak.Array(ak.contents.ListArray(starts, stops, ak.to_layout(arguments[2])))
        raise ValueError(f"it calls {'.'.join(path)}, which only the package awkward0 understands")


def _dtype(description: Any) -> np.dtype:
    if isinstance(description, str):
        return np.dtype(description)
    inner, shape = description
    return np.dtype((_dtype(inner), tuple(shape)))


@contextlib.contextmanager
def _refusing_damage(place: Place) -> Iterator[None]:
    try:
        yield
    except (zipfile.BadZipFile, zlib.error, struct.error, OSError, ValueError, LookupError, TypeError, EOFError) as error:
        place.raise_failure(error)
        reason = " ".join(str(error).split())[:200]
        raise InputFileError(
            f"{place.name}: cannot be read as an awkward-0 file ({type(error).__name__}: {reason}). Convert it to Parquet, or fetch it "
            "again."
        ) from error
