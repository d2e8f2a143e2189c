"""What the workflow asks before it runs anything: which files, which jobs, and what each job's result depends on."""

from weaver_tasks.plan.early import check_early
from weaver_tasks.plan.files import InputFile
from weaver_tasks.plan.plan import Plan, make_plan, numbers_pattern
from weaver_tasks.plan.preflight import check_clean_code, check_configuration_files, check_one_module_a_run, check_run_folder
from weaver_tasks.plan.retraining import check_retraining
from weaver_tasks.plan.settings_files import SettingsFile
from weaver_tasks.settings.reading import names_as_written

__all__ = [
    "InputFile",
    "Plan",
    "SettingsFile",
    "check_clean_code",
    "check_configuration_files",
    "check_early",
    "check_one_module_a_run",
    "check_retraining",
    "check_run_folder",
    "make_plan",
    "names_as_written",
    "numbers_pattern",
]
