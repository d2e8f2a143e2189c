"""What is looked at before the workflow starts, and Snakemake would not tell, or not in a line."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from weaver_tasks.base.errors import ConfigError
from weaver_tasks.base.schemas import check_no_key_twice
from weaver_tasks.plan.plan import Plan


def check_configuration_files(paths: Iterable[str]) -> None:
    """Raise ConfigError where a configuration file gives a key twice: Snakemake's reader takes the later one without a word."""
    for path in paths:
        check_no_key_twice(path)


def check_run_folder(plan: Plan, *, writes: bool) -> None:
    """Raise ConfigError when the run's folder cannot be made, or, where something will be written, not be written to."""
    folder = Path(plan.run)
    place = next(parent for parent in (folder, *folder.parents) if parent.exists())
    if not place.is_dir():
        raise ConfigError(f"{plan.where}: run: results go to {folder}, but {place} is a file. Move it away.")
    if writes and not os.access(place, os.W_OK | os.X_OK):
        raise ConfigError(
            f"{plan.where}: run: results go to {folder}, but {place} cannot be written to. Change its permissions, or the folder."
        )
