"""Export the best epoch to ONNX and check it against PyTorch on real events.

    model.onnx        takes the standardized inputs, as weaver-core's export does
    preprocess.json   how to standardize them, in weaver-core's format
    model_raw.onnx    takes the raw input variables; standardization, clipping, padding and NaN handling are inside
    parity.json       the largest difference between ONNX Runtime and PyTorch, and the cases tried

Nothing is published when the difference is above export.tolerance.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from weaver_tasks import __version__
from weaver_tasks.base.command_line import run_command, setting, stage_parser, task
from weaver_tasks.base.digests import digest, file_checksum
from weaver_tasks.base.errors import ResultError
from weaver_tasks.base.files import atomic_path, read_json, write_json
from weaver_tasks.base.record import TaskRecord, package_versions
from weaver_tasks.data.configuration import DataConfiguration, load_data_configuration
from weaver_tasks.data.events.block import Block, StagingOptions, packed_columns
from weaver_tasks.data.loading.prediction_order import prediction_batches
from weaver_tasks.data.staging.sources import open_source
from weaver_tasks.networks.loading import Network, load_network
from weaver_tasks.results.onnx.export import FromRaw, WithSoftmax, preprocess_document, to_onnx
from weaver_tasks.results.onnx.parity import BATCHES, cases, compare
from weaver_tasks.results.onnx.runtime import onnx_session
from weaver_tasks.results.predictions.scoring import gives_probabilities
from weaver_tasks.training import checkpoint
from weaver_tasks.weaver_compat.imports import WeaverImports

logger = logging.getLogger("weaver_tasks")

_EVENTS = max(BATCHES)  # of each test group
_GROUPS = 20

Inputs = dict[str, np.ndarray]


def main(argv: list[str] | None = None) -> None:
    parser = stage_parser("export_onnx", __doc__)
    parser.add_argument("--data-config", type=Path, required=True, help="data_config.auto.yaml")
    parser.add_argument("--custom-functions", type=Path, help="functions that the data configuration's expressions use")
    parser.add_argument("--inputs", type=Path, required=True, help="the manifest of input files; real events for the check")
    parser.add_argument("--network", type=Path, required=True, help="the network configuration (Python)")
    parser.add_argument("--state", type=Path, required=True, help="the weights, net_best_epoch_state.pt")
    parser.add_argument("--output-dir", type=Path, required=True, metavar="DIR", help="where the four files go")
    arguments = parser.parse_args(argv)
    with task(arguments) as record:
        configuration = load_data_configuration(arguments.data_config, custom_functions=arguments.custom_functions)
        record.read_configuration(data=arguments.data_config, functions=arguments.custom_functions)
        manifest = read_json(record.read(arguments.inputs))
        export(arguments, configuration, manifest, record)


def export(arguments: argparse.Namespace, configuration: DataConfiguration, manifest: Mapping[str, Any], record: TaskRecord) -> None:
    """Export, compare, publish. Raises ResultError when the models differ from PyTorch's, or there is no event to compare on."""
    settings = setting(arguments.settings, "export_onnx", "export")
    standardized, raw = _events(configuration, manifest, arguments.custom_functions)
    network, model, softmax = _model(arguments, configuration, standardized[0], record)
    names, axes = list(configuration.input_names), network.info["dynamic_axes"]
    metadata = {**_metadata(arguments, configuration, network, softmax=softmax), "provenance": record.stamp()}

    def exported(wrapped: nn.Module, example: Inputs, inputs_are: str) -> bytes:
        tensors = [torch.from_numpy(example[name][:2]) for name in names]
        return to_onnx(wrapped, network.info, tensors, opset=settings["opset"], metadata={**metadata, "inputs_are": inputs_are})

    models = {
        "model.onnx": exported(model, standardized[0], "standardized"),
        "model_raw.onnx": exported(FromRaw(model, configuration.inputs).eval(), raw[0], "raw"),
    }
    tried = cases(axes, {group.name: group.length for group in configuration.inputs})
    comparison = {"names": names, "tried": tried, "dynamic_axes": axes}
    parity = {
        "model.onnx": compare(model, onnx_session(models["model.onnx"]), standardized, **comparison),
        "model_raw.onnx": compare(model, onnx_session(models["model_raw.onnx"]), standardized, raw=raw, **comparison),
    }
    report = _report(parity, settings, softmax=softmax)
    _check(parity, settings["tolerance"])
    _publish(arguments.output_dir, models, configuration, report, record)
    logger.info("largest difference from PyTorch %.2g, over %d cases", report["max_abs_difference"], len(tried) * len(models))


