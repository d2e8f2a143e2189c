"""The `training` section of config.yaml, as far as the engine uses it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from weaver_tasks.base.errors import ConfigError, nearest


@dataclass(frozen=True, kw_only=True)
class TrainingSettings:
    """Keys, units and defaults are those of config.yaml (see config/README.md)."""

    task: str = "classification"
    epochs: int = 20
    epochs_per_job: int | None = None
    batch_size: int = 128
    batch_size_val: int | None = None
    batch_size_test: int | None = None
    samples_per_epoch: int | None = None
    steps_per_epoch: int | None = None
    samples_per_epoch_val: int | None = None
    steps_per_epoch_val: int | None = None
    lr: float = 5e-3
    optimizer: Mapping[str, Any] = field(default_factory=lambda: {"name": "ranger", "options": {}})
    scheduler: Mapping[str, Any] = field(default_factory=lambda: {"name": "flat+decay", "warmup": 0.25, "horizon": None})
    amp: str | None = None
    compile: bool | Mapping[str, Any] = False
    compile_optimizer: bool = False
    device: str = "auto"
    ranks: int = 1
    nodes: int = 1
    threads: int = 2
    early_stopping: Mapping[str, Any] | None = None
    keep_checkpoints: str = "all"
    snapshot_minutes: float | None = None
    tensorboard: bool | str = False
    continue_from: Mapping[str, Any] | None = None

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> TrainingSettings:
        """Read the `training` section of --settings. Raises ConfigError for a key that there is not."""
        section = settings.get("training") or {}
        known = [entry.name for entry in fields(cls)]
        for key in section:
            if key not in known:
                raise ConfigError(f"training.{key}: no such key.{nearest(key, known)}")
        return cls(**section)

    @property
    def first_epoch(self) -> int:
        """The first epoch that is trained here: 0, or the one after that which weaver's checkpoint is of."""
        return self.continue_from["epoch"] + 1 if self.continue_from else 0

    def validation_batch_size(self) -> int:
        return self.batch_size_val or self.batch_size
