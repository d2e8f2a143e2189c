# Shared by all rules: the checked configuration, the plan of the run, settings and resources of jobs, and actions before and after a run.
# The input functions of the rules are in paths.smk.

import atexit
import functools
import gc
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

# The folder of this workflow, also if another one uses it as a module. A clone works without being installed.
WORKFLOW_FOLDER = str(Path(str(workflow.current_basedir)).parent)
sys.path.insert(0, str(Path(WORKFLOW_FOLDER).parent))

from snakemake.exceptions import WorkflowError

from weaver_tasks import plan as planning
from weaver_tasks.base import addresses, lifetime, run_ownership
from weaver_tasks.base.errors import ConfigError, WeaverTasksError
from weaver_tasks.base.failures import failures

# Whether another workflow uses this one as a module: then this code must not end or tune the process.
HOSTED = (
    Path(workflow.main_snakefile).resolve()
    != Path(WORKFLOW_FOLDER, "Snakefile").resolve()
)

if not HOSTED:
    # A plan of thousands of jobs has many permanent objects; repeated garbage collection would take a seventh of the time.
    gc.set_threshold(100_000, 50, 100)

if not workflow.config_settings.configfiles:

    configfile: "config/config.yaml"


CONFIG_FILES = [os.path.relpath(path) for path in workflow.configfiles]
WHERE = ", ".join(CONFIG_FILES)


def refuse(error):
    """End with a user's mistake: one line and exit code 2, or an error of the workflow that uses this one as a module."""
    line = " ".join(str(error).split())
    if HOSTED:
        raise WorkflowError(line) from None
    print(f"ERROR: {line}", file=sys.stderr, flush=True)
    sys.exit(2)


def checked_plan():
    """The plan of this configuration."""
    try:
        # A module is read once for each `use rule`, so the value may exist already.
        config.pop("report_page", None)
        if workflow.is_main_process:
            planning.check_configuration_files(CONFIG_FILES)
        # Snakemake takes a name such as 2024_05 for a number.
        arguments = workflow.config_settings.config_args or ()
        document = planning.names_as_written(
            config, files=CONFIG_FILES, arguments=arguments
        )
        plan = planning.make_plan(document, where=WHERE, inputs_may_be_made=HOSTED)
        if HOSTED:
            planning.check_one_module_a_run(plan, workflow.modifier.rule_proxies)
        plan.files
        planning.check_early(plan)
        if workflow.is_main_process:
            planning.check_run_folder(plan, writes=not workflow.dryrun)
            planning.check_clean_code(plan, Path(WORKFLOW_FOLDER))
        if not plan.config["prediction"]["model"]:
            [plan.weights(member) for member in plan.members()]
        return plan
    except WeaverTasksError as error:
        refuse(error)


PLAN = checked_plan()
RUN = PLAN.run
MEMBERS = PLAN.members()
NETWORK = PLAN.config["network"]["config"]
FUNCTIONS = PLAN.config["data"]["custom_functions"]
DATA_CONFIG = PLAN.data_config_file("train")
TRAINING = PLAN.config["training"]
TRAINING_THREADS = TRAINING["threads"] * TRAINING["ranks"]
PYTHON = sys.executable

# Tasks read remote files by addresses whose credentials no command names.
addresses.publish()
# Tasks must not outlive this process, even if it is killed: see weaver_tasks/base/lifetime.py.
os.environ[lifetime.VARIABLE] = lifetime.name_this_process()
# A cluster job must end when a newer workflow has taken over its run.
WORKFLOW_NAME = Path(RUN) / ".workflow"
run_ownership.end_when_replaced(WORKFLOW_NAME)
if workflow.is_main_process:
    run_ownership.clear_locks(WORKFLOW_NAME, locks=Path(".snakemake/locks"))
# Tasks import the package from here if the project is not installed.
os.environ.update(
    PYTHONPATH=os.pathsep.join(
        filter(None, [sys.path[0], os.environ.get("PYTHONPATH")])
    )
)


wildcard_constraints:
    split="train|val|test",
    group="[A-Za-z0-9._-]+",
    # The folder of one fold or seed, with a trailing slash; empty if there is only one training.
    member=r"|fold-\d+/|seed-\d+/",
    epoch=r"\d+",


# Settings. In `params` they are JSON text, which Snakemake compares with that of the last run; in a command, the path of a file that
# holds it (weaver_tasks/plan/settings_files.py).


def runs_commands():
    """Whether the commands that are made now will run: Snakemake makes them to show them, too."""
    executes = workflow.executor_plugin is not None
    return executes and not workflow.dryrun and not workflow.touch


def as_file(name, content, folder=RUN):
    return planning.SettingsFile(name, content, folder=folder, writes=runs_commands)


@functools.cache
def settings_of(stage, **chosen):
    """The slice of the configuration that the result of a stage depends on."""
    return as_file(stage, PLAN.settings(stage, **chosen))


def settings(stage, **selection):
    """The same as a param, which is a function of wildcards: each of `selection` takes one argument of `settings_of` from them."""

    def of(wildcards):
        chosen = {name: choose(wildcards) for name, choose in selection.items()}
        return settings_of(stage, **chosen)

    return of


def member_of(wildcards):
    return wildcards.get("member", "")


def epochs_of_job(wildcards):
    """Of a job of one epoch."""
    return range(int(wildcards.epoch), int(wildcards.epoch) + 1)


