"""Trainings in memory, and JetClass's input groups as network configurations of weaver's users read them."""

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from memory_run import chain, events  # noqa: F401

GROUPS = {"pf_points": 2, "pf_features": 17, "pf_vectors": 4, "pf_mask": 1}
LENGTH = 16


@pytest.fixture(scope="session")
def data_configuration() -> SimpleNamespace:
    """What network configurations read of a data configuration."""
    features = [f"part_{number}" for number in range(17)]
    return SimpleNamespace(
        input_names=tuple(GROUPS),
        input_dicts={name: features[:width] for name, width in GROUPS.items()},
        input_shapes={name: (-1, width, LENGTH) for name, width in GROUPS.items()},
        label_value=[f"label_{number}" for number in range(10)],
        label_names=("_label_",),
    )


@pytest.fixture(scope="session")
def batch() -> tuple[Tensor, ...]:
    """64 jets of 1 to 16 particles: points, features, vectors (px, py, pz, E in GeV), mask."""
    generator = torch.Generator().manual_seed(2)
    mask = (torch.arange(LENGTH) < torch.randint(1, LENGTH + 1, (64, 1, 1), generator=generator)).float()
    points, features, momenta = (torch.randn(64, width, LENGTH, generator=generator) * mask for width in (2, 17, 3))
    energy = momenta.square().sum(dim=1, keepdim=True).sqrt() + 0.1 * mask
    return points, features, torch.cat([momenta, energy], dim=1), mask
