"""Compare the outputs of an ONNX model, run by ONNX Runtime, with those of the PyTorch model."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from onnxruntime import InferenceSession
from torch import nn

from weaver_tasks.results.onnx.runtime import run_onnx

Array = np.ndarray

BATCHES = (1, 2, 17)
LENGTHS = (20, 60, 128)


def cases(dynamic_axes: Mapping[str, Any], lengths: Mapping[str, int | None]) -> list[tuple[int, int | None]]:
    """The (batch, length) pairs to test. The only length is None (as configured), unless the particle axis of an input is dynamic.

    lengths: group -> configured length, None for a flat group.
    """
    padded = {name: length for name, length in lengths.items() if length is not None}
    if not any(2 in dynamic_axes.get(name, ()) for name in padded):
        return [(batch, None) for batch in BATCHES]
    longest = max(padded.values())
    tried = sorted({length for length in LENGTHS if length < longest} | {longest})
    return [(batch, length) for batch in BATCHES for length in tried]


def taken_axes(
    model: nn.Module,
    inputs: Mapping[str, Array],
    *,
    names: Sequence[str],
    dynamic_axes: Mapping[str, Any],
    lengths: Mapping[str, int | None],
) -> tuple[dict[str, Any], list[tuple[int, int | None]]]:
    """The axes that really are dynamic, and the (batch, length) cases to test, without the lengths that PyTorch itself refuses.

    Many configurations declare axis 2 of every input dynamic, also for flat inputs, which have no such axis, and for networks of fixed
    length. inputs: some events, by input name. Other arguments: as in `cases` and `compare`.
    """
    axes = {
        name: _without(found, {axis for axis in found if name in inputs and axis >= inputs[name].ndim})
        for name, found in dynamic_axes.items()
    }
    tried = cases(axes, lengths)
    longest = tried[-1][1]
    if longest is None or longest == 1:
        return axes, tried
    shorter = {length for _, length in tried if length != longest} or {longest - 1}
    taken = {length for length in shorter if _takes(model, inputs, length, names, axes)}
    if not taken:
        axes = {name: _without(found, {2}) for name, found in axes.items()}
        return axes, cases(axes, lengths)
    return axes, [(batch, length) for batch, length in tried if length in taken | {longest}]


def _without(axes: Any, left_out: set[int]) -> Any:
    """`axes`, given as {axis: name} or [axis, …], without those in `left_out`."""
    if isinstance(axes, Mapping):
        return {axis: name for axis, name in axes.items() if axis not in left_out}
    return [axis for axis in axes if axis not in left_out]


def _takes(model: nn.Module, inputs: Mapping[str, Array], length: int | None, names: Sequence[str], axes: Mapping[str, Any]) -> bool:
    taken = cut(inputs, 2, length, axes)
    try:
        with torch.no_grad():
            model(*(torch.from_numpy(taken[name]) for name in names))
    except (RuntimeError, IndexError, ValueError, AssertionError):
        return False
    return True


def fixed_axes(declared: Mapping[str, Any], axes: Mapping[str, Any]) -> dict[str, str]:
    """For a message: input or output -> its declared dynamic axes that are not in `axes`."""
    gone = {name: [axis for axis in found if axis not in axes[name]] for name, found in declared.items()}
    return {name: f"axis {', '.join(map(str, found))}" for name, found in gone.items() if found}


def cut(inputs: Mapping[str, Array], batch: int, length: int | None, dynamic_axes: Mapping[str, Any]) -> dict[str, Array]:
    """The first `batch` events and, for inputs whose particle axis is dynamic, the first `length` particle slots."""
    taken = {}
    for name, values in inputs.items():
        values = values[:batch]
        if length is not None and values.ndim == 3 and 2 in dynamic_axes.get(name, ()):
            values = values[:, :, :length]
        taken[name] = np.ascontiguousarray(values)
    return taken


def compare(
    model: nn.Module,
    session: InferenceSession,
    batches: Iterable[Mapping[str, Array]],
    *,
    raw: Iterable[Mapping[str, Array]] | None = None,
    names: Sequence[str],
    tried: Sequence[tuple[int, int | None]],
    dynamic_axes: Mapping[str, Any],
    same_inputs: nn.Module | None = None,
    tolerance: float = math.inf,
) -> list[dict[str, Any]]:
    """For each case in `tried`, the largest difference between ONNX Runtime and PyTorch over the batches.

    model: in eval mode, on the CPU. batches: inputs by name, in the form that the PyTorch model takes (in the order of `names`).
    raw: the same batches in the form that the session takes, if that is different.
    same_inputs: the PyTorch model that takes the inputs of the session, if `model` does not.
    Differences are relative to the PyTorch value if its absolute value is larger than 1. Events with ties are left out: particles at
    exactly equal distances may be sorted in either order. For such an event the output of PyTorch itself changes when the last bits of the
    inputs change, and both models agree once the inputs are changed enough that no two distances are equal.
    Returns [{batch, length, events, left_out, max_abs_difference}, …]; the difference is infinite if a value is not finite.
    """
    found: list[dict[str, Any]] = [
        {"batch": batch, "length": length, "events": 0, "left_out": 0, "max_abs_difference": 0.0} for batch, length in tried
    ]
    pairs = zip(batches, raw, strict=True) if raw is not None else ((inputs, inputs) for inputs in batches)
    for inputs, given in pairs:
        for case in found:
            taken = cut(inputs, case["batch"], case["length"], dynamic_axes)
            with torch.no_grad():
                expected = model(*(torch.from_numpy(taken[name]) for name in names)).numpy()
            given_here = cut(given, case["batch"], case["length"], dynamic_axes)
            difference = _difference(run_onnx(session, given_here), expected)
            if (difference > tolerance).any():
                by_chance = _by_chance(same_inputs or model, session, given_here, names, tolerance) & (difference > tolerance)
                difference = difference[~by_chance]
                case["left_out"] += int(by_chance.sum())
            case["events"] += len(difference)
            case["max_abs_difference"] = max(case["max_abs_difference"], float(difference.max(initial=0.0)))
    return found


def _difference(scores: Array, expected: Array) -> Array:
    """(B,): the largest difference in each event."""
    if scores.shape != expected.shape:
        return np.full(len(expected), np.inf)
    with np.errstate(invalid="ignore"):
        relative = np.abs(scores - expected) / np.maximum(1, np.abs(expected))
    return np.where(np.isfinite(relative), relative, np.inf).reshape(len(expected), -1).max(axis=1, initial=0.0)


def _by_chance(model: nn.Module, session: InferenceSession, inputs: Mapping[str, Array], names: Sequence[str], tolerance: float) -> Array:
    """(B,): which events have an output that depends on how ties are broken, with PyTorch and ONNX in agreement once they are broken."""
    generator = np.random.default_rng(1)

    def moved(relative: float) -> dict[str, Array]:
        return {name: (inputs[name] * (1 + relative * generator.standard_normal(inputs[name].shape))).astype(np.float32) for name in names}

    def value(taken: Mapping[str, Array]) -> Array:
        with torch.no_grad():
            return model(*(torch.from_numpy(taken[name]) for name in names)).numpy()

    as_it_is, broken = value(inputs), moved(_APART)
    jumps = np.max([_difference(value(moved(_LAST_BITS)), as_it_is) for _ in range(_TRIES)], axis=0)
    return (jumps > tolerance) & (_difference(run_onnx(session, broken), value(broken)) <= tolerance)


_TRIES = 8
# Sizes of the relative changes of the inputs.
_LAST_BITS = 3e-7  # a few times the precision of float32
_APART = 1e-3
