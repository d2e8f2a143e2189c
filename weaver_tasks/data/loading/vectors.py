"""Vector instructions for the compiled inner loops. The compiler does not find them in loops of unknown, short length.

A vector is LANES float32, unaligned, at an address; the compiler splits it where the processor's are shorter.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

LANES = 16
_FLOAT, _INTEGER, _ADDRESS = ir.FloatType(), ir.IntType(32), ir.IntType(64)
_VECTOR = ir.VectorType(_FLOAT, LANES)


def pointer_to(element: Any) -> Any:
    """A function, for compiled code, from an address to a pointer to elements of this type."""

    @intrinsic
    def pointer(_typing_context: Any, address: Any) -> Any:
        signature = types.CPointer(element)(address)

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return builder.inttoptr(arguments[0], context.get_value_type(signature.return_type))

        return signature, generate

    return pointer


@intrinsic
def prefetch(_typing_context: Any, address: Any) -> Any:
    """Ask for the cache line at an address, which then comes while other work is done."""

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        place = builder.inttoptr(arguments[0], ir.IntType(8).as_pointer())
        kind = ir.FunctionType(ir.VoidType(), [place.type, _INTEGER, _INTEGER, _INTEGER])
        to_read, keep, data = _INTEGER(0), _INTEGER(3), _INTEGER(1)
        builder.call(builder.module.declare_intrinsic("llvm.prefetch", [place.type], kind), [place, to_read, keep, data])

    return types.void(address), generate


@intrinsic
def fill(_typing_context: Any, target: Any, value: Any) -> Any:
    """A vector of one value."""

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        _store(builder, _splat(builder, arguments[1]), arguments[0])

    return types.void(target, value), generate


@intrinsic
def copy(_typing_context: Any, target: Any, source: Any) -> Any:
    """A vector from one address to another."""

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        _store(builder, _load(builder, _VECTOR, arguments[1]), arguments[0])

    return types.void(target, source), generate


@intrinsic
def stream(_typing_context: Any, target: Any, source: Any) -> Any:
    """A vector to an address that is a multiple of its size, past the caches: memory need not be read before it is written.

    Other threads see it after `finish_streams`.
    """

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        vector, size = _load(builder, _VECTOR, arguments[1]), 4 * LANES
        store = builder.store(vector, builder.inttoptr(arguments[0], _VECTOR.as_pointer()), align=size)
        store.set_metadata("nontemporal", builder.module.add_metadata([_INTEGER(1)]))

    return types.void(target, source), generate


@intrinsic
def finish_streams(_typing_context: Any) -> Any:
    """Wait until streamed vectors are in memory."""

    def generate(_context: Any, builder: Any, _signature: Any, _arguments: Any) -> Any:
        builder.fence("seq_cst")

    return types.void(), generate


def standardized_columns(columns: int) -> Any:
    """A function, for compiled code, that makes a vector of each of `columns` neighboring variables of LANES particles.

    target: address of the first variable's vector; target_step: bytes to the next. source: address of the first variable of the
    first particle; source_step: bytes to the next particle. how: address of center, scale, low, high and something else
    (float32) of each variable: x becomes clip((x - center) * scale, low, high), and NaN becomes 0.
    """

    @intrinsic
    def standardized(_typing_context: Any, target: Any, target_step: Any, source: Any, source_step: Any, how: Any) -> Any:
        def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
            target, target_step, source, source_step, how = arguments
            rows = _rows(builder, source, source_step, columns)
            for column in range(columns):
                x = _shuffled(builder, rows, rows, range(column, LANES * columns, columns))
                center, scale, low, high = (
                    _splat(builder, _load(builder, _FLOAT, builder.add(how, _ADDRESS(4 * (5 * column + which))))) for which in range(4)
                )
                x = builder.fmul(builder.fsub(x, center), scale)
                x = builder.select(builder.fcmp_ordered("<", x, low), low, x)
                x = builder.select(builder.fcmp_ordered(">", x, high), high, x)
                x = builder.select(builder.fcmp_ordered("ord", x, x), x, ir.Constant(_VECTOR, [0.0] * LANES))
                _store(builder, x, target)
                target = builder.add(target, target_step)

        return types.void(target, target_step, source, source_step, how), generate

    return standardized


def _rows(builder: Any, source: Any, step: Any, columns: int) -> Any:
    """The first `columns` values of LANES particles, one after another, in one long vector."""
    row = ir.VectorType(_FLOAT, columns)
    parts = []
    for _ in range(LANES):
        parts.append(_load(builder, row, source))
        source = builder.add(source, step)
    while len(parts) > 1:
        pairs = zip(parts[::2], parts[1::2], strict=True)
        parts = [_shuffled(builder, one, other, range(2 * one.type.count)) for one, other in pairs]
    return parts[0]


def _load(builder: Any, kind: Any, address: Any) -> Any:
    return builder.load(builder.inttoptr(address, kind.as_pointer()), align=4)


def _store(builder: Any, value: Any, address: Any) -> None:
    builder.store(value, builder.inttoptr(address, value.type.as_pointer()), align=4)


def _splat(builder: Any, value: Any) -> Any:
    """A vector of one value."""
    empty = ir.Constant(ir.VectorType(value.type, LANES), ir.Undefined)
    vector = builder.insert_element(empty, value, _INTEGER(0))
    return _shuffled(builder, vector, vector, [0] * LANES)


def _shuffled(builder: Any, one: Any, other: Any, places: Sequence[int]) -> Any:
    """These places of two vectors in a row."""
    return builder.shuffle_vector(one, other, ir.Constant(ir.VectorType(_INTEGER, len(places)), list(places)))
