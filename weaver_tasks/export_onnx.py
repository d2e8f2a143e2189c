"""Export a trained network to ONNX and check it against PyTorch: on test events, else on validation events, else on random inputs.

    model.onnx        takes the standardized inputs, as weaver-core's export does
    preprocess.json   how to standardize them, in weaver-core's format
    model_raw.onnx    takes the raw input variables; standardization, clipping, padding and NaN handling are inside
    parity.json       the largest difference between ONNX Runtime and PyTorch, and the cases tried

Nothing is published when the difference is above export.tolerance.
"""

from __future__ import annotations

import argparse
import itertools
import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from weaver_tasks import __version__
from weaver_tasks.base.command_line import run_command, task
from weaver_tasks.base.digests import digest, file_checksum
from weaver_tasks.base.errors import ResultError
from weaver_tasks.base.files import atomic_path, read_json, write_json
from weaver_tasks.base.record import TaskRecord, package_versions
from weaver_tasks.data.configuration import DataConfiguration, load_data_configuration
from weaver_tasks.data.configuration.trained_on import trained_on
from weaver_tasks.jobs.options import add_data_configuration, add_network
from weaver_tasks.jobs.parity_events import ParityEvents, find_events, made_up_events
from weaver_tasks.networks.layers.trimming import ignores_padding
from weaver_tasks.networks.loading import Network, load_network
from weaver_tasks.results.onnx.export import FromRaw, WithSoftmax, preprocess_document, to_onnx
from weaver_tasks.results.onnx.parity import BATCHES, compare, fixed_axes, taken_axes
from weaver_tasks.results.onnx.runtime import onnx_session
from weaver_tasks.results.predictions.scoring import gives_probabilities
from weaver_tasks.settings.model import ExportSettings
from weaver_tasks.settings.stage import stage_parser
from weaver_tasks.training import checkpoint
from weaver_tasks.weaver_compat.imports import WeaverImports

logger = logging.getLogger("weaver_tasks")

_EVENTS = max(BATCHES)  # of each test group

Inputs = dict[str, np.ndarray]


def main(argv: list[str] | None = None) -> None:
    parser = stage_parser("export_onnx", __doc__)
    add_data_configuration(parser)
    parser.add_argument(
        "--inputs", type=Path, nargs="*", default=[], help="manifests of input files, for real events to compare on; none: they are made up"
    )
    add_network(parser)
    parser.add_argument("--state", type=Path, required=True, help="the weights: net_best_epoch_state.pt, or any .pt file")
    parser.add_argument("--output-dir", type=Path, required=True, metavar="DIR", help="where the four files go")
    arguments = parser.parse_args(argv)
    with task(arguments) as record:
        configuration = load_data_configuration(arguments.data_config, custom_functions=arguments.custom_functions)
        record.read_configuration(data=arguments.data_config, functions=arguments.custom_functions)
        _check_model(arguments.state, configuration, arguments.data_config)
        manifests = [read_json(record.read(path)) for path in arguments.inputs]
        export(arguments, configuration, manifests, record)


def _check_model(state: Path, configuration: DataConfiguration, path: Path) -> None:
    """Raises ResultError for what cannot be exported."""
    if state.suffix == ".onnx":
        raise ResultError(f"prediction.model: {state} is exported already. Give the weights, a .pt file.")
    open_ = [variable.name for group in configuration.inputs for variable in group.variables if variable.center == "auto"]
    if open_:
        raise ResultError(
            f"{path}: the center of {open_[0]} is `auto`: what it was in the training is not known. "
            "Name the data_config.auto.yaml (of weaver: <name>.<md5>.auto.yaml) that the training wrote."
        )


def export(
    arguments: argparse.Namespace, configuration: DataConfiguration, manifests: Sequence[Mapping[str, Any]], record: TaskRecord
) -> None:
    """Export, compare and publish. Raises ResultError if the models differ from PyTorch, or if there is no event for the comparison."""
    settings: ExportSettings = arguments.settings.export
    events = _events(configuration, manifests, arguments.custom_functions)
    standardized, raw = events.standardized, events.raw
    network, model, softmax = _model(arguments, configuration, standardized[0], record)
    names = list(configuration.input_names)
    lengths = {group.name: group.length for group in configuration.inputs}
    axes, tried = taken_axes(model, standardized[0], names=names, dynamic_axes=network.info["dynamic_axes"], lengths=lengths)
    for group, fixed in fixed_axes(network.info["dynamic_axes"], axes).items():
        logger.warning("%s: declares %s of %s dynamic, but does not take other sizes: it is fixed", arguments.network, fixed, group)
    info = {**network.info, "dynamic_axes": axes}
    metadata = {**_metadata(arguments, configuration, network, softmax=softmax, tried=tried), "provenance": record.stamp()}

    def exported(wrapped: nn.Module, example: Inputs, inputs_are: str) -> bytes:
        tensors = [torch.from_numpy(example[name][:2]) for name in names]
        return to_onnx(wrapped, info, tensors, opset=settings.opset, metadata={**metadata, "inputs_are": inputs_are})

    from_raw = FromRaw(model, configuration.inputs).eval()
    models = {"model.onnx": exported(model, standardized[0], "standardized"), "model_raw.onnx": exported(from_raw, raw[0], "raw")}
    comparison: dict[str, Any] = {"names": names, "tried": tried, "dynamic_axes": axes, "tolerance": settings.tolerance}
    sessions = {name: onnx_session(content) for name, content in models.items()}
    parity = {
        "model.onnx": compare(model, sessions["model.onnx"], standardized, same_inputs=model, **comparison),
        "model_raw.onnx": compare(model, sessions["model_raw.onnx"], standardized, raw=raw, same_inputs=from_raw, **comparison),
    }
    left_out = max(case["left_out"] for found in parity.values() for case in found)
    if left_out:
        logger.warning("%d events have particles at exactly the same distance, and no score of their own: left out", left_out)
    report = {**_report(parity, settings, softmax=softmax), "events": events.taken_from}
    _check(parity, settings.tolerance)
    _publish(arguments.output_dir, models, configuration, report, record)
    logger.info("largest difference from PyTorch %.2g, over %d cases", report["max_abs_difference"], len(tried) * len(models))


