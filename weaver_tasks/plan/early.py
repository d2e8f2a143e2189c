"""Checks of the configuration that find, before the run starts, what would otherwise fail after staging or training."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from weaver_tasks.base.errors import ConfigError, did_you_mean
from weaver_tasks.plan.plan import Plan
from weaver_tasks.training.selection import METRICS

if TYPE_CHECKING:
    from weaver_tasks.data.configuration import DataConfiguration


def check_early(plan: Plan) -> None:
    """Raise ConfigError if the configuration shows that the run must fail at a later stage."""
    _check_results(plan.config, where=plan.where)
    if plan.config["prediction"]["model"]:
        _check_resolved(plan.data_configuration("train"), where=plan.where)


def _check_results(config: Mapping[str, Any], *, where: str) -> None:
    """Raise ConfigError if no best epoch can be selected: nothing is validated, or validation does not give the configured metric."""
    training, validation = config["training"], config["validation"]
    if config["prediction"]["model"]:
        _check_model(config, where)
        return
    known = METRICS[training["task"]]
    if validation["metric"] not in known:
        hint = did_you_mean(validation["metric"], known)
        raise ConfigError(
            f"{where}: validation.metric: '{validation['metric']}' is not what validation gives: {', '.join(known)}.{hint} Name one."
        )
    if training["steps_per_epoch_val"] == 0:
        raise ConfigError(f"{where}: training.steps_per_epoch_val: 0 validates nothing. Give 1 or more, or a negative number for all.")
    samples, size = training["samples_per_epoch_val"], training["batch_size_val"] or training["batch_size"]
    # With validation.reweight, as in weaver, each rank gets its part of every batch.
    size *= training["ranks"] * training["nodes"] if validation["reweight"] else 1
    if samples is not None and 0 <= samples < size:
        raise ConfigError(
            f"{where}: training.samples_per_epoch_val: {samples} are less than one batch of {size}, so nothing is validated. "
            "Give more, or a negative number for all; or a smaller training.batch_size_val."
        )


def _check_model(config: Mapping[str, Any], where: str) -> None:
    model = config["prediction"]["model"]
    if not config["data"]["test"] and str(model).endswith(".onnx"):
        raise ConfigError(
            f"{where}: data.test is empty, and prediction.model: {model} is exported already: nothing is left to do. Name files."
        )


def _check_resolved(configuration: DataConfiguration, *, where: str) -> None:
    """Raise ConfigError if a trained model is used with a data configuration that has unresolved centers; name weaver's resolved file."""
    still_open = [variable.name for group in configuration.inputs for variable in group.variables if variable.center == "auto"]
    if not still_open:
        return
    path = Path(configuration.path)
    resolved = path.with_name(f"{path.stem}.{hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()}.auto.yaml")
    name = f"{resolved}, which weaver has made of it" if resolved.is_file() else "the data_config.auto.yaml that the training wrote"
    raise ConfigError(
        f"{where}: data.config: {path}: the center of {still_open[0]} is `auto`; prediction.model was trained with its value. Give {name}."
    )
