"""A small Particle Flow Network whose training can be held, or made to take all memory, in the middle of the second epoch.

While a file `hold` lies in the working folder, the third step after epoch 0 writes `held` and waits; while `hog` does, it fills the memory.
"""

import time
from pathlib import Path

import torch

from weaver_tasks.networks.model_info import model_info
from weaver_tasks.networks.pfn import ParticleFlowNetwork


class Held(torch.nn.Module):
    def __init__(self, **options):
        super().__init__()
        self.mod = ParticleFlowNetwork(**options)
        self.steps = 0

    def forward(self, points, features, lorentz_vectors, mask):
        if self.training and Path("results/small/metrics/train_epoch-0.json").exists():
            self.steps += 1
            if self.steps == 3:
                wait_or_fill()
        return self.mod(features, mask)


def wait_or_fill():
    if Path("hold").exists():
        Path("held").touch()
    while Path("hold").exists():
        time.sleep(0.1)
    filled = []
    while Path("hog").exists() and len(filled) < 40:
        filled.append(torch.ones(25_000_000))  # 100 MB
        time.sleep(0.2)


def get_model(data_config, **options):
    sizes = {"Phi_sizes": (16, 16), "F_sizes": (16,)}
    model = Held(input_dims=len(data_config.input_dicts["pf_features"]), num_classes=len(data_config.label_value), **sizes)
    return model, model_info(data_config)
