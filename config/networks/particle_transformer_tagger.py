"""Particle Transformer (arXiv:2202.03772) on the particles and the secondary vertices of a jet.

Input groups, in this order: pf_features, pf_vectors, pf_mask, sv_features, sv_vectors, sv_mask.
Options (network.options): those of ParticleTransformer, such as num_layers, embed_dims, block_params, version.
"""

import torch

from weaver_tasks.networks.model_info import model_info
from weaver_tasks.networks.particle_transformer_taggers import ParticleTransformerTagger


def get_model(data_config, **options):
    defaults = {
        "pair_input_dim": 4,
        "use_pre_activation_pair": False,
        "cls_block_params": {"dropout": 0, "attn_dropout": 0, "activation_dropout": 0},
    }
    model = ParticleTransformerTagger(
        pf_input_dim=len(data_config.input_dicts["pf_features"]),
        sv_input_dim=len(data_config.input_dicts["sv_features"]),
        num_classes=len(data_config.label_value),
        **{**defaults, **options},
    )
    return model, model_info(data_config)


def get_loss(data_config, **options):
    return torch.nn.CrossEntropyLoss()
