"""Expands environment variables and `~` in the paths of staged files, on the machine that uses them."""

from __future__ import annotations

import os
import re
import socket
from pathlib import Path

from weaver_tasks.base.errors import ConfigError


def expand_path(staged: str | os.PathLike[str]) -> Path:
    """Return the path of a staged file on this machine. Raises ConfigError when a variable in it is not set here."""
    path = os.path.expanduser(os.path.expandvars(staged))
    unset = re.search(r"\$(\w+|\{[^}]*\})", path)
    if unset:
        raise ConfigError(
            f"staging.directory: the environment variable {unset[0]} is not set on {socket.gethostname()}. "
            "Use one that is set in every job, or a plain path."
        )
    return Path(path)
