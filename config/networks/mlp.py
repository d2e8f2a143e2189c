"""A multilayer perceptron on all flat inputs (groups with `length: null`), concatenated.

Options (network.options): layer_params, use_bn.
"""

import torch

from weaver_tasks.networks.mlp import MultiLayerPerceptron
from weaver_tasks.networks.model_info import model_info


def get_model(data_config, use_amp=False, compile_model=False, **options):
    model = MultiLayerPerceptron(
        input_dims=sum(len(variables) for variables in data_config.input_dicts.values()),
        num_classes=len(data_config.label_value),
        **options,
    )
    return model, model_info(data_config)


def get_loss(data_config, **options):
    return torch.nn.CrossEntropyLoss()
