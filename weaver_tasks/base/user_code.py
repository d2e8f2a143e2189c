"""Report exceptions of the user's Python code (a network configuration, say) in one line with its file and line number."""

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
    """Run code of the file `path` in this block; any exception becomes a `kind`, with the original one as its cause.

    doing: what the code does, for the message. only_inside: convert only exceptions whose traceback passes through the file.
    passing: types of exceptions that are not converted; those of this project never are.
    """
    try:
        yield
    except (Exception, SystemExit) as error:
        if isinstance(error, (WeaverTasksError, *passing)):
            raise
        # The file may raise anything. Nothing is hidden: the error is reported, and logged with its traceback.
        place = _place(error, Path(path))
        if only_inside and not place:
            raise
        reason = " ".join(str(error).split())[:_LONGEST]
        raise kind(f"{path}{place}: {doing} failed ({type(error).__name__}: {reason}). Correct the network configuration.") from error


def _place(error: BaseException, path: Path) -> str:
    """The innermost line of the file in the traceback, as in ', line 7, in forward', or ''."""
    lines = [frame for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename).name == path.name]
    lines = [frame for frame in lines if Path(frame.filename).resolve() == path.resolve()]
    return f", line {lines[-1].lineno}, in {lines[-1].name}" if lines else ""
