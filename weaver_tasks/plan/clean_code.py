"""`require_clean_code`: whether what a run is made with is what git has."""

from __future__ import annotations

from pathlib import Path

from weaver_tasks.base.errors import ConfigError
from weaver_tasks.base.record import changed_files
from weaver_tasks.plan.plan import Plan


def check_clean_code(plan: Plan, workflow_folder: Path) -> None:
    """With require_clean_code, raise ConfigError listing the files that git has otherwise: of the code, and those the configuration names.

    Files outside of any checkout (an installed package) are not looked at.
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