def _model(
    arguments: argparse.Namespace, configuration: DataConfiguration, inputs: Inputs, record: TaskRecord
) -> tuple[Network, nn.Module, str]:
    """The network with its weights, giving probabilities if it is a classifier; and who applies the softmax: network, export, none."""
    options = arguments.settings.get("network") or {}
    network = load_network(
        record.read_code(arguments.network),
        configuration.weaver,
        options.get("options"),
        for_inference=True,
        imports=WeaverImports.of(options),
    )
    checkpoint.load_state(network.model, record.read(arguments.state))
    model = network.model.eval()
    if setting(arguments.settings, "export_onnx", "training")["task"] != "classification":
        return network, model, "none"
    with torch.no_grad():
        scores = model(*(torch.from_numpy(inputs[name]) for name in configuration.input_names))
    if gives_probabilities(scores):
        return network, model, "network"
    logger.info("%s gives logits in spite of for_inference: the softmax is added", arguments.network)
    return network, WithSoftmax(model).eval(), "export"


def _metadata(arguments: argparse.Namespace, configuration: DataConfiguration, network: Network, *, softmax: str) -> dict[str, Any]:
    """What the models say of themselves (metadata_props)."""
    labels = configuration.labels
    return {
        "made_by": f"weaver_tasks {__version__}",
        "classes": list(labels.classes) if labels else [],
        "labels": list(labels.names) if labels else [],
        "inputs": configuration.input_dicts,
        "lengths": {group.name: group.length for group in configuration.inputs},
        "pad_modes": {group.name: group.pad_mode for group in configuration.inputs},
        "softmax": softmax,
        "network": network.path.name,
        "weights_sha256": file_checksum(arguments.state),
        "data_configuration": digest(configuration.raw),
        "settings": digest(arguments.settings),
        "versions": {name: package_versions()[name] for name in ("torch", "onnx", "onnxruntime")},
    }


def _events(configuration: DataConfiguration, manifest: Mapping[str, Any], functions: Path | None) -> tuple[list[Inputs], list[Inputs]]:
    """The first events of each test group: as the network takes them, and raw with padding NaN. Raises ResultError without events."""
    records = [record for record in manifest["files"] if record["split"] == "test" and not record["bad"] and record["kept"]]
    firsts = list({record["group"]: record for record in reversed(records)}.values())[::-1][:_GROUPS]
    options = StagingOptions.from_manifest(manifest)
    # The test files may have been staged without labels, or with other observers.
    configuration = dataclasses.replace(configuration, labels=None, observers=(), monitor_variables=())
    standardized, raw = [], []
    for record in firsts:
        one_file = {**manifest, "files": [record]}
        settings = {"training": {"batch_size_test": _EVENTS}}
        # Without threads: what is left of the batches needs no closing.
        batches = prediction_batches(one_file, configuration, settings, group=record["group"], threads=0, custom_functions=functions)
        batch = next(batches, None)
        if batch is None:
            continue
        source = open_source(record, configuration, options, custom_functions=functions)
        columns = [column.name for column in packed_columns(configuration)]
        block = source.read(0, int(batch.entry[-1]) + 1, columns)
        standardized.append({name: values.copy() for name, values in batch.inputs.items()})
        raw.append(raw_inputs(block, configuration))
    if not standardized or all(len(next(iter(inputs.values()))) < 2 for inputs in standardized):
        raise ResultError("export_onnx: no test events to compare ONNX with PyTorch on. Name files in data.test.")
    order = sorted(range(len(standardized)), key=lambda index: -len(next(iter(standardized[index].values()))))
    return [standardized[index] for index in order], [raw[index] for index in order]


def raw_inputs(block: Block, configuration: DataConfiguration) -> Inputs:
    """The input variables of a block as they are: group -> (N, k, length) with padding NaN, (N, k) or (N,) where it is flat."""
    columns = {column.name: column for column in packed_columns(configuration)}
    inputs: Inputs = {}
    for group in configuration.inputs:
        column = next(column for column in columns.values() if {variable.name for variable in group.variables} <= set(column.variables))
        packed = block.packed[column.name]
        places = [column.variables.index(variable.name) for variable in group.variables]
        if packed.offsets is None or group.length is None:
            values = packed.values[:, places]
            inputs[group.name] = values[:, 0].copy() if len(places) == 1 else values
            continue
        padded = np.full((len(block), len(places), group.length), np.nan, dtype=np.float32)
        for event, (first, last) in enumerate(itertools.pairwise(packed.offsets)):
            particles = packed.values[first:last][: group.length, places]
            padded[event, :, : len(particles)] = particles.T
        inputs[group.name] = padded
    return inputs


def _report(parity: Mapping[str, Sequence[Mapping[str, Any]]], settings: Mapping[str, Any], *, softmax: str) -> dict[str, Any]:
    return {
        "max_abs_difference": _largest(itertools.chain(*parity.values())),
        "tolerance": settings["tolerance"],
        "opset": settings["opset"],
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
    # Last: where parity.json is, the models beside it have passed.
    write_json(folder / "parity.json", report)
    for name in (*models, "preprocess.json", "parity.json"):
        record.wrote(folder / name)


if __name__ == "__main__":
    run_command(main)
