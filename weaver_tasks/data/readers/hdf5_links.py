"""Finds the other files that an HDF5 file refers to: virtual datasets, external links, external storage.

The HDF5 library reads zeros if such a file is missing. Therefore each of them is checked, and the checksum of a source includes them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from weaver_tasks.base.errors import InputFileError

SUFFIXES = (".h5", ".hdf5")
_REMEDY = "Write the values into one file, with h5py for instance: new[name] = old[name][...]"


def companions(source: str) -> list[Path]:
    """Return the existing files that a local HDF5 file refers to, directly or through other files.

    The list is empty for files of other formats and for files that cannot be opened.
    """
    if "://" in source or Path(source).suffix.lower() not in SUFFIXES:
        return []
    found: dict[Path, None] = {}
    pending = [Path(source)]
    while pending:
        for path in _named_by(pending.pop()):
            if path not in found and path.is_file() and not os.path.samefile(path, source):
                found[path] = None
                pending.append(path)
    return sorted(found)


def _named_by(path: Path) -> Iterator[Path]:
    try:
        import h5py

        with h5py.File(path, "r") as file:
            for name in file:
                link = file.get(name, getlink=True)
                if isinstance(link, h5py.ExternalLink):
                    yield _beside(path, link.filename)
                    continue
                item = file.get(name)
                if isinstance(item, h5py.Dataset):
                    for each in item.virtual_sources() if item.is_virtual else ():
                        if each.file_name != ".":
                            yield _beside(path, each.file_name)
    except (ImportError, OSError, RuntimeError, ValueError, KeyError):
        # The code that reads the file reports the error.
        return


def _beside(path: Path, name: str) -> Path:
    return Path(os.path.normpath(path.parent / name))


def opened_links(file: Any, source: str, *, remote: bool) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the datasets at the root of an open file by name, and the reason for each one that cannot be read correctly.

    remote: whether the file was opened through fsspec; the library then cannot follow links.
    """
    import h5py

    datasets: dict[str, Any] = {}
    wrong: dict[str, str] = {}
    for name in file:
        link = file.get(name, getlink=True)
        if isinstance(link, h5py.ExternalLink):
            reason = _remote(link.filename) if remote else _why_not(source, link.filename, link.path)
            if reason:
                wrong[name] = f"'{name}' is a link to '{link.filename}', {reason}"
                continue
        item = file.get(name)
        if not isinstance(item, h5py.Dataset) or item.ndim == 0:
            continue
        datasets[name] = item
        if reason := _why_not_dataset(item, source, remote=remote):
            wrong[name] = f"'{name}' {reason}"
    return datasets, wrong


def _remote(name: str) -> str:
    return f"which is not read beside a remote file. {_REMEDY}; or copy all of '{name}' and the file to a local folder."


def _why_not(source: str, name: str, inner: str | None = None) -> str | None:
    """Return what is wrong with another file that holds data of this one; None if nothing is."""
    path = _beside(Path(source), name)
    folder = Path(source).resolve().parent
    if not path.exists():
        return f"which does not exist ({path}). Fetch it, or write the values into one file."
    if not path.resolve().is_relative_to(folder):
        return f"which lies outside the folder of the file ({path}). {_REMEDY}."
    if inner is None:
        return None
    try:
        import h5py

        with h5py.File(path, "r") as other:
            there = inner in other
    except (OSError, RuntimeError) as error:
        return f"which cannot be read as HDF5 ({path}: {' '.join(str(error).split())[:100]}). Fetch it again."
    return None if there else f"which holds no '{inner}' ({path}). Fetch it again."


def _why_not_dataset(dataset: Any, source: str, *, remote: bool, depth: int = 8) -> str | None:
    # If the dataset was reached through a link, this is the file that contains it.
    own = source if remote else dataset.file.filename
    if dataset.external:
        return f"keeps its values in '{dataset.external[0][0]}', outside of HDF5, which is not read. {_REMEDY}."
    if not dataset.is_virtual:
        return None
    mapped = 0
    for each in dataset.virtual_sources():
        mapped += each.vspace.get_select_npoints()
        if remote:
            return f"takes its values from '{each.file_name}', {_remote(each.file_name)}"
        name = Path(own).name if each.file_name == "." else each.file_name
        reason = _why_not(own, name, each.dset_name) or _why_not_source(own, name, each, depth)
        if reason:
            return f"takes its values from '{name}', {reason}"
    wanted = int(np.prod(dataset.shape))
    return None if mapped >= wanted else f"has no source of {wanted - mapped} of its {wanted} values. Make the file again."


def _why_not_source(folder_of: str, name: str, mapping: Any, depth: int) -> str | None:
    import h5py

    with h5py.File(_beside(Path(folder_of), name), "r") as other:
        inner = other[mapping.dset_name]
        chosen = mapping.src_space
        if chosen.get_select_type() == h5py.h5s.SEL_ALL:
            too_small = inner.size < mapping.vspace.get_select_npoints()
        else:
            _, end = chosen.get_select_bounds()
            too_small = len(end) != inner.ndim or any(last >= length for last, length in zip(end, inner.shape, strict=True))
        if too_small:
            return f"whose '{mapping.dset_name}' is smaller than it says. Fetch it again."
        if depth == 0:
            return "which takes them from others in a circle. Make the file again."
        reason = _why_not_dataset(inner, other.filename, remote=False, depth=depth - 1)
        return None if reason is None else f"whose '{mapping.dset_name}' {reason}"


def check_links(source: str, wrong: dict[str, str], names: Any) -> None:
    """Raise InputFileError for the first of these datasets that cannot be read correctly. wrong: from `opened_links`."""
    for name in names:
        if name in wrong:
            raise InputFileError(f"{source}: {wrong[name]}")
