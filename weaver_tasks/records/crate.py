"""The lineage of a run as one RO-Crate: which task made which file, from which files, with which software, when.

Profile: Provenance Run Crate 0.5 (https://w3id.org/ro/wfrun/provenance), on RO-Crate 1.1. The run's folder is the root of the crate.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from rocrate.model import ContextEntity, Entity
from rocrate.rocrate import ROCrate

from weaver_tasks import __version__
from weaver_tasks.records.crate_parameters import encoding_format
from weaver_tasks.records.crate_run import Record, RunDescription
from weaver_tasks.records.read import code_versions, told_mixture

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

    records: what `base.record` wrote, one a task. run_folder: results/<run>; files below it are named relative to it, others by a
    file: URI. config: the resolved configuration. described: file below run_folder -> what it is, for files no task made.
    workflow: the workflow's main file, one of `described`.
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
    mixture = told_mixture(code_versions(records))
    description = f"A jet tagger trained by weaver-tasks {__version__}: {len(records)} tasks from ROOT files to an ONNX model."
    crate.description = f"{description} It was {mixture}." if mixture else description
    crate.license = _NO_LICENSE
    # Not the time of writing: the same records give the same crate.
    crate.root_dataset["datePublished"] = max(record["end"] for record in records)
    crate.root_dataset["conformsTo"] = [
        crate.add(ContextEntity(crate, url, properties={"@type": "CreativeWork", "name": name, "version": version}))
        for url, (name, version) in _PROFILES.items()
    ]


class Files:
    """The files of a crate, each once."""

    def __init__(self, crate: ROCrate, run_folder: Path) -> None:
        self._crate = crate
        self._run_folder = os.path.abspath(run_folder)
        self._known: dict[str, Entity] = {}

    def name(self, path: str | Path) -> str:
        """How the crate names a file: relative to the run's folder, or by an address."""
        if "://" in str(path):
            return str(path)
        absolute = os.path.abspath(path)
        if absolute.startswith(f"{self._run_folder}/"):
            return quote(absolute[len(self._run_folder) + 1 :])
        return Path(absolute).as_uri()

    def file(self, path: str | Path, *, checksum: str | None = None, size: int | None = None) -> Entity:
        """The entity of a file, with its SHA-256 and its size in bytes where they are known."""
        name = self.name(path)
        if name not in self._known:
            self._known[name] = self._crate.add(self._entity(name))
        entity = self._known[name]
        if checksum and " " not in checksum:
            entity["sha256"] = checksum
        if size is not None:
            entity["contentSize"] = str(size)
        return entity

    def _entity(self, name: str) -> Entity:
        properties = {"@type": "File", "name": os.path.basename(unquote(name)), "encodingFormat": encoding_format(name)}
        if "://" not in name and not os.path.exists(os.path.join(self._run_folder, unquote(name))):
            # A part of the crate would have to be there.
            gone = {"@type": "CreativeWork", "name": os.path.basename(name), "description": f"{name}, which has been removed since."}
            return ContextEntity(self._crate, f"#removed/{name}", properties=gone)
        return Entity(self._crate, name, properties=properties)

    def close(self) -> None:
        """Make the files parts of the crate: at once, since the library looks through all parts for each one that it adds."""
        parts = [entity for entity in self._known.values() if entity.type == "File"]
        self._crate.root_dataset["hasPart"] = [*self._crate.root_dataset.get("hasPart", []), *parts]
