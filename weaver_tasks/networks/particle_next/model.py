"""ParticleNeXt, the successor of ParticleNet: pair features, several scales of neighbors, attention.

H. Qu, talk at ML4Jets 2021 (indico.cern.ch/event/980214/contributions/4413544). Weights are interchangeable
with those of weaver-core. Shapes: B events, P slots, C channels, D coordinates.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from weaver_tasks.networks.layers.batch_norm import apply_rows
from weaver_tasks.networks.layers.heads import fully_connected
from weaver_tasks.networks.layers.masking import attention_weights, exporting
from weaver_tasks.networks.layers.pair_features import delta_phi, from_ptrapphie, to_ptrapphim
from weaver_tasks.networks.layers.trimming import SequenceTrimmer
from weaver_tasks.networks.particle_next.edge_conv import MASKED, EdgeOptions, MultiScaleEdgeConv, build_graph, tiled

_SCALES = ((8, 1), (4, 1), (2, 1), (1, 1))
LAYER_PARAMS = ((32, 256, _SCALES, 64), (32, 256, _SCALES, 64), (32, 256, _SCALES, 64))


class ParticleNeXt(nn.Module):
    """Scores of jets (or of particles) from particles with four-vectors.

    feature_input_dim, edge_input_dim: features of a particle, and features of a pair from the input; num_classes: outputs.
    node_dim, edge_dim: channels to which features are mapped first (0: only normalized, if use_node_bn, use_edge_bn).
    layer_params: (k, channels[, scales[, message channels]]) of each layer, or a map {k, c, rd, m}; see `MultiScaleEdgeConv` for
    scales and the options after it. use_rel_lv_fts, use_polarization_angle, use_rel_dist: features of edges.
    fc_params: (width, dropout) of each layer after pooling. global_aggregation: mean, sum, max, attn or attn<n>.
    input_dropout: probability to drop a particle in training; pt_dropout: width in GeV of a random cut on pt;
    lorentz_vector_scale, _smear, _shift: widths of a random factor per jet, per particle, and of a shift of the direction; with
    them the features are ln pt, ln E and the direction relative to the jet.
    trim: see `SequenceTrimmer`. for_inference: softmax of the outputs. for_segmentation: outputs of each particle.
    """

    def __init__(
        self,
        feature_input_dim: int,
        edge_input_dim: int = 0,
        num_classes: int = 2,
        node_dim: int = 32,
        edge_dim: int = 8,
        use_node_bn: bool = True,
        use_edge_bn: bool = True,
        layer_params: Sequence[Any] = LAYER_PARAMS,
        fc_params: Sequence[tuple[int, float]] = ((256, 0.1),),
        global_aggregation: str = "attn4",
        edge_aggregation: str = "attn8",
        use_rel_lv_fts: bool = True,
        use_polarization_angle: bool = False,
        use_rel_fts: bool = False,
        use_rel_dist: bool = False,
        update_coords: bool = False,
        lv_aggregation: bool = False,
        use_node_se: bool = True,
        use_edge_se: bool = True,
        init_scale: float = 1e-5,
        input_dropout: float | None = None,
        pt_dropout: float | None = None,
        lorentz_vector_scale: float | None = None,
        lorentz_vector_smear: float | None = None,
        lorentz_vector_shift: float | None = None,
        trim: bool = True,
        for_inference: bool = False,
        for_segmentation: bool = False,
        use_amp: bool = False,
        compile_model: bool = False,
    ) -> None:
        super().__init__()
        self.input_dropout = nn.Dropout(input_dropout) if input_dropout else None
        self.pt_dropout = pt_dropout
        self.smearing = (lorentz_vector_scale, lorentz_vector_smear, lorentz_vector_shift)
        self.update_coords = update_coords
        self.for_inference = for_inference
        self.for_segmentation = for_segmentation
        self.edge_options = EdgeOptions(
            use_rel_lv_fts=use_rel_lv_fts, use_polarization_angle=use_polarization_angle, use_rel_dist=use_rel_dist
        )
        edge_input_dim += int(use_rel_dist) + (4 + int(use_polarization_angle) if use_rel_lv_fts else 0)
        self.node_encode, width = _encoder(feature_input_dim, node_dim, use_node_bn)
        self.edge_encode, edge_width = _encoder(edge_input_dim, edge_dim, use_edge_bn)
        layers = [_layer_params(given) for given in layer_params]
        self.num_neighbors = max(layer["num_neighbors"] for layer in layers)
        widths = [width, *(layer["out_dim"] for layer in layers)]
        self.layers = nn.ModuleList(
            MultiScaleEdgeConv(
                node_dim=width,
                edge_dim=edge_width,
                edge_aggregation=edge_aggregation,
                use_rel_fts=use_rel_fts,
                update_coords=update_coords,
                lv_aggregation=lv_aggregation,
                use_node_se=use_node_se,
                use_edge_se=use_edge_se,
                init_scale=init_scale,
                **layer,
            )
            for layer, width in zip(layers, widths[:-1], strict=True)
        )
        self.post = nn.Sequential(nn.BatchNorm2d(widths[-1]), nn.ReLU())
        self.global_aggregation = global_aggregation.lower()
        self.sa: nn.Conv1d | None = None
        if self.global_aggregation.startswith("attn"):
            self.sa = nn.Conv1d(widths[-1], int(self.global_aggregation[4:] or widths[-1]), kernel_size=1, bias=False)
        elif self.global_aggregation not in ("mean", "sum", "max"):
            raise ValueError(f"global_aggregation '{global_aggregation}' is not known: use mean, sum, max, attn or attn<n>")
        self.fc = fully_connected(widths[-1], num_classes, fc_params, per_particle=for_segmentation)
        self.trimmer = SequenceTrimmer(enabled=trim and not for_inference, round_to_32=compile_model, min_length=self.num_neighbors)

    def forward(
        self, points: Tensor, features: Tensor, lorentz_vectors: Tensor, mask: Tensor | None = None, edges: Tensor | None = None
    ) -> Tensor:
        """points: (B, D, P) eta and phi; features: (B, C, P); lorentz_vectors: (B, 4, P) px, py, pz, E in GeV;
        mask: (B, 1, P), nonzero for real particles; edges: (B, E, P, P) features of pairs.

        Returns (B, num_classes), or (B, num_classes, P') for segmentation, P' after trimming.
        """
        mask = torch.ones_like(points[:, :1]) if mask is None else mask
        if self.training:
            points, features, lorentz_vectors, mask = self._augment(points, features, lorentz_vectors, mask)
        features, (points, lorentz_vectors), mask, edges = self.trimmer(features, [points, lorentz_vectors], mask, edges)
        if not exporting() and points.shape[2] < self.num_neighbors:
            missing = self.num_neighbors - points.shape[2]
            points, features, lorentz_vectors, mask = (F.pad(part, (0, missing)) for part in (points, features, lorentz_vectors, mask))
            edges = None if edges is None else F.pad(edges, (0, missing, 0, missing))
        # Place padded points far away. In training they are also far from each other, so that their neighbors are random.
        points = points.masked_fill(~mask, 1e9)
        if self.training:
            points = points + 1e6 * torch.rand_like(points).masked_fill(mask, 0)
        real = mask.squeeze(1)
        x = apply_rows(self.node_encode, features.transpose(1, 2))  # (B, P, C)
        x = apply_rows(self.post, self._convolve(points, x, lorentz_vectors, real, edges))
        output = self.fc(x.masked_fill(~mask.transpose(1, 2), 0).transpose(1, 2) if self.for_segmentation else self._pooled(x, real))
        return output.softmax(dim=1) if self.for_inference else output

    def _convolve(self, points: Tensor, x: Tensor, vectors: Tensor, real: Tensor, edges: Tensor | None) -> Tensor:
        """Apply all layers: on one graph with encoded edges or, if points move, on a new graph in each layer."""
        if self.update_coords and edges is not None:
            edges = apply_rows(self.edge_encode, edges.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        graph = None
        for layer in self.layers:
            if self.update_coords:
                graph = build_graph(points, vectors, real, edges, layer.k, self.edge_options, moving=True)
            elif graph is None:
                graph = build_graph(points, vectors, real, edges, self.num_neighbors, self.edge_options, moving=False)
                if graph.features is not None:
                    graph = dataclasses.replace(graph, features=apply_rows(self.edge_encode, graph.features))
            points, x = layer(points, x, real, graph)
        return x

    def _pooled(self, x: Tensor, real: Tensor) -> Tensor:
        """Pool over the real particles. (B, P, C), (B, P) -> (B, C)."""
        hidden = ~real.unsqueeze(2)
        if self.sa is not None:
            weight = attention_weights(apply_rows(self.sa, x).masked_fill(hidden, MASKED), dim=1)
            return (tiled(weight, x.shape[2]) * x).sum(dim=1)
        x = x.masked_fill(hidden, 0)
        if self.global_aggregation == "max":
            return x.amax(dim=1)
        return x.sum(dim=1) / (real.sum(dim=1, keepdim=True).clamp(min=1) if self.global_aggregation == "mean" else 1)

    @torch.no_grad()
    def _augment(self, points: Tensor, features: Tensor, vectors: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Apply random variations to the input in training; see the options."""
        if self.input_dropout is not None:
            mask = self.input_dropout(mask.to(points.dtype))
        mask = mask.bool()
        events, _, length = mask.shape

        def normal(mean: float, width: float, channels: int = 1, slots: int = 1) -> Tensor:
            return torch.normal(mean, width, (events, channels, slots), device=points.device, dtype=points.dtype)

        if self.pt_dropout:
            mask = mask & (vectors[:, :2].norm(dim=1, keepdim=True) > normal(0, self.pt_dropout))
        scale, smear, shift = self.smearing
        if scale is None and smear is None and shift is None:
            return points, features, vectors, mask
        if scale:
            vectors = vectors * normal(1, scale)
        if smear:
            vectors = vectors * normal(1, smear, slots=length)
        if shift:
            pt, direction = to_ptrapphim(vectors, False, eps=0).split((1, 2), dim=1)
            vectors = from_ptrapphie(torch.cat((pt, direction + normal(0, shift, 2, length), vectors[:, 3:4]), dim=1))
        _, jet_rapidity, jet_phi = to_ptrapphim(vectors.sum(dim=2, keepdim=True), False, eps=0).split((1, 1, 1), dim=1)
        pt, rapidity, phi = to_ptrapphim(vectors, False, eps=0).split((1, 1, 1), dim=1)
        points = torch.cat((rapidity - jet_rapidity, delta_phi(phi, jet_phi)), dim=1)
        features = torch.cat((pt.log(), vectors[:, 3:4].log(), points), dim=1)
        return points, features.masked_fill(~mask, 0), vectors, mask


def _encoder(width_in: int, width: int, use_bn: bool) -> tuple[nn.Module, int]:
    """A normalization and a linear layer to `width` channels (0: the normalization alone). Returns it and the number of channels."""
    if width and width_in:
        return nn.Sequential(nn.BatchNorm2d(width_in), nn.Conv2d(width_in, width, 1, bias=False)), width
    return nn.BatchNorm2d(width_in) if use_bn and width_in else nn.Identity(), width_in


def _layer_params(given: Any) -> dict[str, Any]:
    """(k, channels[, scales[, message channels]]) or {k, c, rd, m} as arguments of `MultiScaleEdgeConv`."""
    if isinstance(given, dict):
        k, channels, scales, message = given["k"], given["c"], given["rd"], given.get("m")
    else:
        k, channels, scales, message = (*given, None, None)[:4]
    return {"num_neighbors": k, "out_dim": channels, "reduction_dilation": scales, "message_dim": message}
