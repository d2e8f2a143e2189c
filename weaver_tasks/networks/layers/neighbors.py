"""Find the nearest neighbors of each particle in an event, and build graphs of them without padding."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from weaver_tasks.networks.layers.masking import sum_per_event
from weaver_tasks.networks.layers.pair_features import delta_phi


def pairwise_distance(x: Tensor) -> Tensor:
    """Squared Euclidean distances of all pairs of points. x: (B, C, P) -> (B, P, P)."""
    products = torch.matmul(x.transpose(1, 2), x)
    squares = x.square().sum(dim=1, keepdim=True)  # (B, 1, P)
    return (squares.transpose(1, 2) + (-2 * products) + squares).clamp(min=0)


def pairwise_distance_etaphi(x: Tensor) -> Tensor:
    """Squared distances of points (eta, phi), phi periodic. x: (B, 2, P) -> (B, P, P)."""
    eta, phi = x.split((1, 1), dim=1)
    dphi = delta_phi(phi.unsqueeze(-1), phi.unsqueeze(-2))
    return dphi.square().sum(dim=1) + pairwise_distance(eta)


@torch.no_grad()
def knn(x: Tensor, k: int, distance_fn: Callable[[Tensor], Tensor] = pairwise_distance, exclude_self: bool = True) -> Tensor:
    """The k nearest points of each point. x: (B, C, P), P > k (P >= k with itself). Returns indices (B, P, k), nearest first.

    exclude_self: drop the nearest point, which is assumed to be the point itself.
    """
    skipped = int(exclude_self)
    return distance_fn(x).topk(k=k + skipped, dim=-1, largest=False, sorted=True)[1][:, :, skipped:]


@dataclass(frozen=True)
class Slots:
    """The map from slots of a padded batch to rows of a table: the R real particles, then one row for all padding.

    real: (B, P) bool; row: (B * P,) the row of each slot; particles: R.
    dense: each of the B * P slots has its own row (for exporters and compilers, which need fixed shapes).
    """

    real: Tensor
    row: Tensor
    particles: int
    dense: bool

    @classmethod
    def of(cls, real: Tensor, *, dense: bool) -> Slots:
        if dense:
            return cls(real, torch.empty(0), 0, True)
        flat = real.flatten()
        row = flat.cumsum(dim=0) - 1
        particles = int(row[-1]) + 1
        # Without any real particle, batch statistics can only be taken over the padded rows.
        return cls(real, row.masked_fill(~flat, particles), particles, particles == 0)

    @property
    def tail(self) -> int:
        """The number of rows at the end of the table that represent padding: 1, or 0 if dense."""
        return 0 if self.dense else 1

    @property
    def copies(self) -> int:
        """The number of padded slots that the last row represents."""
        return 0 if self.dense else self.real.numel() - self.particles

    def table(self, x: Tensor) -> Tensor:
        """The table of a batch that is padded with zeros. x: (B, C, P) -> (R + 1, C), or (B * P, C) if dense."""
        rows = x.transpose(1, 2)
        if self.dense:
            return rows.flatten(0, 1)
        return torch.cat((rows[self.real], rows.new_zeros(1, x.shape[1])))

    def batch(self, table: Tensor) -> Tensor:
        """The batch of a table, padded with zeros. (R + 1, C) -> (B, C, P)."""
        padded = table if self.dense else table.index_select(0, self.row)
        return padded.view(*self.real.shape, -1).transpose(1, 2).masked_fill(~self.real.unsqueeze(1), 0)

    def masked(self, table: Tensor) -> Tensor:
        """The table with all padding rows set to zero."""
        if self.dense:
            return table.masked_fill(~self.real.flatten().unsqueeze(1), 0)
        return torch.cat((table[:-1], torch.zeros_like(table[-1:])))

    def sums(self, table: Tensor) -> Tensor:
        """Sums over the particles of each event. (R + 1, C) -> (B, C)."""
        if self.dense:
            return self.masked(table).view(*self.real.shape, -1).sum(dim=1)
        return sum_per_event(table[:-1], self.real)


@dataclass(frozen=True)
class Edges:
    """Edges from each center to its k neighbors, both as rows of a table. Padded centers with only padded neighbors share one entry.

    centers: (E,) and neighbors: (E, k). Unless dense, the last center represents `copies` centers in training; in evaluation
    there are no padded centers.
    """

    centers: Tensor
    neighbors: Tensor
    copies: int
    tail: int

    @classmethod
    def of(cls, slots: Slots, nearest: Tensor, *, training: bool) -> Edges:
        """The edges to the nearest neighbors. nearest: (B, P, k) indices within each event, from `knn`."""
        events, length, k = nearest.shape
        first = torch.arange(events, device=nearest.device).view(-1, 1, 1) * length
        flat = (nearest + first).view(-1, k)
        if slots.dense:
            return cls(torch.arange(events * length, device=nearest.device), flat, 0, 0)
        neighbors = slots.row[flat]
        if not training:
            real = slots.real.flatten()
            return cls(slots.row[real], neighbors[real], 0, 0)
        # A padded slot may have real neighbors if its event has few padded slots.
        alive = slots.real.flatten() | (neighbors != slots.particles).any(dim=1)
        centers, neighbors = slots.row[alive], neighbors[alive]
        shared = neighbors.new_full((1, k), slots.particles)
        copies = slots.real.numel() - centers.shape[0]
        return cls(torch.cat((centers, shared[0, :1])), torch.cat((neighbors, shared)), copies, k)
