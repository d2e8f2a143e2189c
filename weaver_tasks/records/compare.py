"""Compare the contents of two files bit by bit and list the differences, ignoring times and random identifiers of the file format."""

from __future__ import annotations

import json
import pickle
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import awkward as ak
import numpy as np
import torch

from weaver_tasks.base.errors import ResultError
from weaver_tasks.base.unpickling import damage, why_refused
from weaver_tasks.results.predictions.tables import SUFFIXES, read_table, table_metadata, table_names

_TIMES = {"seconds", "samples_per_second", "start", "end"}
_NAMED = 5  # number of differences that are listed for one file


def differences(original: Path, again: Path, *, moved: tuple[str, str] = ("", "")) -> list[str]:
    """The differences between two files of one kind; [] if their contents are equal.

    Tensors of checkpoints, columns of prediction tables and JSON are compared value by value, other files byte by byte.
    moved: (text in `again`, corresponding text in `original`), the names of the folders of the two runs.
    """
    if original.suffix in SUFFIXES:
        # The bytes always differ, because ROOT writes times and a random identifier.
        return _tables(original, again)
    before, after = original.read_bytes(), again.read_bytes()
    if moved[0]:
        after = after.replace(moved[0].encode(), moved[1].encode())
    if before == after:
        return []
    if original.suffix == ".pt":
        return _leaves(_checkpoint(original), _checkpoint(again)) or ["the values are the same, but not the bytes"]
    if original.suffix == ".json":
        return _leaves(_leaves_of_json(before), _leaves_of_json(after))
    return [f"the bytes ({len(before):,} and {len(after):,})"]


def _checkpoint(path: Path) -> dict[str, Any]:
    try:
        return dict(_flat(torch.load(path, map_location="cpu", weights_only=True)))
    except (OSError, RuntimeError, EOFError, zipfile.BadZipFile, pickle.UnpicklingError) as error:
        if refused := why_refused(error, path):
            raise ResultError(f"{path}: not a checkpoint of tensors: {refused}.") from error
        raise ResultError(f"{path}: damaged checkpoint ({damage(error)}).") from error


def _leaves_of_json(content: bytes) -> dict[str, Any]:
    leaves = dict(_flat(json.loads(content)))
    return {name: value for name, value in leaves.items() if name.rpartition(".")[2] not in _TIMES}


def _flat(content: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Flatten nested maps and lists into pairs of a dotted name and a value."""
    if isinstance(content, Mapping):
        for key, value in content.items():
            yield from _flat(value, f"{name}.{key}" if name else str(key))
    elif isinstance(content, list | tuple):
        for index, value in enumerate(content):
            yield from _flat(value, f"{name}.{index}" if name else str(index))
    else:
        yield name, content


def _leaves(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    found = [f"'{name}' is only in one of them" for name in before.keys() ^ after.keys()]
    for name in before.keys() & after.keys():
        if not _same(before[name], after[name]):
            found.append(f"'{name}'{_distance(before[name], after[name])}")
    return _first(sorted(found))


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return a.dtype == b.dtype and a.shape == b.shape and _bytes(a) == _bytes(b)
    return type(a) is type(b) and (a == b or (a != a and b != b))


def _bytes(tensor: torch.Tensor) -> bytes:
    """The bytes of a tensor. Comparing them, NaN equals NaN, and 0 differs from -0."""
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def _distance(a: Any, b: Any) -> str:
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        if a.shape != b.shape:
            return f": shapes {tuple(a.shape)} and {tuple(b.shape)}"
        return f": by {(a.double() - b.double()).abs().max():.3g} at most, in {int((a != b).sum())} of {a.numel()} values"
    return f": {_short(a)} and {_short(b)}"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}…"


def _tables(original: Path, again: Path) -> list[str]:
    names, other = table_names(original), table_names(again)
    if names != other:
        return [f"columns {', '.join(names)} and {', '.join(other)}"]
    found = []
    before, after = table_metadata(original), table_metadata(again)
    if before != after:
        found.append(
            f"what it says of itself: {', '.join(key for key in before.keys() | after.keys() if before.get(key) != after.get(key))}"
        )
    worst: dict[str, float] = {}
    pairs = zip(read_table(original, names), read_table(again, names), strict=False)
    for mine, theirs in pairs:
        for name in names:
            if not _same_column(mine[name], theirs[name]):
                worst[name] = max(worst.get(name, 0.0), _largest(mine[name], theirs[name]))
    return _first([*found, *(f"column '{name}': by {value:.3g} at most" for name, value in worst.items())])


def _same_column(a: Any, b: Any) -> bool:
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    return ak.array_equal(a, b, equal_nan=True)


def _largest(a: Any, b: Any) -> float:
    if not isinstance(a, np.ndarray) or a.shape != b.shape or a.dtype.kind not in "fiub":
        return float("inf")
    return float(np.abs(a.astype(np.float64) - b.astype(np.float64)).max(initial=0.0))


def _first(found: list[str]) -> list[str]:
    return found if len(found) <= _NAMED else [*found[:_NAMED], f"and {len(found) - _NAMED} more"]
