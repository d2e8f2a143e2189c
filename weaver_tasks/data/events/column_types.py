"""Describes the type of a plain column, as stored in inputs.json, and finds a common type for several files.

A type is {"lists": number of levels of lists, "inner": fixed shape of each value, "dtype": numpy's name or "text"}. Types of 64-bit
integers also have {"largest": the largest magnitude}. All files of a test group form one table of predictions, so their types must agree.
"""

from __future__ import annotations

from typing import Any

import awkward as ak
import numpy as np

from weaver_tasks.data.events.ordinary import LARGEST_EXACT

ColumnType = dict[str, Any]
_TEXT = "text"


def type_of(array: np.ndarray | ak.Array) -> ColumnType:
    """Return the type of a plain column, which `packing.plain_array` has made."""
    found, values = _looked_at(array)
    if found["dtype"] in ("int64", "uint64"):
        found["largest"] = max(abs(int(values.max())), abs(int(values.min()))) if values.size else 0
    return found


def _looked_at(array: np.ndarray | ak.Array) -> tuple[ColumnType, np.ndarray]:
    """Return the type, without the largest magnitude, and the array of numbers."""
    if isinstance(array, np.ndarray):
        return _type(0, array), array
    layout, lists = array.layout, 0
    while not layout.is_numpy:
        if layout.parameter("__array__") == "string":
            return {"lists": lists, "inner": [], "dtype": _TEXT}, np.zeros(0)
        lists += 1
        layout = layout.content
    values = np.asarray(layout.data)
    return _type(lists, values), values


def _type(lists: int, values: np.ndarray) -> ColumnType:
    return {"lists": lists, "inner": list(values.shape[1:]), "dtype": values.dtype.name}


def common_type(one: ColumnType, other: ColumnType) -> ColumnType:
    """Return the type that holds the values of both types exactly. Raises ValueError with the reason if there is none."""
    texts = [kind["dtype"] == _TEXT for kind in (one, other)]
    if (one["lists"], one["inner"], texts[0]) != (other["lists"], other["inner"], texts[1]):
        raise ValueError(f"{described(one)} and {described(other)}")
    largest = max(one.get("largest", 0), other.get("largest", 0))
    dtype = one["dtype"]
    if dtype != other["dtype"]:
        dtype = np.promote_types(dtype, other["dtype"]).name
        if dtype.startswith("float") and largest > LARGEST_EXACT:
            raise ValueError(f"{described(one)} and {described(other)}, with whole numbers up to {largest}, beyond 2^53")
    extra = {"largest": largest} if "largest" in one or "largest" in other else {}
    return {"lists": one["lists"], "inner": one["inner"], "dtype": dtype} | extra


def described(kind: ColumnType) -> str:
    """Describe a type in words: `int32`, `a list of float32`."""
    inner = f"{' x '.join(map(str, kind['inner']))} numbers {kind['dtype']}" if kind["inner"] else kind["dtype"]
    return "a list of " * min(kind["lists"], 1) + "lists of " * max(kind["lists"] - 1, 0) + inner


def as_type(array: np.ndarray | ak.Array, kind: ColumnType) -> np.ndarray | ak.Array:
    """Convert a plain column to another type that holds its values. An empty column can be converted to any type."""
    if _looked_at(array)[0] == {key: kind[key] for key in ("lists", "inner", "dtype")}:
        return array
    if len(array) == 0:
        return _empty(kind)
    if isinstance(array, np.ndarray):
        return array.astype(kind["dtype"])
    return ak.values_astype(array, np.dtype(kind["dtype"]))


def _empty(kind: ColumnType) -> np.ndarray | ak.Array:
    text = kind["dtype"] == _TEXT
    values = np.zeros((0, *kind["inner"]), dtype=np.uint8 if text else kind["dtype"])
    if not text and not kind["lists"]:
        return values
    layout: Any = ak.contents.NumpyArray(values, parameters={"__array__": "char"} if text else None)
    nothing = ak.index.Index64(np.zeros(1, dtype=np.int64))
    if text:
        layout = ak.contents.ListOffsetArray(nothing, layout, parameters={"__array__": "string"})
    for _ in range(kind["lists"]):
        layout = ak.contents.ListOffsetArray(nothing, layout)
    return ak.Array(layout)
