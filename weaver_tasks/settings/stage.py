"""The settings of a stage as typed objects: its slice of config.yaml, and the keys that it gets in addition."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import Field, create_model

from weaver_tasks.base import command_line
from weaver_tasks.base.remote_limits import RemoteLimits, set_limits
from weaver_tasks.settings.errors import checked
from weaver_tasks.settings.fields import Section
from weaver_tasks.settings.model import (
    Configuration,
    CrossValidation,
    DataSettings,
    FindLrSettings,
    NetworkSettings,
    ProfileTrainingSettings,
)

Model = TypeVar("Model", bound=Section)


def _in_part(model: type[Model]) -> type[Model]:
    """The same model without required keys, because a slice has only some of the keys."""
    required: dict[str, Any] = {name: field.annotation for name, field in model.model_fields.items() if field.is_required()}
    missing: Any = {name: (annotation | None, None) for name, annotation in required.items()}
    return create_model(model.__name__, __base__=model, **missing)


if not TYPE_CHECKING:
    _PartOfData, _PartOfNetwork, _PartOfCrossValidation = map(_in_part, (DataSettings, NetworkSettings, CrossValidation))

    class _PartOfNetwork(_PartOfNetwork):
        source_digest: str | None = None


class Fold(Section):
    """Cross-validation by an integer variable: fold `index` never trains on events with variable % folds == index."""

    variable: str
    folds: int
    index: int


class EpochSettings(Section):
    """The digest of the settings that an epoch uses, and the learning rates of its steps."""

    uses: str
    rates: Any


class StageSettings(Configuration):
    """The settings that a stage gets by --settings. Missing keys have their defaults.

    fold: of the training that the task is about. validation_from_training: whether data.val is null. meaning: a digest of what the stage
    takes from the data and network configurations. epochs: by their numbers as text.
    """

    run: str = ""
    fold: Fold | None = None
    validation_from_training: bool = False
    meaning: str | None = None
    epochs: dict[str, EpochSettings] = Field(default_factory=dict)
    find_lr: FindLrSettings = Field(default_factory=FindLrSettings)
    profile_training: ProfileTrainingSettings = Field(default_factory=ProfileTrainingSettings)

    if not TYPE_CHECKING:
        # For the type checker they are the models of a full configuration: a stage uses no key that its slice never has.
        data: _PartOfData = Field(default_factory=_PartOfData)
        network: _PartOfNetwork = Field(default_factory=_PartOfNetwork)
        cross_validation: _PartOfCrossValidation | None = None


def stage_settings(given: dict[str, Any], stage: str = "a stage") -> StageSettings:
    """The settings of a stage. given: its slice, complete or not. Raises ConfigError for an unknown key or an invalid value."""
    return checked(StageSettings, given, where=f"--settings of {stage}")


def stage_parser(stage: str, description: str | None) -> argparse.ArgumentParser:
    """A parser with the options that all stages share. Its `arguments.settings` are StageSettings."""
    return command_line.stage_parser(stage, description, settings=_settings_of_task)


def _settings_of_task(given: dict[str, Any], stage: str) -> StageSettings:
    """The same, where a command is parsed; the limits on remote servers are then those of its process."""
    settings = stage_settings(given, stage)
    set_limits(RemoteLimits(**settings.remote.plain()))
    return settings
