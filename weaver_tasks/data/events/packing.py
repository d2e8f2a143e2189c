"""Converts the arrays of variables to the packed and plain columns of a block."""

from __future__ import annotations

import functools
import logging
from collections.abc import Mapping
from typing import Any

import awkward as ak
import numpy as np

from weaver_tasks.base.errors import DataConfigError
from weaver_tasks.data.events.block import ABSENT, Packed, PackedColumn
from weaver_tasks.data.events.ordinary import MissingValuesError, widened, without_missing
from weaver_tasks.data.expressions.elementwise import simple_list

logger = logging.getLogger(__name__)


def pack(column: PackedColumn, table: Mapping[str, Any], events: int, *, where: str) -> Packed:
    """Combine the variables of a packed column in one float32 array, side by side.

    In a jagged column, flat variables count as lists of one value and regular arrays as lists of their length, as in weaver. An event
    has as many rows as its longest list. Shorter lists are filled up with ABSENT, and each variable is padded separately when a batch
    is made. A missing value is NaN in a flat column. In a jagged column it is ABSENT, and padded at the end of a list, as in weaver.
    where: names of the configuration and the file, for messages. Raises DataConfigError when the shape of a variable does not match.
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
            values[:, place] = _flat(name, array, f"{where}: inputs.{column.name}")
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
    """Return a numpy array if the values are regular, otherwise an awkward array of lists (int64 offsets) or text.

    Missing numbers become NaN and missing lists empty, as in `without_missing`. Raises DataConfigError for content that cannot be
    stored in a file of predictions: records, values of several types, missing text.
    """
    if array.fields:
        raise DataConfigError(
            f"{where}: variable '{name}' is a record of {', '.join(array.fields)}, which cannot be kept. "
            f"Name one field: {name}.{array.fields[0]}."
        )
    try:
        layout = ak.to_packed(widened(without_missing(array))).layout
    except MissingValuesError as error:
        raise DataConfigError(f"{where}: variable '{name}': {error}. Fill them in new_variables with ak.fill_none.") from None
    regular = layout
    while isinstance(regular, ak.contents.RegularArray) and regular.parameter("__array__") is None:
        regular = regular.content
    if isinstance(regular, ak.contents.NumpyArray) and np.asarray(regular.data).dtype.kind in "biuf":
        return np.ascontiguousarray(ak.to_numpy(ak.Array(layout)))
    listed = _as_offsets(layout)
    if listed is None:
        raise DataConfigError(
            f"{where}: variable '{name}' is of type {array.type.content}: only numbers, text and lists of them can be kept. "
            "Reduce it to one of them in new_variables."
        )
    return ak.Array(listed)


def _as_offsets(layout: Any) -> Any:
    """Convert to lists with offsets on every level, down to numbers or text. None if the array has other content."""
    if isinstance(layout, ak.contents.EmptyArray):
        return layout.to_NumpyArray(np.dtype(np.float64))
    if isinstance(layout, ak.contents.NumpyArray):
        return layout if np.asarray(layout.data).dtype.kind in "biuf" else None
    kind = layout.parameter("__array__") if layout.is_list else "none"
    if kind not in (None, "string", "bytestring"):
        return None
    layout = layout.to_ListOffsetArray64(True)
    if kind is not None:
        characters = ak.contents.NumpyArray(np.asarray(layout.content.data, dtype=np.uint8), parameters={"__array__": "char"})
        return ak.contents.ListOffsetArray(layout.offsets, characters, parameters={"__array__": "string"})
    content = _as_offsets(layout.content)
    return content if content is None else ak.contents.ListOffsetArray(layout.offsets, content)


@functools.cache
def _tell_of_different_lengths(name: str, variables: tuple[str, ...]) -> None:
    """Warn once, because different lengths are often a mistake."""
    logger.warning("inputs.%s: the variables %s have lists of different lengths; each is padded by itself", name, ", ".join(variables))


def _as_float32(values: np.ndarray) -> np.ndarray:
    # Numbers beyond the range of float32 become infinite and are counted as infinite.
    with np.errstate(over="ignore", invalid="ignore"):
        return values.astype(np.float32, copy=False)


def _flat(name: str, array: Any, where: str) -> np.ndarray:
    """Return one number per event: (N,) float32."""
    layout = ak.to_packed(without_missing(_numbers(name, array, where))).layout
    if not isinstance(layout, ak.contents.NumpyArray):
        raise _not_a_number(name, array, where)
    return _as_float32(np.asarray(layout.data))


def _lists(name: str, array: Any, where: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the offsets (N + 1,), starting at 0, and the values (P,) of a variable."""
    simple = simple_list(array.layout)
    if simple is not None:
        return simple
    layout = ak.to_packed(without_missing(_numbers(name, array, where), absent=True)).layout
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
    if isinstance(layout, ak.contents.ListOffsetArray) and isinstance(layout.content, ak.contents.EmptyArray):
        return np.asarray(layout.offsets.data, dtype=np.int64), np.zeros(0, dtype=np.float32)
    raise _not_a_number(name, array, where)


def _numbers(name: str, array: Any, where: str) -> Any:
    """Return the array. Raises DataConfigError if it holds text, records or other non-numbers."""
    layout = array.layout
    while layout.is_list or layout.is_option or layout.is_indexed:
        if layout.parameter("__array__") in ("string", "bytestring"):
            break
        layout = layout.content
    if layout.is_unknown or (layout.is_numpy and np.asarray(layout.data).dtype.kind in "biuf"):
        return array
    raise _not_a_number(name, array, where)


def _not_a_number(name: str, array: Any, where: str) -> DataConfigError:
    return DataConfigError(
        f"{where}: variable '{name}' is of type {array.type.content}, but must be one number per particle. Reduce it in new_variables."
    )
