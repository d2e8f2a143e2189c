"""The edge convolution of ParticleNeXt, which aggregates messages of neighbors at several scales with attention.

Shapes: B events, P slots, k neighbors, C channels, D coordinates. Features lie in the last dimension.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from weaver_tasks.networks.layers.batch_norm import apply_rows
from weaver_tasks.networks.layers.masking import attention_weights
from weaver_tasks.networks.layers.neighbors import knn, pairwise_distance_etaphi
from weaver_tasks.networks.layers.pair_features import pairwise_lv_fts, to_m2, to_pt2

MASKED = -1e9


@dataclass(frozen=True, kw_only=True)
class Graph:
    """The neighbors of all slots, and the features of each edge.

    neighbors: (B, P, k) indices, nearest first; null: (B, P, k), True if either end is padded; features: (B, P, k, E) or None;
    vectors: (B, P, k, 4) of the neighbors, or None; offsets: (B, P, k, D) from the center to the neighbor, or None.
    """

    neighbors: Tensor
    null: Tensor
    features: Tensor | None
    vectors: Tensor | None
    offsets: Tensor | None


@dataclass(frozen=True, kw_only=True)
class EdgeOptions:
    """The choice of edge features: of four-vectors (with or without the polarization angle), log distance of the points."""

    use_rel_lv_fts: bool
    use_polarization_angle: bool
    use_rel_dist: bool


def gathered(x: Tensor, neighbors: Tensor) -> Tensor:
    """The features of the neighbors. x: (B, P, C); neighbors: (B, P, k). Returns (B, P, k, C)."""
    events, length, _ = x.shape
    first = torch.arange(events, device=x.device).view(-1, 1, 1) * length
    return F.embedding(neighbors + first, x.flatten(0, 1))


def build_graph(
    points: Tensor, vectors: Tensor | None, real: Tensor, edges: Tensor | None, k: int, options: EdgeOptions, *, moving: bool
) -> Graph:
    """The graph of the k nearest points. Each point is its own first neighbor.

    points: (B, D, P); vectors: (B, 4, P) or None; real: (B, P); edges: (B, E, P, P) features from the input, or None.
    moving: True if points change from layer to layer, so that offsets are needed.
    """
    neighbors = knn(points, k, pairwise_distance_etaphi, exclude_self=False)
    null = ~(gathered(real.unsqueeze(2).float(), neighbors).squeeze(3).bool() & real.unsqueeze(2))
    features = []
    offsets = neighbor_vectors = None
    if moving or options.use_rel_dist:
        spots = points.transpose(1, 2)
        offsets = gathered(spots, neighbors) - spots.unsqueeze(2)
    if options.use_rel_dist and offsets is not None:
        features.append(offsets.norm(dim=3, keepdim=True).clamp(min=1e-8).log())
    if vectors is not None and options.use_rel_lv_fts:
        neighbor_vectors = gathered(vectors.transpose(1, 2), neighbors)
        features.append(_vector_features(vectors, neighbor_vectors, options.use_polarization_angle))
    if edges is not None:
        index = neighbors.unsqueeze(1).expand(-1, edges.shape[1], -1, -1)
        features.append(edges.gather(3, index).permute(0, 2, 3, 1))
    joined = torch.cat(features, dim=3) if features else None
    return Graph(neighbors=neighbors, null=null, features=joined, vectors=neighbor_vectors, offsets=offsets)


def _vector_features(vectors: Tensor, neighbors: Tensor, polarization: bool) -> Tensor:
    """ln kt, ln z, ln delta, ln m2 of each edge, and the cosine of the polarization angle if `polarization`. -> (B, P, k, 4 or 5)."""
    first, second = vectors.unsqueeze(3), neighbors.permute(0, 3, 1, 2)  # (B, 4, P, 1), (B, 4, P, k)
    features = pairwise_lv_fts(first, second, num_outputs=6 if polarization else 4).permute(0, 2, 3, 1)
    return features[..., [0, 1, 2, 3, 5]] if polarization else features


class SqueezeAndExcitation(nn.Module):
    """Multiply each channel by a factor computed from the mean over the event (arXiv:1709.01507)."""

    def __init__(self, channel: int, reduction: int = 16) -> None:
        super().__init__()
        inner = channel // reduction
        self.fc = nn.Sequential(nn.Linear(channel, inner, bias=False), nn.ReLU(), nn.Linear(inner, channel, bias=False), nn.Sigmoid())

    def forward(self, x: Tensor, counted: Tensor) -> Tensor:
        """x: (B, …, C); counted: (B, …), True for entries of the mean."""
        weights = counted.unsqueeze(-1).to(x.dtype)
        inner = tuple(range(1, x.dim() - 1))
        mean = (x * weights).sum(dim=inner) / weights.sum(dim=inner).clamp(min=1)  # (B, C)
        return x * self.fc(mean).view(x.shape[0], *([1] * len(inner)), -1)


def _norm_relu_conv(*widths: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for width_in, width in pairwise(widths):
        layers += [nn.BatchNorm2d(width_in), nn.ReLU(), nn.Conv2d(width_in, width, kernel_size=1, bias=False)]
    return nn.Sequential(*layers)


class MultiScaleEdgeConv(nn.Module):
    """New features of each particle: its own features plus gamma x the aggregated messages of its neighbors.

    node_dim, edge_dim, out_dim, message_dim: channels of particles, edges, output, messages (None: out_dim).
    reduction_dilation: the scales: (r, d) takes every d-th of the nearest k / r neighbors.
    edge_aggregation: sum, mean, max, attn (a weight per channel) or attn<n> (n weights, shared by the channels).
    use_rel_fts: messages use differences of features. update_coords: points move. lv_aggregation: pt and mass of the
    weighted sum of neighbors are features. use_node_se, use_edge_se: see `SqueezeAndExcitation`. init_scale: initial value of gamma.
    """

    def __init__(
        self,
        node_dim: int,
        edge_dim: int,
        num_neighbors: int,
        out_dim: int,
        reduction_dilation: Sequence[tuple[int, int]] | None = None,
        message_dim: int | None = None,
        edge_aggregation: str = "attn",
        use_rel_fts: bool = False,
        update_coords: bool = False,
        lv_aggregation: bool = False,
        use_node_se: bool = True,
        use_edge_se: bool = True,
        init_scale: float = 1e-5,
    ) -> None:
        super().__init__()
        self.k = num_neighbors
        self.use_rel_fts = use_rel_fts
        self.update_coords = update_coords
        self.edge_aggregation = edge_aggregation.lower()
        self.scales = [slice(None, num_neighbors // reduction, dilation) for reduction, dilation in reduction_dilation or [(1, 1)]]
        lengths = [len(range(num_neighbors)[scale]) for scale in self.scales]
        self.lengths = lengths if sum(lengths) < num_neighbors else None
        message_dim = message_dim or out_dim
        count = len(self.scales)

        self.node_encode = _norm_relu_conv(node_dim, message_dim // 2) if node_dim != message_dim // 2 else nn.Identity()
        self.edge_mlp = _norm_relu_conv(message_dim + edge_dim, message_dim, message_dim)
        self.edge_se = SqueezeAndExcitation(message_dim) if use_edge_se else None
        self.coords_mlp = nn.ModuleList(_norm_relu_conv(message_dim * count, 1) for _ in self.scales) if update_coords else None
        node_input_dim = message_dim * count
        self.sa: nn.ModuleList | None = None
        if self.edge_aggregation.startswith("attn"):
            attn_dim = int(self.edge_aggregation[4:] or message_dim)
            self.sa = nn.ModuleList(_norm_relu_conv(message_dim, attn_dim) for _ in self.scales)
            node_input_dim = max(message_dim, attn_dim) * count
        elif self.edge_aggregation not in ("sum", "mean", "max"):
            raise ValueError(f"edge_aggregation '{edge_aggregation}' is not known: use sum, mean, max, attn or attn<n>")
        self.lv_sa: nn.ModuleList | None = None
        if lv_aggregation:
            self.lv_sa = nn.ModuleList(_norm_relu_conv(message_dim, 1) for _ in self.scales)
            self.lv_encode = _norm_relu_conv(2 * count, 2 * count)
            node_input_dim += 2 * count
        self.node_mlp = _norm_relu_conv(node_input_dim, out_dim, out_dim)
        self.node_se = SqueezeAndExcitation(out_dim) if use_node_se else None
        self.shortcut = nn.Sequential(nn.Conv2d(node_dim, out_dim, kernel_size=1, bias=False)) if node_dim != out_dim else nn.Identity()
        self.gamma = nn.Parameter(init_scale * torch.ones((out_dim, 1, 1)))

    def forward(self, points: Tensor, features: Tensor, real: Tensor, graph: Graph) -> tuple[Tensor, Tensor]:
        """points: (B, D, P); features: (B, P, C); real: (B, P).

        Returns the points (moved if update_coords) and features (B, P, out_dim).
        """
        neighbors, null = graph.neighbors[:, :, : self.k], graph.null[:, :, : self.k]
        own = apply_rows(self.node_encode, features)
        other = gathered(own, neighbors)
        center = own.unsqueeze(2).expand_as(other)
        parts = [center, other - center if self.use_rel_fts else other]
        if graph.features is not None:
            parts.append(graph.features[:, :, : self.k])
        edges = torch.cat(parts, dim=3)
        if self.lengths is not None:
            edges, null = (torch.cat([part[:, :, scale] for scale in self.scales], dim=2) for part in (edges, null))
        message = apply_rows(self.edge_mlp, edges)
        if self.edge_se is not None:
            message = self.edge_se(message, ~null)
        aggregated, vectors = [], []
        for index, (part, hidden) in enumerate(zip(self._per_scale(message), self._per_scale(null), strict=True)):
            hidden = hidden.unsqueeze(3)
            if self.coords_mlp is not None and graph.offsets is not None:
                step = apply_rows(self.coords_mlp[index], part).masked_fill(hidden, 0)
                points = points + (step * graph.offsets[:, :, self.scales[index]]).sum(dim=2).transpose(1, 2)
            aggregated.append(self._aggregate(index, part, hidden))
            if self.lv_sa is not None and graph.vectors is not None:
                weight = attention_weights(apply_rows(self.lv_sa[index], part).masked_fill(hidden, MASKED), dim=2)
                total = (weight * graph.vectors[:, :, self.scales[index]]).sum(dim=2).transpose(1, 2)  # (B, 4, P)
                vectors += [to_pt2(total).log(), to_m2(total).log()]
        if vectors:
            aggregated.append(apply_rows(self.lv_encode, torch.cat(vectors, dim=1).transpose(1, 2)))
        node = apply_rows(self.node_mlp, torch.cat(aggregated, dim=2))
        if self.node_se is not None:
            node = self.node_se(node, real)
        return points, apply_rows(self.shortcut, features) + self.gamma.flatten() * node

    def _per_scale(self, x: Tensor) -> Sequence[Tensor]:
        return [x[:, :, scale] for scale in self.scales] if self.lengths is None else x.split(self.lengths, dim=2)

    def _aggregate(self, index: int, message: Tensor, hidden: Tensor) -> Tensor:
        """Aggregate the messages of one scale over the neighbors. message: (B, P, k', C); hidden: (B, P, k', 1). Returns (B, P, C')."""
        if self.sa is not None:
            weight = attention_weights(apply_rows(self.sa[index], message).masked_fill(hidden, MASKED), dim=2)
            return (tiled(weight, message.shape[3]) * tiled(message, weight.shape[3])).sum(dim=2)
        message = message.masked_fill(hidden, 0)
        if self.edge_aggregation == "max":
            return message.amax(dim=2)
        return message.sum(dim=2) if self.edge_aggregation == "sum" else message.mean(dim=2)


def tiled(x: Tensor, width: int) -> Tensor:
    """Repeat channels cyclically up to `width`. A single channel, or enough channels, stay unchanged. (…, C) -> (…, C')."""
    times = 1 if x.shape[-1] == 1 else max(width // x.shape[-1], 1)
    return x.repeat(*([1] * (x.dim() - 1)), times) if times > 1 else x
