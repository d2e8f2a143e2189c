# What all chapters share: the checked configuration, the plan of the run, paths and wildcards.

import functools
import gc
import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

# Of this workflow, also where another one uses it as a module. A clone works without being installed.
WORKFLOW_FOLDER = str(Path(str(workflow.current_basedir)).parent)
sys.path.insert(0, str(Path(WORKFLOW_FOLDER).parent))

from snakemake.resources import Resources

from weaver_tasks import plan as planning
from weaver_tasks.base import lifetime, run_ownership
from weaver_tasks.base.errors import ConfigError, WeaverTasksError

# A plan of thousands of jobs is many objects that all stay: looking for garbage among them again and again takes a seventh of the time.
gc.set_threshold(100_000, 50, 100)

if not workflow.config_settings.configfiles:

    configfile: "config/config.yaml"


def checked_plan():
    """The plan of this configuration; a user's mistake is one line and exit code 2."""
    files = [os.path.relpath(path) for path in workflow.configfiles]
    where = ", ".join(map(str, files))
    try:
        paths = workflow.modifier.path_modifier
        if paths.prefix or paths.modifies_prefixes:
            raise ConfigError(
                f"{where}: the module has a prefix. Take it out: the folder is results/<run>/, after the key `run`."
            )
        # A module is read once for each `use rule`, and finds what was put here before.
        config.pop("report_page", None)
        if workflow.is_main_process:
            planning.check_configuration_files(files)
        plan = planning.make_plan(config, where=where)
        plan.files
        if workflow.is_main_process:
            planning.check_run_folder(plan, writes=not workflow.dryrun)
            planning.check_clean_code(plan, Path(WORKFLOW_FOLDER))
        if not plan.config["prediction"]["model"]:
            [plan.weights(member) for member in plan.members()]
        return plan
    except WeaverTasksError as error:
        print(f"ERROR: {' '.join(str(error).split())}", file=sys.stderr, flush=True)
        # Not SystemExit: Snakemake would wrap it in a report of its own about this line.
        os._exit(2)


PLAN = checked_plan()
RUN = PLAN.run
NETWORK = PLAN.config["network"]["config"]
FUNCTIONS = PLAN.config["data"]["custom_functions"]
DATA_CONFIG = PLAN.data_config_file("train")
TRAINING = PLAN.config["training"]
TRAINING_THREADS = TRAINING["threads"] * TRAINING["ranks"]
PYTHON = sys.executable

# A task must not outlive this process, even if it is killed: see weaver_tasks/base/lifetime.py.
os.environ[lifetime.VARIABLE] = lifetime.name_this_process()
# Nor may a job on a cluster go on beside a workflow that was started after its own.
WORKFLOW_NAME = Path(RUN) / ".workflow"
run_ownership.end_when_replaced(WORKFLOW_NAME)
if workflow.is_main_process:
    run_ownership.clear_locks(WORKFLOW_NAME, locks=Path(".snakemake/locks"))
# Found from here by the tasks, when the project is not installed.
os.environ["PYTHONPATH"] = os.pathsep.join(
    filter(None, [sys.path[0], os.environ.get("PYTHONPATH")])
)


wildcard_constraints:
    split="train|val|test",
    group="[A-Za-z0-9._-]+",
    # The folder of one fold or seed, with its slash; empty when there is only one training.
    member=r"|fold-\d+/|seed-\d+/",
    epoch=r"\d+",


@functools.cache
def settings_text(stage, **chosen):
    return json.dumps(PLAN.settings(stage, **chosen), sort_keys=True)


def settings(stage, **selection):
    """The params of a rule: a function of its wildcards, giving the slice of the configuration that it uses."""

    def of(wildcards):
        chosen = {
            name: of_wildcards(wildcards) for name, of_wildcards in selection.items()
        }
        return settings_text(stage, **chosen)

    return of


# Of folds or seeds: what each of them makes. Their results are merged under the run's own name.
EACH_MEMBER = "|".join(PLAN.members()) if PLAN.merges() else r"|fold-\d+/|seed-\d+/"


