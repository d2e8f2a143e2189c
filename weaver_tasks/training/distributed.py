"""Communication between ranks: process group, sums in a fixed order, synchronized batch normalization (also on CPUs)."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

_TIMEOUT = timedelta(minutes=30)
_LOST_PEER = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "Socket closed", "remote process exited")
_WAIT_TO_BE_ENDED = 5.0  # seconds


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


@contextlib.contextmanager
def joined_ranks(device: torch.device) -> Iterator[None]:
    """Join the process group described in the environment by the launcher (ours or torchrun). Does nothing for a single process."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield
        return
    backend = "nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(
        backend,
        init_method=os.environ.get("WEAVER_TASKS_RENDEZVOUS", "env://"),
        rank=int(os.environ["RANK"]),
        world_size=int(os.environ["WORLD_SIZE"]),
        timeout=_TIMEOUT,
        device_id=device if backend == "nccl" else None,
    )
    try:
        yield
    except RuntimeError as error:
        if any(sign in str(error) for sign in _LOST_PEER):
            # The rank that failed reports the error; the launcher stops this one during the wait.
            time.sleep(_WAIT_TO_BE_ENDED)
        raise
    # Only after success: destroying the group while another rank waits in a collective operation would hide that rank's error.
    if dist.is_initialized():
        _part()


def leave_to_first_rank() -> bool:
    """Destroy the process group, so that the first rank alone does work that cannot be distributed.

    Returns True on the first rank (or in a single process); the other ranks have nothing left to do.
    """
    if world_size() == 1:
        return True
    is_first = rank() == 0
    _part()
    return is_first


def _part() -> None:
    dist.barrier()
    dist.destroy_process_group()


def from_first_rank(value: Any) -> Any:
    """Broadcast a plain value from rank 0."""
    if world_size() == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def from_all_ranks(value: Any) -> list[Any]:
    """Gather a plain value from all ranks. Returns a list in the order of ranks."""
    if world_size() == 1:
        return [value]
    box: list[Any] = [None] * world_size()
    dist.all_gather_object(box, value)
    return box


def sum_over_ranks(values: Sequence[float]) -> list[float]:
    """Sums over ranks in float64, added in the order of ranks, so that all ranks get identical bits."""
    return [sum(column) for column in zip(*from_all_ranks([float(value) for value in values]), strict=True)]


class GatherRows(torch.autograd.Function):
    """Concatenate the rows (first axis) of all ranks. Gradients are summed over ranks. All ranks must pass the same shape."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        if world_size() == 1:
            return rows.view_as(rows)
        gathered = [torch.empty_like(rows, memory_format=torch.contiguous_format) for _ in range(world_size())]
        dist.all_gather(gathered, rows.contiguous())
        return torch.cat(gathered)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        gradient = gradients[0].contiguous()
        if world_size() == 1:
            return gradient
        gradient = gradient.clone()
        dist.all_reduce(gradient)
        return gradient.chunk(world_size())[rank()]


class SynchronizedBatchNorm(nn.modules.batchnorm._BatchNorm):
    """Batch normalization over the batches of all ranks, on any device (torch's SyncBatchNorm refuses CPU tensors).

    input: (B, C) or (B, C, ...); B may differ between ranks. Parameters, buffers and their names are those of nn.BatchNorm*d.
    """

    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() < 2:
            raise ValueError(f"expected at least 2 axes, got {input.dim()}")

    def forward(self, input: Tensor) -> Tensor:
        if not self.training or world_size() == 1:
            return super().forward(input)
        count, mean, variance = self._moments(input)
        if self.track_running_stats and self.running_mean is not None and self.running_var is not None:
            self._update(count, mean.detach(), variance.detach())
        shape = (1, -1, *(1 for _ in range(input.dim() - 2)))
        scale = torch.rsqrt(variance + self.eps)
        if self.weight is not None:
            scale = scale * self.weight
        shift = -mean * scale if self.bias is None else self.bias - mean * scale
        return (input * scale.view(shape) + shift.view(shape)).to(input.dtype)

    def _moments(self, input: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The number of values and, per channel, mean and biased variance over all ranks, merged as in Chan et al. (1979)."""
        axes = [axis for axis in range(input.dim()) if axis != 1]
        values = input.float()
        local_mean = values.mean(axes)  # (C,)
        local_variance = values.var(axes, unbiased=False)
        local_count = torch.full_like(local_mean, input.numel() // input.shape[1])
        gathered = GatherRows.apply(torch.stack([local_count, local_mean, local_variance])[None])  # (W, 3, C)
        counts, means, variances = gathered.unbind(1)
        count = counts.sum(0).detach()
        share = counts.detach() / count
        mean = (share * means).sum(0)
        variance = (share * (variances + (means - mean).square())).sum(0)
        return count, mean, variance

    def _update(self, count: Tensor, mean: Tensor, variance: Tensor) -> None:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        momentum = 1.0 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), momentum)
        self.running_var.lerp_((variance * count / (count - 1).clamp(min=1)).to(self.running_var.dtype), momentum)


def synchronize_batch_norm(model: nn.Module, device: torch.device) -> nn.Module:
    """`model` with all batch normalizations synchronized over ranks. Parameters keep their names."""
    if device.type == "cuda":
        return nn.SyncBatchNorm.convert_sync_batchnorm(model)
    for name, child in model.named_children():
        if isinstance(child, nn.modules.batchnorm._BatchNorm) and not isinstance(child, SynchronizedBatchNorm):
            setattr(model, name, _synchronized(child))
        else:
            synchronize_batch_norm(child, device)
    return model


def _synchronized(layer: nn.modules.batchnorm._BatchNorm) -> SynchronizedBatchNorm:
    twin = SynchronizedBatchNorm(
        layer.num_features, eps=layer.eps, momentum=layer.momentum, affine=layer.affine, track_running_stats=layer.track_running_stats
    )
    twin.weight, twin.bias = layer.weight, layer.bias
    twin.running_mean, twin.running_var, twin.num_batches_tracked = layer.running_mean, layer.running_var, layer.num_batches_tracked
    return twin.train(layer.training)
