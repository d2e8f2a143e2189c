"""Find the errors of a run in the logs of its tasks: the last line of each failed task."""

from __future__ import annotations

import re
from pathlib import Path

# The format of error lines that `base.command_line` writes into a log.
_ERROR = re.compile(r"^\S+ \S+ ERROR (.+)$")
_CRASHED = re.compile(r"^\S+ \S+ DEBUG the task failed$")
_TAIL = 1 << 16  # bytes read from the end of a log, enough for a long traceback


def failures(logs: Path, *, since: float) -> list[str]:
    """The final error of each log below `logs` that was modified after `since` (file system time, in s) and ends with one; oldest first."""
    found = []
    for path in logs.rglob("*.log"):
        written = path.stat().st_mtime
        error = _error_at_the_end(path) if written >= since else None
        if error:
            found.append((written, error))
    return list(dict.fromkeys(error for _, error in sorted(found)))


def _error_at_the_end(log: Path) -> str | None:
    """The message of a user's mistake, or the exception of a crashed task with the name of the log; None if the task succeeded."""
    with log.open("rb") as handle:
        handle.seek(max(0, log.stat().st_size - _TAIL))
        lines = [line for line in handle.read().decode(errors="replace").splitlines() if line.strip()]
    if not lines:
        return None
    error = _ERROR.match(lines[-1])
    if error:
        return error[1]
    return f"{log}: {lines[-1].strip()}" if any(_CRASHED.match(line) for line in lines) else None
