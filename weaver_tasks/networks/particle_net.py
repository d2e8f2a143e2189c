"""ParticleNet: edge convolutions on the graph of each particle's nearest neighbors.

H. Qu, L. Gouskos, "ParticleNet: Jet Tagging via Particle Clouds", arXiv:1902.08570. Weights are interchangeable with
those of weaver-core. This implementation computes less: layers run on the real particles only, and the first layer of
each edge convolution, being linear in both particles of an edge, runs on particles instead of edges.

Shapes: B events, P slots, R real particles, E centers of edges, k neighbors, C channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from weaver_tasks.networks.layers.batch_norm import folded, norm
from weaver_tasks.networks.layers.heads import FcParams, fully_connected
from weaver_tasks.networks.layers.masking import exporting, pointwise
from weaver_tasks.networks.layers.neighbors import Edges, Slots, knn
from weaver_tasks.networks.layers.trimming import SequenceTrimmer

ConvParams = Sequence[tuple[int, Sequence[int]]]

_CACHED_ELEMENTS = 1 << 18  # edge features per chunk in evaluation on a CPU, so that a chunk fits into its cache


class EdgeConvBlock(nn.Module):
    """x_i' = ReLU(shortcut(x_i) + mean over the k neighbors j of h(x_i, x_j - x_i)), h with several layers (arXiv:1902.08570, sec. 3.1).

    k: neighbors; in_feat: channels of the input; out_feats: channels of the layers of h, each with batch normalization and ReLU.
    """

    def __init__(self, k: int, in_feat: int, out_feats: Sequence[int]) -> None:
        super().__init__()
        self.k = k
        self.convs = nn.ModuleList(
            nn.Conv2d(width_in, width, kernel_size=1, bias=False) for width_in, width in pairwise((2 * in_feat, *out_feats))
        )
        self.bns = nn.ModuleList(nn.BatchNorm2d(width) for width in out_feats)
        self.sc: nn.Module | None = None
        if in_feat != out_feats[-1]:
            self.sc = nn.Conv1d(in_feat, out_feats[-1], kernel_size=1, bias=False)
            self.sc_bn = nn.BatchNorm1d(out_feats[-1])

    def forward(self, points: Tensor, table: Tensor, slots: Slots) -> Tensor:
        """points: (B, D, P), padded points far away; table: (R + 1, C), see Slots. Returns (R + 1, C'), zero where padded."""
        edges = Edges.of(slots, knn(points, self.k), training=self.training)
        message = (self._train if self.training else self._evaluate)(table, edges)
        shortcut = table
        if self.sc is not None:
            shortcut = norm(self.sc_bn, pointwise(self.sc, table), tail=slots.tail, copies=slots.copies, relu=False)
        if slots.dense:
            return slots.masked(F.relu(shortcut + message))
        if edges.tail:
            message = message[:-1][edges.centers[:-1] != slots.particles]
        particles = F.relu(shortcut[:-1] + message)
        return torch.cat((particles, torch.zeros_like(shortcut[-1:])))

    def _train(self, table: Tensor, edges: Edges) -> Tensor:
        x = _first_layer(table, edges, *self._split_weight())  # (E, k, C)
        centers, k, _ = x.shape
        for index, bn in enumerate(self.bns):
            x = x.view(centers * k, -1) if index == 0 else pointwise(self.convs[index], x)
            x = norm(bn, x, tail=edges.tail, copies=edges.copies)
        return x.view(centers, k, -1).mean(dim=1)

    def _evaluate(self, table: Tensor, edges: Edges) -> Tensor:
        """Evaluate with the normalizations folded into the weights, in chunks of centers."""
        scales, shifts = zip(*(folded(bn) for bn in self.bns), strict=True)
        own, other = self._split_weight()
        own, other = own * scales[0].unsqueeze(1), other * scales[0].unsqueeze(1)
        weights = [conv.weight.flatten(1) * scale.unsqueeze(1) for conv, scale in zip(self.convs, scales, strict=True)]
        if exporting() or table.device.type != "cpu":
            parts = [edges]
        else:
            step = max(_CACHED_ELEMENTS // (self.k * max(len(shift) for shift in shifts)), 1)
            pairs = zip(edges.centers.split(step), edges.neighbors.split(step), strict=True)
            parts = [Edges(centers, neighbors, 0, 0) for centers, neighbors in pairs]
        projected = F.linear(table, own, shifts[0]), F.linear(table, other)
        messages = []
        for part in parts:
            x = F.relu(_gathered(*projected, part))
            for weight, shift in zip(weights[1:], shifts[1:], strict=True):
                x = F.relu(F.linear(x, weight, shift))
            messages.append(x.mean(dim=1))
        return torch.cat(messages)

    def _split_weight(self) -> tuple[Tensor, Tensor]:
        """W of the first layer acts on (x_i, x_j - x_i): W_1 x_i + W_2 (x_j - x_i) = (W_1 - W_2) x_i + W_2 x_j."""
        first, second = self.convs[0].weight.flatten(1).chunk(2, dim=1)
        return first - second, second


def _first_layer(table: Tensor, edges: Edges, own: Tensor, other: Tensor) -> Tensor:
    return _gathered(F.linear(table, own), F.linear(table, other), edges)


def _gathered(own: Tensor, other: Tensor, edges: Edges) -> Tensor:
    """own_i + other_j for each edge from center i to neighbor j. (R + 1, C) each -> (E, k, C)."""
    # use embedding instead of indexing: its gradient is faster
    return F.embedding(edges.neighbors, other) + F.embedding(edges.centers, own).unsqueeze(1)


class ParticleNet(nn.Module):
    """Scores of jets (or of particles) from a particle cloud; permuting or padding particles changes nothing.

    input_dims: features of a particle; num_classes: outputs.
    conv_params: (k, channels of its layers) of each edge convolution; fc_params: (width, dropout) of each layer after pooling.
    use_fusion: a last layer sees the outputs of all edge convolutions; use_fts_bn: batch normalization of the features;
    use_counts: take the mean over the real particles instead of all slots.
    trim: see SequenceTrimmer. for_inference: softmax of the outputs. for_segmentation: outputs of each particle, (B, num_classes, P).
    use_amp: padded particles lie at a distance that half precision can hold.
    """

    def __init__(
        self,
        input_dims: int,
        num_classes: int,
        conv_params: ConvParams = ((7, (32, 32, 32)), (7, (64, 64, 64))),
        fc_params: FcParams = ((128, 0.1),),
        use_fusion: bool = True,
        use_fts_bn: bool = True,
        use_counts: bool = True,
        trim: bool = True,
        for_inference: bool = False,
        for_segmentation: bool = False,
        use_amp: bool = False,
        compile_model: bool = False,
    ) -> None:
        super().__init__()
        self.min_length = max(k for k, _ in conv_params) + 1
        self.trimmer = SequenceTrimmer(enabled=trim and not for_inference, round_to_32=compile_model, min_length=self.min_length)
        self.use_counts = use_counts
        self.for_inference = for_inference
        self.for_segmentation = for_segmentation
        self.coord_shift = 99.0 if use_amp else 1e9

        self.bn_fts = nn.BatchNorm1d(input_dims) if use_fts_bn else None
        widths = [input_dims, *(channels[-1] for _, channels in conv_params)]
        self.edge_convs = nn.ModuleList(
            EdgeConvBlock(k, width, channels) for (k, channels), width in zip(conv_params, widths[:-1], strict=True)
        )
        width = widths[-1]
        self.fusion_block: nn.Sequential | None = None
        if use_fusion:
            width_in = sum(widths[1:])
            width = min(max(width_in // 128 * 128, 128), 1024)
            self.fusion_block = nn.Sequential(nn.Conv1d(width_in, width, kernel_size=1, bias=False), nn.BatchNorm1d(width), nn.ReLU())
        self.fc = fully_connected(width, num_classes, fc_params, per_particle=for_segmentation)

    @property
    def ignores_padding(self) -> bool:
        """See `trimming.ignores_padding`. False without use_counts (mean over all slots), and for segmentation (output of each slot)."""
        return self.use_counts and not self.for_segmentation

    def forward(self, points: Tensor, features: Tensor, mask: Tensor | None = None) -> Tensor:
        """points: (B, D, P) coordinates of the first graph; features: (B, C, P); mask: (B, 1, P), nonzero for real particles.

        Returns (B, num_classes), or (B, num_classes, P') for segmentation, P' after trimming.
        """
        points, features, mask, _ = self.trimmer(points, features, mask=mask)
        if not exporting() and features.shape[-1] < self.min_length:
            missing = (0, self.min_length - features.shape[-1])
            points, features, mask = F.pad(points, missing), F.pad(features, missing), F.pad(mask, missing)
        if self.bn_fts is not None:
            features = self.bn_fts(features)
        features = features.masked_fill(~mask, 0)
        slots = Slots.of(mask.squeeze(1), dense=exporting() or torch.compiler.is_compiling())
        table = self._convolve(points, slots.table(features), slots)
        if self.for_segmentation:
            x = slots.batch(table)  # (B, C, P)
        else:
            counts = mask.sum(dim=2).clamp(min=1) if self.use_counts else mask.shape[2]
            x = slots.sums(table) / counts  # (B, C)
        output = self.fc(x)
        return output.softmax(dim=1) if self.for_inference else output

    def _convolve(self, points: Tensor, table: Tensor, slots: Slots) -> Tensor:
        padded = ~slots.real.unsqueeze(1)  # (B, 1, P)
        outputs = []
        for index, convolution in enumerate(self.edge_convs):
            with torch.no_grad():
                coordinates = points if index == 0 else slots.batch(table)
                coordinates = coordinates.masked_fill(padded, self.coord_shift)
            table = convolution(coordinates, table, slots)
            outputs.append(table)
        if self.fusion_block is None:
            return table
        convolution, bn, _ = self.fusion_block
        return slots.masked(norm(bn, pointwise(convolution, torch.cat(outputs, dim=1)), tail=slots.tail, copies=slots.copies))
