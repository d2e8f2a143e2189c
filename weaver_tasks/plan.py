"""What the workflow asks before it runs anything: which files, which jobs, and what each job's result depends on.

A rule reruns exactly when the meaning of what it uses has changed. So its `params` are plain slices of the
configuration, and digests of *parsed* files; what only changes speed, place or watching is passed to the task
outside `params`. Imported each time that the Snakefile is parsed: neither numpy nor torch is imported here.
"""

from __future__ import annotations

import glob
import itertools
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from weaver_tasks.base.config import resolve_config
from weaver_tasks.base.errors import ConfigError, DataConfigError, NetworkError
from weaver_tasks.base.files import read_json, write_json
from weaver_tasks.base.hashing import digest
from weaver_tasks.base.source_digest import source_digest
from weaver_tasks.data.configuration import DataConfiguration, load_data_configuration
from weaver_tasks.training.schedules import epoch_rates

FITTING = ("train", "val")


@dataclass(frozen=True, kw_only=True)
class InputFile:
    """One input file of the run. `name` is unique within its split and group."""

    split: str
    group: str
    source: str
    name: str

    @property
    def is_local(self) -> bool:
        return "://" not in self.source


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The run that a configuration describes.

    config: the resolved configuration. where: its file names, for messages. results: the folder of all runs.
    """

    config: dict[str, Any]
    where: str
    results: str = "results"
    _configurations: dict[str, DataConfiguration] = field(default_factory=dict)

    @property
    def run(self) -> str:
        """The folder of the run."""
        return f"{self.results}/{self.config['run']}"

    @property
    def staged(self) -> str:
        """The folder of the staged files. Environment variables in it stay: a job expands them, on the node where it runs."""
        directory = self.config["staging"]["directory"]
        return f"{directory}/{self.config['run']}" if directory else f"{self.run}/staged"

    # Files

    @cached_property
    def files(self) -> tuple[InputFile, ...]:
        """All input files: the frozen list of the run, made anew when the patterns have changed.

        Raises ConfigError when a pattern matches nothing or a file is listed twice.
        """
        patterns = {split: _groups(self.config["data"][split], split) for split in (*FITTING, "test")}
        frozen = Path(self.run) / "files.json"
        if frozen.exists():
            known = read_json(frozen)
            if known["patterns"] == patterns:
                return tuple(InputFile(**entry) for entry in known["files"])
        return tuple(itertools.chain.from_iterable(_expand(patterns[split], split, self.where) for split in patterns))

    def freeze_files(self) -> None:
        """Write files.json, so that files appearing later do not change a run that has begun."""
        patterns = {split: _groups(self.config["data"][split], split) for split in (*FITTING, "test")}
        frozen = Path(self.run) / "files.json"
        content = {"patterns": patterns, "files": [vars(file) for file in self.files]}
        if not frozen.exists() or read_json(frozen) != content:
            write_json(frozen, content)

    def files_of(self, *splits: str) -> list[InputFile]:
        return [file for file in self.files if file.split in splits]

    def chunks(self) -> Iterator[list[InputFile]]:
        """The files that one staging job takes: of one split and group, `staging.files_per_job` at most."""
        size = self.config["staging"]["files_per_job"]
        for _, files in itertools.groupby(self.files, key=lambda file: (file.split, file.group)):
            yield from _batched(list(files), size)

    def statistics_parts(self) -> list[tuple[int, int]]:
        """The ranges of training files that jobs of standardize and reweight go through; empty when one job of each does it all."""
        files, size = len(self.files_of("train")), self.config["statistics"]["files_per_job"]
        if not size or files <= size:
            return []
        return [(first, min(first + size, files)) for first in range(0, files, size)]

    def passes(self, stage: str) -> int:
        """How often standardize or reweight goes through the training files. See `data.standardization` and `data.reweighting`."""
        configuration = self.data_configuration("train")
        weights = configuration.weights
        if stage == "standardize":
            return 2 if any(variable.center == "auto" for group in configuration.inputs for variable in group.variables) else 1
        if weights is None or weights.precomputed:
            return 0
        given = weights.histograms is not None and not self.config["sampling"]["remake_weights"]
        return 3 if weights.base_weight and not given else 1

    def test_groups(self) -> list[str]:
        return list(dict.fromkeys(file.group for file in self.files_of("test")))

    def staged_record(self, file: InputFile) -> str:
        return f"{self.run}/staged/{file.split}/{file.group}/{file.name}.json"

    def staged_file(self, file: InputFile) -> str | None:
        """Where the staged form of a file lies; None when it is read in place."""
        mode = self.config["staging"]["mode"]
        if mode == "none":
            return None
        suffix = ".arrow" if mode == "columnar" else Path(file.source).suffix
        return f"{self.staged}/{file.split}/{file.group}/{file.name}{suffix}"

    # What is trained

    def members(self) -> list[str]:
        """The folders of what is trained, below the run's: '' alone, or one per fold or seed."""
        if self.config["cross_validation"]:
            return [f"fold-{fold}/" for fold in range(self.config["cross_validation"]["folds"])]
        return [f"seed-{seed}/" for seed in self.config["seeds"] or []] or [""]

    def epochs(self) -> range:
        return range(self.config["training"]["epochs"])

    def blocks(self) -> list[range]:
        """The epochs of each training job."""
        size = self.config["training"]["epochs_per_job"]
        total = len(self.epochs())
        return [range(first, min(first + size, total)) for first in range(0, total, size)]

    # What each job depends on

    def data_config_file(self, split: str) -> str:
        """The data configuration that reads a split."""
        data = self.config["data"]
        return {"val": data["config_val"], "test": data["config_test"]}.get(split) or data["config"]

    def data_configuration(self, split: str) -> DataConfiguration:
        """The parsed data configuration of a split. Raises DataConfigError."""
        path = self.data_config_file(split)
        if path not in self._configurations:
            functions = self.config["data"]["custom_functions"]
            self._configurations[path] = load_data_configuration(Path(path), custom_functions=Path(functions) if functions else None)
        return self._configurations[path]

    def reweights(self) -> bool:
        """Whether reweighting histograms are made (rather than no weights, or precomputed ones)."""
        weights = self.data_configuration("train").weights
        return weights is not None and not weights.precomputed

    def settings(self, stage: str, *, split: str = "train", member: str = "", epochs: range = range(0)) -> dict[str, Any]:
        """The slice of the configuration that a job's result depends on: plain data, the rule's `params`."""
        maker = {
            "stage_inputs": lambda: self._staging(split),
            "standardize": self._standardization,
            "reweight": lambda: self._weights(member),
            "init_model": lambda: self._initialization(member),
            "train_epoch": lambda: self._training(member, epochs),
            "validate_epoch": lambda: self._validation(member),
            "select_best_epoch": lambda: {"validation": _only(self.config["validation"], "metric", "mode")},
            "predict": lambda: self._prediction(member),
            "evaluate": lambda: {**self._task(), "evaluation": self.config["evaluation"]},
            "export_onnx": self._export,
        }[stage]
        return maker()

    def untracked(self) -> dict[str, Any]:
        """Settings that a task needs but that must not rerun it: they change speed or watching, or `settings` tracks them in another form.

        The schedule is one of the latter: `settings` holds the learning rates that follow from it.
        """
        training = self.config["training"]
        return {
            "loading": _only(self.config["loading"], "num_workers", "prefetch"),
            "training": {
                **_only(training, "epochs", "epochs_per_job", "snapshot_minutes", "tensorboard", "keep_checkpoints"),
                "scheduler": {**training["scheduler"], "horizon": self._horizon()},
            },
            "network": {"source_digest": self._network_digest},
        }

    def _horizon(self) -> int:
        return self.config["training"]["scheduler"]["horizon"] or self.config["training"]["epochs"]

    def _staging(self, split: str) -> dict[str, Any]:
        data, staging = self.config["data"], self.config["staging"]
        return {
            "staging": _only(staging, "mode"),
            "data": {"extra_selection": data["extra_selection"]},
            "cross_validation": self.config["cross_validation"],
            "validation_from_training": data["val"] is None,
            "meaning": digest(self.data_configuration(split).staging_slice(split), self._functions_digest),
        }

    @cached_property
    def _functions_digest(self) -> str | None:
        functions = self.config["data"]["custom_functions"]
        if not functions:
            return None
        if not Path(functions).is_file():
            raise ConfigError(f"{self.where}: data.custom_functions: no such file '{functions}'. Correct the path, or leave the key out.")
        return source_digest(Path(functions))

    def _standardization(self) -> dict[str, Any]:
        return {"meaning": digest(self.data_configuration("train").standardization_slice())}

    def _weights(self, member: str) -> dict[str, Any]:
        configuration = self.data_configuration("train")
        return {
            "sampling": _only(self.config["sampling"], "remake_weights"),
            **self._fold(member),
            # The whole document: it goes into data_config.auto.yaml.
            "meaning": digest(configuration.raw),
        }

    def _fold(self, member: str) -> dict[str, Any]:
        if not member.startswith("fold-"):
            return {}
        return {"fold": {**self.config["cross_validation"], "index": int(member[5:-1])}}

    def _seed(self, member: str) -> int:
        return int(member[5:-1]) if member.startswith("seed-") else self.config["seed"]

    def _task(self) -> dict[str, Any]:
        return {"training": _only(self.config["training"], "task")}

    def _network(self) -> dict[str, Any]:
        return _only(self.config["network"], "options", "weaver_imports", "load_weights", "exclude_weights", "freeze_weights")

    @cached_property
    def _network_digest(self) -> str:
        path = self.config["network"]["config"]
        if not Path(path).is_file():
            raise ConfigError(f"{self.where}: network.config: no such file '{path}'. Correct the path; ready ones lie in config/networks/.")
        try:
            return source_digest(Path(path))
        except SyntaxError as error:
            raise NetworkError(f"{path}: line {error.lineno}: not valid Python ({error.msg}). Mend the file and run again.") from error

    @cached_property
    def _data_meaning(self) -> str:
        """A digest of all that training takes from the data configurations."""
        training, validation = self.data_configuration("train"), self.data_configuration("val")
        return digest(
            training.staging_slice("train"),
            training.standardization_slice(),
            training.weights_slice(),
            training.input_slice(),
            validation.staging_slice("val"),
            self._functions_digest,
        )

    def _initialization(self, member: str) -> dict[str, Any]:
        return {
            "seed": self._seed(member),
            **self._fold(member),
            "network": self._network(),
            "training": _only(self.config["training"], "task", "lr", "optimizer", "amp", "compile", "device", "threads"),
            "meaning": digest(self._data_meaning, self._network_digest),
        }

    def _training(self, member: str, epochs: range) -> dict[str, Any]:
        config = self.config
        uses = {
            "seed": self._seed(member),
            **self._fold(member),
            "data": _only(config["data"], "data_fraction", "file_fraction", "train_val_split"),
            "loading": _only(config["loading"], "fetch_by_files", "fetch_step", "split_num", "max_window_events", "in_memory"),
            "sampling": config["sampling"],
            "network": self._network(),
            "training": _only(
                config["training"],
                *("task", "batch_size", "samples_per_epoch", "steps_per_epoch", "lr", "optimizer", "amp", "compile", "compile_optimizer"),
                *("device", "ranks", "nodes", "threads"),
            ),
        }
        scheduler = config["training"]["scheduler"]
        meaning = digest(uses)
        settings = {
            **uses,
            "validation_from_training": config["data"]["val"] is None,
            "meaning": digest(self._data_meaning, self._network_digest),
            "epochs": {
                str(epoch): {
                    "uses": meaning,
                    "rates": epoch_rates(scheduler["name"], horizon=self._horizon(), warmup=scheduler["warmup"], epoch=epoch),
                }
                for epoch in epochs
            },
        }
        if config["training"]["early_stopping"]:
            settings["training"] = {**settings["training"], "early_stopping": config["training"]["early_stopping"]}
            settings["validation"] = _only(config["validation"], "metric", "mode")
        return settings

    def _validation(self, member: str) -> dict[str, Any]:
        config = self.config
        loading = _only(config["loading"], "fetch_by_files", "fetch_step", "fetch_step_val", "max_window_events", "in_memory")
        return {
            "seed": self._seed(member),
            **self._fold(member),
            "data": _only(config["data"], "data_fraction", "data_fraction_val", "train_val_split"),
            "validation_from_training": config["data"]["val"] is None,
            "loading": loading,
            "sampling": config["sampling"] if config["validation"]["reweight"] else {},
            "network": self._network(),
            "training": _only(
                config["training"],
                *("task", "batch_size", "batch_size_val", "samples_per_epoch_val", "steps_per_epoch_val", "samples_per_epoch"),
                *("steps_per_epoch", "amp", "compile", "device", "ranks", "nodes", "threads"),
            ),
            "validation": _only(config["validation"], "reweight"),
            "meaning": digest(self._data_meaning, self._network_digest),
        }

    def _prediction(self, member: str) -> dict[str, Any]:
        config = self.config
        return {
            **self._fold(member),
            "data": _only(config["data"], "data_fraction_test"),
            "network": self._network(),
            "training": _only(config["training"], "task", "batch_size", "batch_size_test", "amp", "device", "threads"),
            "prediction": config["prediction"],
            "meaning": digest(self._data_meaning, self._network_digest, self.data_configuration("test").staging_slice("test")),
        }

    def _export(self) -> dict[str, Any]:
        return {
            "network": self._network(),
            **self._task(),
            "export": self.config["export"],
            "meaning": digest(self._data_meaning, self._network_digest),
        }


