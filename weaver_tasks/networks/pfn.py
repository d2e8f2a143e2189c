"""Particle Flow Network: one function of each particle, summed over the jet, then a function of the sum.

P. T. Komiske, E. M. Metodiev, J. Thaler, "Energy Flow Networks", arXiv:1810.05165, eq. 1.2: F(sum_i Phi(p_i)).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

from weaver_tasks.networks.layers.masking import exporting, pack, pointwise, sum_per_event


class ParticleFlowNetwork(nn.Module):
    """Scores of jets from their particles, independent of order and padding.

    Padded particles contribute exactly nothing to the sum and, with `use_bn`, to the batch statistics.

    input_dims: features of a particle; num_classes: outputs.
    Phi_sizes, F_sizes: widths of the layers of Phi (per particle) and of F (per jet).
    use_bn: batch normalization of the inputs and after each layer of Phi.
    for_inference: softmax of the outputs.
    """

    ignores_padding = True

    def __init__(
        self,
        input_dims: int,
        num_classes: int,
        Phi_sizes: Sequence[int] = (100, 100, 128),
        F_sizes: Sequence[int] = (100, 100, 100),
        use_bn: bool = False,
        for_inference: bool = False,
    ) -> None:
        super().__init__()

        def norm(width: int) -> nn.Module:
            return nn.BatchNorm1d(width) if use_bn else nn.Identity()

        self.input_bn = norm(input_dims)
        self.phi = nn.Sequential(
            *(
                nn.Sequential(nn.Conv1d(width_in, width, kernel_size=1), norm(width), nn.ReLU())
                for width_in, width in pairwise((input_dims, *Phi_sizes))
            )
        )
        layers: list[nn.Module] = [
            nn.Sequential(nn.Linear(width_in, width), nn.ReLU()) for width_in, width in pairwise((Phi_sizes[-1], *F_sizes))
        ]
        layers.append(nn.Linear(F_sizes[-1] if F_sizes else Phi_sizes[-1], num_classes))
        if for_inference:
            layers.append(nn.Softmax(dim=1))
        self.fc = nn.Sequential(*layers)

    def forward(self, features: Tensor, mask: Tensor) -> Tensor:
        """features: (B, C, P); mask: (B, 1, P), nonzero for real particles. Returns (B, num_classes)."""
        if exporting():
            latent = self.phi(self.input_bn(features))  # (B, C', P)
            return self.fc(latent.masked_fill(mask == 0, 0).sum(dim=2))
        real = mask.squeeze(1) != 0  # (B, P)
        x = self.input_bn(pack(features, real))  # (R, C)
        for layer in self.phi:
            convolution, norm, activation = layer.children()
            x = activation(norm(pointwise(convolution, x)))  # (R, C')
        return self.fc(sum_per_event(x, real))
