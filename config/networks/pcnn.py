"""P-CNN (arXiv:1902.09914) on the particles of a jet, in the order of the input file.

Input groups, in this order: pf_points, pf_features, pf_vectors, pf_mask (as in config/data/jetclass.yaml).
Options (network.options): conv_params, fc_params.
"""

import torch

from weaver_tasks.networks.model_info import model_info
from weaver_tasks.networks.pcnn import ResNet


class Model(torch.nn.Module):
    def __init__(self, **options):
        super().__init__()
        self.mod = ResNet(**options)

    def forward(self, points, features, lorentz_vectors, mask):
        return self.mod(features, mask)


def get_model(data_config, use_amp=False, compile_model=False, **options):
    model = Model(
        features_dims=len(data_config.input_dicts["pf_features"]),
        num_classes=len(data_config.label_value),
        **options,
    )
    return model, model_info(data_config)


def get_loss(data_config, **options):
    return torch.nn.CrossEntropyLoss()