def _model(
    arguments: argparse.Namespace, configuration: DataConfiguration, inputs: Inputs, record: TaskRecord
) -> tuple[Network, nn.Module, str]:
    """The network with its weights, made to give probabilities if it is a classifier, and where the softmax is: network, export or none."""
    options = arguments.settings.network
    network = load_network(
        record.read_code(arguments.network),
        configuration.weaver,
        options.options,
        for_inference=True,
        imports=WeaverImports.of(options),
    )
    checkpoint.load_state(network.model, record.read(arguments.state))
    model = network.model.eval()
    if arguments.settings.training.task != "classification":
        return network, model, "none"
    with torch.no_grad():
        scores = model(*(torch.from_numpy(inputs[name]) for name in configuration.input_names))
    if gives_probabilities(scores):
        return network, model, "network"
    logger.info("%s gives logits in spite of for_inference: the softmax is added", arguments.network)
    return network, WithSoftmax(model).eval(), "export"


def _metadata(
    arguments: argparse.Namespace,
    configuration: DataConfiguration,
    network: Network,
    *,
    softmax: str,
    tried: Sequence[tuple[int, int | None]],
) -> dict[str, Any]:
    """The metadata of the models (metadata_props). tried: (events, length) of each comparison with PyTorch."""
    lengths = [length for _, length in tried if length is not None]
    return {
        "made_by": f"weaver_tasks {__version__}",
        **trained_on(configuration),
        "softmax": softmax,
        "ignores_padding": ignores_padding(network.model),
        **({"shortest_length": min(lengths)} if lengths else {}),
        "network": network.path.name,
        "weights_sha256": file_checksum(arguments.state),
        "data_configuration": digest(configuration.raw),
        "settings": digest(arguments.given),
        "versions": {name: package_versions()[name] for name in ("torch", "onnx", "onnxruntime")},
    }


def _events(configuration: DataConfiguration, manifests: Sequence[Mapping[str, Any]], functions: Path | None) -> ParityEvents:
    """The events for the comparison. Raises ResultError if there are files, but fewer than two events pass the selection."""
    events = find_events(configuration, manifests, count=_EVENTS, custom_functions=functions)
    if events is None and manifests:
        raise ResultError(
            "export_onnx: fewer than two events of the test, validation and training files pass their selections: there is nothing to "
            "compare ONNX with PyTorch on. Name other files in data.test, or correct the selection."
        )
    if events is None:
        events = made_up_events(configuration, count=_EVENTS)
    if events.taken_from != "test files":
        logger.warning("no test events: ONNX is compared with PyTorch on events of %s", events.taken_from.replace("none: ", "no file, "))
    return events


def _report(parity: Mapping[str, Sequence[Mapping[str, Any]]], settings: ExportSettings, *, softmax: str) -> dict[str, Any]:
    return {
        "max_abs_difference": _largest(itertools.chain(*parity.values())),
        "tolerance": settings.tolerance,
        "opset": settings.opset,
        "softmax": softmax,
        "models": {name: {"max_abs_difference": _largest(found), "cases": list(found)} for name, found in parity.items()},
    }


def _largest(found: Iterable[Mapping[str, Any]]) -> float:
    return max(case["max_abs_difference"] for case in found)


def _check(parity: Mapping[str, Sequence[Mapping[str, Any]]], tolerance: float) -> None:
    """Raises ResultError naming the worst case when a difference is above the tolerance."""
    worst, name = max(((case, name) for name, found in parity.items() for case in found), key=lambda pair: pair[0]["max_abs_difference"])
    if worst["max_abs_difference"] > tolerance:
        raise ResultError(
            f"{name}: ONNX Runtime differs from PyTorch by {worst['max_abs_difference']:.3g} (batch {worst['batch']}, length "
            f"{worst['length']}), above export.tolerance {tolerance:g}. Nothing was exported. Look for operations of the network that "
            "tracing fixes (Python branches, shapes), or try another export.opset."
        )


def _publish(
    folder: Path, models: Mapping[str, bytes], configuration: DataConfiguration, report: Mapping[str, Any], record: TaskRecord
) -> None:
    for name, content in models.items():
        with atomic_path(folder / name) as temporary:
            temporary.write_bytes(content)
    write_json(folder / "preprocess.json", preprocess_document(configuration.inputs, configuration.label_value))
    # parity.json is written last, so its presence means that the models beside it have passed.
    write_json(folder / "parity.json", report)
    for name in (*models, "preprocess.json", "parity.json"):
        record.wrote(folder / name)


if __name__ == "__main__":
    run_command(main)
