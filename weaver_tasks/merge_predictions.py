"""Merge the predictions that several trainings of a run made of one test group.

    fold-<k>/predictions/<group>.root -> predictions/<group>.root   each event by the fold that did not train on it
    seed-<s>/predictions/<group>.root -> predictions/<group>.root   the mean of all scores, their standard deviation as spread_<label>

The events are in the order of the source files, formats and columns those of `predict`. Memory is bounded whatever their number.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from weaver_tasks import __version__
from weaver_tasks.base.command_line import run_command, task
from weaver_tasks.base.digests import digest
from weaver_tasks.base.errors import ConfigError
from weaver_tasks.base.files import read_json
from weaver_tasks.base.progress import Progress
from weaver_tasks.base.record import TaskRecord
from weaver_tasks.data.configuration import load_data_configuration
from weaver_tasks.data.loading.prediction_order import prediction_values
from weaver_tasks.jobs.options import add_data_configuration, add_inputs
from weaver_tasks.results.predictions.merging import average, merge_folds, merged_metadata, whole_table
from weaver_tasks.results.predictions.tables import open_table
from weaver_tasks.settings.model import CrossValidation
from weaver_tasks.settings.stage import stage_parser

logger = logging.getLogger("weaver_tasks")


def main(argv: list[str] | None = None) -> None:
    parser = stage_parser("merge_predictions", __doc__)
    parser.add_argument(
        "--predictions",
        nargs="+",
        required=True,
        type=_named_file,
        metavar="MEMBER=FILE",
        help="those of all members, in order",
    )
    parser.add_argument("--group", required=True, help="the test group that they are of")
    add_inputs(parser, "the manifest of input files; of folds only", required=False)
    add_data_configuration(parser, "that of the test files; of folds only", required=False)
    parser.add_argument("--output", type=Path, required=True, help="the merged file, .root or .parquet")
    arguments = parser.parse_args(argv)
    with task(arguments) as record:
        merge(arguments, record)


def _named_file(text: str) -> tuple[str, Path]:
    member, equals, path = text.partition("=")
    if not (member and equals and path):
        raise argparse.ArgumentTypeError(f"'{text}' is not MEMBER=FILE")
    return member, Path(path)


def merge(arguments: argparse.Namespace, record: TaskRecord) -> None:
    """Merge one group. Raises a WeaverTasksError if the members do not match each other or the input files."""
    tables = dict(arguments.predictions)
    folds = arguments.settings.cross_validation
    for path in tables.values():
        record.read(whole_table(path))
    if folds:
        _check_options(arguments, folds, members=len(tables))
        record.read_configuration(data=arguments.data_config, functions=arguments.custom_functions)
        record.read(arguments.inputs)
    combination = f"each event by fold {folds.variable} % {folds.folds}" if folds else "mean over the members"
    own = {"made_by": f"weaver_tasks {__version__}", "combination": combination, "settings": digest(arguments.given)}
    metadata = {**merged_metadata(tables), **own, "provenance": record.stamp()}
    chunks = merge_folds(tables, _fold_of_events(arguments, folds)) if folds else average(tables)
    with open_table(arguments.output, metadata) as table, Progress(f"merging {arguments.group}", total=None) as progress:
        for columns in chunks:
            before = table.entries
            table.write(columns)
            progress.advance(table.entries - before)
    entries = table.entries
    for path in table.paths:
        record.wrote(path)
    record.note(entries=entries, combination=combination)
    logger.info("%s: %d events, %s", arguments.output, entries, combination)


def _check_options(arguments: argparse.Namespace, folds: CrossValidation, *, members: int) -> None:
    if members != folds.folds or not (arguments.inputs and arguments.data_config):
        raise ConfigError(f"merge_predictions: {folds.folds} folds want as many --predictions, --inputs and --data-config.")


def _fold_of_events(arguments: argparse.Namespace, folds: CrossValidation) -> Iterator[np.ndarray]:
    """The fold of each event of the group, in the order of the source files."""
    values = prediction_values(
        read_json(arguments.inputs),
        load_data_configuration(arguments.data_config, custom_functions=arguments.custom_functions),
        arguments.settings,
        folds.variable,
        group=arguments.group,
        custom_functions=arguments.custom_functions,
    )
    for each in values:
        yield (each % folds.folds).astype(np.int64)


if __name__ == "__main__":
    run_command(main)
