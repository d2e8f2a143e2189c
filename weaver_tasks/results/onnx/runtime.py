"""ONNX models run by ONNX Runtime on the CPU."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from onnxruntime import InferenceSession, SessionOptions
from onnxruntime.capi import onnxruntime_pybind11_state as _errors

from weaver_tasks.base.errors import NetworkError, ResultError
from weaver_tasks.results.predictions.scoring import Inputs, gives_probabilities

Array = np.ndarray

_CANNOT_LOAD = (
    *(_errors.Fail, _errors.InvalidArgument, _errors.InvalidGraph),
    *(_errors.InvalidProtobuf, _errors.NoSuchFile, _errors.NotImplemented),
)


def onnx_session(model: bytes | str | Path, *, threads: int = 1) -> InferenceSession:
    """ONNX Runtime on the CPU with a model (its path or its bytes). Raises ResultError when the model is damaged or missing."""
    options = SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3  # errors only: it warns of initializers it removes
    source = model if isinstance(model, bytes) else str(model)
    try:
        return InferenceSession(source, options, providers=["CPUExecutionProvider"])
    except _CANNOT_LOAD as error:
        name = "the exported model" if isinstance(model, bytes) else model
        raise ResultError(f"{name}: ONNX Runtime cannot load it ({str(error).splitlines()[0]}). Export it again.") from error


def run_onnx(session: InferenceSession, inputs: Mapping[str, Array]) -> Array:
    """The first output, for inputs by name. Inputs that the graph does not use (the exporter drops them) are left out."""
    used = [entry.name for entry in session.get_inputs()]
    return session.run(None, {name: inputs[name] for name in used})[0]


class OnnxScorer:
    """What `inference.torch_scorer` makes, of an ONNX model on the CPU. The softmax is applied only where the model does not do it itself.

    any_length: whether it takes any number of particles. Raises ResultError when the model cannot be loaded, NetworkError when it
    takes other inputs.
    """

    def __init__(self, path: str | Path, names: Sequence[str], *, task: str, threads: int) -> None:
        self._session = onnx_session(path, threads=threads)
        self._task = task
        if self._session.get_modelmeta().custom_metadata_map.get("inputs_are") == "raw":
            raise NetworkError(f"{path}: takes raw variables. Predict with model.onnx, exported beside it.")
        entries = self._session.get_inputs()
        for entry in entries:
            if entry.name not in names:
                known = ", ".join(names)
                raise NetworkError(f"{path}: takes an input '{entry.name}', but the data configuration's input groups are {known}.")
        self.any_length = any(len(entry.shape) == 3 and isinstance(entry.shape[2], str) for entry in entries)

    def __call__(self, inputs: Inputs) -> tuple[Array, Array | None]:
        output = run_onnx(self._session, inputs)
        if self._task == "classification" and len(output) and not gives_probabilities(torch.from_numpy(output)):
            output = torch.softmax(torch.from_numpy(output), dim=1).numpy()
        if self._task == "regression" and output.ndim == 2 and output.shape[1] == 1:
            output = output[:, 0]
        return output, None