# Resources.


def attempt_memory(gigabytes):
    """Memory in MB that doubles with each attempt."""
    return lambda wildcards, attempt: gigabytes * 1024 * 2 ** (attempt - 1)


# The cluster resources of a job with all ranks. Slurm counts `gpu` for the whole job and `gres` for each node; several nodes are an
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

# On a cluster, short consecutive stages are grouped into one job. Not with several folds or seeds, which would all be in one group.
PREPARATION = None if PLAN.merges() else "preparation"

# Params that commands take besides their slice of the configuration. Snakemake compares params of types that it knows, but not of other
# classes, so these never cause a rerun. Unlike globals, the params of a module are also found when another workflow uses the module.
COMMON = SimpleNamespace(
    python=PYTHON,
    run=RUN,
    first_member=MEMBERS[0],
    network=NETWORK,
    data_config=DATA_CONFIG,
    test_config=PLAN.data_config_file("test"),
    batch=PLAN.fewest_events(),
    custom_functions=(
        shlex.join(["--custom-functions", FUNCTIONS]) if FUNCTIONS else ""
    ),
    on_each_node=ON_EACH_NODE,
    workflow_folder=WORKFLOW_FOLDER,
    untracked=as_file("untracked", PLAN.untracked()),
)


# Actions before and after the jobs.


def refuse_prefix(path):
    """path: results/<run>/inputs.json, as Snakemake has it."""
    if path != f"{RUN}/inputs.json":
        refuse(
            ConfigError(
                f"{WHERE}: the module has a prefix. Take it out: the folder is results/<run>/, after the key `run`."
            )
        )


def refuse_until():
    """Refuse `--until train_epoch` and `--until validate_epoch` where they do not stop after the training.

    Snakemake does not run what such a job needs by another job of its kind: an epoch that waits for validations is never reached. And
    epochs of one job are trained by rules of other names.
    """
    wanted = {"train_epoch", "validate_epoch"} & set(workflow.dag_settings.until)
    if wanted and not HOSTED and (LONG_JOBS or LOOKS_BACK):
        refuse(
            ConfigError(
                f"--until {' '.join(sorted(wanted))}: Snakemake would not get to the last epoch of this configuration. "
                "Ask for the target `train`, which stops after the training: snakemake train --configfile …"
            )
        )


def touches_the_run():
    """Not for a quick check, which has a run of its own."""
    return set(workflow.dag_settings.targets) != {"quick_check"}


def epochs_to_train():
    """(member, epoch) of the jobs that are to run, trained or only published again."""
    if workflow.dag is None:
        return []
    pattern = re.compile(
        rf"{re.escape(RUN)}/((?:fold|seed)-\d+/|)checkpoints/net_epoch-(\d+)_state\.pt"
    )
    written = (
        str(path)
        for job in workflow.dag.needrun_jobs(exclude_finished=False)
        for path in job.output
    )
    return [
        (found[1], int(found[2])) for path in written if (found := pattern.match(path))
    ]


def start_run():
    """Prepare a run before its first job. A workflow that uses this one as a module calls it in its `onstart`."""
    try:
        planning.check_retraining(PLAN, epochs_to_train())
    except WeaverTasksError as error:
        refuse(error)
    for line in PLAN.warnings_at_start():
        print(f"WARNING: {line}", file=sys.stderr, flush=True)
    PLAN.freeze_files()
    if runs_commands():
        PLAN.note_selected()
    run_ownership.take_over(WORKFLOW_NAME)


@atexit.register
def tell_before_a_run():
    """Report in a dry run what would stop the run: finished epochs of other settings, and reasons why it could not start."""
    if not workflow.is_main_process:
        return
    if workflow.dryrun:
        try:
            planning.check_retraining(PLAN, epochs_to_train())
        except WeaverTasksError as error:
            print(f"WARNING: {error}", file=sys.stderr, flush=True)
    elif runs_commands():
        held = run_ownership.in_progress(WORKFLOW_NAME, Path(".snakemake/locks"))
        if held:
            print(f"ERROR: {held}", file=sys.stderr, flush=True)


def show_summary():
    """Print where the results are, unless only a part of the workflow was requested."""
    if Path(f"{RUN}/evaluation/metrics.json").exists() and all(
        Path(f"{RUN}/{member}export/parity.json").exists() for member in MEMBERS
    ):
        subprocess.run([PYTHON, "-m", "weaver_tasks.summary", RUN], check=False)


def tell_failures():
    """Print the error again as the last line on the screen. A workflow that uses this one as a module may call it in its `onerror`."""
    folder = Path(RUN if touches_the_run() else f"{RUN}-quick_check")
    started = folder / ".workflow"
    if started.exists():
        found = failures(folder / "logs", since=started.stat().st_mtime)
        lines = [f"ERROR: {line}" for line in found[:5]]
        if len(found) > 5:
            lines.append(f"ERROR: and {len(found) - 5} more: see {folder}/logs/")
        for line in reversed(lines):
            # Snakemake prints its own report after `onerror`. The function registered last is called first.
            atexit.register(print, line, file=sys.stderr, flush=True)


class ReportPage:
    """The first page of the report. Computed only when Snakemake writes the report, since every job parses this file."""

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


# The text of a report is a template that can use only the configuration.
config["report_page"] = ReportPage()
