"""Padded and packed particles.

Batches come padded: (B, C, P) with a mask (B, 1, P). Most of a padded batch is padding (a jet has 40 particles on
average, a batch is padded to 128), so per-particle layers run on the R real particles only: (R, C), event by event.

Shapes: B events, P particle slots, R real particles of the batch, C features.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def exporting() -> bool:
    """Whether an ONNX exporter (or torch.export) is following the forward pass: shapes must then not depend on values."""
    return torch.jit.is_tracing() or torch.compiler.is_exporting()


def pack(x: Tensor, real: Tensor) -> Tensor:
    """The real particles of a padded batch. x: (B, C, P); real: (B, P) bool. Returns (R, C), event by event."""
    return x.transpose(1, 2)[real]


def unpack(x: Tensor, real: Tensor) -> Tensor:
    """The padded batch of packed particles, padding zero. x: (R, C); real: (B, P) bool. Returns (B, P, C)."""
    return x.new_zeros(*real.shape, x.shape[-1]).index_put((real,), x)


def sum_per_event(x: Tensor, real: Tensor) -> Tensor:
    """The sum of packed particles over each event, zero for an empty one. x: (R, C); real: (B, P) bool. Returns (B, C)."""
    # `unsafe` skips the checks of the lengths, which would stop the GPU, and fail for an empty batch.
    x = x.to(torch.promote_types(x.dtype, torch.float32))  # a sum of many needs the precision, under autocast too
    return torch.segment_reduce(x, "sum", lengths=real.sum(dim=1), axis=0, initial=0.0, unsafe=True)


def pointwise(convolution: Any, x: Tensor) -> Tensor:
    """A convolution of kernel size 1 (Conv1d or Conv2d) on features in the last dimension. x: (…, C). Returns (…, C')."""
    return F.linear(x, convolution.weight.flatten(1), convolution.bias)
