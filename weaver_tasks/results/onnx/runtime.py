"""Run ONNX models with ONNX Runtime on the CPU."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnxruntime import InferenceSession, SessionOptions
from onnxruntime.capi import onnxruntime_pybind11_state as _errors

from weaver_tasks.base.errors import NetworkError, ResultError
from weaver_tasks.base.files import check_regular
from weaver_tasks.results.predictions.scoring import Inputs, gives_probabilities

Array = np.ndarray

logger = logging.getLogger("weaver_tasks")

_CANNOT_LOAD = (
    *(_errors.Fail, _errors.InvalidArgument, _errors.InvalidGraph),
    *(_errors.InvalidProtobuf, _errors.NoSuchFile, _errors.NotImplemented),
)
_CANNOT_RUN = (_errors.Fail, _errors.InvalidArgument, _errors.RuntimeException)
# Operations that keep the values of a softmax; they change its shape or type at most.
_CHANGE_NO_VALUE = ("Identity", "Cast", "Reshape", "Squeeze", "Unsqueeze", "Transpose", "Flatten", "Dropout")


def onnx_session(model: bytes | str | Path, *, threads: int = 1) -> InferenceSession:
    """An ONNX Runtime session on the CPU. model: its path or its bytes. Raises ResultError if the model is damaged or missing."""
    options = SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3  # errors only; there are warnings about each unused initializer that it removes
    if not isinstance(model, bytes):
        check_regular(model)
    source = model if isinstance(model, bytes) else str(model)
    try:
        return InferenceSession(source, options, providers=["CPUExecutionProvider"])
    except _CANNOT_LOAD as error:
        name = "the exported model" if isinstance(model, bytes) else model
        raise ResultError(f"{name}: ONNX Runtime cannot load it ({str(error).splitlines()[0]}). Export it again.") from error


def run_onnx(session: InferenceSession, inputs: Mapping[str, Array]) -> Array:
    """The first output of the model. inputs: arrays by input name; those that the graph does not use (the exporter drops them) are ignored.

    Raises ResultError if the model does not run on the inputs.
    """
    used = [entry.name for entry in session.get_inputs()]
    try:
        return session.run(None, {name: inputs[name] for name in used})[0]
    except _CANNOT_RUN as error:
        shapes = ", ".join(f"{name} {inputs[name].shape}" for name in used)
        raise ResultError(f"ONNX Runtime cannot run the model on {shapes}: {' '.join(str(error).split())[:300]}") from error


class OnnxScorer:
    """A function from inputs to (scores, None) that runs an ONNX model on the CPU; it replaces that of `torch_scorer`.

    any_length: whether the model takes any number of particles. metadata: the metadata of the model, with JSON text decoded.
    ignores_padding: whether the metadata declare that padding does not change the outputs.
    Raises ResultError if the model cannot be loaded, NetworkError if it takes other inputs.
    """

    def __init__(self, path: str | Path, names: Sequence[str], *, task: str, threads: int) -> None:
        self._path = path
        self._session = onnx_session(path, threads=threads)
        self._task = task
        self._softmax: bool | None = None
        self.metadata = {key: _parsed(text) for key, text in self._session.get_modelmeta().custom_metadata_map.items()}
        if self.metadata.get("inputs_are") == "raw":
            raise NetworkError(f"{path}: takes raw variables. Predict with model.onnx, exported beside it.")
        self._entries = self._session.get_inputs()
        for entry in self._entries:
            if entry.name not in names:
                known = ", ".join(names)
                raise NetworkError(f"{path}: takes an input '{entry.name}', but the data configuration's input groups are {known}.")
        self.any_length = any(len(entry.shape) == 3 and isinstance(entry.shape[2], str) for entry in self._entries)
        self.ignores_padding = self.metadata.get("ignores_padding") is True
        shortest = self.metadata.get("shortest_length")
        self._shortest = shortest if isinstance(shortest, int) else 1

    def check_shapes(self, shapes: Mapping[str, Sequence[int | None]]) -> None:
        """Raise NetworkError if the model takes inputs of other shapes. shapes: group -> (variables, length), or (variables,) if flat."""
        for entry in self._entries:
            expected = list(shapes[entry.name])
            found = entry.shape[1:]
            wrong = any(isinstance(size, int) and size != wanted for size, wanted in zip(found, expected, strict=False))
            # A flat group with one variable may have shape (N,).
            if wrong or (len(found) != len(expected) and not (expected == [1] and not found)):
                raise NetworkError(
                    f"{self._path}: takes input '{entry.name}' of shape (N, {', '.join(map(str, found))}), but the data configuration "
                    f"makes (N, {', '.join(map(str, expected))}). Give the data configuration of its training."
                )

    def decide(self, examples: Callable[[], Iterable[Inputs]]) -> None:
        """Decide, once for all events, whether the outputs of a classifier are probabilities or still need a softmax.

        The metadata of the model may say it, or its graph may end in a softmax. Otherwise its outputs for the first events, `examples`,
        decide.
        """
        if self._task != "classification":
            self._softmax = False
            return
        said = self.metadata.get("softmax")
        if said in ("network", "export", "none"):
            self._softmax = said == "none"
        elif _ends_in_softmax(self._path):
            self._softmax = False
        else:
            found = [output for inputs in examples() if len(output := run_onnx(self._session, self._long_enough(inputs)))]
            self._softmax = not (found and all(gives_probabilities(torch.from_numpy(output)) for output in found))
            what = "logits: the softmax is applied" if self._softmax else "probabilities"
            logger.info("%s does not say what its outputs are; by those of the first events they are %s", self._path, what)

    def __call__(self, inputs: Inputs) -> tuple[Array, Array | None]:
        assert self._softmax is not None
        output = run_onnx(self._session, self._long_enough(inputs))
        if self._softmax:
            output = torch.softmax(torch.from_numpy(output), dim=1).numpy()
        if self._task == "regression" and output.ndim == 2 and output.shape[1] == 1:
            output = output[:, 0]
        return output, None

    def _long_enough(self, inputs: Inputs) -> Inputs:
        """Pad to the shortest length that the export was tested with, because a nearest-neighbor search needs that many slots."""
        padded = {}
        for name, values in inputs.items():
            missing = self._shortest - values.shape[2] if values.ndim == 3 and self.ignores_padding else 0
            padded[name] = np.pad(values, ((0, 0), (0, 0), (0, missing))) if missing > 0 else values
        return padded


def _ends_in_softmax(path: str | Path) -> bool:
    """Whether the graph of a model shows that its first output is the result of a softmax."""
    graph = onnx.load(str(path), load_external_data=False).graph
    makers = {name: node for node in graph.node for name in node.output}
    name = graph.output[0].name
    while name in makers and makers[name].op_type in _CHANGE_NO_VALUE:
        name = makers[name].input[0]
    if name not in makers or makers[name].op_type != "Softmax":
        return False
    axis = next((attribute.i for attribute in makers[name].attribute if attribute.name == "axis"), -1)
    return axis == 1 or (axis == -1 and len(graph.output[0].type.tensor_type.shape.dim) == 2)


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text
