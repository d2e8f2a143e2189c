"""Particle Flow Network (arXiv:1810.05165) on the particles of a jet.

Input groups, in this order: pf_points, pf_features, pf_vectors, pf_mask (as in config/data/jetclass.yaml).
Options (network.options): Phi_sizes, F_sizes, use_bn.
"""

import torch

from weaver_tasks.networks.model_info import model_info
from weaver_tasks.networks.pfn import ParticleFlowNetwork


class Model(torch.nn.Module):
    ignores_padding = property(lambda self: self.mod.ignores_padding)  # prediction may cut off padding without changing scores

    def __init__(self, **options):
        super().__init__()
        self.mod = ParticleFlowNetwork(**options)

    def forward(self, points, features, lorentz_vectors, mask):
        return self.mod(features, mask)


def get_model(data_config, use_amp=False, compile_model=False, **options):
    model = Model(
        input_dims=len(data_config.input_dicts["pf_features"]),
        num_classes=len(data_config.label_value),
        **{"Phi_sizes": (128, 128, 128), "F_sizes": (128, 128, 128), **options},
    )
    return model, model_info(data_config)


def get_loss(data_config, **options):
    return torch.nn.CrossEntropyLoss()
