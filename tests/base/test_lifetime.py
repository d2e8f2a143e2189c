"""A task ends when the workflow that started it is killed, even by SIGKILL."""

import os
import subprocess
import sys
import time

WORKFLOW = """
import os, subprocess, sys, time
from weaver_tasks.base import lifetime
os.environ[lifetime.VARIABLE] = lifetime.name_this_process()
# Through a shell, as Snakemake starts its jobs.
child = subprocess.Popen(["bash", "-c", f"{sys.executable} -c '{sys.argv[1]}'; true"], stdout=subprocess.PIPE, text=True)
print(child.stdout.readline().strip(), flush=True)
time.sleep(60)
"""
TASK = (
    "import os, time; from weaver_tasks.base.lifetime import end_with_workflow; "
    "end_with_workflow(); print(os.getpid(), flush=True); time.sleep(60)"
)


def is_running(pid):
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_task_ends_with_its_killed_workflow():
    workflow = subprocess.Popen([sys.executable, "-c", WORKFLOW, TASK], stdout=subprocess.PIPE, text=True)
    with workflow:
        task = int(workflow.stdout.readline())
        assert is_running(task)
        workflow.kill()
    deadline = time.monotonic() + 10
    while is_running(task) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not is_running(task)


def test_a_task_started_by_hand_watches_nothing():
    environment = {key: value for key, value in os.environ.items() if key != "WEAVER_TASKS_WORKFLOW_PROCESS"}
    code = "from weaver_tasks.base.lifetime import end_with_workflow; end_with_workflow(); print('alive')"
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "alive\n"


def test_a_task_whose_workflow_is_already_gone_does_not_begin():
    from weaver_tasks.base import lifetime

    gone = lifetime.name_this_process().split()
    gone[2] = "1"
    code = "from weaver_tasks.base.lifetime import end_with_workflow; end_with_workflow(); print('alive')"
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, lifetime.VARIABLE: " ".join(gone)}, capture_output=True, text=True
    )
    assert done.returncode == -9
    assert done.stdout == ""
