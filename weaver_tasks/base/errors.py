"""The exceptions of this project, each for a user's mistake that is reported in one line.

A message names the file, the key, the value and the remedy. Only `base.command_line` turns
these errors into a line on the terminal and exit code 2; anything else is a bug and keeps its traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from weaver_tasks.base.addresses import without_credentials


class WeaverTasksError(Exception):
    """Base class of all errors that a user can cause and fix. Its message never holds the credentials of an address."""

    def __init__(self, message: str = "") -> None:
        super().__init__(without_credentials(str(message)))


class ConfigError(WeaverTasksError):
    """config.yaml (or a --config override) is wrong."""


class DataConfigError(WeaverTasksError):
    """A data configuration is wrong, or does not fit the files."""


class InputFileError(WeaverTasksError):
    """An input file is missing, damaged, or not what the configuration says."""


class NetworkError(WeaverTasksError):
    """A network configuration is wrong, or its model does not fit the data or the weights."""


class CheckpointError(WeaverTasksError):
    """A checkpoint is missing, damaged, or belongs to another training."""


class TrainingError(WeaverTasksError):
    """Training cannot continue (a loss that is not finite, a rank that failed)."""


class ResultError(WeaverTasksError):
    """A result cannot be made, or fails its check."""


def did_you_mean(name: str, known: Iterable[str], *, count: int = 3) -> str:
    """A hint with the known names most similar to `name`: ' Did you mean: a, b?', or '' if none is similar."""
    matches = difflib.get_close_matches(str(name), sorted(set(map(str, known))), n=count, cutoff=0.65)
    return f" Did you mean: {', '.join(matches)}?" if matches else ""
