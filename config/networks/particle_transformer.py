"""Particle Transformer (arXiv:2202.03772) on the particles of a jet, as published for JetClass.

Input groups, in this order: pf_points, pf_features, pf_vectors, pf_mask (as in config/data/jetclass.yaml).
Options (network.options): those of ParticleTransformer, such as num_layers, embed_dims, block_params, version, trim.
"""

import torch

from weaver_tasks.networks.model_info import model_info
from weaver_tasks.networks.particle_transformer import ParticleTransformer


class Model(torch.nn.Module):
    ignores_padding = property(lambda self: self.mod.ignores_padding)  # prediction may cut off padding without changing scores

    def __init__(self, **options):
        super().__init__()
        self.mod = ParticleTransformer(**options)

    @torch.jit.ignore
    def no_weight_decay(self):
        return {"mod.cls_token"}

    def forward(self, points, features, lorentz_vectors, mask):
        return self.mod(features, v=lorentz_vectors, mask=mask)


def get_model(data_config, **options):
    defaults = {
        "pair_input_dim": 4,
        "use_pre_activation_pair": False,
        "embed_dims": [128, 512, 128],
        "pair_embed_dims": [64, 64, 64],
        "num_heads": 8,
        "num_layers": 8,
        "num_cls_layers": 2,
        "cls_block_params": {"dropout": 0, "attn_dropout": 0, "activation_dropout": 0},
    }
    model = Model(
        input_dim=len(data_config.input_dicts["pf_features"]),
        num_classes=len(data_config.label_value),
        **{**defaults, **options},
    )
    return model, model_info(data_config)


def get_loss(data_config, **options):
    return torch.nn.CrossEntropyLoss()
