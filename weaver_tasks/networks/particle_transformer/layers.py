"""Layers of Particle Transformer (arXiv:2202.03772): embedding, attention with a pair bias, normalization, activations.

All of them run on rows of tokens, so padding costs nothing outside of attention itself; see `masking.Layout`.
Shapes: B events, L slots, R tokens (rows), D embedding dimension, H heads.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from weaver_tasks.networks.layers.masking import Layout, Tokens, attention_weights, exporting

# Added to the attention logits of padded keys, so that their weight is exactly 0. Unlike minus infinity, it keeps an event
# without particles finite. Half precision can represent it.
MASKED = -3.0e4


def activation_module(name: str) -> nn.Module:
    """GELU for 'gelu', ReLU for any other name, as in weaver."""
    return nn.GELU() if name == "gelu" else nn.ReLU()


class RMSNorm(nn.RMSNorm):
    """torch's root-mean-square normalization (arXiv:1910.07467), written as basic operations for exporters that do not know it."""

    def forward(self, x: Tensor) -> Tensor:
        if not exporting():
            return super().forward(x)
        eps = torch.finfo(x.dtype).eps if self.eps is None else self.eps
        return x * torch.rsqrt(x.square().mean(dim=-1, keepdim=True) + eps) * self.weight


class SwiGLUFFN(nn.Module):
    """w3(SiLU(a) * b), (a, b) = w12(x) (arXiv:2002.05202). (…, in_features) -> (…, out_features)."""

    def __init__(
        self, in_features: int, hidden_features: int | None = None, out_features: int | None = None, drop: float = 0.0, bias: bool = True
    ) -> None:
        super().__init__()
        hidden = hidden_features or in_features
        self.w12 = nn.Linear(in_features, 2 * hidden, bias=bias)
        self.drop = nn.Dropout(drop)
        self.w3 = nn.Linear(hidden, out_features or in_features, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        gate, value = self.w12(x).chunk(2, dim=-1)
        return self.w3(self.drop(F.silu(gate) * value))


class LayerScale(nn.Module):
    """A learned factor per channel, initially small (arXiv:2103.17239)."""

    def __init__(self, dim: int, init_values: float = 1e-5) -> None:
        super().__init__()
        self.gamma = nn.Parameter(init_values * torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


class DropPath(nn.Module):
    """Stochastic depth (arXiv:1603.09382): in training, drop the branch for a whole event with probability `drop_prob`."""

    def __init__(self, drop_prob: float = 0.0) -> None:
        super().__init__()
        self.drop_prob = drop_prob

    def forward(self, x: Tensor, layout: Layout | None = None) -> Tensor:
        """x: one row per event (B, …), or the rows (R, D) of a layout."""
        if self.drop_prob == 0 or not self.training:
            return x
        events = x.shape[0] if layout is None else layout.whole.real.shape[0]
        kept = 1 - self.drop_prob
        factor = x.new_empty(events, *([1] * (x.dim() - 1))).bernoulli_(kept).div_(kept)
        return x * (factor if layout is None else layout.spread(factor))


class Embed(nn.Module):
    """Map features of particles to embeddings: batch normalization, then LayerNorm, linear and activation per width in `dims`.

    use_conv_embed: instead linear layers with batch normalization.
    """

    def __init__(
        self, input_dim: int, dims: Sequence[int], normalize_input: bool = True, activation: str = "gelu", use_conv_embed: bool = False
    ) -> None:
        super().__init__()
        self.input_bn = nn.BatchNorm1d(input_dim) if normalize_input else None
        layers: list[nn.Module] = []
        for dim in dims:
            if use_conv_embed:
                layers += [nn.Conv1d(input_dim, dim, 1, bias=False), nn.BatchNorm1d(dim), activation_module(activation)]
            else:
                layers += [nn.LayerNorm(input_dim), nn.Linear(input_dim, dim), activation_module(activation)]
            input_dim = dim
        self.conv_embed = nn.Sequential(*layers[:-1]) if use_conv_embed else nn.Identity()
        self.embed = nn.Identity() if use_conv_embed else nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, C, L), or (B, L, C) without normalize_input. Returns (B, L, D)."""
        return self.embed(self._normalized(x))

    def rows(self, x: Tensor, tokens: Tokens) -> Tensor:
        """Embed the real particles only. x: (B, C, L). Returns (R, D)."""
        return self.embed(tokens.pack(self._normalized(x)))

    def _normalized(self, x: Tensor) -> Tensor:
        return x if self.input_bn is None else self.conv_embed(self.input_bn(x)).transpose(1, 2)


class Attention(nn.Module):
    """Multi-head attention (arXiv:1706.03762) with an additive bias per head and pair of tokens (arXiv:2202.03772, eq. 5).

    use_qk_norm: normalization of queries and keys per head. headwise_/elementwise_attn_output_gate: the output is multiplied
    by a sigmoid of the query.
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        dropout: float = 0.0,
        bias: bool = True,
        use_qk_norm: bool = False,
        norm_layer: type[nn.Module] = nn.LayerNorm,
        headwise_attn_output_gate: bool = False,
        elementwise_attn_output_gate: bool = False,
    ) -> None:
        super().__init__()
        if embed_dim % num_heads:
            raise ValueError(f"embed_dim {embed_dim} must be a multiple of num_heads {num_heads}")
        if headwise_attn_output_gate and elementwise_attn_output_gate:
            raise ValueError("choose one of headwise_attn_output_gate and elementwise_attn_output_gate")
        self.num_heads = num_heads
        self.dropout = dropout
        self.in_proj = nn.Linear(embed_dim, 3 * embed_dim, bias=bias)
        self.out_proj = nn.Linear(embed_dim, embed_dim, bias=bias)
        head_dim = embed_dim // num_heads
        self.q_norm = norm_layer(head_dim) if use_qk_norm else nn.Identity()
        self.k_norm = norm_layer(head_dim) if use_qk_norm else nn.Identity()
        self.gate_proj: nn.Linear | None = None
        if headwise_attn_output_gate or elementwise_attn_output_gate:
            self.gate_proj = nn.Linear(embed_dim, num_heads if headwise_attn_output_gate else embed_dim, bias=bias)
        self.register_load_state_dict_pre_hook(_rename_projection)

    def tokens(self, x: Tensor, layout: Layout, biases: Sequence[Tensor]) -> Tensor:
        """Attention among the tokens of each event. x: (R, D); biases: (B, H or 1, L or 1, L) of each group. Returns (R, D)."""
        joined = self.in_proj(x)
        if self._norms:
            q, k, v = joined.chunk(3, dim=-1)
            joined = torch.cat((self._normed(self.q_norm, q), self._normed(self.k_norm, k), v), dim=-1)
        mixed = []
        for group, rows, bias in zip(layout.groups, layout.split(joined), biases, strict=True):
            q, k, v = group.pad(rows).chunk(3, dim=-1)
            mixed.append(group.pack(self._attend(q, k, v, bias)))
        return self._finish(torch.cat(mixed), x)

    def class_token(self, query: Tensor, own: Tensor, keys: Tensor, layout: Layout, biases: Sequence[Tensor]) -> Tensor:
        """Attention of one query per event to its own key and those of the event's tokens.

        query, own (its token): (B, D), in the order of the groups; keys: (R, D); biases: (B, 1, 1, 1 + L) of each group. Returns (B, D).
        """
        weights, bias = self.in_proj.weight, self.in_proj.bias
        dim = query.shape[1]
        q = self._normed(self.q_norm, F.linear(query, weights[:dim], None if bias is None else bias[:dim]))
        k, v = F.linear(torch.cat((own, keys)), weights[dim:], None if bias is None else bias[dim:]).chunk(2, dim=-1)
        first, others = torch.cat((self._normed(self.k_norm, k), v), dim=-1).split((own.shape[0], keys.shape[0]))
        mixed = []
        parts = zip(layout.groups, layout.split_events(q), layout.split_events(first), layout.split(others), biases, strict=True)
        for group, q, lead, rows, group_bias in parts:
            k, v = torch.cat((lead.unsqueeze(1), group.pad(rows)), dim=1).chunk(2, dim=-1)
            mixed.append(self._attend(q.unsqueeze(1), k, v, group_bias).squeeze(1))
        return self._finish(torch.cat(mixed), query)

    @property
    def _norms(self) -> bool:
        return not isinstance(self.q_norm, nn.Identity)

    def _normed(self, norm: nn.Module, x: Tensor) -> Tensor:
        return norm(x.unflatten(-1, (self.num_heads, -1))).flatten(-2) if self._norms else x

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
        """Scaled dot-product attention. (B, L', D), (B, L, D), (B, L, D) -> (B, L', D)."""
        q, k, v = (part.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for part in (q, k, v))  # (B, H, L, D / H)
        if exporting():  # explicit operations: the decomposition of the exporters is not valid for all shapes
            mixed = attention_weights(q @ k.transpose(2, 3) * q.shape[-1] ** -0.5 + bias, dim=-1) @ v
        else:
            mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=bias, dropout_p=self.dropout if self.training else 0.0)
        return mixed.transpose(1, 2).flatten(2)

    def _finish(self, x: Tensor, query: Tensor) -> Tensor:
        if self.gate_proj is not None:
            gate = torch.sigmoid(self.gate_proj(query)).unsqueeze(-1)  # (…, H or D, 1)
            x = (x.unflatten(-1, (gate.shape[-2], -1)) * gate).flatten(-2)
        return self.out_proj(x)


def _rename_projection(module: nn.Module, state: dict[str, Tensor], prefix: str, *_: Any) -> None:
    """Rename in_proj_weight and in_proj_bias in weights of earlier versions, which used the names of torch's attention."""
    for name in ("weight", "bias"):
        if f"{prefix}in_proj_{name}" in state:
            state[f"{prefix}in_proj.{name}"] = state.pop(f"{prefix}in_proj_{name}")
