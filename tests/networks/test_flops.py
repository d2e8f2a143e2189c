"""Parameters and floating-point operations, against counts by hand and against weaver-core's."""

import pytest
import torch
from torch import nn

from weaver_tasks.networks.flops import network_costs, own_networks


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.particle = nn.Sequential(nn.Conv1d(4, 8, 1), nn.ReLU())
        self.jet = nn.Linear(8, 3)
        self.unused_by_call = nn.Linear(3, 3, bias=False)
        self.particle[0].requires_grad_(False)

    def forward(self, features):
        scores = self.jet(self.particle(features).mean(-1))
        return scores @ self.unused_by_call.weight


INFO = {"input_names": ["features"], "input_shapes": {"features": (1, 4, 10)}}


def test_layers_are_counted_as_by_hand():
    model = Small()
    rows = {row["name"]: row for row in network_costs(model, INFO)}
    convolution, linear, bare = 2 * 4 * 8 * 10, 2 * 8 * 3, 2 * 3 * 3
    assert {name: row["flops"] for name, row in rows.items()} == {
        "Small": convolution + linear + bare,
        "particle": convolution,
        "particle.0": convolution,
        "particle.1": 0,
        "jet": linear,
        "unused_by_call": None,
    }
    assert rows["Small"]["parameters"] == 4 * 8 + 8 + 8 * 3 + 3 + 9
    assert rows["Small"]["trainable_parameters"] == 8 * 3 + 3 + 9
    assert rows["particle"]["output"] == [1, 8, 10]
    assert rows["unused_by_call"]["output"] is None
    assert model.training
    assert not model._forward_hooks
    assert not any(isinstance(parameter.grad, torch.Tensor) for parameter in model.parameters())


def test_attention_is_counted():
    """8 layers of self-attention among 128 particles and 2 of class attention, 8 heads of 16: two products each, in weaver-core's too."""
    from weaver_tasks.networks.particle_transformer.model import ParticleTransformer

    info = {"input_names": ["x", "v", "mask"], "input_shapes": {"x": (1, 17, 128), "v": (1, 4, 128), "mask": (1, 1, 128)}}
    total = network_costs(ParticleTransformer(17, 10), info)[0]["flops"]
    products = 2 * 2 * 8 * 16 * (8 * 128 * 128 + 2 * 129)
    assert total == 602_278_400 + products == 669_519_360


@pytest.mark.parametrize(
    ("layer", "flops"),
    [
        # Projections of query, key, value and output, and the two products of attention.
        (nn.MultiheadAttention(8, 2, batch_first=True), 2 * 10 * 8 * 32 + 2 * 2 * 10 * 10 * 8),
        (nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 2 * 10 * 8 * 32 + 2 * 2 * 10 * 10 * 8 + 2 * 2 * 10 * 8 * 16),
        # Four gates, from the input and from the state.
        (nn.LSTM(8, 8, batch_first=True), 2 * 10 * (8 + 8) * 32),
    ],
)
def test_layers_with_fast_forms_are_counted_as_by_hand(layer, flops):
    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = layer

        def forward(self, x):
            return self.layer(x, x, x)[0] if isinstance(layer, nn.MultiheadAttention) else self.layer(x)

    assert network_costs(Wrapped(), {"input_names": ["x"], "input_shapes": {"x": (1, 10, 8)}})[0]["flops"] == flops


def test_whose_algorithm_is_counted_is_known():
    from weaver_tasks.networks.particle_net import ParticleNet

    assert own_networks(Small()) == []
    assert own_networks(nn.Sequential(ParticleNet(4, 3), nn.ReLU())) == ["ParticleNet"]


def test_a_container_that_is_not_called_has_the_operations_of_its_parts():
    class Listed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList([nn.Linear(4, 4, bias=False) for _ in range(2)])

        def forward(self, features):
            for layer in self.layers:
                features = layer(features)
            return features

    rows = {row["name"]: row["flops"] for row in network_costs(Listed(), {**INFO, "input_shapes": {"features": (1, 4)}})}
    assert rows == {"Listed": 64, "layers": 64, "layers.0": 32, "layers.1": 32}
