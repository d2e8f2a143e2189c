"""ParticleNet (arXiv:1902.08570) on the particles of a jet, as published for JetClass.

Input groups, in this order: pf_points, pf_features, pf_vectors, pf_mask (as in config/data/jetclass.yaml).
Options (network.options): those of ParticleNet, such as conv_params, fc_params, use_fusion, use_counts, trim.
"""

import torch

from weaver_tasks.networks.model_info import model_info
from weaver_tasks.networks.particle_net import ParticleNet


class Model(torch.nn.Module):
    ignores_padding = property(lambda self: self.mod.ignores_padding)  # prediction may cut off padding without changing scores

    def __init__(self, **options):
        super().__init__()
        self.mod = ParticleNet(**options)

    def forward(self, points, features, lorentz_vectors, mask):
        return self.mod(points, features, mask)


def get_model(data_config, **options):
    defaults = {
        "conv_params": [(16, (64, 64, 64)), (16, (128, 128, 128)), (16, (256, 256, 256))],
        "fc_params": [(256, 0.1)],
        "use_fusion": False,
    }
    model = Model(
        input_dims=len(data_config.input_dicts["pf_features"]),
        num_classes=len(data_config.label_value),
        **{**defaults, **options},
    )
    return model, model_info(data_config)


def get_loss(data_config, **options):
    return torch.nn.CrossEntropyLoss()
