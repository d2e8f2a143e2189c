"""Gather what every task did into one RO-Crate of the run.

    provenance/tasks/**/*.json, the resolved configuration -> provenance/ro-crate-metadata.json, provenance/config.json

The crate is linked into the run's folder too, as ro-crate-metadata.json: that folder is its root.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from weaver_tasks.base.command_line import run_command, stage_parser, task
from weaver_tasks.base.files import link_or_copy, write_json
from weaver_tasks.results.crate import make_crate
from weaver_tasks.results.records import code_versions, read_records, told_mixture

logger = logging.getLogger("weaver_tasks")

_DESCRIBED = {
    "inputs.json": "Every input file: checksum, tree, entries read and kept, or why it is bad.",
    "files.json": "The frozen list of input files of the run.",
}


def main(argv: Sequence[str] | None = None) -> None:
    parser = stage_parser("provenance", __doc__)
    parser.add_argument("--run-dir", type=Path, required=True, metavar="DIR", help="results/<run>")
    parser.add_argument("--output", type=Path, required=True, help="provenance/ro-crate-metadata.json")
    arguments = parser.parse_args(argv)
    with task(arguments) as record:
        run_folder = arguments.run_dir
        records = read_records(run_folder / "provenance" / "tasks")
        configuration = arguments.output.with_name("config.json")
        write_json(configuration, arguments.settings)
        described = {name: text for name, text in _DESCRIBED.items() if (run_folder / name).is_file()}
        if configuration.absolute().is_relative_to(run_folder.absolute()):
            described[configuration.absolute().relative_to(run_folder.absolute()).as_posix()] = "The resolved configuration of the run."
        write_json(arguments.output, make_crate(records, run_folder=run_folder, config=arguments.settings, described=described))
        link_or_copy(arguments.output, run_folder / "ro-crate-metadata.json")
        record.wrote(arguments.output)
        logger.info("%d tasks", len(records))
        mixture = told_mixture(code_versions(records))
        if mixture:
            logger.warning("this run was %s", mixture)


if __name__ == "__main__":
    run_command(main)
