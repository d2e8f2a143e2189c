"""A job on a cluster must not go on beside the workflow that took its workflow's place.

A workflow killed by SIGKILL leaves its jobs in the queue, on machines where no process of it can be watched. When the workflow
is started again, it writes a name of its own into the run's folder; each job compares that with the name that it was submitted
under and, when they differ, ends at once, with everything that it started and without touching a file.
"""

from __future__ import annotations

import functools
import os
import signal
import subprocess
import threading
import time
import uuid
from datetime import datetime
from pathlib import Path

from weaver_tasks.base import lifetime
from weaver_tasks.base.files import atomic_path

VARIABLE = "WEAVER_TASKS_WORKFLOW"
_PERIOD = 5.0  # seconds between two looks


def take_over(file: Path) -> None:
    """Called by a workflow as it starts: make it the one that `file` names. Jobs inherit the name in their environment.

    It has one name, however many runs it makes: their jobs have one environment.
    """
    os.environ[VARIABLE] = name = _name_of_this_workflow()
    with atomic_path(file) as temporary:
        temporary.write_text(name)


@functools.cache
def _name_of_this_workflow() -> str:
    return f"{uuid.uuid4().hex} {lifetime.name_this_process()}"


def clear_locks(file: Path, locks: Path) -> None:
    """Remove the locks that the workflow named by `file` has left in Snakemake's folder `locks`, if its process is known to be gone.

    So a killed workflow is continued by the same command. Locks of other runs, and of a workflow on another machine, stay.
    """
    if not file.exists() or not lifetime.is_gone(file.read_text().partition(" ")[2]):
        return
    for lock in locks.glob("*.lock"):
        if _is_of_run(lock, file.parent):
            lock.unlink(missing_ok=True)


def in_progress(file: Path, locks: Path) -> str | None:
    """In one line, that another process has Snakemake's locks of the run whose workflow `file` names; None when none has."""
    if not file.exists():
        return None
    owner = file.read_text().partition(" ")[2]
    if owner == lifetime.name_this_process() or not any(_is_of_run(lock, file.parent) for lock in locks.glob("*.lock")):
        return None
    since = datetime.fromtimestamp(file.stat().st_mtime).astimezone().strftime("%Y-%m-%d %H:%M")
    host, process, *_ = [*owner.split(), "?", "?"]
    return (
        f"{file.parent} is in progress since {since}, by process {process} on {host}. Wait for it or stop it; "
        "if that process is gone, give the same command once with --unlock."
    )


def _is_of_run(lock: Path, run: Path) -> bool:
    try:
        return any(line.startswith(f"{run}/") for line in lock.read_text().splitlines())
    except FileNotFoundError:  # released meanwhile
        return False


def end_when_replaced(file: Path) -> None:
    """Called in a job: watch `file`, and end this job when it names another workflow than the job's. No effect outside a job."""
    own = os.environ.get(VARIABLE)
    if own is None:
        return
    _end_if_replaced(file, own)
    threading.Thread(target=_watch, args=(file, own), name="end-when-replaced", daemon=True).start()


def _watch(file: Path, own: str) -> None:
    while True:
        time.sleep(_PERIOD)
        _end_if_replaced(file, own)


def _end_if_replaced(file: Path, own: str) -> None:
    try:
        named = file.read_text()
    except OSError:
        # Deleted, or a file system that hangs: neither says that there is a successor.
        return
    if named != own:
        _end()


def _end() -> None:
    """End the whole job. By SIGKILL: a Snakemake in it that could still act would delete files that its successor has made."""
    job = os.environ.get("SLURM_JOB_ID")
    if job is not None:
        subprocess.run(["scancel", "--full", "--signal=KILL", job], check=False)
    os.kill(os.getpid(), signal.SIGKILL)
