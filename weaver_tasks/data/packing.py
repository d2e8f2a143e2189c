"""From the arrays of variables to the columns of a block."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import awkward as ak
import numpy as np

from weaver_tasks.base.errors import DataConfigError
from weaver_tasks.data.blocks import Packed, PackedColumn


def pack(column: PackedColumn, table: Mapping[str, Any], events: int, *, where: str) -> Packed:
    """The variables of a packed column side by side, as float32.

    In a jagged column, flat variables count as lists of one, regular ones as lists of their length, as in weaver.
    where: what messages call the configuration and the file. Raises DataConfigError when a variable's shape does not fit.
    """
    if not column.jagged:
        values = np.empty((events, len(column.variables)), dtype=np.float32)
        for place, name in enumerate(column.variables):
            array = table[name]
            if array.ndim != 1 or array.fields:
                raise DataConfigError(
                    f"{where}: inputs.{column.name}: variable '{name}' is of type {array.type.content}, but the group has no length, "
                    "so it must be one number per event. Give the group a length, or reduce the variable."
                )
            _assign(values[:, place], ak.to_numpy(array))
        return Packed(values, None)
    lists = [_lists(name, table[name], f"{where}: inputs.{column.name}") for name in column.variables]
    offsets = lists[0][0]
    for name, (own, _) in zip(column.variables, lists, strict=True):
        if not np.array_equal(own, offsets):
            event = int(np.flatnonzero(np.diff(own) != np.diff(offsets))[0])
            raise DataConfigError(
                f"{where}: inputs.{column.name}: variables '{column.variables[0]}' and '{name}' have lists of "
                f"{np.diff(offsets)[event]} and {np.diff(own)[event]} in one event. "
                f"Variables of a group must come per particle: put '{name}' into another group."
            )
    values = np.empty((int(offsets[-1]), len(lists)), dtype=np.float32)
    for place, (_, content) in enumerate(lists):
        _assign(values[:, place], content)
    return Packed(values, offsets)


def plain_array(name: str, array: Any, *, where: str) -> np.ndarray | ak.Array:
    """A numpy array where the values are regular, an awkward one otherwise. Raises DataConfigError for records."""
    if array.fields:
        raise DataConfigError(
            f"{where}: variable '{name}' is a record of {', '.join(array.fields)}, which cannot be kept. "
            f"Name one field: {name}.{array.fields[0]}."
        )
    layout = ak.to_packed(array).layout
    while isinstance(layout, ak.contents.RegularArray) and layout.parameter("__array__") is None:
        layout = layout.content
    if isinstance(layout, ak.contents.NumpyArray):
        return np.ascontiguousarray(ak.to_numpy(array))
    return array


def _assign(target: np.ndarray, values: np.ndarray) -> None:
    # Numbers beyond float32 become infinite, and are counted as such.
    with np.errstate(over="ignore", invalid="ignore"):
        target[:] = values


def _lists(name: str, array: Any, where: str) -> tuple[np.ndarray, np.ndarray]:
    """Offsets (N + 1,) from 0, and values (P,), of a variable."""
    layout = ak.to_packed(array).layout
    if isinstance(layout, ak.contents.NumpyArray):
        data = np.asarray(layout.data)
        if data.ndim <= 2:
            width = data.shape[1] if data.ndim == 2 else 1
            return np.arange(len(data) + 1, dtype=np.int64) * width, data.reshape(-1)
    if isinstance(layout, ak.contents.RegularArray):
        layout = layout.to_ListOffsetArray64(True)
    if isinstance(layout, ak.contents.ListOffsetArray) and isinstance(layout.content, ak.contents.NumpyArray):
        content = np.asarray(layout.content.data)
        if content.ndim == 1 and layout.parameter("__array__") is None:
            return np.asarray(layout.offsets.data, dtype=np.int64), content
    raise DataConfigError(
        f"{where}: variable '{name}' is of type {array.type.content}, but must be one number per particle. Reduce it in new_variables."
    )
