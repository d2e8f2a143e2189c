"""Every network becomes ONNX by both exporters, with free batch size and length, and agrees with PyTorch."""

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
CASES = [(1, 20), (2, 60), (17, 128), (1, 128), (17, 20)]


def trained(model: nn.Module) -> nn.Module:
    """Normalizations as after training: nothing in them is 0 or 1."""
    torch.manual_seed(1)
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if tensor.dim() == 1 and tensor.is_floating_point():
            nn.init.uniform_(tensor, 0.5, 1.5) if "bias" not in name else nn.init.uniform_(tensor, -0.5, 0.5)
    return model.eval()


def cut(batch: tuple[Tensor, ...], events: int, length: int, *, single: bool = False) -> tuple[Tensor, ...]:
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
        shapes = tuple({number: dims[axis] for number, axis in axes[name].items()} for name in names)
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


@pytest.mark.parametrize("dynamo", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", list(SMALL))
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_onnx_agrees(repository: Path, data_configuration: SimpleNamespace, batch: tuple[Tensor, ...], name: str, dynamo: bool) -> None:
    network = load_network(repository / f"config/networks/{name}.py", data_configuration, SMALL[name], for_inference=True)
    model = trained(network.model)
    runner = session(model, network.info, batch, dynamo=dynamo)
    taken = {given.name for given in runner.get_inputs()}
    for events, length in CASES:
        for single in (False, True):
            inputs = cut(batch, events, length, single=single)
            with torch.no_grad():
                wanted = model(*inputs).numpy()
            feed = {key: part.numpy() for key, part in zip(network.info["input_names"], inputs, strict=True) if key in taken}
            (got,) = runner.run(None, feed)
            assert np.isfinite(got).all()
            np.testing.assert_allclose(got, wanted, atol=1e-5, rtol=0)