def make_plan(document: dict[str, Any], *, where: str) -> Plan:
    """Check a configuration and make the plan of its run. Raises ConfigError, DataConfigError or NetworkError."""
    plan = Plan(config=resolve_config(document, where=where), where=where)
    for split in (*FITTING, "test"):
        if not Path(plan.data_config_file(split)).is_file():
            raise DataConfigError(f"{where}: data.config: no such file '{plan.data_config_file(split)}'. Correct the path.")
        plan.data_configuration(split)
    plan.untracked()
    return plan


def _only(section: dict[str, Any], *keys: str) -> dict[str, Any]:
    return {key: section[key] for key in keys}


def _batched(items: list[InputFile], size: int) -> Iterator[list[InputFile]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


def _groups(files: Any, split: str) -> dict[str, dict[str, Any]]:
    """Named groups of patterns: {group: {patterns: […], split: N or 0}}. A plain list is one group, named as its split."""
    if not files:
        return {}
    if not isinstance(files, dict):
        files = {split: files}
    groups = {}
    for name, entry in files.items():
        listed = entry["files"] if isinstance(entry, dict) else entry
        patterns = [listed] if isinstance(listed, str) else list(listed)
        groups[name] = {"patterns": patterns, "split": entry.get("split", 0) if isinstance(entry, dict) else 0}
    return groups


def _expand(groups: dict[str, dict[str, Any]], split: str, where: str) -> Iterator[InputFile]:
    seen: dict[str, str] = {}
    for group, entry in groups.items():
        sources: list[str] = []
        for pattern in entry["patterns"]:
            sources += _matches(os.path.expandvars(pattern), f"{where}: data.{split}.{group}")
        for source in sources:
            if source in seen:
                raise ConfigError(f"{where}: data.{split}: '{source}' is listed twice, in {seen[source]} and {group}. List it once.")
            seen[source] = group
        parts = _batched_sources(sources, entry["split"])
        for index, part in enumerate(parts):
            name = f"{group}_{index}" if entry["split"] else group
            for source, unique in zip(part, _unique_names(part), strict=True):
                yield InputFile(split=split, group=name, source=source, name=unique)


def _batched_sources(sources: list[str], size: int) -> list[list[str]]:
    size = size or max(1, len(sources))
    return [sources[start : start + size] for start in range(0, len(sources), size)]


def _matches(pattern: str, where: str) -> list[str]:
    if "://" in pattern:
        return [pattern]
    if not glob.has_magic(pattern):
        if not Path(pattern).is_file():
            raise ConfigError(f"{where}: no such file '{pattern}'. Correct the path.")
        return [pattern]
    found = sorted(path for path in glob.glob(pattern, recursive=True) if Path(path).is_file())
    if not found:
        folder = Path(pattern).parent
        while glob.has_magic(str(folder)):
            folder = folder.parent
        there = sorted(path.name for path in folder.iterdir())[:3] if folder.is_dir() else []
        hint = f"The folder '{folder}' holds {', '.join(there)} …" if there else f"There is no folder '{folder}', or it is empty."
        raise ConfigError(f"{where}: '{pattern}' matches no file. {hint}")
    return found


def _unique_names(sources: list[str]) -> list[str]:
    """The stem of each file; where two are alike, a digest of the path is added to each of them."""
    stems = [Path(source.partition("?")[0]).stem for source in sources]
    return [stem if stems.count(stem) == 1 else f"{stem}-{digest(source)[:8]}" for source, stem in zip(sources, stems, strict=True)]
