"""Every network becomes ONNX by both exporters, with free batch size and length, and agrees with PyTorch."""

import inspect
import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from weaver_tasks.networks.loading import load_network

SMALL: dict[str, dict[str, Any]] = {
    "pfn": {"Phi_sizes": (16, 16), "F_sizes": (16,), "use_bn": True},
    "pcnn": {"conv_params": [(8,), (8, 8), (16,)], "fc_params": [(16, 0.1)]},
    "particle_net": {"conv_params": [(16, (8, 8)), (7, (16, 16))], "fc_params": [(16, 0.1)], "use_fusion": True},
    "particle_transformer": {"embed_dims": [16, 16], "pair_embed_dims": [8, 8], "num_heads": 2, "num_layers": 2},
    "particle_next": {"layer_params": [(16, 16, [(4, 1), (1, 1)], 8)], "fc_params": [(16, 0.1)], "init_scale": 0.5},
}
TAGGERS: dict[str, dict[str, Any]] = {
    "particle_net_tagger": {"conv_params": [(7, (8, 8))]},
    "particle_transformer_tagger": {"num_layers": 1, "embed_dims": [16], "pair_embed_dims": [8]},
    "particle_next_tagger": {"layer_params": [(8, 16, [(1, 1)], 16)]},
}
OF_TAGGERS = {
    "particle_net_tagger": ("points", "features", "mask"),
    "particle_transformer_tagger": ("features", "vectors", "mask"),
    "particle_next_tagger": ("points", "features", "vectors", "mask"),
}
WIDTHS = {"points": 2, "features": 17, "vectors": 4, "mask": 1}
CASES = [(events, length) for events in (1, 2, 17) for length in (20, 60, 128)]


def trained(model: nn.Module) -> nn.Module:
    """Normalizations as after training: nothing in them is 0 or 1."""
    torch.manual_seed(1)
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if tensor.dim() == 1 and tensor.is_floating_point():
            nn.init.uniform_(tensor, 0.5, 1.5) if "bias" not in name else nn.init.uniform_(tensor, -0.5, 0.5)
    return model.eval()


def cut(batch: tuple[Tensor, ...], events: int, length: int, *, single: bool = False) -> tuple[Tensor, ...]:
    if batch[0].dim() == 2:
        return tuple(part[:events].clone() for part in batch)
    inputs = [part[:events, :, :length].clone() for part in batch]
    if single:
        for part in inputs:
            part[0, :, 1:] = 0
    return tuple(inputs)


def session(model: nn.Module, info: dict[str, Any], batch: tuple[Tensor, ...], *, dynamo: bool) -> onnxruntime.InferenceSession:
    names, axes = info["input_names"], info["dynamic_axes"]
    example = cut(batch, 3, 100)
    if dynamo:
        dims = {axis: torch.export.Dim(axis, min=1 if axis == "N" else 20, max=4096) for name in names for axis in axes[name].values()}
        shapes: tuple[Any, ...] = tuple({number: dims[axis] for number, axis in axes[name].items()} for name in names)
        if inspect.getfullargspec(model.forward).varargs:
            shapes = (shapes,)
        program = torch.onnx.export(
            model, example, dynamo=True, opset_version=18, input_names=names, output_names=["softmax"], dynamic_shapes=shapes, verbose=False
        )
        assert program is not None
        content = program.model_proto.SerializeToString()
    else:
        buffer = io.BytesIO()
        torch.onnx.export(
            model, example, buffer, dynamo=False, opset_version=15, input_names=names, output_names=["softmax"], dynamic_axes=axes
        )
        content = buffer.getvalue()
    return onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])


def described(groups: dict[str, int], length: int | None) -> SimpleNamespace:
    """What network configurations read of a data configuration with these input groups: name -> variables."""
    return SimpleNamespace(
        input_names=tuple(groups),
        input_dicts={name: [f"{name}_{number}" for number in range(width)] for name, width in groups.items()},
        input_shapes={name: (-1, width, length) if length else (-1, width) for name, width in groups.items()},
        label_value=[f"label_{number}" for number in range(10)],
        label_names=("_label_",),
    )


@pytest.mark.parametrize("dynamo", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", [*SMALL, *TAGGERS])
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_onnx_agrees(repository: Path, data_configuration: SimpleNamespace, batch: tuple[Tensor, ...], name: str, dynamo: bool) -> None:
    configuration, events = data_configuration, batch
    if name in TAGGERS:
        given = dict(zip(WIDTHS, batch, strict=True))
        configuration = described({f"{kind}_{group}": WIDTHS[group] for kind in ("pf", "sv") for group in OF_TAGGERS[name]}, 128)
        events = tuple(given[group] for _ in ("pf", "sv") for group in OF_TAGGERS[name])
    path = repository / f"config/networks/{name}.py"
    network = load_network(path, configuration, {**SMALL, **TAGGERS}[name], for_inference=True)
    model = trained(network.model)
    runner = session(model, network.info, events, dynamo=dynamo)
    for count, length in CASES:
        for single in (False, True):
            agree(runner, model, network.info["input_names"], cut(events, count, length, single=single))


@pytest.mark.parametrize("dynamo", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_onnx_of_flat_inputs_agrees(repository: Path, batch: tuple[Tensor, ...], dynamo: bool) -> None:
    network = load_network(repository / "config/networks/mlp.py", described({"jet": 4, "event": 2}, None), for_inference=True)
    model = trained(network.model)
    flat = (batch[2][:, :, 0], batch[0][:, :, 0])
    runner = session(model, network.info, flat, dynamo=dynamo)
    for count in (1, 2, 17):
        agree(runner, model, network.info["input_names"], tuple(part[:count] for part in flat))


def agree(runner: onnxruntime.InferenceSession, model: nn.Module, names: list[str], inputs: tuple[Tensor, ...]) -> None:
    taken = {given.name for given in runner.get_inputs()}
    with torch.no_grad():
        wanted = model(*inputs).numpy()
    (got,) = runner.run(None, {key: part.numpy() for key, part in zip(names, inputs, strict=True) if key in taken})
    assert np.isfinite(got).all()
    np.testing.assert_allclose(got, wanted, atol=1e-5, rtol=0)
