"""Particle Transformer: attention among the particles of a jet, biased by the features of each pair.

H. Qu, C. Li, S. Qian, "Particle Transformer for Jet Tagging", arXiv:2202.03772. Weights are interchangeable with
those of weaver-core. This implementation computes less: layers run on the real particles only, see `masking.Layout`.

Shapes: B events, P slots, R real particles (rows), C features, D embedding dimension, H heads.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from weaver_tasks.networks.layers.masking import Layout, exporting
from weaver_tasks.networks.layers.trimming import SequenceTrimmer
from weaver_tasks.networks.particle_transformer.block import Block, key_biases
from weaver_tasks.networks.particle_transformer.layers import Embed, RMSNorm, SwiGLUFFN, activation_module
from weaver_tasks.networks.particle_transformer.pair_embedding import PairEmbed, build_sparse_tensor


class ParticleTransformer(nn.Module):
    """Scores of jets (or of particles) from particles with four-vectors; permuting or padding particles changes nothing.

    input_dim: features of a particle; num_classes: outputs.
    pair_input_type, pair_input_dim: type and number of pair features from the vectors (see `pair_features`; None: the usual
    number of the type); pair_extra_dim: number of pair features given as `uu`. pair_embed_dims, remove_self_pair, use_pre_activation_pair,
    pair_embed_sparse_eval: see `PairEmbed`. embed_dims, use_conv_embed: see `Embed`; empty: the input is already embedded.
    num_heads, num_layers, num_cls_layers, activation: options of the blocks; block_params, cls_block_params: see `Block`;
    block_ids_with_attn_mask: the blocks that use the pair bias (all).
    include_global_token: an additional token collects the result. fc_params: (width, dropout[, activation]) of each layer
    before the output; None: no output layer.
    version: 1 as published; 2: SwiGLU without the extra scales; 3: with RMSNorm, no biases, stochastic depth; 3.5, 3.6: gated.
    weight_init: moco, timm or None; fix_init: scale down the later blocks. trim: see `SequenceTrimmer`.
    for_inference: softmax of the outputs. for_segmentation: outputs of each particle, (B, num_classes, P).
    """

    def __init__(
        self,
        input_dim: int,
        num_classes: int | None = None,
        pair_input_type: str = "pp",
        pair_input_dim: int | None = None,
        pair_extra_dim: int = 0,
        remove_self_pair: bool = False,
        use_pre_activation_pair: bool = True,
        use_conv_embed: bool = False,
        embed_dims: Sequence[int] = (128, 512, 128),
        pair_embed_dims: Sequence[int] | None = (64, 64, 64),
        pair_embed_sparse_eval: tuple[bool, bool] | None = None,
        num_heads: int = 8,
        num_layers: int = 8,
        block_params: dict[str, Any] | None = None,
        block_ids_with_attn_mask: Sequence[int] | None = None,
        include_global_token: bool = False,
        num_cls_layers: int = 2,
        cls_block_params: dict[str, Any] | None = None,
        fc_params: Sequence[Sequence[Any]] | None = (),
        activation: str = "gelu",
        version: float = 1,
        weight_init: str | None = "moco",
        fix_init: bool = True,
        trim: bool = True,
        for_inference: bool = False,
        for_segmentation: bool = False,
        use_amp: bool = False,
        compile_model: bool = False,
    ) -> None:
        super().__init__()
        if version == 3.6:
            include_global_token, num_cls_layers = True, 0
        if include_global_token and num_cls_layers > 0:
            raise ValueError("include_global_token needs num_cls_layers=0: either of them collects the result")
        embed_dim = embed_dims[-1] if len(embed_dims) > 0 else input_dim
        defaults = {"embed_dim": embed_dim, "num_heads": num_heads, "activation": activation, **_version_defaults(version)}
        block = {**defaults, **(block_params or {})}
        use_bias = defaults.get("use_bias", True)
        self.use_amp = use_amp
        self.for_inference = for_inference
        self.for_segmentation = for_segmentation
        self.include_global_token = include_global_token

        self.embed = (
            Embed(input_dim, embed_dims, activation=activation, use_conv_embed=use_conv_embed) if len(embed_dims) > 0 else nn.Identity()
        )
        pair_input_dim = _USUAL_PAIR_FEATURES[pair_input_type.partition(":")[0]] if pair_input_dim is None else pair_input_dim
        self.pair_embed: PairEmbed | None = None
        if pair_embed_dims is not None and pair_input_dim + pair_extra_dim > 0:
            self.pair_embed = PairEmbed(
                pair_input_dim,
                pair_extra_dim,
                (*pair_embed_dims, block["num_heads"]),
                pairwise_lv_type=pair_input_type,
                remove_self_pair=remove_self_pair,
                use_pre_activation_pair=use_pre_activation_pair,
                use_bias=use_bias,
                sparse_eval=pair_embed_sparse_eval or (not compile_model, True),
            )
        self.blocks = nn.ModuleList(Block(**block) for _ in range(num_layers))
        with_mask = range(num_layers) if block_ids_with_attn_mask is None else block_ids_with_attn_mask
        self.block_ids_with_attn_mask = [number in {index % num_layers for index in with_mask} for number in range(num_layers)]
        cls_block = {**defaults, "dropout": 0, "attn_dropout": 0, "activation_dropout": 0, **(cls_block_params or {})}
        self.cls_blocks = nn.ModuleList(Block(**cls_block) for _ in range(num_cls_layers)) if num_cls_layers > 0 else None
        norm_layer: type[nn.Module] = RMSNorm if defaults.get("use_rmsnorm") else nn.LayerNorm
        self.norm = norm_layer(embed_dim)
        self.fc = None if fc_params is None else _fully_connected(embed_dim, num_classes, fc_params, norm_layer, use_bias)
        self.cls_token: nn.Parameter | None = None
        if include_global_token or (not for_segmentation and num_cls_layers > 0):
            self.cls_token = nn.Parameter(nn.init.trunc_normal_(torch.zeros(1, 1, embed_dim), std=0.02))
        self.trimmer = SequenceTrimmer(
            enabled=trim and not for_inference, round_to_32=compile_model, num_extra_tokens=int(include_global_token)
        )
        if weight_init is not None:
            initialize(self, weight_init)
        if fix_init:
            self._scale_down_later_blocks()

    @torch.jit.ignore
    def no_weight_decay(self) -> set[str]:
        return {"cls_token"}

    @property
    def ignores_padding(self) -> bool:
        """See `trimming.ignores_padding`. False for segmentation (output of each slot) and without an output layer (maybe no pooling)."""
        return not self.for_segmentation and self.fc is not None

    def forward(
        self, x: Tensor, v: Tensor | None = None, mask: Tensor | None = None, uu: Tensor | None = None, uu_idx: Tensor | None = None
    ) -> Any:
        """x: (B, C, P); v: (B, 4, P) px, py, pz, E in GeV; mask: (B, 1, P), nonzero for real particles;
        uu: (B, C', P, P) features of pairs, or (B, C', N) of the N pairs in uu_idx: (B, 2, N).

        Returns (B, num_classes); for segmentation (B, num_classes, P'), P' after trimming; without output layer (B, D); without
        output and class layers the tokens (B, P', D) and their padding (B, P'), True where padded.
        """
        rows, layout = self._encoded(x, v, mask, uu, uu_idx)
        if self.cls_blocks is None and self.fc is None:
            return layout.whole.pad(rows), ~layout.whole.real
        if self.for_segmentation:
            return self._per_particle(rows, layout)
        result = self.norm(self._aggregate(rows, layout))  # (B, D)
        if self.fc is None:
            return result
        output = self.fc(result)
        return output.softmax(dim=1) if self.for_inference else output

    # weaver's names of the two parts of a forward pass, which models of users call.

    def _forward_encoder(
        self, x: Tensor, v: Tensor | None = None, mask: Tensor | None = None, uu: Tensor | None = None, uu_idx: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """The particles after all blocks, (B, P', D), zero if padded, and the padding mask (B, P'). A global token comes first."""
        rows, layout = self._encoded(x, v, mask, uu, uu_idx)
        return layout.whole.pad(rows), ~layout.whole.real

    def _forward_aggregator(self, x: Tensor, padding_mask: Tensor) -> Tensor:
        """Aggregate the output of `_forward_encoder` to one normalized vector per event, (B, D)."""
        layout = Layout.of(~padding_mask, dense=exporting() or torch.compiler.is_compiling())
        return self.norm(self._aggregate(layout.whole.pack(x), layout))

    def _encoded(self, x: Tensor, v: Tensor | None, mask: Tensor | None, uu: Tensor | None, uu_idx: Tensor | None) -> tuple[Tensor, Layout]:
        """Trim the batch and apply all blocks, see `_encode`."""
        if uu is not None and uu_idx is not None:
            uu = build_sparse_tensor(uu, uu_idx, x.shape[-1])
        x, v, mask, uu = self.trimmer(x, v, mask, uu)
        all_pairs = self.pair_embed is not None and self.training and not self.pair_embed.is_sparse()
        layout = Layout.of(mask.squeeze(1), dense=exporting() or torch.compiler.is_compiling() or all_pairs)
        return self._encode(x, v, uu, layout)

    def _encode(self, x: Tensor, v: Tensor | None, uu: Tensor | None, layout: Layout) -> tuple[Tensor, Layout]:
        """The particles after all blocks, (R, D), and their layout in the batch. A global token comes first."""
        rows = self.embed.rows(x, layout.whole) if isinstance(self.embed, Embed) else layout.whole.pack(x)
        pairs = self.pair_embed.biases(v, uu, layout) if self.pair_embed is not None and (v is not None or uu is not None) else None
        if self.include_global_token:
            assert self.cls_token is not None
            padded = layout.whole.pad(rows)
            layout = Layout.of(F.pad(layout.whole.real, (1, 0), value=True), dense=layout.order is None)
            rows = layout.whole.pack(torch.cat((self.cls_token.expand(len(padded), -1, -1).to(padded.dtype), padded), dim=1))
            pairs = None if pairs is None else [F.pad(bias, (1, 0, 1, 0)) for bias in pairs]
        biases = {False: (key_biases(layout, None, rows), None), True: (key_biases(layout, pairs, rows), pairs)}
        for block, with_pairs in zip(self.blocks, self.block_ids_with_attn_mask, strict=True):
            rows = block.tokens(rows, layout, *biases[with_pairs])
        return rows, layout

    def _aggregate(self, rows: Tensor, layout: Layout) -> Tensor:
        """Aggregate tokens to one row per event, in the original order: (R, D) -> (B, D)."""
        if self.include_global_token:
            return layout.whole.pad(rows)[:, 0]
        if self.cls_blocks is None:
            real = layout.whole.real.unsqueeze(2)
            return layout.whole.pad(rows).masked_fill(~real, 0).sum(dim=1) / real.sum(dim=1).clamp(min=1)
        assert self.cls_token is not None
        token = self.cls_token.squeeze(1).expand(layout.whole.real.shape[0], -1)
        for block in self.cls_blocks:
            token = block.class_token(token, rows, layout)
        return layout.as_given(token)

    def _per_particle(self, rows: Tensor, layout: Layout) -> Tensor:
        rows = self.norm(rows)
        output = layout.whole.pad(rows if self.fc is None else self.fc(rows)).transpose(1, 2)
        output = output[:, :, 1:] if self.include_global_token else output
        return output.softmax(dim=1) if self.for_inference else output

    @torch.no_grad()
    def _scale_down_later_blocks(self) -> None:
        for number, block in enumerate(self.blocks, start=1):
            for linear in (block.attn.out_proj, block.fc2):
                linear.weight.div_(math.sqrt(2.0 * number))


_USUAL_PAIR_FEATURES = {"pp": 4, "ee": 6, "xyzt": 7}


def _version_defaults(version: float) -> dict[str, Any]:
    """Block parameters of the later versions of weaver's ParticleTransformer."""
    defaults: dict[str, Any] = {}
    if version > 1:
        defaults |= {"activation": "swiglu", "scale_fc": False, "scale_attn": False, "scale_heads": False, "scale_resids": False}
    if version > 2:
        defaults |= {"use_rmsnorm": True, "use_bias": False, "drop_path_rate": 0.1}
        defaults |= {"dropout": 0, "attn_dropout": 0, "activation_dropout": 0}
    if version in (3.5, 3.6):
        defaults |= {"use_qk_norm": True, "elementwise_attn_output_gate": True}
    return defaults


def _fully_connected(
    width: int, num_classes: int | None, fc_params: Sequence[Sequence[Any]], norm_layer: type[nn.Module], use_bias: bool
) -> nn.Sequential:
    if num_classes is None:
        raise ValueError("num_classes is required, or fc_params=None for a network without an output layer")
    layers: list[nn.Module] = []
    for width_out, dropout, *activation in fc_params:
        if activation == ["swiglu"]:
            ffn = SwiGLUFFN(width, width_out * 4, width_out, drop=dropout, bias=use_bias)
            layers.append(nn.Sequential(ffn, norm_layer(width_out)))
        else:
            linear = nn.Linear(width, width_out, bias=use_bias)
            layers.append(nn.Sequential(linear, activation_module(*activation or ["relu"]), nn.Dropout(dropout)))
        width = width_out
    return nn.Sequential(*layers, nn.Linear(width, num_classes))


@torch.no_grad()
def initialize(model: nn.Module, mode: str) -> None:
    """Initialize all linear layers: moco (Xavier, separate query, key, value; arXiv:2104.02057) or timm (normal, 0.02); biases zero."""
    if mode not in ("moco", "timm"):
        raise ValueError(f"weight_init '{mode}' is not known: use moco, timm or None")
    for name, module in model.named_modules():
        if not isinstance(module, nn.Linear):
            continue
        if mode == "timm":
            nn.init.trunc_normal_(module.weight, std=0.02)
        elif "in_proj" in name:
            bound = math.sqrt(6.0 / (module.weight.shape[0] // 3 + module.weight.shape[1]))
            nn.init.uniform_(module.weight, -bound, bound)
        else:
            nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
