"""Trim padded batches to the length that their events need."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from weaver_tasks.networks.layers.masking import exporting


def ignores_padding(model: nn.Module) -> bool:
    """Whether a network declares that padded slots (mask zero) do not change its outputs.

    The class of the network must define an attribute or property `ignores_padding` itself. An inherited one does not count, since a
    subclass may pool over all slots.
    """
    return "ignores_padding" in vars(type(model)) and bool(model.ignores_padding)


class SequenceTrimmer(nn.Module):
    """Shorten padded batches: to the longest event in evaluation, to a random quantile of the lengths in training.

    In evaluation no result changes. In training this is an augmentation, as in weaver: particles are permuted within each event
    and cut to the q-th quantile of the lengths in the batch, with q uniform in `target` and at most 1. The longest events thus lose
    random particles. The first `warmup_steps` training batches are not cut, so that memory is reserved for the largest size.

    round_to_32: cut to multiples of 32 in training (less recompilation), counting num_extra_tokens tokens that are added after the cut.
    min_length: never cut below this number of slots (a graph of k neighbors needs k + 1).
    """

    _counter: Tensor

    def __init__(
        self,
        enabled: bool = False,
        target: tuple[float, float] = (0.9, 1.02),
        warmup_steps: int = 5,
        round_to_32: bool = False,
        num_extra_tokens: int = 0,
        min_length: int = 1,
    ) -> None:
        super().__init__()
        self.enabled = enabled
        self.target = target
        self.warmup_steps = warmup_steps
        self.round_to_32 = round_to_32
        self.num_extra_tokens = num_extra_tokens
        self.min_length = min_length
        # Results depend on the counter, so checkpoints contain it. weaver's state_dicts do not, so the buffer is not persistent.
        self.register_buffer("_counter", torch.zeros(1, dtype=torch.long), persistent=False)

    def forward(
        self, x: Tensor, v: Any = None, mask: Tensor | None = None, uu: Tensor | None = None
    ) -> tuple[Tensor, Any, Tensor, Tensor | None]:
        """x: (B, C, P); v: (B, 4, P), or a list of such tensors; mask: (B, 1, P), None: all real; uu: (B, C', P, P) pair features.

        Returns all four, cut to P' <= P, the mask as bool.
        """
        mask = torch.ones_like(x[:, :1], dtype=torch.bool) if mask is None else mask.bool()
        if not self.enabled or exporting():
            return x, v, mask, uu
        return self._trim(x, v, mask, uu)

    @torch.compiler.disable
    def _trim(self, x: Tensor, v: Any, mask: Tensor, uu: Tensor | None) -> tuple[Tensor, Any, Tensor, Tensor | None]:
        if not self.training:
            used = mask.flatten(0, 1).any(dim=0).nonzero()  # find the last particle instead of counting: masks may have gaps
            return _cut(x, v, mask, uu, max(int(used[-1]) + 1 if len(used) else 0, self.min_length))
        if self._counter < self.warmup_steps:
            self._counter += 1
            return x, v, mask, uu
        length = max(self._random_length(mask), self.min_length)
        chance = torch.rand_like(mask, dtype=torch.float32).masked_fill(~mask, -1)
        order = chance.argsort(dim=-1, descending=True)  # (B, 1, P): the real particles first
        if uu is not None:
            uu = uu.gather(-2, order.unsqueeze(-1).expand_as(uu)).gather(-1, order.unsqueeze(-2).expand_as(uu))
        x, v, mask = (_each(lambda part: part.gather(-1, order.expand_as(part)), part) for part in (x, v, mask))
        return _cut(x, v, mask, uu, length)

    def _random_length(self, mask: Tensor) -> int:
        quantile = torch.empty(1, device=mask.device).uniform_(*self.target).clamp_(max=1)
        length = int(torch.quantile(mask.sum(dim=-1).float(), quantile))
        if self.round_to_32:
            length = max(-(-(length + self.num_extra_tokens) // 32) * 32, 32)
            length = min(length, mask.shape[-1]) - self.num_extra_tokens
        return length


def _cut(x: Tensor, v: Any, mask: Tensor, uu: Tensor | None, length: int) -> tuple[Tensor, Any, Tensor, Tensor | None]:
    x, v, mask = (_each(lambda part: part[..., :length], part) for part in (x, v, mask))
    return x, v, mask, None if uu is None else uu[..., :length, :length]


def _each(change: Any, part: Any) -> Any:
    """Apply `change` to a tensor, or to each tensor of a list. None stays None."""
    if part is None:
        return None
    return [change(one) for one in part] if isinstance(part, (list, tuple)) else change(part)
