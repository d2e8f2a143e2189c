"""From the arrays of variables to the columns of a block."""

from __future__ import annotations

import functools
import logging
from collections.abc import Mapping
from typing import Any

import awkward as ak
import numpy as np

from weaver_tasks.base.errors import DataConfigError
from weaver_tasks.data.events.block import ABSENT, Packed, PackedColumn
from weaver_tasks.data.expressions.elementwise import simple_list

logger = logging.getLogger(__name__)


def pack(column: PackedColumn, table: Mapping[str, Any], events: int, *, where: str) -> Packed:
    """The variables of a packed column side by side, as float32.

    In a jagged column, flat variables count as lists of one, regular ones as lists of their length, as in weaver. An event has as many
    rows as its longest list; the shorter ones are filled up with ABSENT, and padded each by itself when a batch is made.
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
            values[:, place] = _as_float32(ak.to_numpy(array))
        return Packed(values, None)
    lists = [_lists(name, table[name], f"{where}: inputs.{column.name}") for name in column.variables]
    offsets = lists[0][0]
    if all(np.array_equal(own, offsets) for own, _ in lists):
        values = np.empty((int(offsets[-1]), len(lists)), dtype=np.float32)
        for place, (_, content) in enumerate(lists):
            values[:, place] = _as_float32(content)
        return Packed(values, offsets)
    _tell_of_different_lengths(column.name, column.variables)
    counts = np.max([np.diff(own) for own, _ in lists], axis=0)
    offsets = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(counts)])
    values = np.full((int(offsets[-1]), len(lists)), np.uint32(ABSENT)).view(np.float32)
    for place, (own, content) in enumerate(lists):
        rows = np.arange(own[-1]) + np.repeat(offsets[:-1] - own[:-1], np.diff(own))
        values[rows, place] = _as_float32(content)
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


@functools.cache
def _tell_of_different_lengths(name: str, variables: tuple[str, ...]) -> None:
    """Once: it may well be a mistake."""
    logger.warning("inputs.%s: the variables %s have lists of different lengths; each is padded by itself", name, ", ".join(variables))


def _as_float32(values: np.ndarray) -> np.ndarray:
    # Numbers beyond float32 become infinite, and are counted as such.
    with np.errstate(over="ignore", invalid="ignore"):
        return values.astype(np.float32, copy=False)


def _lists(name: str, array: Any, where: str) -> tuple[np.ndarray, np.ndarray]:
    """Offsets (N + 1,) from 0, and values (P,), of a variable."""
    simple = simple_list(array.layout)
    if simple is not None:
        return simple
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
