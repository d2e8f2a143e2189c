"""Evaluates elementwise expressions on one flat array of the particles of all events.

awkward gives the same numbers, but its overhead per operation makes it many times slower for a few thousand events.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Container, Mapping
from typing import Any

import awkward as ak
import numpy as np

from weaver_tasks.data.expressions.grammar import dotted_name

_ELEMENTWISE_NODES = (ast.Expression, ast.Name, ast.UnaryOp, ast.Compare, ast.operator, ast.unaryop, ast.cmpop, ast.expr_context)
ON_VALUES: dict[str, Callable[..., Any]] = {"ak.ones_like": np.ones_like, "ak.zeros_like": np.zeros_like}
"""What computes awkward's functions on values. (numpy's ufuncs are the same for both.)"""


def flat_columns(
    tree: ast.AST, columns: Mapping[str, Any], functions: Mapping[str, Any]
) -> tuple[dict[str, np.ndarray], np.ndarray] | None:
    """Return the values (P,) of each column per particle and the offsets (N + 1,) of the events, or None if awkward is needed.

    awkward is not needed if the expression consists of operators, ufuncs and numbers, and its columns are numbers or
    lists with one number per particle, with the same number of particles in each.
    """
    if not all(_is_elementwise(node, functions, columns) for node in ast.walk(tree)):
        return None
    offsets: np.ndarray | None = None
    values: dict[str, np.ndarray] = {}
    per_event: dict[str, np.ndarray] = {}
    for name, array in columns.items():
        layout = array.layout if isinstance(array, ak.Array) else None
        if isinstance(layout, ak.contents.NumpyArray) and layout.data.ndim == 1 and not layout.parameters:
            per_event[name] = np.asarray(layout.data)
            continue
        found = simple_list(layout)
        if found is None or (offsets is not None and not np.array_equal(found[0], offsets)):
            return None
        offsets, values[name] = found
    if offsets is None:
        return None
    counts = np.diff(offsets)
    return values | {name: np.repeat(value, counts) for name, value in per_event.items()}, offsets


def simple_list(layout: Any) -> tuple[np.ndarray, np.ndarray] | None:
    """Return the offsets (N + 1,), starting at 0, and values (P,) of lists of numbers that are contiguous in memory, or None."""
    if not isinstance(layout, ak.contents.ListOffsetArray) or not isinstance(layout.content, ak.contents.NumpyArray):
        return None
    offsets, content = np.asarray(layout.offsets.data), np.asarray(layout.content.data)
    if layout.parameters or layout.content.parameters or content.ndim != 1 or offsets[0] != 0 or len(content) != offsets[-1]:
        return None
    return offsets.astype(np.int64, copy=False), content


def as_lists(values: np.ndarray, offsets: np.ndarray) -> ak.Array:
    return ak.Array(ak.contents.ListOffsetArray(ak.index.Index64(offsets), ak.contents.NumpyArray(values)))


def _is_elementwise(node: ast.AST, functions: Mapping[str, Any], columns: Container[str]) -> bool:
    match node:
        case ast.Call():
            name = node.func.id if isinstance(node.func, ast.Name) else dotted_name(node.func)
            if name in ON_VALUES and not any(isinstance(part, ast.Name) and part.id in columns for part in ast.walk(node)):
                return False  # awkward refuses a number, or knows better
            return not node.keywords and (name in ON_VALUES or isinstance(functions.get(name or ""), np.ufunc))
        case ast.Constant():
            return isinstance(node.value, (bool, int, float))
        case ast.Attribute():
            return dotted_name(node) is not None
        case ast.BinOp():
            return not isinstance(node.op, ast.MatMult)
    return isinstance(node, _ELEMENTWISE_NODES)
