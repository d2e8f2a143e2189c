"""The interaction matrix of Particle Transformer: features of pairs of particles, embedded into an attention bias.

arXiv:2202.03772, sec. 4. Only pairs of real particles are computed and, if features are symmetric, each pair only once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from weaver_tasks.networks.layers.batch_norm import folded
from weaver_tasks.networks.layers.masking import Layout, Tokens, exporting, pointwise
from weaver_tasks.networks.layers.pair_features import pairwise_lv_fts_ee, pairwise_lv_fts_pp, pairwise_lv_fts_xyzt
from weaver_tasks.networks.particle_transformer.layers import activation_module

_CACHED_ROWS = 4096  # pairs per chunk in evaluation on a CPU, so that their features fit into its cache


class PairEmbed(nn.Module):
    """Embed features of pairs into a bias (B, H, P, P), which is zero if one of the two particles is padded.

    pairwise_lv_dim: number of features of the four-vectors (see `pair_features`), 0: none; pairwise_lv_type: pp, ee, xyzt or xyzt:<coords>.
    pairwise_input_dim: number of pair features from the input. dims: widths of the embedding; the last one is the number of heads.
    remove_self_pair: no bias of a particle with itself. use_pre_activation_pair: no activation after the last layer.
    sparse_eval: whether only real pairs enter the batch statistics (in training, in evaluation), rather than all slots.
    """

    def __init__(
        self,
        pairwise_lv_dim: int,
        pairwise_input_dim: int,
        dims: Sequence[int],
        pairwise_lv_type: str = "pp",
        remove_self_pair: bool = False,
        use_pre_activation_pair: bool = True,
        normalize_input: bool = True,
        activation: str = "gelu",
        use_bias: bool = True,
        eps: float = 1e-8,
        sparse_eval: tuple[bool, bool] = (True, True),
    ) -> None:
        super().__init__()
        self.features, symmetric_up_to = _pair_features(pairwise_lv_type, pairwise_lv_dim, eps)
        self.is_symmetric = pairwise_lv_dim <= symmetric_up_to and pairwise_input_dim == 0
        self.remove_self_pair = remove_self_pair
        self.sparse_eval = sparse_eval

        def layers(width: int) -> nn.Sequential:
            modules: list[nn.Module] = [nn.BatchNorm1d(width)] if normalize_input else []
            for dim in dims:
                modules += [nn.Conv1d(width, dim, 1, bias=use_bias), nn.BatchNorm1d(dim), activation_module(activation)]
                width = dim
            return nn.Sequential(*(modules[:-1] if use_pre_activation_pair else modules))

        self.embed = layers(pairwise_lv_dim) if pairwise_lv_dim > 0 else None
        self.fts_embed = layers(pairwise_input_dim) if pairwise_input_dim > 0 else None

    def forward(self, x: Tensor | None, uu: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """x: (B, 4, P) vectors; uu: (B, C', P, P) given features; mask: (B, 1, P). Returns (B, H, P, P)."""
        given = x if x is not None else uu
        assert given is not None
        real = torch.ones_like(given[:, 0, 0], dtype=torch.bool) if given.dim() == 4 else torch.ones_like(given[:, 0], dtype=torch.bool)
        return self.biases(x, uu, Layout.of(real if mask is None else mask.squeeze(1).bool(), dense=True))[0]

    def is_sparse(self) -> bool:
        """Whether only pairs of real particles are used in the current mode (training or evaluation)."""
        return self.sparse_eval[0 if self.training else 1]

    def biases(self, x: Tensor | None, uu: Tensor | None, layout: Layout) -> list[Tensor]:
        """The bias for each group of a layout: (B, H, L, L), zero if one of the two particles is padded."""
        if exporting():
            return [self._grid(x, uu)]
        pairs = [self._pairs(group) for group in layout.groups]  # event of the group, i, j of each pair
        starts = _first_rows(layout)
        first = torch.cat([start[event] + i for start, (event, i, _) in zip(starts, pairs, strict=True)])
        second = torch.cat([start[event] + j for start, (event, _, j) in zip(starts, pairs, strict=True)])
        lv_rows = given_rows = None
        if x is not None:
            vectors = layout.whole.pack(x.transpose(1, 2))  # (R, 4)
            lv_rows = self.features(vectors[first], vectors[second])
        if uu is not None:
            given_rows = _given_features(uu, layout, first, second)
        rows = self._embed(lv_rows, given_rows).split([len(event) for event, _, _ in pairs])
        return [self._scattered(part, where, group) for part, where, group in zip(rows, pairs, layout.groups, strict=True)]

    def _pairs(self, group: Tokens) -> tuple[Tensor, ...]:
        real = group.real if self.is_sparse() else torch.ones_like(group.real)
        wanted = real.unsqueeze(1) & real.unsqueeze(2)
        if self.is_symmetric:
            wanted = wanted.tril(-1 if self.remove_self_pair else 0)
        return wanted.nonzero(as_tuple=True)

    def _scattered(self, rows: Tensor, where: tuple[Tensor, ...], group: Tokens) -> Tensor:
        """Scatter rows of pairs into a matrix, in both directions if symmetric. (pairs, H) -> (B, H, L, L)."""
        events, length = group.real.shape
        event, i, j = where
        bias = rows.new_zeros(events * length * length, rows.shape[1]).index_copy(0, (event * length + i) * length + j, rows)
        if self.is_symmetric:
            bias = bias.index_copy(0, (event * length + j) * length + i, rows)
        return bias.view(events, length, length, -1).permute(0, 3, 1, 2).contiguous()

    def _grid(self, x: Tensor | None, uu: Tensor | None) -> Tensor:
        """Compute all pairs of slots, a number that exporters can trace."""
        given = None if x is None else self.features(x.unsqueeze(-1), x.unsqueeze(-2)).permute(0, 2, 3, 1)
        bias = self._embed(given, None if uu is None else uu.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        if self.is_symmetric and self.remove_self_pair:
            slots = torch.arange(bias.shape[-1], device=bias.device)
            bias = bias.masked_fill(slots.unsqueeze(0) == slots.unsqueeze(1), 0)
        return bias

    def _embed(self, lv_rows: Tensor | None, given_rows: Tensor | None) -> Tensor:
        parts = [
            _applied(layers, rows)
            for layers, rows in ((self.embed, lv_rows), (self.fts_embed, given_rows))
            if layers is not None and rows is not None
        ]
        return parts[0] if len(parts) == 1 else parts[0] + parts[1]


def _first_rows(layout: Layout) -> list[Tensor]:
    """The index of the first row of each event, counted over all groups: (B,) for each group."""
    before, parts = 0, []
    for group in layout.groups:
        parts.append(group.first_rows() + before)
        before += group.rows
    return parts


def _given_features(uu: Tensor, layout: Layout, first: Tensor, second: Tensor) -> Tensor:
    """The input features of pairs of rows. uu: (B, C', P, P); first, second: (pairs,). Returns (pairs, C')."""
    length = uu.shape[-1]
    slots = torch.arange(uu.shape[0] * length, device=uu.device) if layout.whole.index is None else layout.whole.index
    event, i = slots[first] // length, slots[first] % length
    return uu.permute(0, 2, 3, 1)[event, i, slots[second] % length]


def _pair_features(kind: str, count: int, eps: float) -> tuple[Callable[[Tensor, Tensor], Tensor], int]:
    """A function that computes pair features from two sets of vectors, and the number of features up to which it is symmetric."""
    if kind == "pp":
        return partial(pairwise_lv_fts_pp, num_outputs=count, eps=eps), 5
    if kind == "ee":
        return partial(pairwise_lv_fts_ee, num_outputs=count, eps=eps), 6
    if kind.partition(":")[0] == "xyzt":
        return partial(pairwise_lv_fts_xyzt, num_outputs=count, coords=kind.partition(":")[2] or None, eps=eps), 3
    raise ValueError(f"pair_input_type '{kind}' is not known: use pp, ee, xyzt or xyzt:<coordinates>")


def _applied(layers: nn.Sequential, x: Tensor) -> Tensor:
    """Apply layers of a convolution over pairs to the last dimension. (…, C) -> (…, C')."""
    if layers.training:
        for layer in layers:
            x = pointwise(layer, x) if isinstance(layer, nn.Conv1d) else layer(x)
        return x
    steps = _folded(layers)
    if exporting() or x.device.type != "cpu" or x.shape[0] <= _CACHED_ROWS:
        return _run(steps, x)
    return torch.cat([_run(steps, part) for part in x.split(_CACHED_ROWS)])


Step = tuple[Tensor, Tensor] | nn.Module


def _folded(layers: nn.Sequential) -> list[Step]:
    """The layers in evaluation, with normalizations folded into convolutions: the first into the next one, others into the previous one."""
    steps: list[Step] = []
    before: tuple[Tensor, Tensor] | None = None
    for layer in layers:
        if isinstance(layer, nn.Conv1d):
            weight = layer.weight.flatten(1)
            bias = weight.new_zeros(weight.shape[0]) if layer.bias is None else layer.bias
            if before is not None:
                weight, bias, before = weight * before[0], bias + weight @ before[1], None
            steps.append((weight, bias))
        elif isinstance(layer, nn.BatchNorm1d):
            scale, shift = folded(layer)
            if steps:
                weight, bias = steps.pop()  # type: ignore[misc]
                steps.append((weight * scale.unsqueeze(1), bias * scale + shift))
            else:
                before = scale, shift
        else:
            steps.append(layer)
    return steps


def _run(steps: Sequence[Step], x: Tensor) -> Tensor:
    for step in steps:
        x = step(x) if isinstance(step, nn.Module) else nn.functional.linear(x, *step)
    return x


def build_sparse_tensor(uu: Tensor, idx: Tensor, seq_len: int) -> Tensor:
    """Pair features from a list of pairs. uu: (B, C, N); idx: (B, 2, N) slots (seq_len or larger: no pair). Returns (B, C, P, P).

    Features of a pair that is listed twice add up.
    """
    events, channels, _ = uu.shape
    i, j = idx.clamp(max=seq_len).unbind(1)  # (B, N)
    flat = (i * (seq_len + 1) + j).unsqueeze(1).expand_as(uu)
    grid = uu.new_zeros(events, channels, (seq_len + 1) ** 2).scatter_add(2, flat, uu)
    return grid.view(events, channels, seq_len + 1, seq_len + 1)[:, :, :seq_len, :seq_len]
