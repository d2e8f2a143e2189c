"""Make the weights of each class, and write the resolved data configuration.

    python -m weaver_tasks.reweight --data-config data.yaml --inputs inputs.json --standardization standardization.json
        --output reweighting.json --plot reweighting.png --auto-config data_config.auto.yaml

data_config.auto.yaml is the data configuration with its standardization and weights filled in; all later stages read
it, and weaver-core can. Several jobs can share the work: see --part and --gather.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from weaver_tasks.base.command_line import run_command, task
from weaver_tasks.base.digests import digest
from weaver_tasks.base.files import atomic_path, read_json, write_json
from weaver_tasks.base.record import TaskRecord
from weaver_tasks.data.configuration import DataConfiguration, dump_auto, fingerprints, load_data_configuration
from weaver_tasks.data.events.block import StagingOptions, extra_selection_column
from weaver_tasks.data.staging.sources import open_source
from weaver_tasks.data.statistics.passes import Passes, TrainingFile, add_options, check_options, make_sums
from weaver_tasks.data.statistics.reweighting import Reweighting, finish_reweighting, next_pass
from weaver_tasks.data.statistics.weights import weight_columns
from weaver_tasks.jobs.options import add_data_configuration, add_inputs
from weaver_tasks.results.plots.inputs import plot_no_reweighting, plot_reweighting
from weaver_tasks.settings.stage import stage_parser


def main(argv: list[str] | None = None) -> None:
    parser = stage_parser("reweight", __doc__)
    add_data_configuration(parser, "the data configuration of the training files")
    add_inputs(parser, "inputs.json")
    parser.add_argument("--standardization", type=Path, help="standardization.json")
    parser.add_argument("--output", type=Path, help="reweighting.json")
    parser.add_argument("--plot", type=Path, help="a picture of the classes before and after")
    parser.add_argument("--auto-config", type=Path, help="data_config.auto.yaml")
    add_options(parser)
    arguments = parser.parse_args(argv)
    check_options(parser, arguments, results=("standardization", "output", "auto_config"))
    with task(arguments) as record:
        _reweight(arguments, record)


def _reweight(arguments: argparse.Namespace, record: TaskRecord) -> None:
    manifest = read_json(arguments.inputs)
    configuration = load_data_configuration(arguments.data_config, custom_functions=arguments.custom_functions)
    for path in filter(None, (arguments.inputs, arguments.standardization, *arguments.after)):
        record.read(path)
    record.read_configuration(data=arguments.data_config, functions=arguments.custom_functions)
    configuration = _for_remaking(configuration, arguments)
    passes = _passes(configuration, manifest, arguments)
    if arguments.sums:
        make_sums(passes, arguments, record)
        return
    sums = passes.all()
    made = finish_reweighting(configuration, sums) if sums else None
    write_json(arguments.output, _as_json(configuration, made))
    histograms = {name: weights.tolist() for name, weights in made.weights.items()} if made else None
    standardization = read_json(arguments.standardization)["variables"]
    with atomic_path(arguments.auto_config) as temporary:
        temporary.write_text(dump_auto(configuration, standardization, histograms))
    for path in (arguments.output, arguments.auto_config):
        record.wrote(path)
    if arguments.plot:
        for path in _plot(configuration, made, arguments.plot):
            record.wrote(path)


def _for_remaking(configuration: DataConfiguration, arguments: argparse.Namespace) -> DataConfiguration:
    """The configuration without its existing histograms, if they are to be made anew."""
    if configuration.weights is None or not arguments.settings.sampling.remake_weights:
        return configuration
    return dataclasses.replace(configuration, weights=dataclasses.replace(configuration.weights, histograms=None))


def _passes(configuration: DataConfiguration, manifest: dict[str, Any], arguments: argparse.Namespace) -> Passes:
    fold = arguments.settings.fold
    return Passes(
        # Histograms are also filled if existing ones are kept, to plot their effect.
        functools.partial(next_pass, configuration),
        list(_training_files(manifest, configuration, arguments)),
        digest=digest(manifest["digest"], fingerprints.weighting(configuration), fold.plain() if fold else None),
        after=arguments.after,
    )


def _training_files(manifest: dict[str, Any], configuration: DataConfiguration, arguments: argparse.Namespace) -> Iterator[TrainingFile]:
    """The columns of the training events: those that pass the extra selection and are not in the fold that is left out."""
    fold = arguments.settings.fold
    extra = extra_selection_column("train")
    names = [*weight_columns(configuration), extra, *([fold.variable] if fold else [])]
    options = StagingOptions.from_manifest(manifest)

    def read(file: dict[str, Any], _: Any) -> Iterator[Mapping[str, np.ndarray]]:
        source = open_source(file, configuration, options, custom_functions=arguments.custom_functions)
        for block in source.blocks(0, file["entries"], names, training=True):
            kept = np.ones(len(block), dtype=bool)
            if extra in block.plain:
                kept &= np.asarray(block.plain[extra])
            if fold:
                kept &= np.asarray(block.plain[fold.variable]) % fold.folds != fold.index
            yield {name: np.asarray(array)[kept] for name, array in block.plain.items()}

    for file in manifest["files"]:
        if file["split"] == "train":
            yield TrainingFile(entries=0 if file["bad"] else file["entries"], read=functools.partial(read, file))


def _as_json(configuration: DataConfiguration, made: Reweighting | None) -> dict[str, Any]:
    weights = configuration.weights
    if weights is None:
        return {"method": None}
    if made is None:
        return {"method": "precomputed", "branches": list(weights.branches)}
    return {
        "method": weights.method,
        "edges": {name: list(edges) for name, edges in weights.variables.items()},
        "events": made.events,
        "events_used": {name: int(counts.sum()) for name, counts in made.counts.items()},
        "content": {name: content.tolist() for name, content in made.content.items()},
        "weights": {name: histogram.tolist() for name, histogram in made.weights.items()},
        "sum_of_weights": {name: float((made.content[name] * histogram).sum()) for name, histogram in made.weights.items()},
    }


def _plot(configuration: DataConfiguration, made: Reweighting | None, path: Path) -> list[Path]:
    if made is None:
        weights = configuration.weights
        return plot_no_reweighting("Every event weighs the same" if weights is None else "Weights are read from the files", path)
    assert configuration.weights is not None
    after = {name: made.content[name] * histogram for name, histogram in made.weights.items()}
    return plot_reweighting(configuration.weights.variables, made.content, after, path)


if __name__ == "__main__":
    run_command(main)
