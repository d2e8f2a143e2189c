"""A task must not outlive the workflow that started it.

Snakemake killed by SIGKILL cannot stop its jobs: they would go on writing beside their successors.
So the workflow names its process in an environment variable, each task watches that process, and ends
itself at once when it is gone. A task started by hand watches nothing.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import threading
import time
from pathlib import Path

VARIABLE = "WEAVER_TASKS_WORKFLOW_PROCESS"


def name_this_process() -> str:
    """A name for this process that no other process ever has: host, process id, start time."""
    return _name(os.getpid())


def _name(pid: int) -> str:
    return f"{socket.gethostname()} {pid} {_start_time(pid)}"


def _start_time(pid: int) -> str:
    """Clock ticks from boot to the start of a process ('' where there is no /proc or no such process)."""
    try:
        # The command name, in parentheses, may hold spaces: count the fields after it.
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""


def is_gone(name: str) -> bool:
    """Whether the process of that name ran on this host and has ended. False when that cannot be told from here."""
    host, _, rest = name.partition(" ")
    return host == socket.gethostname() and _name(int(rest.split()[0])) != name


def end_with_workflow() -> None:
    """Start watching the process named in the environment, if it is on this host; kill this task when it is gone."""
    named = os.environ.get(VARIABLE, "").split()
    if len(named) != 3 or named[0] != socket.gethostname():
        return
    pid = int(named[1])
    if _name(pid).split() != named:
        _end()
    threading.Thread(target=_wait_then_end, args=(pid, named), name="end-with-workflow", daemon=True).start()


def _wait_then_end(pid: int, named: list[str]) -> None:
    try:
        descriptor = os.pidfd_open(pid)
    except (AttributeError, OSError):
        while _name(pid).split() == named:
            time.sleep(0.5)
    else:
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        poll.poll()
    _end()


def _end() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
