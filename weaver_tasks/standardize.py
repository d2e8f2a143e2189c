"""Find center and scale of the input variables: exact percentiles over the leading part of each training file.

    python -m weaver_tasks.standardize --data-config data.yaml --inputs inputs.json --output standardization.json --plot standardization.png

Several jobs can share the work: see --part and --gather.
"""

from __future__ import annotations

import argparse
import functools
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from weaver_tasks.base.command_line import run_command, task
from weaver_tasks.base.digests import digest
from weaver_tasks.base.files import read_json, write_json
from weaver_tasks.base.record import TaskRecord
from weaver_tasks.data.configuration import DataConfiguration, fingerprints, load_data_configuration
from weaver_tasks.data.events.block import Block, StagingOptions
from weaver_tasks.data.staging.sources import open_source
from weaver_tasks.data.statistics.passes import Passes, TrainingFile, add_options, check_options, make_sums
from weaver_tasks.data.statistics.percentiles import coarse_histogram, leading_entries
from weaver_tasks.data.statistics.standardization import VariableSums, automatic_variables, describe_variables, next_pass
from weaver_tasks.jobs.options import add_data_configuration, add_inputs
from weaver_tasks.results.plots.inputs import plot_standardization
from weaver_tasks.settings.stage import stage_parser

logger = logging.getLogger("weaver_tasks")


def main(argv: list[str] | None = None) -> None:
    parser = stage_parser("standardize", __doc__)
    add_data_configuration(parser, "the data configuration of the training files")
    add_inputs(parser, "inputs.json")
    parser.add_argument("--output", type=Path, help="standardization.json")
    parser.add_argument("--plot", type=Path, help="a picture of each variable before and after")
    add_options(parser)
    arguments = parser.parse_args(argv)
    check_options(parser, arguments, results=("output",))
    with task(arguments) as record:
        _standardize(arguments, record)


def _standardize(arguments: argparse.Namespace, record: TaskRecord) -> None:
    manifest = read_json(arguments.inputs)
    configuration = load_data_configuration(arguments.data_config, custom_functions=arguments.custom_functions)
    for path in (arguments.inputs, *arguments.after):
        record.read(path)
    record.read_configuration(data=arguments.data_config, functions=arguments.custom_functions)
    passes = Passes(
        functools.partial(next_pass, configuration),
        list(_training_files(manifest, configuration, arguments.custom_functions)),
        digest=digest(manifest["digest"], fingerprints.standardization(configuration)),
        after=arguments.after,
    )
    if arguments.sums:
        make_sums(passes, arguments, record)
        return
    coarse, *refined = passes.all()
    variables = describe_variables(configuration, coarse.counts, refined[0].counts if refined else {})
    automatic = automatic_variables(configuration)
    logger.info("standardized %d of %d variables over %d events", len(automatic), len(variables), coarse.entries)
    write_json(arguments.output, {"entries": coarse.entries, "fraction": configuration.preprocess_fraction, "variables": variables})
    record.wrote(arguments.output)
    if arguments.plot:
        histograms = {
            name: coarse_histogram(row)
            for counts in coarse.counts.values()
            for name, row in zip(counts.variables, counts.counts, strict=True)
        }
        for path in plot_standardization(variables, histograms, arguments.plot):
            record.wrote(path)


def _training_files(manifest: dict[str, Any], configuration: DataConfiguration, functions: Path | None) -> Iterator[TrainingFile]:
    """The events used for the standardization: those in the first fraction `preprocess.data_fraction` of the entries of each file."""
    options = StagingOptions.from_manifest(manifest)

    def read(file: dict[str, Any], last: int, sums: VariableSums) -> Iterator[Block]:
        return open_source(file, configuration, options, custom_functions=functions).blocks(0, last, list(sums.counts), training=True)

    for file in manifest["files"]:
        if file["split"] == "train":
            entries = 0 if file["bad"] else leading_entries(file["entries"], configuration.preprocess_fraction)
            yield TrainingFile(entries=entries, read=functools.partial(read, file, entries))


if __name__ == "__main__":
    run_command(main)
