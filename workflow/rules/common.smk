# What all chapters share: the checked configuration, the plan of the run, paths and wildcards.

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

# A clone works without being installed.
sys.path.insert(0, str(Path(workflow.basedir).parent))

from weaver_tasks import plan as planning
from weaver_tasks.base import lifetime
from weaver_tasks.base.errors import WeaverTasksError


if not workflow.config_settings.configfiles:

    configfile: "config/config.yaml"


def checked_plan():
    """The plan of this configuration; a user's mistake is one line and exit code 2."""
    files = [os.path.relpath(path) for path in workflow.configfiles]
    try:
        plan = planning.make_plan(config, where=", ".join(map(str, files)))
        plan.files
        return plan
    except WeaverTasksError as error:
        print(f"ERROR: {' '.join(str(error).split())}", file=sys.stderr, flush=True)
        # Not SystemExit: Snakemake would wrap it in a report of its own about this line.
        os._exit(2)


PLAN = checked_plan()
RUN = PLAN.run
NETWORK = PLAN.config["network"]["config"]
FUNCTIONS = PLAN.config["data"]["custom_functions"]
CUSTOM_FUNCTIONS = f"--custom-functions {FUNCTIONS}" if FUNCTIONS else ""
TRAINING = PLAN.config["training"]
TRAINING_THREADS = TRAINING["threads"] * TRAINING["ranks"]
PYTHON = sys.executable
UNTRACKED = json.dumps(PLAN.untracked())

# A task must not outlive this process, even if it is killed: see weaver_tasks/base/lifetime.py.
os.environ[lifetime.VARIABLE] = lifetime.name_this_process()
# Found from here by the tasks, when the project is not installed.
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [sys.path[0], os.environ.get("PYTHONPATH")]))


wildcard_constraints:
    split="train|val|test",
    group="[A-Za-z0-9._-]+",
    # The folder of one fold or seed, with its slash; empty when there is only one training.
    member=r"|fold-\d+/|seed-\d+/",
    epoch=r"\d+",


def settings(stage, **selection):
    """The params of a rule: a function of its wildcards, giving the slice of the configuration that it uses."""

    def of(wildcards):
        chosen = {name: of_wildcards(wildcards) for name, of_wildcards in selection.items()}
        return json.dumps(PLAN.settings(stage, **chosen), sort_keys=True)

    return of


def member_of(wildcards):
    return wildcards.get("member", "")


def attempt_memory(gigabytes):
    """Memory in MB that doubles with each attempt."""
    return lambda wildcards, attempt: gigabytes * 1024 * 2 ** (attempt - 1)


def show_summary():
    """Say where everything is, unless only a part of the workflow was asked for."""
    if Path(f"{RUN}/evaluation/metrics.json").exists() and Path(f"{RUN}/export/parity.json").exists():
        subprocess.run([PYTHON, "-m", "weaver_tasks.summary", RUN], check=False)
