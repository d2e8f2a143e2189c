"""Exceptions of a user's own Python code, such as a network configuration, told in one line that names its file and line."""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Iterator
from pathlib import Path

from weaver_tasks.base.errors import WeaverTasksError

_LONGEST = 500


@contextlib.contextmanager
def users_code(
    path: str | Path, kind: type[WeaverTasksError], *, doing: str, only_inside: bool = False, passing: tuple[type[BaseException], ...] = ()
) -> Iterator[None]:
    """Run code of the file `path`; whatever it raises becomes a `kind`, with the traceback as its cause.

    doing: what the code does, for the message. only_inside: leave alone what is raised without passing through the file.
    passing: exceptions that are left alone, as are those of this project.
    """
    try:
        yield
    except (Exception, SystemExit) as error:
        if isinstance(error, (WeaverTasksError, *passing)):
            raise
        # Nothing is known of what the file may raise, and nothing is hidden: it is told, and logged with its traceback.
        place = _place(error, Path(path))
        if only_inside and not place:
            raise
        reason = " ".join(str(error).split())[:_LONGEST]
        raise kind(f"{path}{place}: {doing} failed ({type(error).__name__}: {reason}). Mend the network configuration.") from error


def _place(error: BaseException, path: Path) -> str:
    """', line 7, in forward': the innermost line of the file that the exception came through, or ''."""
    lines = [frame for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename).name == path.name]
    lines = [frame for frame in lines if Path(frame.filename).resolve() == path.resolve()]
    return f", line {lines[-1].lineno}, in {lines[-1].name}" if lines else ""
