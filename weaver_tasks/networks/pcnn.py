"""P-CNN: a residual convolutional network on the ordered list of the particles of a jet.

P-CNN of arXiv:1902.09914. By design the scores depend on the order of the particles and on the padding: convolutions see
neighbors in the list, and the mean is taken over all slots.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from weaver_tasks.networks.layers.heads import FcParams, fully_connected


class ResNetUnit(nn.Module):
    """Two convolutions of kernel size 3 with a shortcut. (B, C, P) -> (B, C', P / stride)."""

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv1d(in_channels, out_channels, kernel_size=3, stride=stride, padding=1)
        self.bn1 = nn.BatchNorm1d(out_channels)
        self.conv2 = nn.Conv1d(out_channels, out_channels, kernel_size=3, padding=1)
        self.bn2 = nn.BatchNorm1d(out_channels)
        self.conv_sc: nn.Conv1d | None = None
        if in_channels != out_channels or stride != 1:
            self.conv_sc = nn.Conv1d(in_channels, out_channels, kernel_size=1, stride=stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.conv_sc is None else self.conv_sc(x)
        x = F.relu(self.bn1(self.conv1(x)))
        return shortcut + F.relu(self.bn2(self.conv2(x)))


class ResNet(nn.Module):
    """Scores of jets from the features of their particles, in the order of the input.

    features_dims: features of a particle; num_classes: outputs.
    conv_params: channels of the first convolution, then of the units of each stage. Each stage after the first halves the length.
    fc_params: (width, dropout) of each layer after pooling. for_inference: softmax of the outputs.
    """

    def __init__(
        self,
        features_dims: int,
        num_classes: int,
        conv_params: Sequence[Sequence[int]] = ((32,), (64, 64), (64, 64), (128, 128)),
        fc_params: FcParams = ((512, 0.2),),
        for_inference: bool = False,
    ) -> None:
        super().__init__()
        width = conv_params[0][0]
        self.fts_conv = nn.Sequential(
            nn.BatchNorm1d(features_dims), nn.Conv1d(features_dims, width, kernel_size=3, padding=1), nn.BatchNorm1d(width), nn.ReLU()
        )
        self.resnet_units = nn.ModuleDict()
        for stage, channels in enumerate(conv_params[1:]):
            units = [
                ResNetUnit(before, after, stride=2 if stage > 0 and number == 0 else 1)
                for number, (before, after) in enumerate(pairwise((width, *channels)))
            ]
            self.resnet_units[f"resnet_unit_{stage}"] = nn.Sequential(*units)
            width = channels[-1]
        self.fc = fully_connected(width, num_classes, fc_params)
        if for_inference:
            self.fc.append(nn.Softmax(dim=1))

    def forward(self, features: Tensor, mask: Tensor) -> Tensor:
        """features: (B, C, P); mask: (B, 1, P), nonzero for real particles. Returns (B, num_classes)."""
        x = self.fts_conv(features.masked_fill(mask == 0, 0))
        for stage in self.resnet_units.values():
            x = stage(x)
        return self.fc(x.mean(dim=2))
