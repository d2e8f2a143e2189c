"""A job ends when another workflow takes over the run, and not before."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from weaver_tasks.base import run_ownership

JOB = """
import sys, time
from pathlib import Path
from weaver_tasks.base import run_ownership
run_ownership._PERIOD = 0.1
run_ownership.end_when_replaced(Path(sys.argv[1]))
print("watching", flush=True)
time.sleep(60)
"""


@pytest.fixture
def environment(monkeypatch):
    """What is changed in the environment is put back."""
    monkeypatch.setenv(run_ownership.VARIABLE, "outer")
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)


def succeed(file):
    """As another workflow does, in another process."""
    run_ownership._name_of_this_workflow.cache_clear()
    run_ownership.take_over(file)


@pytest.mark.usefixtures("environment")
def test_the_runs_of_one_workflow_have_one_name(tmp_path):
    run_ownership.take_over(tmp_path / "a" / ".workflow")
    run_ownership.take_over(tmp_path / "b" / ".workflow")
    job = [sys.executable, "-c", JOB, str(tmp_path / "a" / ".workflow")]
    with subprocess.Popen(job, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "watching\n"
        process.kill()


@pytest.mark.usefixtures("environment")
def test_a_job_ends_when_its_workflow_is_replaced(tmp_path):
    file = tmp_path / "run" / ".workflow"
    run_ownership.take_over(file)
    with subprocess.Popen([sys.executable, "-c", JOB, str(file)], stdout=subprocess.PIPE, text=True) as job:
        assert job.stdout.readline() == "watching\n"
        file.touch()
        time.sleep(0.5)
        assert job.poll() is None
        succeed(file)
        assert job.wait(timeout=10) == -signal.SIGKILL


@pytest.mark.usefixtures("environment")
def test_a_job_that_starts_late_ends_at_once(tmp_path):
    file = tmp_path / ".workflow"
    run_ownership.take_over(file)
    old = {**os.environ}
    succeed(file)
    done = subprocess.run([sys.executable, "-c", JOB, str(file)], env=old, capture_output=True, text=True, timeout=30)
    assert done.returncode == -signal.SIGKILL
    assert done.stdout == ""


def test_nothing_is_watched_outside_a_job(tmp_path, monkeypatch):
    monkeypatch.delenv(run_ownership.VARIABLE, raising=False)
    (tmp_path / ".workflow").write_text("another")
    run_ownership.end_when_replaced(tmp_path / ".workflow")
    assert "end-when-replaced" not in {thread.name for thread in threading.enumerate()}


def test_locks_of_a_dead_workflow_are_removed_and_others_stay(tmp_path, monkeypatch):
    monkeypatch.setenv(run_ownership.VARIABLE, "outer")
    monkeypatch.chdir(tmp_path)
    file, locks = Path("results/a/.workflow"), Path("locks")
    locks.mkdir()
    (locks / "0.output.lock").write_text("results/a/x\nresults/a/y\n")
    (locks / "1.output.lock").write_text("results/b/x\n")
    run_ownership.take_over(file)
    run_ownership.clear_locks(file, locks)
    assert sorted(path.name for path in locks.iterdir()) == ["0.output.lock", "1.output.lock"]

    with subprocess.Popen(["true"]) as dead:
        name, _, process = file.read_text().partition(" ")
    file.write_text(f"{name} {process.split()[0]} {dead.pid} 1")
    run_ownership.clear_locks(file, locks)
    assert [path.name for path in locks.iterdir()] == ["1.output.lock"]


def test_locks_of_a_workflow_on_another_machine_stay(tmp_path):
    file = tmp_path / ".workflow"
    file.write_text("name elsewhere 1 1")
    (tmp_path / "0.output.lock").write_text(f"{tmp_path}/x\n")
    run_ownership.clear_locks(file, tmp_path)
    assert (tmp_path / "0.output.lock").exists()
