"""Gather the records of all tasks into one RO-Crate of the run.

    provenance/tasks/**/*.json, the resolved configuration -> provenance/ro-crate-metadata.json, config.json, environments.json, workflow/

The crate is linked into the run's folder too, as ro-crate-metadata.json: that folder is its root.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from weaver_tasks.base.command_line import run_command, stage_parser, task
from weaver_tasks.base.digests import digest
from weaver_tasks.base.files import copy_file, link_or_copy, write_json
from weaver_tasks.base.record import RECORDS
from weaver_tasks.records.crate import make_crate
from weaver_tasks.records.read import code_versions, mixed_versions_message, read_records

logger = logging.getLogger("weaver_tasks")

_DESCRIBED = {
    "inputs.json": "Every input file: checksum, tree, entries read and kept, or why it is bad.",
    "files.json": "The frozen list of input files of the run.",
    "provenance/config.json": "The resolved configuration of the run.",
    "provenance/environments.json": "Code, packages and machines, and the tasks that ran with them.",
    "provenance/workflow/Snakefile": "Trains a jet tagger from ROOT files to an ONNX model, by Snakemake.",
}
_MAIN = "provenance/workflow/Snakefile"
_ENVIRONMENT = ("code", "packages", "python", "host", "processor", "device")


def main(argv: Sequence[str] | None = None) -> None:
    parser = stage_parser("provenance", __doc__)
    parser.add_argument("--run-dir", type=Path, required=True, metavar="DIR", help="results/<run>")
    parser.add_argument("--workflow", type=Path, required=True, metavar="DIR", help="the folder of the Snakefile")
    parser.add_argument("--output", type=Path, required=True, help="provenance/ro-crate-metadata.json")
    arguments = parser.parse_args(argv)
    with task(arguments) as record:
        gather(arguments)
        record.wrote(arguments.output)


def gather(arguments: argparse.Namespace) -> None:
    """Write the crate, and the files that it refers to but no task wrote."""
    run, folder = arguments.run_dir, arguments.run_dir / "provenance"
    records = read_records(run / RECORDS)
    write_json(folder / "config.json", arguments.settings)
    versions = code_versions(records)
    write_json(folder / "environments.json", {"code_versions": versions, "environments": environments(records)})
    rules = [path.relative_to(arguments.workflow) for path in sorted(arguments.workflow.glob("rules/*.smk"))]
    for path in (Path("Snakefile"), *rules):
        copy_file(arguments.workflow / path, folder / "workflow" / path)
    described = {name: text for name, text in _DESCRIBED.items() if (run / name).is_file()}
    described |= {f"provenance/workflow/{path.as_posix()}": f"Rules of the workflow: {path.stem}." for path in rules}
    write_json(arguments.output, make_crate(records, run_folder=run, config=arguments.settings, described=described, workflow=_MAIN))
    link_or_copy(arguments.output, run / "ro-crate-metadata.json")
    logger.info("%d tasks", len(records))
    mixture = mixed_versions_message(versions)
    if mixture:
        logger.warning("this run was %s", mixture)
    dirty = sorted({record["stage"] for record in records if record["code"]["dirty"]})
    if dirty and arguments.settings.get("require_clean_code"):
        logger.warning("require_clean_code: these ran with code that is not committed: %s. Use --forcerun for them", ", ".join(dirty))


def environments(records: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The distinct environments of the tasks, each with the stages and the number of its tasks."""
    found: dict[str, dict[str, Any]] = {}
    for record in records:
        environment = {key: record[key] for key in _ENVIRONMENT if key in record}
        # The imported modules depend on the stage, not on the environment.
        environment["code"] = {key: value for key, value in record["code"].items() if key != "modules"}
        entry = found.setdefault(digest(environment), {**environment, "tasks": {}})
        entry["tasks"][record["stage"]] = entry["tasks"].get(record["stage"], 0) + 1
    return list(found.values())


if __name__ == "__main__":
    run_command(main)
