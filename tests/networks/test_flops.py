"""Parameters and floating-point operations, against counts by hand and against weaver-core's."""

import torch
from torch import nn

from weaver_tasks.networks.flops import network_costs


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
