"""The settings that the result of each job depends on, used as `params` of its rule: slices of the configuration and file digests."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from weaver_tasks.base.digests import digest
from weaver_tasks.base.errors import ConfigError, NetworkError
from weaver_tasks.base.source_digest import source_digest
from weaver_tasks.data.configuration import DataConfiguration, fingerprints
from weaver_tasks.settings.slices import depends_on, passed_besides
from weaver_tasks.training.schedules import epoch_rates


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Makes the settings of jobs.

    config: the resolved configuration. where: its file names, for messages. data_configuration: split -> parsed data configuration.
    """

    config: dict[str, Any]
    where: str
    data_configuration: Callable[[str], DataConfiguration]
    # A cache, because thousands of jobs share a few slices.
    _made: dict[tuple[str, str, bool], dict[str, Any]] = field(default_factory=dict)

    def of(self, stage: str, *, split: str = "train", member: str = "", epochs: range = range(0)) -> dict[str, Any]:
        """The slice of the configuration that the result of a job depends on, as plain data. It is the `params` of the rule.

        Most keys are selected by the stages that their fields declare to affect. Keys that act in another form are added here.
        """
        forms: dict[str, Any] = {
            "stage_inputs": lambda: self._staging(split),
            "gather_inputs": dict,
            "gather_fitting_inputs": dict,
            "standardize": lambda: {"meaning": digest(fingerprints.standardization(self.data_configuration("train")))},
            "reweight": lambda: self._weights(member),
            "init_model": lambda: self._initialization(member),
            "train_epoch": lambda: self._training(member, epochs),
            "validate_epoch": lambda: self._validation(member),
            "select_best_epoch": dict,
            "predict": lambda: self._prediction(member),
            "merge_predictions": lambda: {"cross_validation": self.config["cross_validation"]},
            "evaluate": dict,
            "export_onnx": lambda: {"meaning": self._meaning},
            "model_summary": lambda: self._initialization(member),
            "find_lr": lambda: self._training(member, range(0)),
            "profile_training": lambda: self._training(member, range(0)),
        }[stage]()
        keys = self._keys(stage, member)
        # The keys of tools move from their section to the top level.
        return {**{name: section for name, section in keys.items() if name != "tools"}, **keys.get("tools", {}), **forms}

    def _keys(self, stage: str, member: str, *, unconditionally: bool = False) -> dict[str, Any]:
        """The keys that a stage depends on directly, with the number of the fold or seed filled into paths. See `depends_on`."""
        made = stage, member, unconditionally
        if made not in self._made:
            self._made[made] = self._make_keys(*made)
        return self._made[made]

    def _make_keys(self, stage: str, member: str, unconditionally: bool) -> dict[str, Any]:
        keys = depends_on(self.config, stage, unconditionally=unconditionally)
        weights = keys.get("network", {}).get("load_weights")
        if weights:
            keys["network"]["load_weights"] = (
                of_member(weights, member) if isinstance(weights, str) else [of_member(path, member) for path in weights]
            )
        if keys.get("prediction", {}).get("model"):
            keys["prediction"]["model"] = of_member(keys["prediction"]["model"], member)
        return keys

    def untracked(self) -> dict[str, Any]:
        """Settings that a task needs, but that must not rerun it: they affect only speed or monitoring, or `of` has them in another form.

        The learning rate schedule is an example of the latter: `of` holds the resulting learning rates.
        """
        passed = passed_besides(self.config)
        passed["training"]["scheduler"]["horizon"] = self._horizon()
        return {**passed, "network": {**passed.get("network", {}), "source_digest": self._network_digest}}

    def _horizon(self) -> int:
        return self.config["training"]["scheduler"]["horizon"] or self.config["training"]["epochs"]

    def _staging(self, split: str) -> dict[str, Any]:
        folds = self.config["cross_validation"]
        return {
            # The number of folds does not change the staged events.
            "cross_validation": {"variable": folds["variable"]} if folds else None,
            **self._split(),
            "meaning": digest(self._events(split), self._functions_digest),
        }

    def _split(self) -> dict[str, Any]:
        return {"validation_from_training": self.config["data"]["val"] is None}

    def _events(self, split: str) -> dict[str, Any]:
        """The parts of the data configuration that the events of a split depend on."""
        extra, folds = self.config["data"]["extra_selection"], self.config["cross_validation"]
        texts = {f"data.extra_selection.{reader}": text for reader, text in extra.items() if text}
        texts |= {"cross_validation.variable": folds["variable"]} if folds else {}
        return fingerprints.staging(self.data_configuration(split), split, texts)

    @cached_property
    def _functions_digest(self) -> str | None:
        functions = self.config["data"]["custom_functions"]
        if not functions:
            return None
        if not Path(functions).is_file():
            raise ConfigError(f"{self.where}: data.custom_functions: no such file '{functions}'. Correct the path, or leave the key out.")
        return source_digest(Path(functions))

    def _weights(self, member: str) -> dict[str, Any]:
        # The whole document, because it is written into data_config.auto.yaml.
        return {**self._fold(member), "meaning": digest(self.data_configuration("train").raw)}

    def _fold(self, member: str) -> dict[str, Any]:
        if not member.startswith("fold-"):
            return {}
        folds = self.config["cross_validation"]
        return {"fold": {"variable": folds["variable"], "folds": folds["folds"], "index": int(member[5:-1])}}

    def _seed(self, member: str) -> int:
        return int(member[5:-1]) if member.startswith("seed-") else self.config["seed"]

    @cached_property
    def _network_digest(self) -> str:
        path = self.config["network"]["config"]
        if not Path(path).is_file():
            raise ConfigError(f"{self.where}: network.config: no such file '{path}'. Correct the path; ready ones lie in config/networks/.")
        try:
            return source_digest(Path(path))
        except SyntaxError as error:
            raise NetworkError(f"{path}: line {error.lineno}: not valid Python ({error.msg}). Correct the file and run again.") from error

    @cached_property
    def _data_meaning(self) -> str:
        """A digest of everything that training uses from the data configurations."""
        training = self.data_configuration("train")
        return digest(
            self._events("train"),
            fingerprints.standardization(training),
            fingerprints.weighting(training),
            fingerprints.batches(training),
            self._events("val"),
            self._functions_digest,
        )

    @cached_property
    def _meaning(self) -> str:
        return digest(self._data_meaning, self._network_digest)

    def _initialization(self, member: str) -> dict[str, Any]:
        return {"seed": self._seed(member), **self._fold(member), "meaning": self._meaning}

    def _training(self, member: str, epochs: range) -> dict[str, Any]:
        own = {"seed": self._seed(member), **self._fold(member)}
        scheduler = self.config["training"]["scheduler"]
        # Early stopping decides whether an epoch is trained, but does not change its result.
        uses = digest({**own, **self._keys("train_epoch", member, unconditionally=True)})
        return {
            **own,
            **self._split(),
            "meaning": self._meaning,
            "epochs": {
                str(epoch): {
                    "uses": uses,
                    "rates": epoch_rates(scheduler["name"], horizon=self._horizon(), warmup=scheduler["warmup"], epoch=epoch),
                }
                for epoch in epochs
            },
        }

    def _validation(self, member: str) -> dict[str, Any]:
        return {
            "seed": self._seed(member),
            **self._fold(member),
            **self._split(),
            # Empty instead of absent if events are not sampled by weight, to keep the digests of earlier validations.
            "sampling": depends_on(self.config, "validate_epoch").get("sampling", {}),
            "meaning": self._meaning,
        }

    def _prediction(self, member: str) -> dict[str, Any]:
        return {**self._fold(member), "meaning": digest(self._data_meaning, self._network_digest, self._events("test"))}


def of_member(path: str, member: str) -> str:
    """`path`, with {fold} or {seed} replaced by the number of the member."""
    kind, _, number = member.rstrip("/").partition("-")
    return path.replace(f"{{{kind}}}", number) if kind else path
