"""Limits the size of an expression's results. Where the arguments determine the size, it is checked before memory is allocated."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import awkward as ak
import numpy as np

MOST_VALUES = 1 << 28
"""Of one intermediate value, for the events that are read at a time (some thousands): 2 GB of float64."""

_SHAPES = frozenset({"np.ones", "np.zeros", "np.full"})
_LIKE = frozenset({"np.ones_like", "np.zeros_like", "np.full_like"})
_COUNTS = frozenset({"np.linspace", "np.logspace", "np.geomspace"})
_PRODUCTS = frozenset({"np.outer", "np.kron"})
_PAIRS = frozenset({"ak.cartesian", "ak.argcartesian"})
_COMBINATIONS = frozenset({"ak.combinations", "ak.argcombinations"})

_SIZE_PLACES = {
    f"np.random.{name}": place
    for place, names in enumerate(
        ("random random_sample standard_normal permutation", "choice exponential poisson", "binomial gamma normal randint uniform")
    )
    for name in names.split()
}


def check_call(name: str, arguments: Sequence[Any], keywords: Mapping[str, Any]) -> None:
    """Raise ValueError if this call would produce too many values.

    name: of the function, "np.ones" for example, or of a method, whose object is then the first argument.
    """
    for value in (*arguments, *keywords.values()):
        if isinstance(value, int) and value.bit_length() > 64:
            raise ValueError(f"a whole number of {value.bit_length()} bits in {name}")
    try:
        expected = _expected(name, arguments, keywords)
    except (TypeError, ValueError, IndexError, AttributeError, OverflowError):
        return  # the function itself gives the best message for wrong arguments
    if expected > MOST_VALUES:
        raise _too_much(f"{name} would make", expected)


def check_broadcast(left: Any, right: Any) -> None:
    """Raise ValueError if broadcasting two arrays against each other would produce too many values."""
    if isinstance(left, np.ndarray) and isinstance(right, np.ndarray) and left.ndim and right.ndim:
        try:
            shape = np.broadcast_shapes(left.shape, right.shape)
        except ValueError:
            return  # numpy raises the error for shapes that do not match
        if math.prod(shape) > MOST_VALUES:
            raise _too_much("the operation would make", math.prod(shape))


def check_made(value: Any) -> None:
    """Raise ValueError or TypeError if a value is too large, or consists of Python objects, whose size and time are unbounded."""
    if isinstance(value, np.ndarray):
        if value.dtype.hasobject:
            raise TypeError("an array of Python's objects; use an array of numbers")
        size = value.size
    elif isinstance(value, ak.Array):
        size = value.nbytes // 8
    else:
        return
    if size > MOST_VALUES:
        raise _too_much("makes", size)


def _too_much(what: str, size: int) -> ValueError:
    return ValueError(f"{what} {size:.4g} values for the events read at a time, more than {MOST_VALUES:.3g}")


def _expected(name: str, given: Sequence[Any], keywords: Mapping[str, Any]) -> int:
    """Estimate how many values a call produces, if these are more than its arguments hold; 0 if unknown."""

    def argument(place: int, key: str, default: Any = None) -> Any:
        return keywords[key] if key in keywords else given[place] if place < len(given) else default

    if name in _SHAPES:
        return _product(argument(0, "shape"))
    if name in _LIKE:
        return _product(keywords.get("shape") or 0)
    if name in _COUNTS:
        return _product(argument(2, "num", 50)) * max(1, _size(given[0]))
    if name == "np.arange":
        start, stop, step = (0, given[0], 1) if len(given) == 1 else (*given[:2], argument(2, "step", 1))
        return math.ceil((stop - start) / step)
    if name in ("np.eye", "np.tri"):
        rows = argument(0, "N")
        return int(rows) * int(argument(1, "M", None) or rows)
    if name == "np.diag":
        return _size(given[0]) ** 2 if np.ndim(given[0]) == 1 else 0
    if name == "np.meshgrid":
        return math.prod(_size(array) for array in given) * len(given)
    if name == "np.tile":
        return _size(argument(0, "A")) * _product(argument(1, "reps"))
    if name in ("np.repeat", "repeat"):
        repeats = argument(1, "repeats")
        return int(np.sum(repeats)) if np.ndim(repeats) else _size(argument(0, "a")) * int(repeats)
    if name == "np.broadcast_to":
        return _product(argument(1, "shape"))
    if name in _PRODUCTS:
        return math.prod(_size(array) for array in given[:2])
    if name in ("np.cov", "np.corrcoef"):
        return len(given[0]) ** 2 if np.ndim(given[0]) == 2 else 0
    if name == "np.bincount":
        return max(int(argument(2, "minlength", 0)), int(np.max(given[0])) + 1)
    if name in ("np.histogram", "np.histogram2d"):
        bins = argument(1 if name == "np.histogram" else 2, "bins", 10)
        return (int(bins) if np.ndim(bins) == 0 else 0) ** (2 if name == "np.histogram2d" else 1)
    if name in ("np.random.rand", "np.random.randn"):
        return _product(tuple(given))
    if name in _SIZE_PLACES:
        return _product(argument(_SIZE_PLACES[name], "size", 0) or 0)
    if name in _PAIRS:
        arrays = list(argument(0, "arrays").values() if isinstance(given[0], dict) else argument(0, "arrays"))
        if argument(1, "axis", 1) == 0:
            return math.prod(len(array) for array in arrays) * len(arrays)
        return _total(math.prod(ak.num(array).to_numpy().astype(float) for array in arrays)) * len(arrays)
    if name in _COMBINATIONS:
        array, chosen = argument(0, "array"), int(argument(1, "n"))
        counts = [len(array)] if keywords.get("axis", 1) == 0 else ak.num(array).to_numpy()
        values, events = np.unique(counts, return_counts=True)
        extra = chosen - 1 if keywords.get("replacement") else 0
        return chosen * sum(math.comb(int(n) + extra, chosen) * int(k) for n, k in zip(values, events, strict=True))
    if name in ("_pad", "_repeat_pad", "ak.pad_none"):
        return len(given[0]) * int(argument(1, "target" if name == "ak.pad_none" else "maxlen"))
    if name in ("_knn", "_batch_knn"):
        points = int(argument(4, "maxlen_q", None) or argument(3, "maxlen_s")) if name == "_batch_knn" else 1
        return len(argument(1, "queries" if name == "_batch_knn" else "query")) * points * int(argument(2, "k"))
    if name in ("np.dot", "np.inner", "np.matmul", "dot") and min(np.ndim(array) for array in given[:2]) == 2:
        one, other = (np.shape(array) for array in given[:2])
        return one[0] * other[0 if name == "np.inner" else 1]
    if name == "np.tensordot":
        axes = argument(2, "axes", 2)
        return math.prod(_size(array) for array in given[:2]) if axes == 0 else 0
    arrays = [array for array in given if isinstance(array, np.ndarray) and array.ndim]
    return math.prod(np.broadcast_shapes(*(array.shape for array in arrays))) if len(arrays) > 1 else 0


def _size(array: Any) -> int:
    return int(ak.count(array, axis=None)) if isinstance(array, ak.Array) else int(np.size(array))


def _product(shape: Any) -> int:
    return math.prod(int(length) for length in shape) if np.ndim(shape) else int(shape)


def _total(counts: Any) -> int:
    return int(min(np.sum(counts), 2.0**62))