def member_of(wildcards):
    return wildcards.get("member", "")


def attempt_memory(gigabytes):
    """Memory in MB that doubles with each attempt."""
    return lambda wildcards, attempt: gigabytes * 1024 * 2 ** (attempt - 1)


# What a job of all ranks asks a cluster for. Slurm counts `gpu` for the whole job and `gres` for each node; several nodes are an
# `mpi` job, whose command starts itself on each of them. cpus_per_task: Snakemake caps `threads` at the cores of its own machine.
ONE_GPU = {"gpu": 1} if TRAINING["device"] == "cuda" else {}
FOR_RANKS = {"cpus_per_task": TRAINING_THREADS}
ON_EACH_NODE = ""
if TRAINING["nodes"] > 1:
    FOR_RANKS |= {"nodes": TRAINING["nodes"], "tasks": TRAINING["nodes"], "mpi": "srun"}
    if TRAINING["device"] == "cuda":
        FOR_RANKS |= {"gres": f"gpu:{TRAINING['ranks']}"}
    if shutil.which("srun"):
        ON_EACH_NODE = (
            f"srun --nodes={TRAINING['nodes']} --ntasks={TRAINING['nodes']} --ntasks-per-node=1"
            f" --cpus-per-task={TRAINING_THREADS} --kill-on-bad-exit=1 "
        )
elif TRAINING["device"] == "cuda":
    FOR_RANKS |= {"gpu": TRAINING["ranks"]}

# On a cluster, stages that follow each other with seconds of work each are one job. Not for several folds or seeds: all would be in it.
PREPARATION = None if PLAN.merges() else "preparation"

# What commands take besides their own slice of the configuration. Snakemake compares params of the types that it knows, not those of
# other classes: so none of these makes a job run again. And unlike its globals, a module's params are found when it is used as a module.
COMMON = SimpleNamespace(
    python=PYTHON,
    run=RUN,
    first_member=PLAN.members()[0],
    network=NETWORK,
    data_config=DATA_CONFIG,
    test_config=PLAN.data_config_file("test"),
    custom_functions=(
        shlex.join(["--custom-functions", FUNCTIONS]) if FUNCTIONS else ""
    ),
    on_each_node=ON_EACH_NODE,
    workflow_folder=WORKFLOW_FOLDER,
    untracked=json.dumps(PLAN.untracked()),
)


def take_profile_settings(name, rule):
    """Give the rule `name`, one of several made in a loop, what the profile's set-resources and set-threads say of `rule`.

    In a module, both have the names that `use rule * as …` gives them.
    """
    asked = workflow.resource_settings
    name, rule = map(workflow.modifier.modify_rulename, (name, rule))
    resources = workflow.get_rule(name).resources
    resources.update(Resources.from_mapping(asked.overwrite_resources.get(rule, {})))
    if rule in asked.overwrite_threads:
        resources["_cores"] = asked.overwrite_threads[rule]


def start_run():
    """What a run begins with; a workflow that uses this one as a module calls it in its `onstart`."""
    PLAN.freeze_files()
    PLAN.note_selected()
    run_ownership.take_over(WORKFLOW_NAME)


def show_summary():
    """Say where everything is, unless only a part of the workflow was asked for."""
    if Path(f"{RUN}/evaluation/metrics.json").exists() and all(
        Path(f"{RUN}/{member}export/parity.json").exists() for member in PLAN.members()
    ):
        subprocess.run([PYTHON, "-m", "weaver_tasks.summary", RUN], check=False)


class ReportPage:
    """What the report opens on. Made when Snakemake writes it into the page, since every job parses this file."""

    def __str__(self):
        done = subprocess.run(
            [
                *(PYTHON, "-m", "weaver_tasks.summary", RUN),
                *("--report", json.dumps(PLAN.config)),
            ],
            capture_output=True,
            text=True,
            check=False,
        )
        return done.stdout if done.returncode == 0 else done.stderr


# The only way to a report's text: it is a template that knows nothing but the configuration.
config["report_page"] = ReportPage()
