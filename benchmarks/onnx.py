"""Jets per second of a network in PyTorch and in ONNX Runtime, on the CPU, on real jets.

    python benchmarks/onnx.py --data-config results/demo/data_config.auto.yaml --inputs results/demo/inputs.json \
        --network config/networks/pfn.py --state results/demo/checkpoints/net_best_epoch_state.pt --model results/demo/export/model.onnx
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from weaver_tasks.base.files import read_json, write_json
from weaver_tasks.base.record import package_versions
from weaver_tasks.data.configuration import load_data_configuration
from weaver_tasks.data.loading.prediction_order import prediction_batches
from weaver_tasks.networks.loading import load_network
from weaver_tasks.results.onnx.runtime import onnx_session, run_onnx
from weaver_tasks.settings.stage import stage_settings
from weaver_tasks.training import checkpoint
from weaver_tasks.weaver_compat.imports import WeaverImports

Inputs = dict[str, np.ndarray]


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-config", type=Path, required=True)
    parser.add_argument("--inputs", type=Path, required=True, help="the manifest of input files")
    parser.add_argument("--network", type=Path, required=True)
    parser.add_argument("--options", type=json.loads, default={}, help="network.options, JSON")
    parser.add_argument("--state", type=Path, required=True, help="weights (.pt)")
    parser.add_argument("--model", type=Path, required=True, help="the ONNX model of the same weights")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 16, 128, 512])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=5, help="time for each measurement")
    parser.add_argument("--json", type=Path, help="write the figures here")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(arguments.threads)
    metrics = measure(arguments)
    print(f"{'batch':>6} {'padding':>8} {'PyTorch jets/s':>15} {'ONNX Runtime jets/s':>20} {'largest difference':>19}")
    for row in metrics["measurements"]:
        rates = f"{row['pytorch_jets_per_second']:>15,.0f} {row['onnxruntime_jets_per_second']:>20,.0f}"
        print(f"{row['batch_size']:>6} {row['padding']:>8} {rates} {row['max_abs_difference']:>19.1e}")
    if arguments.json:
        write_json(arguments.json, metrics)


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Rates for each batch size, on events padded to the configured length and on ones padded to the longest of the batch."""
    configuration = load_data_configuration(arguments.data_config)
    manifest = read_json(arguments.inputs)
    network = load_network(arguments.network, configuration.weaver, arguments.options, for_inference=True, imports=WeaverImports())
    checkpoint.load_state(network.model, arguments.state)
    model = network.model.eval()
    session = onnx_session(arguments.model, threads=arguments.threads)
    names = list(configuration.input_names)

    def with_torch(inputs: Inputs) -> np.ndarray:
        with torch.inference_mode():
            return model(*(torch.from_numpy(inputs[name]) for name in names)).numpy()

    rows = []
    for size, trim in itertools.product(arguments.batch_sizes, (False, True)):
        batches = some_batches(manifest, configuration, size, trim=trim)
        rows.append(
            {
                "batch_size": size,
                "padding": "longest" if trim else "full",
                "jets_per_batch": float(np.mean([len(next(iter(inputs.values()))) for inputs in batches])),
                "pytorch_jets_per_second": rate(with_torch, batches, arguments.seconds),
                "onnxruntime_jets_per_second": rate(lambda inputs: run_onnx(session, inputs), batches, arguments.seconds),
                "max_abs_difference": max(float(np.abs(with_torch(inputs) - run_onnx(session, inputs)).max()) for inputs in batches),
            }
        )
    return {"network": arguments.network.name, "threads": arguments.threads, "versions": package_versions(), "measurements": rows}


def some_batches(manifest: dict[str, Any], configuration: Any, size: int, *, trim: bool) -> list[Inputs]:
    """The first batch of up to 8 test groups; smaller than `size` where a group has fewer events."""
    groups = dict.fromkeys(record["group"] for record in manifest["files"] if record["split"] == "test" and not record["bad"])
    settings = {"training": {"batch_size_test": size}}
    opened = (prediction_batches(manifest, configuration, stage_settings(settings), group=group, threads=0, trim=trim) for group in groups)
    found = [batch.inputs for batches in itertools.islice(opened, 8) for batch in itertools.islice(batches, 1)]
    if not found:
        raise SystemExit(f"no test events in the manifest, of the groups {', '.join(groups)}")
    return found


def rate(run: Callable[[Inputs], np.ndarray], batches: Sequence[Inputs], seconds: float) -> float:
    """Jets per second over `seconds`, after one pass to warm up."""
    for inputs in batches:
        run(inputs)
    jets, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        for inputs in batches:
            jets += len(run(inputs))
    return jets / (time.perf_counter() - start)


if __name__ == "__main__":
    main()
