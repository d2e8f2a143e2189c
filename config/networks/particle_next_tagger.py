"""ParticleNeXt (talk at ML4Jets 2021) on the particles and the secondary vertices of a jet.

Input groups, in this order: pf_points, pf_features, pf_vectors, pf_mask, sv_points, sv_features, sv_vectors, sv_mask.
Options (network.options): those of ParticleNeXtTagger, such as layer_params, pf_input_dropout, sv_input_dropout.
"""

import torch

from weaver_tasks.networks.model_info import model_info
from weaver_tasks.networks.particle_next_taggers import ParticleNeXtTagger


def get_model(data_config, **options):
    defaults = {
        "node_dim": 32,
        "edge_dim": 8,
    }
    model = ParticleNeXtTagger(
        pf_features_dims=len(data_config.input_dicts["pf_features"]),
        sv_features_dims=len(data_config.input_dicts["sv_features"]),
        num_classes=len(data_config.label_value),
        **{**defaults, **options},
    )
    return model, model_info(data_config)


def get_loss(data_config, **options):
    return torch.nn.CrossEntropyLoss()
