"""ParticleNeXt on two collections: the particles of a jet (pf) and its secondary vertices (sv)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from weaver_tasks.networks.layers.batch_norm import apply_rows
from weaver_tasks.networks.particle_next.model import ParticleNeXt


class ParticleNeXtTagger(nn.Module):
    """ParticleNeXt on particles and vertices as one cloud.

    pf_features_dims, sv_features_dims: features of each collection, mapped to node_dim channels first.
    pf_input_dropout, sv_input_dropout: probability to drop a particle or vertex in training.
    `options` are those of `ParticleNeXt`.
    """

    def __init__(
        self,
        pf_features_dims: int,
        sv_features_dims: int,
        num_classes: int = 2,
        node_dim: int = 32,
        pf_input_dropout: float | None = None,
        sv_input_dropout: float | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        self.pf_input_dropout = nn.Dropout(pf_input_dropout) if pf_input_dropout else None
        self.sv_input_dropout = nn.Dropout(sv_input_dropout) if sv_input_dropout else None
        self.pf_encode = nn.Sequential(nn.BatchNorm1d(pf_features_dims), nn.Conv1d(pf_features_dims, node_dim, 1, bias=False))
        self.sv_encode = nn.Sequential(nn.BatchNorm1d(sv_features_dims), nn.Conv1d(sv_features_dims, node_dim, 1, bias=False))
        self.pn = ParticleNeXt(feature_input_dim=node_dim, num_classes=num_classes, node_dim=0, use_node_bn=False, **options)

    def forward(
        self,
        pf_points: Tensor,
        pf_features: Tensor,
        pf_vectors: Tensor,
        pf_mask: Tensor,
        sv_points: Tensor,
        sv_features: Tensor,
        sv_vectors: Tensor,
        sv_mask: Tensor,
        edges: Tensor | None = None,
    ) -> Tensor:
        """points: (B, 2, P) eta and phi; features: (B, C, P); vectors: (B, 4, P) px, py, pz, E in GeV; mask: (B, 1, P), of each."""
        pf_mask = pf_mask if self.pf_input_dropout is None else self.pf_input_dropout(pf_mask)
        sv_mask = sv_mask if self.sv_input_dropout is None else self.sv_input_dropout(sv_mask)
        encoded = [
            apply_rows(encode, x.transpose(1, 2)) for encode, x in ((self.pf_encode, pf_features), (self.sv_encode, sv_features))
        ]  # (B, P, C) each
        return self.pn(
            torch.cat((pf_points, sv_points), dim=2),
            torch.cat(encoded, dim=1).transpose(1, 2),
            torch.cat((pf_vectors, sv_vectors), dim=2),
            torch.cat((pf_mask, sv_mask), dim=2),
            edges,
        )
