"""ParticleNet on two collections: the particles of a jet and its secondary vertices."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from weaver_tasks.networks.layers.heads import FcParams
from weaver_tasks.networks.layers.trimming import SequenceTrimmer, ignores_padding
from weaver_tasks.networks.particle_net import ConvParams, ParticleNet


class FeatureConv(nn.Module):
    """Map the features of one collection to a common width. (B, C, P) -> (B, C', P)."""

    def __init__(self, in_chn: int, out_chn: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            nn.BatchNorm1d(in_chn), nn.Conv1d(in_chn, out_chn, kernel_size=1, bias=False), nn.BatchNorm1d(out_chn), nn.ReLU()
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class ParticleNetTagger(nn.Module):
    """ParticleNet (see there for the options) on particles (pf) and secondary vertices (sv) as one cloud.

    pf_features_dims, sv_features_dims: features of each collection.
    pf_input_dropout, sv_input_dropout: probability to drop a particle or vertex in training.
    """

    def __init__(
        self,
        pf_features_dims: int,
        sv_features_dims: int,
        num_classes: int,
        conv_params: ConvParams = ((7, (32, 32, 32)), (7, (64, 64, 64))),
        fc_params: FcParams = ((128, 0.1),),
        use_fusion: bool = True,
        use_fts_bn: bool = True,
        use_counts: bool = True,
        trim: bool = True,
        pf_input_dropout: float | None = None,
        sv_input_dropout: float | None = None,
        for_inference: bool = False,
        use_amp: bool = False,
        compile_model: bool = False,
    ) -> None:
        super().__init__()
        self.pf_trimmer = SequenceTrimmer(enabled=trim and not for_inference)
        self.sv_trimmer = SequenceTrimmer(enabled=trim and not for_inference)
        self.pf_input_dropout = nn.Dropout(pf_input_dropout) if pf_input_dropout else None
        self.sv_input_dropout = nn.Dropout(sv_input_dropout) if sv_input_dropout else None
        self.pf_conv = FeatureConv(pf_features_dims, 32)
        self.sv_conv = FeatureConv(sv_features_dims, 32)
        self.pn = ParticleNet(
            input_dims=32,
            num_classes=num_classes,
            conv_params=conv_params,
            fc_params=fc_params,
            use_fusion=use_fusion,
            use_fts_bn=use_fts_bn,
            use_counts=use_counts,
            trim=False,
            for_inference=for_inference,
            use_amp=use_amp,
        )

    @property
    def ignores_padding(self) -> bool:
        """Whether padded slots change no output; see `trimming.ignores_padding`."""
        return ignores_padding(self.pn)

    def forward(
        self, pf_points: Tensor, pf_features: Tensor, pf_mask: Tensor, sv_points: Tensor, sv_features: Tensor, sv_mask: Tensor
    ) -> Tensor:
        """points: (B, D, P); features: (B, C, P); mask: (B, 1, P), of each collection. Returns (B, num_classes)."""
        pf_points, pf_features, pf_mask, _ = self.pf_trimmer(pf_points, pf_features, pf_mask)
        sv_points, sv_features, sv_mask, _ = self.sv_trimmer(sv_points, sv_features, sv_mask)
        pf_points, pf_features, pf_mask = _masked(pf_points, pf_features, pf_mask, self.pf_input_dropout)
        sv_points, sv_features, sv_mask = _masked(sv_points, sv_features, sv_mask, self.sv_input_dropout)
        points = torch.cat((pf_points, sv_points), dim=2)
        features = torch.cat((self.pf_conv(pf_features) * pf_mask, self.sv_conv(sv_features) * sv_mask), dim=2)
        return self.pn(points, features, torch.cat((pf_mask, sv_mask), dim=2))


def _masked(points: Tensor, features: Tensor, mask: Tensor, dropout: nn.Module | None) -> tuple[Tensor, Tensor, Tensor]:
    kept = mask.to(features.dtype)
    if dropout is not None:
        kept = (dropout(kept) != 0).to(features.dtype)
        points = points * kept
    return points, features * kept, kept
