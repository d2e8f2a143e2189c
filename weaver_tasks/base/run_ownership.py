"""End a cluster job when a new workflow has taken over its run, and remove the locks of a killed workflow.

A workflow killed by SIGKILL leaves its jobs in the queue, on machines where its process cannot be watched. When the workflow
is started again, it writes a new name into the folder of the run. Each job compares this name with the one under which it was
submitted. If they differ, the job ends at once, with all its child processes and without changing a file.
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
_PERIOD = 5.0  # seconds between two checks


def take_over(file: Path) -> None:
    """Called by a workflow when it starts: write its name into `file`. Jobs inherit the name in their environment.

    A workflow has only one name, even for several runs, because their jobs share one environment.
    """
    os.environ[VARIABLE] = name = _name_of_this_workflow()
    with atomic_path(file) as temporary:
        temporary.write_text(name)


@functools.cache
def _name_of_this_workflow() -> str:
    return f"{uuid.uuid4().hex} {lifetime.name_this_process()}"


def clear_locks(file: Path, locks: Path) -> None:
    """Remove the locks that the workflow named in `file` has left in Snakemake's folder `locks`, if its process is known to be gone.

    Thus the same command continues a killed workflow. Locks of other runs, and those of a workflow on another machine, are kept.
    """
    if not file.exists() or not lifetime.is_gone(file.read_text().partition(" ")[2]):
        return
    for lock in locks.glob("*.lock"):
        if _is_of_run(lock, file.parent):
            lock.unlink(missing_ok=True)


def in_progress(file: Path, locks: Path) -> str | None:
    """A message of one line if another process holds Snakemake's locks on the run of `file`; otherwise None."""
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
    except FileNotFoundError:  # released in the meantime
        return False


def end_when_replaced(file: Path) -> None:
    """Called in a job: watch `file`, and end this job when it names another workflow than that of the job. No effect outside of a job."""
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
        # The file was deleted or the file system hangs: neither means that another workflow has taken over.
        return
    if named != own:
        _end()


def _end() -> None:
    """End the whole job by SIGKILL. Otherwise a Snakemake process in it could delete files that the new workflow has made."""
    job = os.environ.get("SLURM_JOB_ID")
    if job is not None:
        subprocess.run(["scancel", "--full", "--signal=KILL", job], check=False)
    os.kill(os.getpid(), signal.SIGKILL)
