"""Describe the run of a workflow in an RO-Crate: its steps, its parameters, and the run of each task."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from rocrate.model import ContextEntity, Entity
from rocrate.rocrate import ROCrate

from weaver_tasks import __version__
from weaver_tasks.base.digests import digest
from weaver_tasks.records.crate_files import Files
from weaver_tasks.records.crate_parameters import encoding_format, flat_settings, kind_of_file, option_of
from weaver_tasks.records.read import code_name

Record = Mapping[str, Any]

_SNAKEMAKE = "https://w3id.org/workflowhub/workflow-ro-crate#snakemake"
_DONE = "http://schema.org/CompletedActionStatus"
_STAGES = "#stage/"
_FACTS = ("python", "host", "processor", "device")


class RunDescription:
    """Adds a run to a crate. Entities that many tasks share (settings, packages, tools) are added once."""

    def __init__(self, crate: ROCrate, files: Files, config: Mapping[str, Any]) -> None:
        self._crate, self._files, self._config = crate, files, config
        self._entities: dict[str, Entity] = {}
        # parameter -> the files and values that are its examples
        self._examples: dict[str, dict[str, Entity]] = {}
        self._of_tools: dict[tuple[str, str], dict[str, Entity]] = {}

    def add(self, records: Sequence[Record], *, workflow: str, description: str) -> None:
        stages = dict.fromkeys(record["stage"] for record in records)
        steps = {stage: self._step(stage, position) for position, stage in enumerate(stages, start=1)}
        actions = [self._task(record, steps[record["stage"]]) for record in records]
        main = self._workflow(workflow, description, list(steps.values()), records)
        run = self._whole_run(main, records)
        engine = self._entity(
            "https://snakemake.github.io",
            "SoftwareApplication",
            name="Snakemake",
            url="https://snakemake.github.io",
            version=records[-1]["packages"].get("snakemake", ""),
        )
        controls = [
            self._entity(
                f"#control/{_name(record)}",
                "ControlAction",
                name=f"Run {_name(record)}",
                instrument=steps[record["stage"]],
                object=action,
                actionStatus=_DONE,
            )
            for record, action in zip(records, actions, strict=True)
        ]
        self._entity(
            "#organization",
            "OrganizeAction",
            name="Snakemake runs the workflow",
            instrument=engine,
            object=controls,
            result=run,
            agent=run["agent"],
            startTime=run["startTime"],
            endTime=run["endTime"],
            actionStatus=_DONE,
        )
        for (tool, key), parameters in self._of_tools.items():
            self._entities[tool][key] = _compact(list(parameters.values()))
        for name, examples in self._examples.items():
            self._entities[name]["workExample"] = _compact(list(examples.values()))
        self._crate.root_dataset["mentions"] = [run, *actions]
        self._crate.root_dataset["author"] = run["agent"]

    def _entity(self, identifier: str, kind: str | list[str], **properties: Any) -> Entity:
        if identifier not in self._entities:
            entity = ContextEntity(self._crate, identifier, properties={"@type": kind})
            for name, value in properties.items():
                entity[name] = _compact(value)
            self._entities[identifier] = self._crate.add(entity)
        return self._entities[identifier]

    def _workflow(self, name: str, description: str, steps: list[Entity], records: Sequence[Record]) -> Entity:
        language = self._entity(
            _SNAKEMAKE, "ComputerLanguage", name="Snakemake", alternateName="SMK", url="https://snakemake.github.io",
            version=records[-1]["packages"].get("snakemake", ""),
        )  # fmt: skip
        main = self._crate.add(
            Entity(self._crate, name, properties={"@type": ["File", "SoftwareSourceCode", "ComputationalWorkflow", "HowTo"]})
        )
        facts = {
            "name": "weaver-tasks",
            "description": description,
            "version": __version__,
            "encodingFormat": encoding_format(".smk"),
            "conformsTo": {"@id": "https://bioschemas.org/profiles/ComputationalWorkflow/1.0-RELEASE"},
            "programmingLanguage": language,
            "step": steps,
            "hasPart": [step["workExample"] for step in steps],
        }
        for key, value in facts.items():
            main[key] = _compact(value)
        self._crate.root_dataset["mainEntity"] = main
        self._crate.root_dataset["hasPart"] = [main]
        return main

    def _whole_run(self, main: Entity, records: Sequence[Record]) -> Entity:
        made = dict.fromkeys(self._files.name(path) for record in records for path in record["outputs"])
        used = {self._files.name(path): path for record in records for path in record["inputs"]}
        sources = [self._files.file(path) for name, path in used.items() if name not in made]
        run = self._entity(
            "#run",
            "CreateAction",
            name=f"The run {self._config['run']}",
            description=f"All {len(records)} tasks of the run.",
            startTime=min(record["start"] for record in records),
            endTime=max(record["end"] for record in records),
            instrument=main,
            agent=self._agent(records[-1]),
            actionStatus=_DONE,
        )
        settings = [self._value("workflow", name, value) for name, value in flat_settings(self._config)]
        results = [self._files.file(path) for record in records for path in record["outputs"]]
        run["object"] = [*sources, *(value for _, value in settings)]
        run["result"] = results
        inputs = self._file_parameters("workflow", "in", records, leave_out=made)
        outputs = self._file_parameters("workflow", "out", records, leave_out={})
        main["input"] = [*inputs.values(), *(parameter for parameter, _ in settings)]
        main["output"] = list(outputs.values())
        return run

    def _file_parameters(self, owner: str, direction: str, records: Sequence[Record], *, leave_out: Mapping[str, Any]) -> dict[str, Entity]:
        parameters: dict[str, Entity] = {}
        for record in records:
            for path in record["inputs" if direction == "in" else "outputs"]:
                if self._files.name(path) not in leave_out:
                    parameter = self._parameter(owner, direction, self._kind(path, record), "File", self._files.file(path))
                    parameters[parameter.id] = parameter
        return parameters

    def _kind(self, path: str, record: Record) -> str:
        name = self._files.name(path)
        if "://" not in name:
            return kind_of_file(name)
        return option_of(path, record["command"]) or name.rpartition("/")[2]

    def _parameter(self, owner: str, direction: str, kind: str, of: str, example: Entity) -> Entity:
        """The formal parameter of a stage or of the workflow, with this example added."""
        identifier = f"#{owner}/{direction}/{re.sub(r'[^A-Za-z0-9._/-]+', '-', kind)}"
        parameter = self._entity(identifier, "FormalParameter", name=kind, additionalType=of)
        examples = self._examples.setdefault(identifier, {})
        if example.id not in examples:
            examples[example.id] = example
            example.append_to("exampleOfWork", parameter, compact=True)
        return parameter

    def _value(self, owner: str, name: str, value: str) -> tuple[Entity, Entity]:
        """The entities of a setting: its parameter and its value. Tasks with the same value share them."""
        entity = self._entity(f"#{owner}/{name}/{digest(value)[:12]}", "PropertyValue", name=name, value=value)
        return self._parameter(owner, "setting", name, "PropertyValue", entity), entity

    def _step(self, stage: str, position: int) -> Entity:
        tool = self._entity(
            f"{_STAGES}{stage}", "SoftwareApplication", name=f"weaver_tasks.{stage}", softwareVersion=__version__,
        )  # fmt: skip
        return self._entity(f"#step/{stage}", "HowToStep", name=stage, position=str(position), workExample=tool)

    def _task(self, record: Record, step: Entity) -> Entity:
        """The run of one task: a CreateAction with its inputs (object), its outputs (result), its program and its environment."""
        tool, stage = step["workExample"], record["stage"]
        settings = [self._value(stage, name, value) for name, value in flat_settings(record["settings"])]
        read = [self._files.file(path, checksum=checksum) for path, checksum in record["inputs"].items()]
        made = [self._files.file(path, checksum=entry["sha256"], size=entry["bytes"]) for path, entry in record["outputs"].items()]
        self._extend(tool, "input", [*self._file_parameters(stage, "in", [record], leave_out={}).values(), *(p for p, _ in settings)])
        self._extend(tool, "output", self._file_parameters(stage, "out", [record], leave_out={}).values())
        return self._entity(
            f"#task/{_name(record)}",
            "CreateAction",
            name=_name(record),
            description=record["command"],
            startTime=record["start"],
            endTime=record["end"],
            instrument=tool,
            object=[*read, *(value for _, value in settings)],
            result=made,
            agent=self._agent(record),
            environment=self._environment(record),
            actionStatus=_DONE,
        )

    def _extend(self, tool: Entity, key: str, parameters: Any) -> None:
        """Add to the inputs or outputs of a tool. They are set at the end, because setting a long list each time would be slow."""
        self._of_tools.setdefault((tool.id, key), {}).update((parameter.id, parameter) for parameter in parameters)

    def _environment(self, record: Record) -> list[Entity]:
        facts = {name: str(record[name]) for name in _FACTS if record.get(name)}
        facts |= {"code": code_name(record["code"]), "modules": record["code"]["package"]}
        facts |= {name: version for name, version in record["packages"].items() if version != "not installed"}
        return [
            self._entity(f"#environment/{name}/{digest(value)[:12]}", "PropertyValue", name=name, value=value)
            for name, value in facts.items()
        ]

    def _agent(self, record: Record) -> Entity:
        name = record.get("user") or "unknown"
        return self._entity(f"#user/{name}", "Person", name=name)


def _compact(value: Any) -> Any:
    """The single item of a list with one item, as RO-Crate requires; other values unchanged."""
    return value[0] if isinstance(value, list) and len(value) == 1 else value


def _name(record: Record) -> str:
    """<stage>/<task>, the name of the record."""
    return record["record"].rpartition("provenance/tasks/")[2].removesuffix(".json")
