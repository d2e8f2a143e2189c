"""Every network configuration that comes with the project builds, runs, learns and can be exported for inference."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from weaver_tasks.networks.loading import load_network

COLLECTIONS = {"points": 2, "features": 5, "vectors": 4, "mask": 1}
GROUPS = {
    "particle_net_tagger": ("points", "features", "mask"),
    "particle_transformer_tagger": ("features", "vectors", "mask"),
    "particle_next_tagger": ("points", "features", "vectors", "mask"),
}
SMALL: dict[str, dict[str, Any]] = {
    "particle_net": {"conv_params": [(7, (8,))]},
    "particle_net_tagger": {"conv_params": [(7, (8,))]},
    "particle_transformer": {"num_layers": 1, "embed_dims": [16], "pair_embed_dims": [8]},
    "particle_transformer_tagger": {"num_layers": 1, "embed_dims": [16], "pair_embed_dims": [8]},
    "particle_next": {"layer_params": [(8, 16, [(1, 1)], 16)]},
    "particle_next_tagger": {"layer_params": [(8, 16, [(1, 1)], 16)]},
}


def _configuration(groups: dict[str, int], length: int) -> SimpleNamespace:
    return SimpleNamespace(
        input_names=tuple(groups),
        input_dicts={name: [f"{name}_{number}" for number in range(width)] for name, width in groups.items()},
        input_shapes={name: (-1, width, length) if length else (-1, width) for name, width in groups.items()},
        label_value=["label_a", "label_b", "label_c"],
    )


@pytest.mark.parametrize("use_amp", [False, True])
@pytest.mark.parametrize("name", sorted(path.stem for path in (Path(__file__).parents[2] / "config/networks").glob("*.py")))
def test_configuration(repository: Path, batch: tuple[Tensor, ...], name: str, use_amp: bool) -> None:
    torch.manual_seed(0)
    points, features, vectors, mask = (part[:16] for part in batch)
    inputs: list[Tensor] = [points, features, vectors, mask]
    configuration = _configuration({"pf_points": 2, "pf_features": 17, "pf_vectors": 4, "pf_mask": 1}, 128)
    if name == "mlp":
        configuration = _configuration({"jet": 4, "event": 2}, 0)
        inputs = [vectors[:, :, 0], points[:, :, 0]]
    elif name in GROUPS:
        given = {"points": points, "features": features[:, :5], "vectors": vectors, "mask": mask}
        configuration = _configuration({f"{kind}_{group}": COLLECTIONS[group] for kind in ("pf", "sv") for group in GROUPS[name]}, 128)
        inputs = [given[group] for _ in range(2) for group in GROUPS[name]]
    path = repository / "config/networks" / f"{name}.py"
    network = load_network(path, configuration, SMALL.get(name), use_amp=use_amp, compile_model=use_amp)
    with torch.autocast("cpu", torch.bfloat16, enabled=use_amp):
        output = network.model(*inputs)
        assert network.loss is not None
        loss = network.loss(output, torch.arange(16) % 3)
    loss.backward()
    assert output.shape == (16, 3)
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in network.model.parameters())
    assert list(network.info["dynamic_axes"]) == [*configuration.input_names, "softmax"]
    scores = load_network(path, configuration, SMALL.get(name), for_inference=True).model.eval()(*inputs)
    torch.testing.assert_close(scores.sum(dim=1), torch.ones(16))
