"""ParticleNeXt (talk at ML4Jets 2021) on the particles of a jet.

Input groups, in this order: pf_points, pf_features, pf_vectors, pf_mask (as in config/data/jetclass.yaml).
Options (network.options): those of ParticleNeXt, such as layer_params, edge_aggregation, global_aggregation, trim.
"""

import torch

from weaver_tasks.networks.model_info import model_info
from weaver_tasks.networks.particle_next import ParticleNeXt


class Model(torch.nn.Module):
    def __init__(self, **options):
        super().__init__()
        self.mod = ParticleNeXt(**options)

    def forward(self, points, features, lorentz_vectors, mask):
        return self.mod(points, features, lorentz_vectors, mask)


def get_model(data_config, **options):
    defaults = {
        "node_dim": 32,
        "edge_dim": 8,
        "fc_params": [(256, 0.1)],
    }
    model = Model(
        feature_input_dim=len(data_config.input_dicts["pf_features"]),
        num_classes=len(data_config.label_value),
        **{**defaults, **options},
    )
    return model, model_info(data_config)


def get_loss(data_config, **options):
    return torch.nn.CrossEntropyLoss()
