"""Export a trained network to ONNX: for standardized inputs as weaver does, or for raw inputs with the preprocessing in the graph."""

from __future__ import annotations

import io
import json
import logging
import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from weaver_tasks.base.errors import ResultError

logger = logging.getLogger("weaver_tasks")

_LARGEST = float(np.finfo(np.float32).max)


class WithSoftmax(nn.Module):
    """A classifier with logits (B, C, …) as output, followed by a softmax over the classes."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, *inputs: Tensor) -> Tensor:
        return torch.softmax(self.model(*inputs), dim=1)


class Standardize(nn.Module):
    """The standardization of one input group by the data configuration: clip((x - center) * scale), padding, NaN to 0.

    group: name, length (None: flat), pad_mode ("constant" or "wrap"), and variables with center (None: not standardized),
    scale, low, high and pad_value, all defined as in training.

    The input holds raw values, (B, k, L) with any L: first the particles of the event, then padding slots, where every variable is NaN.
    Padding slots get the pad value of each variable or, in "wrap" mode, the particles repeated from the first one on. Particles beyond
    `length` are cut off. A flat group is (B, k), or (B,) if it has one variable.
    """

    center: Tensor
    scale: Tensor
    low: Tensor
    high: Tensor
    pad: Tensor

    def __init__(self, group: Any) -> None:
        super().__init__()
        self.length: int | None = group.length
        self.wrap = group.pad_mode == "wrap" and group.length is not None
        variables = group.variables
        as_it_is = [variable.center is None for variable in variables]
        top = _LARGEST if group.length is None else math.inf
        self._constant("center", [0.0 if plain else variable.center for plain, variable in zip(as_it_is, variables, strict=True)])
        self._constant("scale", [1.0 if plain else variable.scale for plain, variable in zip(as_it_is, variables, strict=True)])
        self._constant("low", [-top if plain else variable.low for plain, variable in zip(as_it_is, variables, strict=True)])
        self._constant("high", [top if plain else variable.high for plain, variable in zip(as_it_is, variables, strict=True)])
        self._constant("pad", [variable.pad_value for variable in variables])

    def _constant(self, name: str, values: Sequence[float]) -> None:
        shape: tuple[int, ...] = (len(values), 1) if self.length is not None else (len(values),)
        if self.length is None and len(values) == 1:
            shape = ()
        self.register_buffer(name, torch.tensor(values, dtype=torch.float32).reshape(shape))

    def forward(self, raw: Tensor) -> Tensor:
        if self.length is not None:
            raw = raw[:, :, : self.length]  # (B, k, L)
            padding = torch.isnan(raw).all(dim=1, keepdim=True)  # (B, 1, L)
            if self.wrap:
                raw = self._repeated(raw, padding)
        values = (raw - self.center) * self.scale
        missing = torch.isnan(values)
        values = torch.minimum(torch.maximum(values, self.low), self.high)
        values = torch.where(missing, torch.zeros_like(values), values)
        if self.length is None or self.wrap:
            return values
        return torch.where(padding, self.pad.expand_as(values), values)

    @staticmethod
    def _repeated(raw: Tensor, padding: Tensor) -> Tensor:
        """Fill slot s with particle s mod n of the event's n particles; an event without particles stays NaN."""
        particles = (~padding).to(torch.int64).sum(dim=2, keepdim=True)  # (B, 1, 1)
        slots = torch.cumsum(torch.ones_like(padding, dtype=torch.int64), dim=2) - 1  # (B, 1, L)
        return torch.gather(raw, 2, torch.remainder(slots, particles.clamp(min=1)).expand_as(raw))


class FromRaw(nn.Module):
    """A network that takes raw inputs: it standardizes each input group first."""

    def __init__(self, model: nn.Module, groups: Sequence[Any]) -> None:
        super().__init__()
        self.steps = nn.ModuleList([Standardize(group) for group in groups])
        self.model = model

    def forward(self, *raw: Tensor) -> Tensor:
        return self.model(*(step(values) for step, values in zip(self.steps, raw, strict=True)))


def to_onnx(model: nn.Module, info: Mapping[str, Any], example: Sequence[Tensor], *, opset: int, metadata: Mapping[str, Any]) -> bytes:
    """The model as a serialized ONNX graph.

    info: model_info of the network configuration, with input_names, output_names and dynamic_axes.
    example: inputs for tracing, with at least two events, because the exporter treats an axis of size 1 as fixed.
    metadata: written into metadata_props; plain data is written as JSON.
    Uses the TorchScript exporter, as weaver-core does, because public networks have code paths for tracing.
    Raises ResultError if the network cannot be traced, or if this opset lacks one of its operations.
    """
    model.eval()
    stream = io.BytesIO()
    with warnings.catch_warnings(record=True) as caught, torch.no_grad():
        warnings.simplefilter("always")
        try:
            torch.onnx.export(
                model,
                tuple(example),
                stream,  # type: ignore[arg-type]
                input_names=list(info["input_names"]),
                output_names=list(info["output_names"]),
                dynamic_axes=_own_axes(info, example),
                opset_version=opset,
                dynamo=False,
            )
        except (torch.onnx.errors.OnnxExporterError, RuntimeError) as error:
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            raise ResultError(f"export.opset: {opset}: {reason} Choose another opset, or change the network.") from error
    for warning in caught:
        logger.debug("the exporter says: %s", str(warning.message).splitlines()[0])
    exported = onnx.load_model_from_string(stream.getvalue())
    properties = {key: value if isinstance(value, str) else json.dumps(value) for key, value in metadata.items()}
    onnx.helper.set_model_props(exported, properties)
    onnx.checker.check_model(exported)
    return exported.SerializeToString()


def _own_axes(info: Mapping[str, Any], example: Sequence[Tensor]) -> dict[str, Any]:
    """The dynamic axes without those that an input does not have: many configurations declare axis 2 for flat inputs too."""
    dimensions = {name: tensor.ndim for name, tensor in zip(info["input_names"], example, strict=True)}
    axes = {}
    for name, declared in info["dynamic_axes"].items():
        kept = [axis for axis in declared if axis < dimensions.get(name, axis + 1)]
        axes[name] = {axis: declared[axis] for axis in kept} if isinstance(declared, Mapping) else kept
    return axes


def preprocess_document(groups: Sequence[Any], output_names: Any) -> dict[str, Any]:
    """The content of preprocess.json as weaver-core writes it and CMS software reads it. output_names: the `value` of the labels."""
    document: dict[str, Any] = {"output_names": output_names, "input_names": [group.name for group in groups]}
    for group in groups:
        document[group.name] = {
            "var_names": [variable.name for variable in group.variables],
            "var_infos": {variable.name: _variable_document(variable) for variable in group.variables},
            "var_length": group.length,
        }
    return document


def _variable_document(variable: Any) -> dict[str, float]:
    as_it_is = variable.center is None
    return {
        "median": 0 if as_it_is else variable.center,
        "norm_factor": variable.scale,
        "replace_inf_value": 0,
        "lower_bound": -1e32 if as_it_is else variable.low,
        "upper_bound": 1e32 if as_it_is else variable.high,
        "pad": variable.pad_value,
    }
