"""Whether an ONNX model, run by ONNX Runtime, gives what the PyTorch model gives."""

from __future__ import annotations

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
    """The (batch, length) pairs to try: one length, None (as configured), unless the particle axis of an input is dynamic.

    lengths: group -> configured length, None where it is flat.
    """
    padded = {name: length for name, length in lengths.items() if length is not None}
    if not any(2 in dynamic_axes.get(name, ()) for name in padded):
        return [(batch, None) for batch in BATCHES]
    longest = max(padded.values())
    tried = sorted({length for length in LENGTHS if length < longest} | {longest})
    return [(batch, length) for batch in BATCHES for length in tried]


def cut(inputs: Mapping[str, Array], batch: int, length: int | None, dynamic_axes: Mapping[str, Any]) -> dict[str, Array]:
    """The first `batch` events, and where the particle axis is dynamic the first `length` particle slots."""
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
) -> list[dict[str, Any]]:
    """For each case of `tried` the largest difference between ONNX Runtime and PyTorch over the batches.

    model: in eval mode, on the CPU. batches: inputs by name, as the PyTorch model takes them (in the order of `names`).
    raw: the same batches as the session takes them, where that is another form.
    Differences count relative to the PyTorch value where that is larger than 1.
    Returns [{batch, length, events, max_abs_difference}, …]; the difference is infinite where a value is not finite.
    """
    found: list[dict[str, Any]] = [{"batch": batch, "length": length, "events": 0, "max_abs_difference": 0.0} for batch, length in tried]
    pairs = zip(batches, raw, strict=True) if raw is not None else ((inputs, inputs) for inputs in batches)
    for inputs, given in pairs:
        for case in found:
            taken = cut(inputs, case["batch"], case["length"], dynamic_axes)
            with torch.no_grad():
                expected = model(*(torch.from_numpy(taken[name]) for name in names)).numpy()
            scores = run_onnx(session, cut(given, case["batch"], case["length"], dynamic_axes))
            case["events"] += len(expected)
            case["max_abs_difference"] = max(case["max_abs_difference"], _difference(scores, expected))
    return found


def _difference(scores: Array, expected: Array) -> float:
    if scores.shape != expected.shape or not (np.isfinite(scores).all() and np.isfinite(expected).all()):
        return float("inf")
    return float((np.abs(scores - expected) / np.maximum(1, np.abs(expected))).max(initial=0.0))
