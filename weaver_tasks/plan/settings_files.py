"""Pass the settings of a task in a file that its command names, while Snakemake compares them as text."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from weaver_tasks.base.digests import digest
from weaver_tasks.base.files import atomic_path

SETTINGS = ".settings"  # below the folder of a run


class SettingsFile(str):
    """The settings of a task. The string itself is JSON; formatted into a command, it gives the path of a file with this JSON.

    Snakemake compares the `params` of a rule as strings, so a job reruns exactly when its settings change. The file is written when the
    command is made, by the process that runs it, so it exists on every node. Its name contains a digest of its content, so settings of
    other jobs never replace it, and the commands in provenance records keep working.

    stage: the beginning of the file name. folder: that of the run. writes: whether a command made now will be run (not in a dry run).
    """

    path: str
    _writes: Callable[[], bool]

    def __new__(cls, stage: str, content: Mapping[str, Any], *, folder: str, writes: Callable[[], bool]) -> SettingsFile:
        settings = super().__new__(cls, json.dumps(content, sort_keys=True))
        settings.path = f"{folder}/{SETTINGS}/{stage}-{digest(content)[:16]}.json"
        settings._writes = writes
        return settings

    def __format__(self, specification: str) -> str:
        if self._writes():
            self.write()
        return format(self.path, specification)

    def write(self) -> None:
        """Write the file, unless it exists and has not been edited. Raises WeaverTasksError if it cannot be written."""
        file, text = Path(self.path), f"{json.dumps(json.loads(self), indent=1)}\n"
        if file.exists() and file.read_text() == text:
            return
        with atomic_path(file) as temporary:
            temporary.write_text(text)
