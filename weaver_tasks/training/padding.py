"""Copy batches to the device. Unpadded inputs are standardized and padded there, as `data.loading.collate` does on the host.

Both give identical bits. Each operation is therefore separate, so that none is fused into a multiply-add, and comparisons are written
out, since `clamp` may turn -0.0 into 0.0. Shapes: B events, P particles of all events, k variables of a packed column, S variables of a
group, L length of the group.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor


def on_device(arrays: Mapping[str, Any], device: torch.device) -> dict[str, Tensor]:
    """Inputs (or labels) of a batch as tensors on the device. Each `data.collate.Unpadded` is expanded into its padded groups.

    Copies to a GPU are asynchronous. Keep a reference to the batch until the GPU is synchronized; otherwise its memory is reused too early.
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
    """The padded groups of one packed column, (B, S, L) each."""
    layout = unpadded.layout
    scaling, columns = _constants(layout, device)
    values, counts = _sent(unpadded.values, device), _sent(unpadded.counts, device).long()  # (P, k), (B, k)
    # The last row holds the padding values.
    table = torch.cat([_standardized(values, *scaling[:4]), scaling[4:]])  # (P + 1, k)
    particles = counts.amax(dim=1)  # (B,)
    first = particles.cumsum(0) - particles
    length, place = counts[:, :, None], torch.arange(unpadded.length, device=device)
    taken = place % length.clamp(min=1) if layout.wrap else place  # (B, k, L) or (L,)
    filled = length > 0 if layout.wrap else place < length
    row = torch.where(filled, first[:, None, None] + taken, len(values))  # (B, k, L)
    variable = torch.arange(table.shape[1], device=device)[:, None]
    everything = table.flatten()[row * table.shape[1] + variable]  # (B, k, L)
    return {name: everything.index_select(1, variables) for name, variables in columns.items()}


def _standardized(x: Tensor, center: Tensor, scale: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Standardize x. x: (P, k); the other arguments: (k,)."""
    x = (x - center) * scale
    x = torch.where(x < low, low, x)
    x = torch.where(x > high, high, x)
    return x.masked_fill(x.isnan(), 0.0)


@functools.lru_cache(maxsize=32)
def _constants(layout: Any, device: torch.device) -> tuple[Tensor, dict[str, Tensor]]:
    """(5, k) center, scale, low, high and padding value, and the variables (S,) of each group.

    They are cached, because copying them again for each batch would wait for the GPU.
    """
    scaling = torch.from_numpy(layout.scaling).T.contiguous().to(device)
    return scaling, {name: torch.from_numpy(variables).to(device) for name, variables in layout.columns.items()}
