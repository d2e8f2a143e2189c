"""A Particle Flow Network (arXiv:1810.05165) as users write one: nothing but torch, every layer over all particle slots, padding included.

It knows nothing of this project: both weaver and `predict` run it as it is.
"""

import itertools

from torch import nn


class PaddedPFN(nn.Module):
    """F(sum_i mask_i Phi(p_i)); features: (B, C, P), mask: (B, 1, P). Returns (B, classes)."""

    def __init__(self, features, classes, width=128, layers=3):
        super().__init__()
        pairs = itertools.pairwise([features, *[width] * layers])
        self.phi = nn.Sequential(*(nn.Sequential(nn.Conv1d(before, after, 1), nn.ReLU()) for before, after in pairs))
        self.f = nn.Sequential(*(nn.Sequential(nn.Linear(width, width), nn.ReLU()) for _ in range(layers)), nn.Linear(width, classes))

    def forward(self, points, features, lorentz_vectors, mask):
        return self.f((self.phi(features) * mask).sum(dim=2))


def get_model(data_config, **options):
    model = PaddedPFN(len(data_config.input_dicts["pf_features"]), len(data_config.label_value), **options)
    names = list(data_config.input_names)
    return model, {
        "input_names": names,
        "input_shapes": {name: (1, *shape[1:]) for name, shape in data_config.input_shapes.items()},
        "output_names": ["softmax"],
        "dynamic_axes": {**{name: {0: "N", 2: "n_" + name.split("_")[0]} for name in names}, "softmax": {0: "N"}},
    }


def get_loss(data_config, **options):
    return nn.CrossEntropyLoss()
