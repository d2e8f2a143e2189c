"""Stores a nested column as flat values and offsets, which can be written to a file and memory-mapped."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import awkward as ak
import numpy as np

from weaver_tasks.base.errors import DataConfigError
from weaver_tasks.data.events.block import Packed


@dataclass(frozen=True, kw_only=True, eq=False)
class Nested:
    """An array with any number of jagged levels and regular values.

    offsets: one (n + 1,) int64 array per level, outermost first. values: the innermost array (P, …). text: whether the last
    level holds the bytes of strings in UTF-8.
    """

    offsets: tuple[np.ndarray, ...]
    values: np.ndarray
    text: bool = False

    def __len__(self) -> int:
        return len(self.offsets[0]) - 1 if self.offsets else len(self.values)

    def rows(self, first: int, last: int) -> Nested:
        """Return a view of the rows first <= row < last."""
        if self.offsets:
            return Nested(offsets=(self.offsets[0][first : last + 1], *self.offsets[1:]), values=self.values, text=self.text)
        return Nested(offsets=(), values=self.values[first:last], text=self.text)


def from_packed(packed: Packed) -> Nested:
    return Nested(offsets=() if packed.offsets is None else (packed.offsets,), values=packed.values)


def to_packed(nested: Nested) -> Packed:
    return Packed(nested.values, nested.offsets[0] if nested.offsets else None)


def from_plain(name: str, array: np.ndarray | ak.Array) -> Nested:
    """Convert a plain column. Raises DataConfigError naming the variable when it holds anything but numbers, lists and text."""
    if isinstance(array, np.ndarray):
        if array.dtype.kind not in "biuf":
            raise DataConfigError(f"variable '{name}' holds {array.dtype}: only numbers, text and lists of them can be read.")
        return Nested(offsets=(), values=array)
    layout = ak.to_packed(array).layout
    offsets = []
    text = False
    while not isinstance(layout, ak.contents.NumpyArray):
        if isinstance(layout, ak.contents.RegularArray):
            layout = layout.to_ListOffsetArray64(True)
        if not isinstance(layout, ak.contents.ListOffsetArray):
            raise DataConfigError(f"variable '{name}' is of type {array.type.content}: only numbers, text and lists of them can be read.")
        text = layout.parameter("__array__") in ("string", "bytestring")
        offsets.append(np.asarray(layout.offsets.data, dtype=np.int64))
        layout = layout.content
    return Nested(offsets=tuple(offsets), values=np.asarray(layout.data), text=text)


def to_plain(nested: Nested) -> np.ndarray | ak.Array:
    if not nested.offsets:
        return nested.values
    values = nested.values
    parameters: dict[str, Any] | None = None
    inner: dict[str, Any] | None = None
    if nested.text:
        parameters, inner = {"__array__": "string"}, {"__array__": "char"}
    layout: Any = ak.contents.NumpyArray(values, parameters=inner)
    for level in reversed(nested.offsets):
        layout = ak.contents.ListOffsetArray(ak.index.Index64(level), layout, parameters=parameters)
        parameters = None
    return ak.Array(layout)
