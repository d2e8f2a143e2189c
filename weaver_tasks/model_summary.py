"""What the network of a run costs: parameters and floating-point operations of the whole and of each layer.

Needs the configurations only, no data. A layer without FLOPs of its own is not called: its weights are used by the layer around it.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from weaver_tasks.base.command_line import run_command, task
from weaver_tasks.base.files import atomic_path, write_json
from weaver_tasks.base.record import TaskRecord
from weaver_tasks.data.configuration import load_data_configuration
from weaver_tasks.jobs.new_network import fresh_network
from weaver_tasks.jobs.options import add_data_configuration, add_network
from weaver_tasks.settings.stage import stage_parser

logger = logging.getLogger("weaver_tasks")

_COLUMNS = {
    "name": "layer",
    "type": "type",
    "output": "output",
    "parameters": "parameters",
    "trainable_parameters": "trained",
    "flops": "FLOPs",
}
_SHOWN_DEPTH = 2


def main(argv: list[str] | None = None) -> None:
    parser = stage_parser("model_summary", __doc__)
    add_data_configuration(parser, "the data configuration, resolved or not")
    add_network(parser)
    parser.add_argument("--output", type=Path, required=True, metavar="JSON", help="write all layers here")
    parser.add_argument("--table", type=Path, required=True, metavar="MD", help="write them here as a table")
    arguments = parser.parse_args(argv)
    with task(arguments) as record:
        _summarize(arguments, record)


def _summarize(arguments: argparse.Namespace, record: TaskRecord) -> None:
    from weaver_tasks.networks.flops import network_costs, own_networks

    configuration = load_data_configuration(arguments.data_config, custom_functions=arguments.custom_functions)
    record.read_configuration(data=arguments.data_config, functions=arguments.custom_functions)
    network, _ = fresh_network(arguments.settings, configuration, record.read_code(arguments.network))
    layers = network_costs(network.model, network.info)
    totals = {name: layers[0][name] for name in ("parameters", "trainable_parameters", "flops")}
    own = own_networks(network.model)
    algorithm = (
        f"of this project ({', '.join(own)}); weaver-core's may take more for the same result" if own else "of the network configuration"
    )
    inputs = {name: list(shape) for name, shape in network.info["input_shapes"].items()}
    write_json(arguments.output, {**totals, "algorithm": algorithm, "inputs": inputs, "layers": layers})
    with atomic_path(arguments.table) as temporary:
        temporary.write_text(f"{as_markdown(layers)}\nFLOPs are those of the algorithm {algorithm}.\n")
    for path in (arguments.output, arguments.table):
        record.wrote(path)
    show(layers)
    values = (totals["parameters"], totals["flops"], algorithm, arguments.table)
    logger.info("%d parameters, %.4g FLOPs a jet by the algorithm %s; all layers: %s", *values)


def as_markdown(layers: Sequence[dict[str, Any]]) -> str:
    rows = [list(_COLUMNS.values()), ["---"] * 3 + ["---:"] * 3, *map(_cells, layers)]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def show(layers: Sequence[dict[str, Any]]) -> None:
    """Print the network and its uppermost layers."""
    table = Table()
    for name in _COLUMNS.values():
        table.add_column(name, justify="right" if name in ("parameters", "trained", "FLOPs") else "left", overflow="fold")
    for number, layer in enumerate(layers):
        if number == 0 or layer["name"].count(".") < _SHOWN_DEPTH:
            table.add_row(*_cells(layer))
    console = Console(stderr=True)
    (console if console.is_terminal else Console(stderr=True, width=120)).print(table)


def _cells(layer: dict[str, Any]) -> list[str]:
    return [
        layer["name"],
        layer["type"],
        "" if layer["output"] is None else " x ".join(map(str, layer["output"])),
        f"{layer['parameters']:,}",
        f"{layer['trainable_parameters']:,}",
        "" if layer["flops"] is None else f"{layer['flops']:,}",
    ]


if __name__ == "__main__":
    run_command(main)
