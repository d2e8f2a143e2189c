"""A batch on the device that computes. Inputs that came unpadded are standardized and padded there, as `data.assembly` does on the host.

To the last bit: each operation stands alone, so that none is fused into a multiplication with addition, and comparisons are written out,
since `clamp` may turn -0.0 into 0.0. Shape legend: B events, P particles of all of them, k variables of a packed column, S variables of
a group, L length of the group.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor


def on_device(arrays: Mapping[str, Any], device: torch.device) -> dict[str, Tensor]:
    """Inputs (or labels) of a batch as tensors: arrays as they are, each `data.assembly.Unpadded` as the groups made of it.

    Copies to a GPU are asynchronous: hold the batch until something has waited for the GPU, or its memory is used again too early.
    """
    tensors: dict[str, Tensor] = {}
    for name, content in arrays.items():
        if isinstance(content, np.ndarray):
            tensors[name] = _sent(content, device)
        else:
            tensors |= _padded(content, device)
    return tensors


def _sent(array: np.ndarray, device: torch.device) -> Tensor:
    return torch.from_numpy(array).to(device, non_blocking=True)


def _padded(unpadded: Any, device: torch.device) -> dict[str, Tensor]:
    """The groups of one packed column: (B, S, L) each."""
    layout = unpadded.layout
    how, columns = _constants(layout, device)
    values, counts = _sent(unpadded.values, device), _sent(unpadded.counts, device).long()  # (P, k), (B, k)
    # The last row stands for all places that no particle takes.
    table = torch.cat([_standardized(values, *how[:4]), how[4:]])  # (P + 1, k)
    particles = counts.amax(dim=1)  # (B,)
    first = particles.cumsum(0) - particles
    own, place = counts[:, :, None], torch.arange(unpadded.length, device=device)
    taken = place % own.clamp(min=1) if layout.wrap else place  # (B, k, L) or (L,)
    filled = own > 0 if layout.wrap else place < own
    row = torch.where(filled, first[:, None, None] + taken, len(values))  # (B, k, L)
    variable = torch.arange(table.shape[1], device=device)[:, None]
    everything = table.flatten()[row * table.shape[1] + variable]  # (B, k, L)
    return {name: everything.index_select(1, chosen) for name, chosen in columns.items()}


def _standardized(x: Tensor, center: Tensor, scale: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """x: (P, k), the others (k,)."""
    x = (x - center) * scale
    x = torch.where(x < low, low, x)
    x = torch.where(x > high, high, x)
    return x.masked_fill(x.isnan(), 0.0)


@functools.lru_cache(maxsize=32)
def _constants(layout: Any, device: torch.device) -> tuple[Tensor, dict[str, Tensor]]:
    """(5, k) center, scale, low, high, padding, and the variables (S,) of each group. Kept: to send them anew would wait for the GPU."""
    how = torch.from_numpy(layout.how).T.contiguous().to(device)
    return how, {name: torch.from_numpy(chosen).to(device) for name, chosen in layout.columns.items()}
