"""Convert between padded batches of particles and packed rows of the real particles only.

Batches come padded: (B, C, P) with a mask (B, 1, P). Most of a padded batch is padding (a jet has 40 particles on
average, a batch is padded to 128), so per-particle layers run on the R real particles only: (R, C), event by event.

Shapes: B events, P particle slots, R real particles of the batch, C features.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

_EVENTS_PER_GROUP = 16


def exporting() -> bool:
    """Whether an ONNX exporter (or torch.export) traces the forward pass. Shapes must then not depend on values."""
    return torch.jit.is_tracing() or torch.compiler.is_exporting()


def attention_weights(logits: Tensor, dim: int) -> Tensor:
    """Softmax inside a network, under another name for the newer exporter of torch.onnx.

    The exporter names values after their operators without a check. These names would clash with weaver's outputs, called 'softmax'.
    """
    return logits.log_softmax(dim).exp() if torch.compiler.is_exporting() else logits.softmax(dim)


def pack(x: Tensor, real: Tensor) -> Tensor:
    """Select the real particles of a padded batch. x: (B, C, P); real: (B, P) bool. Returns (R, C), event by event."""
    return x.transpose(1, 2)[real]


def unpack(x: Tensor, real: Tensor) -> Tensor:
    """Pad packed particles with zeros. x: (R, C); real: (B, P) bool. Returns (B, P, C)."""
    return x.new_zeros(*real.shape, x.shape[-1]).index_put((real,), x)


def sum_per_event(x: Tensor, real: Tensor) -> Tensor:
    """Sum packed particles over each event; zero for an empty event. x: (R, C); real: (B, P) bool. Returns (B, C)."""
    # `unsafe` skips the checks of the lengths, which would synchronize the GPU, and fail for an empty batch.
    x = x.to(torch.promote_types(x.dtype, torch.float32))  # sums need full precision, also under autocast
    return torch.segment_reduce(x, "sum", lengths=real.sum(dim=1), axis=0, initial=0.0, unsafe=True)


def pointwise(convolution: Any, x: Tensor) -> Tensor:
    """Apply a convolution of kernel size 1 (Conv1d or Conv2d) to the last dimension. x: (…, C). Returns (…, C')."""
    return F.linear(x, convolution.weight.flatten(1), convolution.bias)


@dataclass(frozen=True)
class Tokens:
    """The map between rows of tokens and slots of a padded batch. Rows: the R real tokens, event by event, or all B * L slots if dense.

    real: (B, L) bool; index: (R,) the slot of each row, None if dense (exporters and compilers need fixed shapes).
    """

    real: Tensor
    index: Tensor | None

    @classmethod
    def of(cls, real: Tensor, *, dense: bool) -> Tokens:
        return cls(real, None if dense else real.flatten().nonzero().squeeze(1))

    def pack(self, x: Tensor) -> Tensor:
        """Select the rows. (B, L, C) -> (R, C)."""
        flat = x.flatten(0, 1)
        return flat if self.index is None else _Take.apply(flat, self.index)

    def pad(self, x: Tensor) -> Tensor:
        """Pad with zeros. (R, C) -> (B, L, C)."""
        events, length = self.real.shape
        padded = x if self.index is None else x.new_zeros(events * length, x.shape[1]).index_copy(0, self.index, x)
        return padded.view(events, length, x.shape[1])

    @property
    def rows(self) -> int:
        """The number of rows, R."""
        return self.real.numel() if self.index is None else self.index.shape[0]

    def first_rows(self) -> Tensor:
        """The index of the first row of each event, (B,)."""
        counts = self.real.sum(dim=1) if self.index is not None else torch.full_like(self.real[:, 0], self.real.shape[1], dtype=torch.long)
        return counts.cumsum(dim=0) - counts


@dataclass(frozen=True)
class Layout:
    """The map between rows of tokens and the batch, and groups of events of similar length for attention, which needs a padded form.

    The cost of attention grows with the square of the padded length. Events are therefore sorted by length into groups, and padded
    to the longest event of their group only.

    whole: maps rows to the original batch. groups: consecutive rows as small padded batches, real particles first.
    order: (B,) the index of each event, in the order of the groups, or None if the order is the original one (dense).
    """

    whole: Tokens
    groups: tuple[Tokens, ...]
    order: Tensor | None

    @classmethod
    def of(cls, real: Tensor, *, dense: bool) -> Layout:
        """The layout of a batch. real: (B, L) bool, True for real tokens."""
        if dense:
            tokens = Tokens(real, None)
            return cls(tokens, (tokens,), None)
        lengths, order = real.sum(dim=1).sort(stable=True)
        event, slot = real[order].nonzero(as_tuple=True)
        whole = Tokens(real, order[event] * real.shape[1] + slot)
        groups = []
        for part in lengths.split(_EVENTS_PER_GROUP if real.device.type == "cpu" else max(len(lengths), 1)):
            slots = torch.arange(max(int(part[-1]), 1), device=real.device)
            groups.append(Tokens.of(slots < part.unsqueeze(1), dense=False))
        return cls(whole, tuple(groups), order)

    def split(self, rows: Tensor) -> tuple[Tensor, ...]:
        """Split rows into those of each group."""
        return rows.split([group.rows for group in self.groups])

    def split_events(self, x: Tensor) -> tuple[Tensor, ...]:
        """Split an array with one row per event, in the order of the groups, into those of each group."""
        return x.split([group.real.shape[0] for group in self.groups])

    def as_given(self, x: Tensor) -> Tensor:
        """Reorder one row per event from the order of the groups to the original order. (B, C) -> (B, C)."""
        return x if self.order is None else torch.empty_like(x).index_copy(0, self.order, x)

    def spread(self, x: Tensor) -> Tensor:
        """Copy one row per event, in the original order, to the rows of its tokens. (B, C) -> (R, C)."""
        return self.whole.pack(x.unsqueeze(1).expand(-1, self.whole.real.shape[1], -1))


class _Take(torch.autograd.Function):
    """Select rows by distinct indices. The gradient is a plain copy, which is faster than the row-wise sum of index_select."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, index: Tensor) -> Tensor:
        ctx.save_for_backward(index)
        ctx.rows = x.shape[0]
        return x.index_select(0, index)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (index,) = ctx.saved_tensors
        return grad.new_zeros(ctx.rows, grad.shape[1]).index_copy(0, index, grad), None
