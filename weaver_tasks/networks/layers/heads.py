"""The output layers of a network."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

FcParams = Sequence[tuple[int, float]]


def fully_connected(width: int, num_classes: int, fc_params: FcParams, *, per_particle: bool = False) -> nn.Sequential:
    """Linear, ReLU and dropout for each (width, dropout), then a linear layer to the classes: (B, width) -> (B, num_classes).

    per_particle: apply the layers to each particle, with batch normalization: (B, width, P) -> (B, num_classes, P).
    """
    layers: list[nn.Module] = []
    for width_out, dropout in fc_params:
        if per_particle:
            convolution = nn.Conv1d(width, width_out, kernel_size=1, bias=False)
            layers.append(nn.Sequential(convolution, nn.BatchNorm1d(width_out), nn.ReLU(), nn.Dropout(dropout)))
        else:
            layers.append(nn.Sequential(nn.Linear(width, width_out), nn.ReLU(), nn.Dropout(dropout)))
        width = width_out
    layers.append(nn.Conv1d(width, num_classes, kernel_size=1) if per_particle else nn.Linear(width, num_classes))
    return nn.Sequential(*layers)
