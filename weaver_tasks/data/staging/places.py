"""Where staged files lie: paths with variables and `~`, expanded on the machine that uses them."""

from __future__ import annotations

import os
import re
import socket
from pathlib import Path

from weaver_tasks.base.errors import ConfigError


def expand_path(staged: str | os.PathLike[str]) -> Path:
    """The path of a staged file on this machine. Raises ConfigError when it holds a variable that is not set here."""
    path = os.path.expanduser(os.path.expandvars(staged))
    unset = re.search(r"\$(\w+|\{[^}]*\})", path)
    if unset:
        raise ConfigError(
            f"staging.directory: the environment variable {unset[0]} is not set on {socket.gethostname()}. "
            "Use one that is set in every job, or a plain path."
        )
    return Path(path)
