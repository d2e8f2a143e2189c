"""Describe the provenance of a run as an RO-Crate: which task made which file, from which files, with which software, and when.

Profile: Provenance Run Crate 0.5 (https://w3id.org/ro/wfrun/provenance), on RO-Crate 1.1. The run's folder is the root of the crate.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from rocrate.model import ContextEntity
from rocrate.rocrate import ROCrate

from weaver_tasks import __version__
from weaver_tasks.records.crate_files import Files
from weaver_tasks.records.crate_run import Record, RunDescription
from weaver_tasks.records.read import code_versions, mixed_versions_message

_PROFILES = {
    "https://w3id.org/ro/wfrun/process/0.5": ("Process Run Crate", "0.5"),
    "https://w3id.org/ro/wfrun/workflow/0.5": ("Workflow Run Crate", "0.5"),
    "https://w3id.org/ro/wfrun/provenance/0.5": ("Provenance Run Crate", "0.5"),
    "https://w3id.org/workflowhub/workflow-ro-crate/1.0": ("Workflow RO-Crate", "1.0"),
}
_TERMS = "https://w3id.org/ro/terms/workflow-run/context"
_NO_LICENSE = "None was given: ask those who made the run."


def make_crate(
    records: Iterable[Record],
    *,
    run_folder: Path,
    config: Mapping[str, Any],
    described: Mapping[str, str],
    workflow: str,
) -> dict[str, Any]:
    """The content of ro-crate-metadata.json.

    records: one per task, written by `base.record`. run_folder: results/<run>; files below it are named relative to it, others by a
    file: URI. config: the resolved configuration. described: file below run_folder -> description, for files that no task made.
    workflow: the main file of the workflow, one of `described`.
    """
    records = sorted(records, key=lambda record: (record["start"], record["stage"], record["record"]))
    crate = ROCrate(version="1.1")
    crate.metadata.extra_contexts.append(_TERMS)
    crate.metadata["conformsTo"] = [{"@id": "https://w3id.org/ro/crate/1.1"}, {"@id": "https://w3id.org/workflowhub/workflow-ro-crate/1.0"}]
    files = Files(crate, run_folder)
    _describe_root(crate, records, config)
    for name, text in described.items():
        if name != workflow:
            files.file(run_folder / name)["description"] = text
    RunDescription(crate, files, config).add(records, workflow=workflow, description=described[workflow])
    files.close()
    return crate.metadata.generate()


def _describe_root(crate: ROCrate, records: list[Record], config: Mapping[str, Any]) -> None:
    crate.name = f"weaver-tasks run {config['run']}"
    mixture = mixed_versions_message(code_versions(records))
    description = f"A jet tagger trained by weaver-tasks {__version__}: {len(records)} tasks from ROOT files to an ONNX model."
    crate.description = f"{description} It was {mixture}." if mixture else description
    crate.license = _NO_LICENSE
    # This is not the time of writing, so that the same records always give the same crate.
    crate.root_dataset["datePublished"] = max(record["end"] for record in records)
    crate.root_dataset["conformsTo"] = [
        crate.add(ContextEntity(crate, url, properties={"@type": "CreativeWork", "name": name, "version": version}))
        for url, (name, version) in _PROFILES.items()
    ]
