"""ParticleNet (arXiv:1902.08570) on the particles and the secondary vertices of a jet.

Input groups, in this order: pf_points, pf_features, pf_mask, sv_points, sv_features, sv_mask.
Options (network.options): those of ParticleNetTagger, such as conv_params, fc_params, pf_input_dropout, sv_input_dropout.
"""

import torch

from weaver_tasks.networks.model_info import model_info
from weaver_tasks.networks.particle_net_tagger import ParticleNetTagger


def get_model(data_config, **options):
    defaults = {
        "conv_params": [(16, (64, 64, 64)), (16, (128, 128, 128)), (16, (256, 256, 256))],
        "fc_params": [(256, 0.1)],
    }
    model = ParticleNetTagger(
        pf_features_dims=len(data_config.input_dicts["pf_features"]),
        sv_features_dims=len(data_config.input_dicts["sv_features"]),
        num_classes=len(data_config.label_value),
        **{**defaults, **options},
    )
    return model, model_info(data_config)


def get_loss(data_config, **options):
    return torch.nn.CrossEntropyLoss()
