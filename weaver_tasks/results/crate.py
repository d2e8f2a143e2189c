"""The lineage of a run as one RO-Crate: which task made which file, from which files, with which software, when.

Profile: Provenance Run Crate 0.5 (https://w3id.org/ro/wfrun/provenance), on RO-Crate 1.1. The run's folder is the root of the crate.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from rocrate.model import ContextEntity, Entity, SoftwareApplication
from rocrate.rocrate import ROCrate

from weaver_tasks import __version__

Record = Mapping[str, Any]

_PROFILES = {
    "https://w3id.org/ro/wfrun/process/0.5": "Process Run Crate",
    "https://w3id.org/ro/wfrun/workflow/0.5": "Workflow Run Crate",
    "https://w3id.org/ro/wfrun/provenance/0.5": "Provenance Run Crate",
}
_TERMS = "https://w3id.org/ro/terms/workflow-run/context"


def make_crate(records: Iterable[Record], *, run_folder: Path, config: Mapping[str, Any], described: Mapping[str, str]) -> dict[str, Any]:
    """The content of ro-crate-metadata.json.

    records: what `base.record` wrote, one a task. run_folder: results/<run>; files below it are named relative to it, others by a
    file: URI. config: the resolved configuration. described: file below run_folder -> what it is, for files no task made.
    """
    records = sorted(records, key=lambda record: (record["start"], record["stage"]))
    crate = ROCrate(version="1.1")
    crate.metadata.extra_contexts.append(_TERMS)
    builder = _Builder(crate, run_folder)
    crate.name = f"weaver-tasks run {config.get('run', run_folder.name)}"
    crate.description = f"A jet tagger trained by weaver-tasks {__version__}: {len(records)} tasks from ROOT files to an ONNX model."
    last = max((record["end"] for record in records), default=None)
    if last:
        # Not the time of writing: the same records give the same crate.
        crate.root_dataset["datePublished"] = last
    crate.root_dataset["conformsTo"] = [
        crate.add(ContextEntity(crate, url, properties={"@type": "CreativeWork", "name": name, "version": "0.5"}))
        for url, name in _PROFILES.items()
    ]
    for name, text in described.items():
        builder.file(run_folder / name)["description"] = text
    builder.workflow(records)
    return crate.metadata.generate()


class _Builder:
    """Adds the entities of a run to a crate, each file and each program once."""

    def __init__(self, crate: ROCrate, run_folder: Path) -> None:
        self._crate = crate
        self._run_folder = Path(os.path.abspath(run_folder))
        self._files: dict[str, Entity] = {}
        self._programs: dict[tuple[str, str], Entity] = {}

    def file(self, path: str | Path, *, checksum: str | None = None, size: int | None = None) -> Entity:
        """The entity of a file, with its SHA-256 and its size in bytes where they are known."""
        absolute = Path(os.path.abspath(path))
        if "://" in str(path):
            identifier = str(path)
        elif absolute.is_relative_to(self._run_folder):
            identifier = absolute.relative_to(self._run_folder).as_posix()
        else:
            identifier = absolute.as_uri()
        if identifier not in self._files:
            inside = "://" not in identifier
            entity = self._crate.add_file(dest_path=identifier) if inside else self._crate.add_file(identifier)
            entity["name"] = Path(identifier).name
            self._files[identifier] = entity
        entity = self._files[identifier]
        if checksum:
            entity["sha256"] = checksum
        if size is not None:
            entity["contentSize"] = str(size)
        return entity

    def workflow(self, records: list[Record]) -> None:
        """The workflow with its steps, its run, and the run of each task."""
        engine = self._program("snakemake", records[-1]["packages"].get("snakemake", "") if records else "")
        steps = {stage: self._step(stage) for stage in dict.fromkeys(record["stage"] for record in records)}
        workflow = self._context(
            "#workflow",
            {"@type": ["SoftwareSourceCode", "ComputationalWorkflow", "HowTo"], "name": "weaver-tasks", "version": __version__},
        )
        workflow["step"] = list(steps.values())
        workflow["hasPart"] = [step["workExample"] for step in steps.values()]
        workflow["programmingLanguage"] = engine
        self._crate.root_dataset["mainEntity"] = workflow
        if not records:
            return
        actions = [self._action(record, number, steps[record["stage"]]) for number, record in enumerate(records)]
        run = self._context(
            "#run",
            {
                "@type": "CreateAction",
                "name": "The run of the workflow",
                "startTime": min(record["start"] for record in records),
                "endTime": max(record["end"] for record in records),
            },
        )
        run["instrument"] = workflow
        made = dict.fromkeys(path for record in records for path in record["outputs"])
        used = dict.fromkeys(path for record in records for path in record["inputs"])
        run["object"] = [self.file(path) for path in used if path not in made]
        run["result"] = [self.file(path) for path in made]
        controls = []
        for number, (record, action) in enumerate(zip(records, actions, strict=True)):
            control = self._context(f"#control-{number}", {"@type": "ControlAction", "name": f"Orchestrate {action['name']}"})
            control["instrument"] = steps[record["stage"]]
            control["object"] = action
            controls.append(control)
        organized = self._context("#organization", {"@type": "OrganizeAction", "name": "Snakemake runs the workflow"})
        organized["instrument"] = engine
        organized["object"] = controls
        organized["result"] = run
        self._crate.root_dataset["mentions"] = [run, *actions]

    def _context(self, identifier: str, properties: dict[str, Any]) -> Entity:
        return self._crate.add(ContextEntity(self._crate, identifier, properties=properties))

    def _step(self, stage: str) -> Entity:
        tool = self._context(f"#stage-{stage}", {"@type": "SoftwareApplication", "name": f"weaver_tasks.{stage}"})
        step = self._context(f"#step-{stage}", {"@type": "HowToStep", "name": stage})
        step["workExample"] = tool
        return step

    def _program(self, name: str, version: str) -> Entity:
        if (name, version) not in self._programs:
            properties = {"name": name, "version": version}
            entity = SoftwareApplication(self._crate, f"#{name}-{version}", properties=properties)
            self._programs[name, version] = self._crate.add(entity)
        return self._programs[name, version]

    def _action(self, record: Record, number: int, step: Entity) -> Entity:
        """The run of one task: CreateAction with what it read (object), what it made (result), its program and settings."""
        tool = step["workExample"]
        action = self._crate.add_action(
            tool,
            identifier=f"#task-{number}",
            object=[self.file(path, checksum=checksum) for path, checksum in record["inputs"].items()],
            result=[self.file(path, checksum=made["sha256"], size=made["bytes"]) for path, made in record["outputs"].items()],
            properties={
                "name": f"{record['stage']} {number}",
                "startTime": record["start"],
                "endTime": record["end"],
                "description": record["command"],
                "actionStatus": {"@id": "http://schema.org/CompletedActionStatus"},
            },
        )
        code = record["code"]
        version = " ".join(filter(None, [code["version"], code["commit"], "with local changes" if code["dirty"] else None]))
        facts = {"settings": record["settings_digest"], "code": version, "modules": code["modules"]}
        facts |= {"host": record["host"], "processor": record["processor"], "python": record["python"]}
        action["additionalProperty"] = [self._fact(number, name, value) for name, value in facts.items()]
        action["environment"] = [self._program(name, version) for name, version in record["packages"].items() if version != "not installed"]
        return action

    def _fact(self, number: int, name: str, value: str) -> Entity:
        return self._context(f"#task-{number}-{name}", {"@type": "PropertyValue", "name": name, "value": value})
