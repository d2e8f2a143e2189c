"""Checks before the workflow starts that Snakemake does not make, or whose errors it does not report in one line."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from weaver_tasks.base.errors import ConfigError
from weaver_tasks.base.record import changed_files
from weaver_tasks.base.yaml_files import check_no_key_twice
from weaver_tasks.plan.plan import Plan


def check_configuration_files(paths: Iterable[str]) -> None:
    """Raise ConfigError if a configuration file gives a key twice; Snakemake silently takes the later one."""
    for path in paths:
        check_no_key_twice(path)


def check_run_folder(plan: Plan, *, writes: bool) -> None:
    """Raise ConfigError if the folder of the run cannot be made or, if something will be written, is not writable."""
    folder = Path(plan.run)
    place = next(parent for parent in (folder, *folder.parents) if parent.exists())
    if not place.is_dir():
        raise ConfigError(f"{plan.where}: run: results go to {folder}, but {place} is a file. Move it away.")
    if writes and not os.access(place, os.W_OK | os.X_OK):
        raise ConfigError(
            f"{plan.where}: run: results go to {folder}, but {place} cannot be written to. Change its permissions, or the folder."
        )


_MODULES: dict[str, Any] = {}


def check_one_module_a_run(plan: Plan, module: Any) -> None:
    """Raise ConfigError if two modules of this workflow have the same run. module: an identifier, constant when a module is read again."""
    if _MODULES.setdefault(plan.run, module) is not module:
        raise ConfigError(
            f"{plan.where}: run: two modules have the run '{plan.config['run']}', and would write the same files. Give each its own name."
        )


def check_clean_code(plan: Plan, workflow_folder: Path) -> None:
    """With require_clean_code, raise ConfigError listing files of the code or of the configuration that differ from the git commit.

    Files outside of any checkout (an installed package) are not checked.
    """
    if not plan.config["require_clean_code"]:
        return
    data, network = plan.config["data"], plan.config["network"]
    named = [network["config"], data["custom_functions"], data["config"], data["config_val"], data["config_test"]]
    places = [Path(__file__).parents[1], workflow_folder, *(Path(name) for name in dict.fromkeys(named) if name)]
    changed = list(dict.fromkeys(file for place in places for file in changed_files(place) or ()))
    if changed:
        listed = ", ".join(changed[:10]) + (f" and {len(changed) - 10} more" if len(changed) > 10 else "")
        raise ConfigError(
            f"{plan.where}: require_clean_code: {len(changed)} files differ from what is committed: {listed}. "
            "Commit them, or set require_clean_code: false."
        )
