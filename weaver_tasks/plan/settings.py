"""What each job's result depends on: slices of the configuration and digests of parsed files, the `params` of its rule."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from weaver_tasks.base.digests import digest
from weaver_tasks.base.errors import ConfigError, NetworkError
from weaver_tasks.base.source_digest import source_digest
from weaver_tasks.data.configuration import DataConfiguration
from weaver_tasks.training.schedules import epoch_rates


@dataclass(frozen=True, kw_only=True)
class Settings:
    """config: the resolved configuration. where: its file names, for messages. data_configuration: that of a split, parsed."""

    config: dict[str, Any]
    where: str
    data_configuration: Callable[[str], DataConfiguration]

    def of(self, stage: str, *, split: str = "train", member: str = "", epochs: range = range(0)) -> dict[str, Any]:
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
            "merge_predictions": self._merging,
            "evaluate": lambda: {**self._task(), "evaluation": self.config["evaluation"]},
            "export_onnx": lambda: self._export(member),
            "model_summary": lambda: self._initialization(member),
            "find_lr": lambda: {**self._training(member, range(0)), "find_lr": self.config["tools"]["find_lr"]},
            "profile_training": lambda: {**self._training(member, range(0)), "profile_training": self.config["tools"]["profile_training"]},
        }[stage]
        return maker()

    def untracked(self) -> dict[str, Any]:
        """Settings that a task needs but that must not rerun it: they change speed or watching, or `settings` tracks them in another form.

        The schedule is one of the latter: `of` holds the learning rates that follow from it.
        """
        training = self.config["training"]
        return {
            "loading": _only(self.config["loading"], "num_workers", "prefetch", "pad_on_device"),
            "training": {
                **_only(training, "epochs", "epochs_per_job", "snapshot_minutes", "tensorboard", "keep_checkpoints", "continue_from"),
                "scheduler": {**training["scheduler"], "horizon": self._horizon()},
            },
            "network": {"source_digest": self._network_digest},
            # Which epoch is the best so far, for keep_checkpoints.
            "validation": _only(self.config["validation"], "metric", "mode"),
        }

    def _horizon(self) -> int:
        return self.config["training"]["scheduler"]["horizon"] or self.config["training"]["epochs"]

    def _staging(self, split: str) -> dict[str, Any]:
        data, staging, folds = self.config["data"], self.config["staging"], self.config["cross_validation"]
        return {
            "staging": _only(staging, "mode", "max_entries"),
            "data": {"extra_selection": data["extra_selection"]},
            # How many folds there are changes no staged event.
            "cross_validation": _only(folds, "variable") if folds else None,
            "validation_from_training": data["val"] is None,
            "meaning": digest(self._events(split), self._functions_digest),
        }

    def _events(self, split: str) -> dict[str, Any]:
        """What the events of a split depend on, of the data configuration."""
        extra, folds = self.config["data"]["extra_selection"], self.config["cross_validation"]
        texts = {f"data.extra_selection.{reader}": text for reader, text in extra.items() if text}
        texts |= {"cross_validation.variable": folds["variable"]} if folds else {}
        return self.data_configuration(split).staging_slice(split, texts)

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

    def _network(self, member: str) -> dict[str, Any]:
        section = _only(self.config["network"], "options", "weaver_imports", "load_weights", "exclude_weights", "freeze_weights")
        weights = section["load_weights"]
        if weights:
            section["load_weights"] = (
                of_member(weights, member) if isinstance(weights, str) else [of_member(path, member) for path in weights]
            )
        return section

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
        training = self.data_configuration("train")
        return digest(
            self._events("train"),
            training.standardization_slice(),
            training.weights_slice(),
            training.input_slice(),
            self._events("val"),
            self._functions_digest,
        )

    def _initialization(self, member: str) -> dict[str, Any]:
        return {
            "seed": self._seed(member),
            **self._fold(member),
            "network": self._network(member),
            "training": _only(self.config["training"], "task", "lr", "optimizer", "amp", "compile", "device", "threads", "continue_from"),
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
            "network": self._network(member),
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
            "network": self._network(member),
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
            "network": self._network(member),
            "training": _only(config["training"], "task", "batch_size", "batch_size_test", "amp", "device", "threads"),
            "prediction": {**config["prediction"], "model": of_member(config["prediction"]["model"] or "", member) or None},
            "meaning": digest(self._data_meaning, self._network_digest, self._events("test")),
        }

    def _merging(self) -> dict[str, Any]:
        folds = self.config["cross_validation"]
        return {**self._task(), "data": _only(self.config["data"], "data_fraction_test"), "cross_validation": folds}

    def _export(self, member: str) -> dict[str, Any]:
        return {
            "network": self._network(member),
            **self._task(),
            "export": self.config["export"],
            "meaning": digest(self._data_meaning, self._network_digest),
        }


def of_member(path: str, member: str) -> str:
    """`path` with {fold} or {seed} replaced by the number of the member."""
    kind, _, number = member.rstrip("/").partition("-")
    return path.replace(f"{{{kind}}}", number) if kind else path


def _only(section: dict[str, Any], *keys: str) -> dict[str, Any]:
    return {key: section[key] for key in keys}
