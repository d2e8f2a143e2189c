"""Batch normalization of packed rows, where one row represents all padded slots.

Published weights were trained with batch statistics that include the padded slots of each batch. All padded slots have the
same features (zero at the input), so one row, weighted with the number of padded slots, gives the same statistics.

Shapes: n rows, C channels; each of the last `tail` rows represents `copies` rows.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from weaver_tasks.networks.layers.masking import pointwise

_CACHED_ELEMENTS = 1 << 18  # elements per chunk of rows, so that a chunk fits into the cache of the CPU


def folded(bn: nn.Module) -> tuple[Tensor, Tensor]:
    """Batch normalization in evaluation mode as x * scale + shift. Returns (scale, shift), (C,) each."""
    assert isinstance(bn, (nn.BatchNorm1d, nn.BatchNorm2d))
    assert bn.running_var is not None
    scale = bn.weight * torch.rsqrt(bn.running_var + bn.eps)
    return scale, bn.bias - bn.running_mean * scale


def norm(bn: nn.Module, x: Tensor, *, tail: int, copies: int, relu: bool = True) -> Tensor:
    """BatchNorm(x), then ReLU if `relu`. In training, the tail rows count `copies` times in the statistics. (n, C) -> (n, C)."""
    assert isinstance(bn, (nn.BatchNorm1d, nn.BatchNorm2d))
    if not bn.training:
        scale, shift = folded(bn)
        y = torch.addcmul(shift, x, scale)
        return y.relu() if relu else y
    if tail == 0:
        y = F.batch_norm(x, *_track_natively(bn))
        return y.relu() if relu else y
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    y, mean, variance = _Norm.apply(wide, bn.weight, bn.bias, tail, copies, bn.eps, relu)
    count = x.shape[0] - tail + tail * copies
    _track(bn, mean, variance * (count / (count - 1)))
    return y.to(x.dtype)


def _track_natively(bn: nn.BatchNorm1d | nn.BatchNorm2d) -> tuple[Any, ...]:
    assert bn.num_batches_tracked is not None
    bn.num_batches_tracked.add_(1)
    return bn.running_mean, bn.running_var, bn.weight, bn.bias, True, bn.momentum, bn.eps


def _track(bn: nn.BatchNorm1d | nn.BatchNorm2d, mean: Tensor, variance: Tensor) -> None:
    assert bn.running_mean is not None
    assert bn.running_var is not None
    assert bn.num_batches_tracked is not None
    assert bn.momentum is not None
    with torch.no_grad():
        bn.num_batches_tracked.add_(1)
        bn.running_mean.lerp_(mean.to(bn.running_mean), bn.momentum)
        bn.running_var.lerp_(variance.to(bn.running_var), bn.momentum)


class _Norm(torch.autograd.Function):
    """A single autograd function, to store only the input and output, and to pass over memory few times."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, tail: int, copies: int, eps: float, relu: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        count, copied = x.shape[0] - tail, tail * copies
        rows_mean, rows_variance = torch.batch_norm_update_stats(x[:count], None, None, 0.0)
        null = x[-1]
        mean = (rows_mean * count + null * copied) / (count + copied)
        spread = (rows_variance + (rows_mean - mean).square()) * count + (null - mean).square() * copied
        variance = spread / (count + copied)
        inverse = torch.rsqrt(variance + eps)
        scale = weight * inverse
        y = (x * scale).add_(bias - mean * scale)
        if relu:
            y.relu_()
        ctx.save_for_backward(x, y if relu else None, weight, mean, inverse)
        ctx.tail, ctx.copies = tail, copies
        ctx.mark_non_differentiable(mean, variance)
        return y, mean, variance

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        """The gradient of a tail row is the sum over its copies, as for everything computed from tail rows."""
        x, y, weight, mean, inverse = ctx.saved_tensors
        count, copied = x.shape[0] - ctx.tail, ctx.tail * ctx.copies
        grad_x = torch.empty_like(x)
        sum_grad, sum_product = torch.zeros_like(mean), torch.zeros_like(mean)
        chunks = [slice(start, start + _chunk(x)) for start in range(0, x.shape[0], _chunk(x))]
        for rows in chunks:
            grad_x[rows] = grad[rows] if y is None else grad[rows] * (y[rows] > 0)
            sum_grad += grad_x[rows].sum(dim=0)
            sum_product += (grad_x[rows] * x[rows]).sum(dim=0)
        grad_weight = (sum_product - mean * sum_grad) * inverse  # sum over rows of grad * normalized
        # grad_x = scale * (grad - w * (sum_grad + normalized * grad_weight) / N), with w copies of each tail row
        scale = weight * inverse
        slope = scale * inverse * grad_weight / (count + copied)
        offset = scale * sum_grad / (count + copied) - mean * slope
        tail = grad_x[count:] * scale - ctx.copies * (offset + slope * x[count:])
        for rows in chunks:
            grad_x[rows].mul_(scale).sub_(offset).addcmul_(x[rows], slope, value=-1)
        grad_x[count:] = tail
        return grad_x, grad_weight, sum_grad, None, None, None, None


def _chunk(x: Tensor) -> int:
    return max(_CACHED_ELEMENTS // x.shape[1], 1) if x.device.type == "cpu" else x.shape[0]


def apply_rows(layers: nn.Module, x: Tensor) -> Tensor:
    """Apply a sequence of convolutions of kernel size 1, normalizations and activations to the last dimension. (…, C) -> (…, C')."""
    shape = x.shape[:-1]
    x = x.flatten(0, -2)
    modules = list(layers) if isinstance(layers, nn.Sequential) else [layers]
    for module, after in zip(modules, [*modules[1:], None], strict=True):
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
            x = norm(module, x, tail=0, copies=0, relu=isinstance(after, nn.ReLU))
        elif isinstance(module, (nn.Conv1d, nn.Conv2d)):
            x = pointwise(module, x)
    return x.view(*shape, x.shape[-1])
