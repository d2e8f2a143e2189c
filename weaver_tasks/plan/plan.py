"""The plan of a run, made from the configuration before anything runs: its files, its jobs, and the settings that each job depends on.

A rule reruns exactly when the content that it uses has changed. Therefore its `params` are plain slices of the
configuration and digests of *parsed* files. Settings that only change speed, paths or monitoring are passed to the task
outside of `params`. This module is imported each time the Snakefile is parsed, so it imports neither numpy nor torch.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from weaver_tasks.base.errors import ConfigError, DataConfigError
from weaver_tasks.base.files import read_json, write_json
from weaver_tasks.base.jet_observers import kinematic_observers
from weaver_tasks.base.remote_limits import RemoteLimits, set_limits
from weaver_tasks.data.configuration import DataConfiguration, load_data_configuration
from weaver_tasks.plan.files import InputFile, expand, patterns_of, staging_jobs, without_credentials
from weaver_tasks.plan.settings import Settings, of_member
from weaver_tasks.settings.reading import resolve_config
from weaver_tasks.training.journal import Journal

FITTING = ("train", "val")

_MANY_JOBS = 200  # per stage; by default, jobs take several files or epochs each to stay below this number
_MOST_FILES = 200  # per job, because the file names are part of its command


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The plan of the run that a configuration describes.

    config: the resolved configuration. where: its file names, for messages. results: the folder of all runs.
    inputs_may_be_made: whether rules of a host workflow, which uses this one as a module, may make the input files.
    """

    config: dict[str, Any]
    where: str
    results: str = "results"
    inputs_may_be_made: bool = False
    _configurations: dict[str, DataConfiguration] = field(default_factory=dict)

    @property
    def run(self) -> str:
        """The folder of the run."""
        return f"{self.results}/{self.config['run']}"

    @property
    def staged(self) -> str:
        """The folder of the staged files. Environment variables are not expanded here; each job expands them on its node."""
        directory = self.config["staging"]["directory"]
        return f"{directory}/{self.config['run']}" if directory else f"{self.run}/staged"

    # Files

    def _patterns(self) -> dict[str, dict[str, Any]]:
        return {split: patterns_of(self.config["data"][split], split) for split in (*FITTING, "test")}

    @cached_property
    def files(self) -> tuple[InputFile, ...]:
        """All input files: the frozen list of the run, which is made anew if the patterns have changed.

        Raises ConfigError if a pattern matches nothing or a file is listed twice.
        """
        patterns = self._patterns()
        frozen = Path(self.run) / "files.json"
        if frozen.exists():
            known = read_json(frozen)
            if known["patterns"] == patterns:
                return tuple(InputFile(**entry) for entry in known["files"])
        return tuple(itertools.chain.from_iterable(self._expanded(patterns[split], split) for split in patterns))

    def _expanded(self, patterns: dict[str, dict[str, Any]], split: str) -> Iterator[InputFile]:
        return expand(patterns, split, self.where, may_be_made=self.inputs_may_be_made)

    def freeze_files(self) -> None:
        """Write files.json, so that files that appear later do not change a run that has started."""
        patterns = self._patterns()
        frozen = Path(self.run) / "files.json"
        content = {"patterns": patterns, "files": [vars(file) for file in self.files]}
        if not frozen.exists() or read_json(frozen) != content:
            write_json(frozen, content)

    def note_selected(self) -> None:
        """Note in the journals which epochs are selected now, because Snakemake deletes best_epoch.json before a new selection.

        `select_best_epoch` notes it too. This call is for runs of older versions, and for a best_epoch.json that was restored by hand.
        """
        for member in self.members():
            folder = Path(self.run) / member
            best = folder / "best_epoch.json"
            if best.exists():
                chosen = read_json(best)
                journal = Journal(folder / "checkpoints", folder / "metrics")
                if journal.metrics_file(chosen["epoch"]).exists():
                    journal.note_selected(journal.published_digest(chosen["epoch"]), chosen)

    def files_of(self, *splits: str) -> list[InputFile]:
        return [file for file in self.files if file.split in splits]

    @property
    def files_per_job(self) -> int:
        """The maximum number of files per staging job: `staging.files_per_job`, or a number that limits the number of jobs."""
        asked: int | None = self.config["staging"]["files_per_job"]
        return asked or min(_MOST_FILES, max(1, -(-len(self.files) // _MANY_JOBS)))

    def staging_jobs(self) -> dict[tuple[str, str, str], list[InputFile]]:
        """(split, group, name) of each staging job -> its files."""
        return staging_jobs(self.files, self.files_per_job)

    def statistics_parts(self) -> list[tuple[int, int]]:
        """The ranges of training files for the jobs of standardize and reweight; empty if one job of each stage reads all files."""
        files, size = len(self.files_of("train")), self.config["statistics"]["files_per_job"]
        if not size or files <= size:
            return []
        return [(first, min(first + size, files)) for first in range(0, files, size)]

    def passes(self, stage: str) -> int:
        """How many times standardize or reweight reads the training files. See `data.statistics.standardization` and `.reweighting`."""
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

    def warnings_at_start(self) -> list[str]:
        """Messages about outputs that the run will not make because a key is not set."""
        if self.test_groups():
            return []
        if self.config["prediction"]["model"]:
            return [f"{self.where}: data.test is empty: nothing is predicted, and prediction.model is exported to ONNX."]
        return [
            f"{self.where}: data.test is empty: nothing is predicted or evaluated, and the ONNX model is compared with PyTorch on "
            "validation events."
        ]

    def kinematic_plots(self) -> list[str]:
        """The plots against jet pt and mass that the evaluation of a classifier draws, given the observers of the test configuration."""
        configuration = self.data_configuration("test")
        if configuration.labels is None or configuration.labels.kind != "simple":
            return []
        return [f"efficiency_{kind}" for kind in kinematic_observers(configuration.z_variables)]

    def staged_record(self, file: InputFile) -> str:
        return f"{self.run}/staged/{file.split}/{file.group}/{file.name}.json"

    def staged_file(self, file: InputFile) -> str | None:
        """The path of the staged form of a file; None if the file is read in place."""
        mode = self.config["staging"]["mode"]
        if mode == "none":
            return None
        suffix = ".arrow" if mode == "columnar" else Path(file.source if file.is_local else file.source.partition("?")[0]).suffix
        return f"{self.staged}/{file.split}/{file.group}/{file.name}{suffix}"

    # What is trained

    def members(self) -> list[str]:
        """The folders of the trainings, relative to the folder of the run: '' for a single training, or one per fold or seed."""
        if self.config["cross_validation"]:
            return [f"fold-{fold}/" for fold in range(self.config["cross_validation"]["folds"])]
        return [f"seed-{seed}/" for seed in self.config["seeds"] or []] or [""]

    def merges(self) -> bool:
        """Whether the predictions of the members are merged into those of the run. This is also true for a single seed."""
        return self.members() != [""]

    def model(self, member: str) -> str | None:
        """The trained model that a member uses for prediction; None for its own best epoch."""
        return of_member(self.config["prediction"]["model"] or "", member) or None

    def weights(self, member: str) -> list[str]:
        """The files of network.load_weights, without their prefixes. Raises ConfigError if one does not exist."""
        given = self.settings("init_model", member=member)["network"]["load_weights"] or []
        files = []
        for path in [given] if isinstance(given, str) else given:
            candidates = [path, path.rpartition(":")[0]]
            found = next((candidate for candidate in candidates if candidate and Path(candidate).is_file()), None)
            if found is None:
                raise ConfigError(f"{self.where}: network.load_weights: no such file '{path}'. Correct the path, or leave the key out.")
            files.append(found)
        return files

    def epochs(self) -> range:
        start = self.config["training"].get("continue_from")
        return range(start["epoch"] + 1 if start else 0, self.config["training"]["epochs"])

    def fewest_events(self) -> int:
        """The minimum number of events per epoch: one batch over all ranks. 0 if nothing is trained or epochs share one event stream."""
        training = self.config["training"]
        endless = training["samples_per_epoch"] is not None or training["steps_per_epoch"] is not None
        if self.config["prediction"]["model"] or endless:
            return 0
        return training["batch_size"] * training["ranks"] * training["nodes"]

    def blocks(self) -> list[range]:
        """The range of epochs of each training job."""
        epochs, training = self.epochs(), self.config["training"]
        # Early stopping uses the validations of earlier jobs, so long jobs would delay it.
        few = 1 if training["early_stopping"] else max(1, -(-len(epochs) // _MANY_JOBS))
        size = training["epochs_per_job"] or few
        return [epochs[first : first + size] for first in range(0, len(epochs), size)]

    # What each job depends on

    def data_config_file(self, split: str) -> str:
        """The file of the data configuration for a split."""
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
        """Whether reweighting histograms are made; not if there are no weights or precomputed ones."""
        weights = self.data_configuration("train").weights
        return weights is not None and not weights.precomputed

    @cached_property
    def _settings(self) -> Settings:
        return Settings(config=self.config, where=self.where, data_configuration=self.data_configuration)

    def settings(self, stage: str, *, split: str = "train", member: str = "", epochs: range = range(0)) -> dict[str, Any]:
        """The slice of the configuration that the result of a job depends on, as plain data. It is the `params` of the rule."""
        return self._settings.of(stage, split=split, member=member, epochs=epochs)

    def untracked(self) -> dict[str, Any]:
        """Settings that a task needs, but whose change must not rerun it."""
        return self._settings.untracked()


def make_plan(document: dict[str, Any], *, where: str, inputs_may_be_made: bool = False) -> Plan:
    """Check a configuration and make the plan of its run. Raises ConfigError, DataConfigError or NetworkError if it is invalid."""
    config = resolve_config(document, where=where)
    set_limits(RemoteLimits(**config["remote"]))
    for split in (*FITTING, "test"):
        config["data"][split] = without_credentials(config["data"][split])
    plan = Plan(config=config, where=where, inputs_may_be_made=inputs_may_be_made)
    for split in (*FITTING, "test"):
        if not Path(plan.data_config_file(split)).is_file():
            key = f"config_{split}" if plan.config["data"].get(f"config_{split}") else "config"
            raise DataConfigError(f"{where}: data.{key}: no such file '{plan.data_config_file(split)}'. Correct the path.")
        plan.data_configuration(split)
    plan.untracked()
    return plan


def numbers_pattern(numbers: range) -> str:
    """A short regular expression that matches the numbers of a range; Snakemake tries it on each file of each job."""
    head = min(numbers.stop, max(10, -(-numbers.start // 10) * 10))
    tail = max(head, numbers.stop // 10 * 10)
    parts = [str(number) for number in (*range(numbers.start, head), *range(tail, numbers.stop))]
    if head < tail:
        parts.append(f"(?:{numbers_pattern(range(head // 10, tail // 10))})[0-9]")
    return "|".join(parts)
