"""End a task when the workflow that started it is gone.

If Snakemake is killed by SIGKILL, it cannot stop its jobs, and they would keep writing at the same time as the next run.
Therefore the workflow puts an identifier of its process into an environment variable. Each task watches that process and ends
itself at once when the process is gone. A task that was started by hand watches nothing.
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
    """A unique name of this process: host, process id, start time."""
    return _name(os.getpid())


def _name(pid: int) -> str:
    return f"{socket.gethostname()} {pid} {_start_time(pid)}"


def _start_time(pid: int) -> str:
    """Clock ticks from boot to the start of a process ('' if there is no /proc or no such process)."""
    try:
        # The command name, in parentheses, may contain spaces, so count the fields after it.
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""


def is_gone(name: str) -> bool:
    """Whether the process with that name ran on this host and has ended. False if this cannot be determined from this host."""
    host, _, rest = name.partition(" ")
    return host == socket.gethostname() and _name(int(rest.split()[0])) != name


def end_with_workflow() -> None:
    """Start watching the process named in the environment, if it is on this host. Kill this task when that process is gone."""
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
