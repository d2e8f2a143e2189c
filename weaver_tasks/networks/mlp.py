"""A multilayer perceptron for flat inputs."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class MultiLayerPerceptron(nn.Module):
    """Scores of events from flat features: linear, batch normalization, ReLU and dropout per layer.

    input_dims: number of features over all inputs; num_classes: outputs; layer_params: (width, dropout) of each layer.
    use_bn: batch normalization of the inputs and after each linear layer. for_inference: softmax of the outputs.
    """

    def __init__(
        self,
        input_dims: int,
        num_classes: int,
        layer_params: Sequence[tuple[int, float]] = ((128, 0.1), (128, 0.1), (128, 0.1)),
        use_bn: bool = True,
        for_inference: bool = False,
    ) -> None:
        super().__init__()

        def norm(width: int) -> nn.Module:
            return nn.BatchNorm1d(width) if use_bn else nn.Identity()

        self.input_bn = norm(input_dims)
        layers: list[nn.Module] = []
        width = input_dims
        for width_out, dropout in layer_params:
            layers.append(nn.Sequential(nn.Linear(width, width_out), norm(width_out), nn.ReLU(), nn.Dropout(dropout)))
            width = width_out
        layers.append(nn.Linear(width, num_classes))
        if for_inference:
            layers.append(nn.Softmax(dim=1))
        self.mlp = nn.Sequential(*layers)

    def forward(self, *inputs: Tensor) -> Tensor:
        """inputs: flat groups, (B, k) each, or (B,) for a group of one variable. Returns (B, num_classes)."""
        columns = [group if group.dim() == 2 else group.unsqueeze(1) for group in inputs]
        return self.mlp(self.input_bn(torch.cat(columns, dim=1)))
