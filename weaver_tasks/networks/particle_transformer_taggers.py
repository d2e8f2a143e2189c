"""Particle Transformer on two collections: the particles of a jet (pf) and its secondary vertices (sv)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from weaver_tasks.networks.layers.trimming import SequenceTrimmer, ignores_padding
from weaver_tasks.networks.particle_transformer.layers import Embed
from weaver_tasks.networks.particle_transformer.model import ParticleTransformer
from weaver_tasks.networks.particle_transformer.pair_embedding import build_sparse_tensor


class ParticleTransformerTaggerWithExtraPairFeatures(nn.Module):
    """Particle Transformer on particles and vertices as one set, with additional input features of pairs of particles.

    pf_input_dim, sv_input_dim: features of each collection; embed_dims, activation: options of the embeddings, one for each collection.
    `options` are those of `ParticleTransformer`, except that embedding and trimming are done here.
    """

    def __init__(
        self,
        pf_input_dim: int,
        sv_input_dim: int,
        num_classes: int | None = None,
        embed_dims: Sequence[int] = (128, 512, 128),
        activation: str = "gelu",
        trim: bool = True,
        for_inference: bool = False,
        use_amp: bool = False,
        compile_model: bool = False,
        **options: Any,
    ) -> None:
        super().__init__()
        self.use_amp, self.for_inference = use_amp, for_inference
        self.pf_trimmer = SequenceTrimmer(enabled=trim and not for_inference)
        self.sv_trimmer = SequenceTrimmer(enabled=trim and not for_inference)
        self.pf_embed = Embed(pf_input_dim, embed_dims, activation=activation)
        self.sv_embed = Embed(sv_input_dim, embed_dims, activation=activation)
        self.part = ParticleTransformer(
            input_dim=embed_dims[-1],
            num_classes=num_classes,
            embed_dims=[],
            activation=activation,
            trim=False,
            for_inference=for_inference,
            use_amp=use_amp,
            **options,
        )

    @torch.jit.ignore
    def no_weight_decay(self) -> set[str]:
        return {"part.cls_token"}

    @property
    def ignores_padding(self) -> bool:
        """See `trimming.ignores_padding`."""
        return ignores_padding(self.part)

    def forward(
        self,
        pf_x: Tensor,
        pf_v: Tensor,
        pf_mask: Tensor,
        sv_x: Tensor,
        sv_v: Tensor,
        sv_mask: Tensor,
        pf_uu: Tensor | None = None,
        pf_uu_idx: Tensor | None = None,
    ) -> Any:
        """x: (B, C, P); v: (B, 4, P) px, py, pz, E in GeV; mask: (B, 1, P), of each collection.

        pf_uu: (B, C', P, P) features of pairs of particles, or (B, C', N) of the N pairs in pf_uu_idx (B, 2, N).
        """
        if pf_uu is not None and pf_uu_idx is not None:
            pf_uu = build_sparse_tensor(pf_uu, pf_uu_idx, pf_x.shape[-1])
        pf_x, pf_v, pf_mask, pf_uu = self.pf_trimmer(pf_x, pf_v, pf_mask, pf_uu)
        sv_x, sv_v, sv_mask, _ = self.sv_trimmer(sv_x, sv_v, sv_mask)
        if pf_uu is not None:
            vertices = sv_x.shape[-1]
            pf_uu = F.pad(pf_uu, (0, vertices, 0, vertices))
        x = torch.cat((self.pf_embed(pf_x), self.sv_embed(sv_x)), dim=1)  # (B, P, D)
        return self.part(x, torch.cat((pf_v, sv_v), dim=2), torch.cat((pf_mask, sv_mask), dim=2), pf_uu)


class ParticleTransformerTagger(ParticleTransformerTaggerWithExtraPairFeatures):
    """Particle Transformer on particles and vertices as one set."""

    @property
    def ignores_padding(self) -> bool:
        """See `trimming.ignores_padding`."""
        return ignores_padding(self.part)

    def forward(self, pf_x: Tensor, pf_v: Tensor, pf_mask: Tensor, sv_x: Tensor, sv_v: Tensor, sv_mask: Tensor) -> Any:  # type: ignore[override]
        """x: (B, C, P); v: (B, 4, P) px, py, pz, E in GeV; mask: (B, 1, P), of each collection. Returns (B, num_classes)."""
        return super().forward(pf_x, pf_v, pf_mask, sv_x, sv_v, sv_mask)
