"""Find center and scale of the input variables: exact percentiles over the leading part of each training file.

python -m weaver_tasks.standardize --data-config data.yaml --inputs inputs.json --output standardization.json --plot standardization.png
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from weaver_tasks.base.command_line import run_command, stage_parser, task
from weaver_tasks.base.files import read_json, write_json
from weaver_tasks.base.progress import Progress
from weaver_tasks.base.record import TaskRecord
from weaver_tasks.data.blocks import Block, PackedColumn, StagingOptions, packed_columns
from weaver_tasks.data.configuration import DataConfiguration, load_data_configuration
from weaver_tasks.data.sources import open_source
from weaver_tasks.data.standardization import describe_variables
from weaver_tasks.data.statistics import RefinedCounts, ValueCounts, coarse_histogram, leading_entries
from weaver_tasks.results.input_plots import plot_standardization

logger = logging.getLogger("weaver_tasks")


def main(argv: list[str] | None = None) -> None:
    parser = stage_parser("standardize", __doc__)
    parser.add_argument("--data-config", type=Path, required=True, help="the data configuration of the training files")
    parser.add_argument("--custom-functions", type=Path, help="a Python file of functions for its expressions")
    parser.add_argument("--inputs", type=Path, required=True, help="inputs.json")
    parser.add_argument("--output", type=Path, required=True, help="standardization.json")
    parser.add_argument("--plot", type=Path, help="a picture of each variable before and after")
    arguments = parser.parse_args(argv)
    with task(arguments) as record:
        _standardize(arguments, record)


def _standardize(arguments: argparse.Namespace, record: TaskRecord) -> None:
    manifest = read_json(arguments.inputs)
    configuration = load_data_configuration(arguments.data_config, custom_functions=arguments.custom_functions)
    for path in filter(None, (arguments.inputs, arguments.data_config, arguments.custom_functions)):
        record.read(path)
    columns = packed_columns(configuration)
    coarse = {column.name: ValueCounts(column.variables) for column in columns}
    entries = 0
    for block in _training_blocks(manifest, configuration, columns, arguments.custom_functions, "counting values"):
        entries += len(block)
        for name, counts in coarse.items():
            counts.add(block.packed[name].own_values())
    # Only what has a variable to be standardized is looked at again.
    automatic = {variable.name for group in configuration.inputs for variable in group.variables if variable.center == "auto"}
    again = tuple(column for column in columns if automatic.intersection(column.variables))
    refined = {column.name: RefinedCounts(coarse[column.name]) for column in again}
    if again:
        for block in _training_blocks(manifest, configuration, again, arguments.custom_functions, "refining percentiles"):
            for name, finer in refined.items():
                finer.add(block.packed[name].own_values())
    variables = describe_variables(configuration, coarse, refined)
    logger.info("standardized %d of %d variables over %d events", len(automatic), len(variables), entries)
    write_json(arguments.output, {"entries": entries, "fraction": configuration.preprocess_fraction, "variables": variables})
    record.wrote(arguments.output)
    if arguments.plot:
        histograms = {
            name: coarse_histogram(row) for counts in coarse.values() for name, row in zip(counts.variables, counts.counts, strict=True)
        }
        for path in plot_standardization(variables, histograms, arguments.plot):
            record.wrote(path)


def _training_blocks(
    manifest: dict[str, Any], configuration: DataConfiguration, columns: tuple[PackedColumn, ...], functions: Path | None, doing: str
) -> Iterator[Block]:
    """The events that count: those of the leading `preprocess.data_fraction` of the entries of each training file."""
    files = [file for file in manifest["files"] if file["split"] == "train" and not file["bad"]]
    leading = [leading_entries(file["entries"], configuration.preprocess_fraction) for file in files]
    options = StagingOptions.from_manifest(manifest)
    names = [column.name for column in columns]
    with Progress(doing, total=sum(leading), unit="entries") as progress:
        for file, last in zip(files, leading, strict=True):
            source = open_source(file, configuration, options, custom_functions=functions)
            yield from source.blocks(0, last, names, training=True)
            progress.advance(last)


if __name__ == "__main__":
    run_command(main)
