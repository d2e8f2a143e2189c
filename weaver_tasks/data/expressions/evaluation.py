"""Evaluates expressions on columns of arrays by walking their checked syntax trees. `eval` is never used."""

from __future__ import annotations

import ast
import operator
from collections import ChainMap
from collections.abc import Callable, Mapping
from typing import Any

import awkward as ak
import numpy as np

from weaver_tasks.base.errors import DataConfigError
from weaver_tasks.data.expressions.elementwise import ON_VALUES, as_lists, flat_columns
from weaver_tasks.data.expressions.grammar import BUILT_IN, METHODS, PROPERTIES, dotted_name
from weaver_tasks.data.expressions.parsing import Expression, parse_expression
from weaver_tasks.data.expressions.size_limits import check_broadcast, check_call, check_made

_OPERATORS: dict[type[ast.AST], Callable[..., Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
    ast.MatMult: operator.matmul,
    ast.BitAnd: operator.and_,
    ast.BitOr: operator.or_,
    ast.BitXor: operator.xor,
    ast.LShift: operator.lshift,
    ast.RShift: operator.rshift,
    ast.UAdd: operator.pos,
    ast.USub: operator.neg,
    ast.Invert: operator.invert,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}

# What arithmetic on arrays, array methods and user functions raise for unsuitable values.
_FAILURES = (
    *(TypeError, ValueError, LookupError, ArithmeticError, AttributeError, AssertionError, RuntimeError),
    *(MemoryError, OSError, ImportError),
)

# Integers beyond the range of floats are of no use, and computing with them can take very long.
_MOST_BITS = 1024
_GROW_FAST = ("math.factorial", "math.comb")
_LARGEST_FOR_THESE = 1000


def evaluate(
    expression: str | Expression, table: Mapping[str, Any], functions: Mapping[str, Callable[..., Any]], *, where: str = "expression"
) -> Any:
    """Return the value of an expression: usually an array with one entry per event.

    table: variable -> array with one entry per event (including `aux_training_`, an array of bool, if it is used).
    functions: from `functions.expression_functions`. where: file and key of the expression, for error messages.
    Raises DataConfigError when the expression is not allowed or cannot be computed on the arrays.
    """
    if isinstance(expression, str):
        expression = parse_expression(expression, functions=dict.fromkeys(functions.keys() - BUILT_IN, False), where=where)
    try:
        # log(0) and 0/0 are common in detector data. The transformation of the inputs handles the resulting infinities and NaN.
        with np.errstate(all="ignore"):
            columns = {name: _read_only(table[name]) for name in expression.names}
            flat = flat_columns(expression.tree, columns, functions)
            if flat is not None:
                values, offsets = flat
                return as_lists(_value(expression.tree, values, ChainMap(ON_VALUES, dict(functions))), offsets)
            return _value(expression.tree, columns, functions)
    except _FAILURES as error:
        reason = " ".join(str(error).split())[:300]
        raise DataConfigError(f"{where}: '{expression.text}' cannot be computed ({type(error).__name__}: {reason}).") from error


def _value(node: ast.AST, columns: dict[str, Any], functions: Mapping[str, Callable[..., Any]]) -> Any:
    def value(child: ast.AST) -> Any:
        return _value(child, columns, functions)

    match node:
        case ast.Constant():
            return node.value
        case ast.Name():
            return columns[node.id] if node.id in columns else functions[node.id]
        case ast.BinOp():
            return _binary(node.op, value(node.left), value(node.right))
        case ast.UnaryOp():
            return _OPERATORS[type(node.op)](value(node.operand))
        case ast.Compare():
            return _OPERATORS[type(node.ops[0])](value(node.left), value(node.comparators[0]))
        case ast.Call():
            arguments = [value(argument) for argument in node.args]
            keywords = {keyword.arg: value(keyword.value) for keyword in node.keywords if keyword.arg}
            function = _callee(node.func, value, functions)
            if isinstance(function, np.ufunc) and len(arguments) > function.nin:
                raise TypeError(f"{function.__name__} takes {function.nin} arguments, not {len(arguments)}")
            if dotted_name(node.func) in _GROW_FAST and any(argument > _LARGEST_FOR_THESE for argument in arguments):
                raise ValueError(f"a whole number above {_LARGEST_FOR_THESE}")
            name = node.func.id if isinstance(node.func, ast.Name) else dotted_name(node.func)
            if name is None and isinstance(node.func, ast.Attribute):
                check_call(node.func.attr, [getattr(function, "__self__", None), *arguments], keywords)
            else:
                check_call(name or "", arguments, keywords)
            return _bounded(function(*arguments, **keywords))
        case ast.Attribute():
            name = dotted_name(node)
            return functions[name] if name else _attribute(value(node.value), node.attr)
        case ast.Subscript():
            return value(node.value)[value(node.slice)]
        case ast.Slice():
            return slice(*(value(part) if part else None for part in (node.lower, node.upper, node.step)))
        case ast.Tuple():
            return tuple(value(item) for item in node.elts)
        case ast.List():
            return [value(item) for item in node.elts]
        case ast.Dict():
            return {value(key): value(item) for key, item in zip(node.keys, node.values, strict=True) if key}
    raise AssertionError(f"the grammar lets {type(node).__name__} through")


def _binary(kind: ast.operator, left: Any, right: Any) -> Any:
    """Apply a binary operator, but refuse results of unbounded size: repeated text or lists, huge powers of integers."""
    if isinstance(left, (str, bytes)) or isinstance(right, (str, bytes)) or _is_list(left, right) or _is_list(right, left):
        raise TypeError("arithmetic on text and lists; write np.array([…])")
    if isinstance(left, int) and isinstance(right, int):
        bits = {ast.Pow: left.bit_length() * abs(right), ast.LShift: left.bit_length() + abs(right)}.get(type(kind), 0)
        if bits > 2 * _MOST_BITS:
            raise ValueError(f"a whole number of {bits} bits")
    check_broadcast(left, right)
    return _bounded(_OPERATORS[type(kind)](left, right))


def _read_only(array: Any) -> Any:
    """Make a column read-only: a function must not overwrite it (`np.clip(x, 0, 1, x)`), since other expressions use it too."""
    if isinstance(array, np.ndarray):
        array = array.view()
        array.flags.writeable = False
    elif isinstance(array, ak.Array):
        _protect(array.layout)
    return array


def _protect(layout: Any) -> None:
    if isinstance(layout, ak.contents.NumpyArray):
        layout.data.flags.writeable = False
    else:
        for content in layout.contents if hasattr(layout, "contents") else [getattr(layout, "content", None)]:
            if content is not None:
                _protect(content)


def _bounded(value: Any) -> Any:
    check_made(value)
    if isinstance(value, int) and value.bit_length() > _MOST_BITS:
        raise ValueError(f"a whole number of {value.bit_length()} bits")
    return value


def _is_list(value: Any, other: Any) -> bool:
    """Whether Python would repeat or concatenate lists here."""
    return isinstance(value, (list, tuple)) and isinstance(other, (list, tuple, int, np.integer))


def _callee(node: ast.expr, value: Callable[[ast.AST], Any], functions: Mapping[str, Callable[..., Any]]) -> Callable[..., Any]:
    if isinstance(node, ast.Name):
        return functions[node.id]
    assert isinstance(node, ast.Attribute)
    name = dotted_name(node)
    return functions[name] if name else _attribute(value(node.value), node.attr)


def _attribute(holder: Any, name: str) -> Any:
    """Return a public property or method of an array, or a field of a record."""
    if isinstance(holder, (ak.Array, ak.Record)) and name in holder.fields:
        return holder[name]
    if isinstance(holder, ak.Array) and name in METHODS and not hasattr(holder, name) and hasattr(ak, name):
        raise AttributeError(f"lists have no method '{name}'; write ak.{name}(…, axis=1)")
    if isinstance(holder, (ak.Array, ak.Record, np.ndarray, np.generic)) and name in PROPERTIES | METHODS:
        return getattr(holder, name)
    raise AttributeError(f"{type(holder).__name__} has no '{name}' that an expression may use")
