"""The block of Particle Transformer: attention and a two-layer network, each with normalization before and after (NormFormer)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from weaver_tasks.networks.layers.masking import Layout
from weaver_tasks.networks.particle_transformer.layers import MASKED, Attention, DropPath, LayerScale, RMSNorm, activation_module


def key_biases(layout: Layout, pair_biases: Sequence[Tensor] | None, like: Tensor, *, leading: int = 0) -> list[Tensor]:
    """The attention bias of each group: that of the pairs, if any, and MASKED for padded keys.

    pair_biases: (B, H, L, L) of each group; leading: number of real keys before those of the layout; like: gives type and device.
    Returns (B, H, L, L), or (B, 1, 1, leading + L) without pair biases, of each group.
    """
    padded = [~F.pad(group.real, (leading, 0), value=True)[:, None, None, :] for group in layout.groups]
    if pair_biases is None:
        return [torch.zeros_like(hidden, dtype=like.dtype).masked_fill(hidden, MASKED) for hidden in padded]
    return [bias.masked_fill(hidden, MASKED) for bias, hidden in zip(pair_biases, padded, strict=True)]


class Block(nn.Module):
    """Particle attention block, or class attention block (arXiv:2202.03772, fig. 3c; NormFormer, arXiv:2110.09456).

    scale_attn, scale_fc: a normalization after attention and inside the network; scale_heads: a factor per head; scale_resids: a
    factor per channel of the second residual; scale_attn_mask: one factor for the pair bias. activation: gelu, relu or swiglu.
    layer_scale_init_values: arXiv:2103.17239; drop_path_rate: arXiv:1603.09382.
    """

    def __init__(
        self,
        embed_dim: int = 128,
        num_heads: int = 8,
        ffn_ratio: int = 4,
        dropout: float = 0.1,
        attn_dropout: float = 0.1,
        activation_dropout: float = 0.1,
        activation: str = "gelu",
        use_rmsnorm: bool = False,
        use_bias: bool = True,
        use_qk_norm: bool = False,
        headwise_attn_output_gate: bool = False,
        elementwise_attn_output_gate: bool = False,
        layer_scale_init_values: float | None = None,
        drop_path_rate: float = 0.0,
        scale_attn_mask: bool = False,
        scale_attn: bool = True,
        scale_fc: bool = True,
        scale_heads: bool = True,
        scale_resids: bool = True,
        for_inference: bool = False,
    ) -> None:
        super().__init__()
        norm_layer: type[nn.Module] = RMSNorm if use_rmsnorm else nn.LayerNorm
        ffn_dim = embed_dim * ffn_ratio

        def layer_scale() -> nn.Module:
            return LayerScale(embed_dim, layer_scale_init_values) if layer_scale_init_values else nn.Identity()

        self.pre_attn_norm = norm_layer(embed_dim)
        self.attn = Attention(
            embed_dim,
            num_heads,
            dropout=attn_dropout,
            bias=use_bias,
            use_qk_norm=use_qk_norm,
            norm_layer=norm_layer,
            headwise_attn_output_gate=headwise_attn_output_gate,
            elementwise_attn_output_gate=elementwise_attn_output_gate,
        )
        self.post_attn_norm = norm_layer(embed_dim) if scale_attn else nn.Identity()
        self.dropout = nn.Dropout(dropout)
        self.ls1 = layer_scale()
        self.drop_path1 = DropPath(drop_path_rate)

        self.pre_fc_norm = norm_layer(embed_dim)
        self.fc1 = nn.Linear(embed_dim, ffn_dim, bias=use_bias)
        self.fc1_g = nn.Linear(embed_dim, ffn_dim, bias=use_bias) if activation == "swiglu" else None
        self.act = nn.SiLU() if activation == "swiglu" else activation_module(activation)
        self.act_dropout = nn.Dropout(activation_dropout)
        self.post_fc_norm = norm_layer(ffn_dim) if scale_fc else nn.Identity()
        self.fc2 = nn.Linear(ffn_dim, embed_dim, bias=use_bias)
        self.ls2 = layer_scale()
        self.drop_path2 = DropPath(drop_path_rate)

        self.c_mask = nn.Parameter(torch.ones(1)) if scale_attn_mask else None
        self.c_attn = nn.Parameter(torch.ones(num_heads)) if scale_heads else None
        self.w_resid = nn.Parameter(torch.ones(embed_dim)) if scale_resids else None

    def forward(
        self, x: Tensor, x_cls: Tensor | None = None, padding_mask: Tensor | None = None, attn_mask: Tensor | None = None
    ) -> Tensor:
        """Apply the block to padded batches. x: (B, L, D); x_cls: (B, 1, D) for class attention; padding_mask: (B, L), True where padded;
        attn_mask: (B, H, L, L) pair bias. Returns (B, L, D), or (B, 1, D) for class attention."""
        real = torch.ones(x.shape[:2], dtype=torch.bool, device=x.device) if padding_mask is None else ~padding_mask.bool()
        layout = Layout.of(real, dense=True)
        rows = layout.whole.pack(x)
        if x_cls is not None:
            return self.class_token(x_cls.squeeze(1), rows, layout).unsqueeze(1)
        pairs = None if attn_mask is None else [attn_mask]
        return layout.whole.pad(self.tokens(rows, layout, key_biases(layout, pairs, x), pairs))

    def tokens(self, x: Tensor, layout: Layout, biases: Sequence[Tensor], pair_biases: Sequence[Tensor] | None = None) -> Tensor:
        """Apply the block to rows of tokens. x: (R, D); biases: from `key_biases`; pair_biases: their part that scale_attn_mask scales.

        Returns (R, D).
        """
        if self.c_mask is not None and pair_biases is not None:
            biases = key_biases(layout, [self.c_mask * bias for bias in pair_biases], x)
        return self._after_attention(self.attn.tokens(self.pre_attn_norm(x), layout, biases), x, layout)

    def class_token(self, x_cls: Tensor, x: Tensor, layout: Layout) -> Tensor:
        """Class attention (arXiv:2103.17239): the class token attends to itself and to all tokens.

        x_cls: (B, D), in the order of the groups; x: (R, D). Returns (B, D).
        """
        own, keys = self.pre_attn_norm(x_cls), self.pre_attn_norm(x)
        mixed = self.attn.class_token(x_cls, own, keys, layout, key_biases(layout, None, x, leading=1))
        return self._after_attention(mixed, x_cls, None)

    def _after_attention(self, x: Tensor, residual: Tensor, layout: Layout | None) -> Tensor:
        if self.c_attn is not None:
            x = (x.unflatten(-1, (self.c_attn.shape[0], -1)) * self.c_attn.unsqueeze(1)).flatten(-2)
        x = self.drop_path1(self.ls1(self.dropout(self.post_attn_norm(x))), layout) + residual
        residual = x if self.w_resid is None else x * self.w_resid
        x = self.pre_fc_norm(x)
        x = self.act(self.fc1(x)) if self.fc1_g is None else F.silu(self.fc1_g(x)) * self.fc1(x)
        x = self.fc2(self.post_fc_norm(self.act_dropout(x)))
        return self.drop_path2(self.ls2(self.dropout(x)), layout) + residual
