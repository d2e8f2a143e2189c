"""Normalizes arrays from files: standard number types, lists instead of fixed sizes, and no missing values.

Readers call `ordinary`. Missing values in the results of expressions are treated by `without_missing` and `missing_rows`.
"""

from __future__ import annotations

from typing import Any

import awkward as ak
import numpy as np

from weaver_tasks.data.events.block import ABSENT

LARGEST_EXACT = 1 << 53
"""Whole numbers up to this are exact as float64."""
_WIDENED: dict[np.dtype, np.dtype] = {np.dtype(np.float16): np.dtype(np.float32), np.dtype(np.longdouble): np.dtype(np.float64)}


class MissingValuesError(ValueError):
    """Values are missing and cannot be replaced."""


def ordinary(array: ak.Array) -> ak.Array:
    """Convert fixed sizes per event to variable-length lists, half precision to float32, and long double to float64.

    In awkward arrays a fixed size of 1 broadcasts along the *events*: `x / p` would combine each event with the p of all events. Half
    precision overflows at 65504, in expressions too.
    """
    layout = array.layout
    if isinstance(layout, ak.contents.NumpyArray) and layout.data.ndim > 1:
        layout = layout.to_RegularArray()
    if isinstance(layout, ak.contents.RegularArray) and layout.parameter("__array__") is None:
        layout = layout.to_ListOffsetArray64(True)
    return widened(array if layout is array.layout else ak.Array(layout))


def widened(array: ak.Array) -> ak.Array:
    """Convert half precision to float32 and long double to float64."""
    return array if _is_simple(array.layout) else ak.Array(ak.transform(_widen, array.layout, highlevel=False))


def _is_simple(layout: Any) -> bool:
    while isinstance(layout, ak.contents.ListOffsetArray):
        layout = layout.content
    return isinstance(layout, ak.contents.NumpyArray) and layout.data.dtype not in _WIDENED


def _widen(layout: Any, **_: Any) -> Any:
    if layout.is_numpy and np.asarray(layout.data).dtype in _WIDENED:
        values = np.asarray(layout.data)
        wider: np.dtype = _WIDENED[values.dtype]
        return ak.contents.NumpyArray(values.astype(wider), parameters=layout.parameters)
    return None


def missing_rows(array: Any) -> np.ndarray:
    """Return which entries are missing or contain a missing value: (N,) bool."""
    if isinstance(array, np.ndarray) or not _has_options(array.layout):
        return np.zeros(len(array), dtype=bool)
    return _missing(ak.to_packed(array).layout)


def _has_options(layout: Any) -> bool:
    if layout.is_option:
        return True
    return any(_has_options(content) for content in _contents(layout))


def _contents(layout: Any) -> list[Any]:
    if layout.is_record or layout.is_union:
        return list(layout.contents)
    return [layout.content] if hasattr(layout, "content") else []


def _missing(layout: Any) -> np.ndarray:
    if layout.is_option:
        missing = np.asarray(layout.mask_as_bool(valid_when=False)).copy()
        missing[~missing] = _missing(layout.project())
        return missing
    if layout.is_list and layout.parameter("__array__") is None:
        layout = layout.to_ListOffsetArray64(True)
        offsets = np.asarray(layout.offsets.data)
        before = np.concatenate([[0], np.cumsum(_missing(layout.content[: offsets[-1]]))])
        return before[offsets[1:]] > before[offsets[:-1]]
    if layout.is_record:
        return np.logical_or.reduce([np.zeros(len(layout), dtype=bool), *(_missing(content[: len(layout)]) for content in layout.contents)])
    if layout.is_indexed:
        return _missing(layout.project())
    return np.zeros(len(layout), dtype=bool)


def without_missing(array: ak.Array, *, absent: bool = False) -> ak.Array:
    """Return the array without option types.

    If no value is missing, the values are unchanged. A missing number becomes NaN; the result is float32 or, if that cannot hold all
    values of the type, float64. A missing list becomes empty. absent: missing numbers become the float32 `ABSENT` instead.
    Raises MissingValuesError if text is missing, or if numbers are missing beside an integer that float64 cannot represent.
    """
    if not _has_options(array.layout):
        return array

    def settle(layout: Any, **_: Any) -> Any:
        if not layout.is_option:
            return None
        missing = np.asarray(layout.mask_as_bool(valid_when=False))
        content = layout.project()
        if missing.any():
            content = _filled(content, missing, absent)
        return ak.transform(settle, content, highlevel=False)

    return ak.Array(ak.transform(settle, array.layout, highlevel=False))


def _filled(content: Any, missing: np.ndarray, absent: bool) -> Any:
    """Return the present values `content` with replacements at the positions of the missing ones."""
    content = ak.to_packed(content, highlevel=False)
    if content.is_list and content.parameter("__array__") is None:
        lists = content.to_ListOffsetArray64(True)
        counts = np.zeros(len(missing), dtype=np.int64)
        counts[~missing] = np.diff(np.asarray(lists.offsets.data))
        offsets = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(counts)])
        return ak.contents.ListOffsetArray(ak.index.Index64(offsets), lists.content, parameters=lists.parameters)
    if content.is_unknown:
        content = content.to_NumpyArray(np.dtype(np.float32))
    if not content.is_numpy or np.asarray(content.data).dtype.kind not in "biuf":
        raise MissingValuesError(f"{np.count_nonzero(missing)} values are missing, and nothing can stand for them")
    values = np.asarray(content.data)
    if absent:
        filled = np.full((len(missing), *values.shape[1:]), np.uint32(ABSENT)).view(np.float32)
        with np.errstate(over="ignore", invalid="ignore"):
            filled[~missing] = values.astype(np.float32)
        return ak.contents.NumpyArray(filled)
    if values.dtype.itemsize == 8 and values.dtype.kind in "iu" and len(values) and not _all_exact(values):
        raise MissingValuesError(
            f"{np.count_nonzero(missing)} values are missing, and whole numbers beyond 2^53 are not, which cannot stand beside NaN"
        )
    filled = np.full((len(missing), *values.shape[1:]), np.nan, dtype=np.result_type(values.dtype, np.float32))
    filled[~missing] = values
    return ak.contents.NumpyArray(filled)


def _all_exact(values: np.ndarray) -> bool:
    return int(values.max()) <= LARGEST_EXACT and int(values.min()) >= -LARGEST_EXACT
