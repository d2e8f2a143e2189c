"""What a task did: its command, settings, inputs, outputs, versions and times, written beside its outputs."""

from __future__ import annotations

import functools
import importlib.metadata
import os
import platform
import shlex
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from weaver_tasks import __version__
from weaver_tasks.base.files import write_json
from weaver_tasks.base.hashing import digest, file_checksum

_PACKAGES = (
    "snakemake", "torch", "numpy", "awkward", "uproot", "pyarrow", "numba",
    "pandas", "scikit-learn", "onnx", "onnxruntime",
)  # fmt: skip


class TaskRecord:
    """Collects what a task reads and writes. `read` and `wrote` may be called in any order, once a file."""

    def __init__(self, stage: str, settings: dict[str, Any]) -> None:
        self.stage = stage
        self.settings = settings
        self.inputs: dict[str, str] = {}
        self.outputs: dict[str, dict[str, Any]] = {}
        self.notes: dict[str, Any] = {}
        self._start = datetime.now(UTC)

    def read(self, path: str | os.PathLike[str], *, checksum: str | None = None) -> Path:
        """Note an input. Give its `checksum` where it is already known: large files are not read twice for it."""
        self.inputs[os.fspath(path)] = checksum or file_checksum(path)
        return Path(path)

    def wrote(self, path: str | os.PathLike[str]) -> None:
        """Note an output that is now complete."""
        self.outputs[os.fspath(path)] = {"sha256": file_checksum(path), "bytes": Path(path).stat().st_size}

    def note(self, **facts: Any) -> None:
        """Add facts worth keeping (the seed, the device, an epoch that was found in the journal …)."""
        self.notes.update(facts)

    def write(self, path: str | os.PathLike[str]) -> None:
        end = datetime.now(UTC)
        write_json(
            path,
            {
                "stage": self.stage,
                "command": shlex.join([Path(sys.executable).name, *sys.orig_argv[1:]]),
                "settings": self.settings,
                "settings_digest": digest(self.settings),
                "inputs": self.inputs,
                "outputs": self.outputs,
                "code": code_version(),
                "packages": package_versions(),
                "python": platform.python_version(),
                "host": platform.node(),
                "processor": platform.machine(),
                "start": self._start.isoformat(),
                "end": end.isoformat(),
                "seconds": round((end - self._start).total_seconds(), 3),
                **self.notes,
            },
        )


@functools.cache
def package_versions() -> dict[str, str]:
    """Versions of the packages that results depend on, as installed."""
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = "not installed"
    return versions


@functools.cache
def code_version() -> dict[str, Any]:
    """Version, git commit (None outside a checkout), whether it is dirty, and a digest of the package's own modules."""
    package = Path(__file__).parent.parent
    modules = {str(path.relative_to(package)): file_checksum(path) for path in sorted(package.rglob("*.py"))}
    commit = _git("rev-parse", "HEAD", cwd=package)
    return {
        "version": __version__,
        "commit": commit,
        "dirty": bool(_git("status", "--porcelain", "--", ".", cwd=package)) if commit else None,
        "modules": digest(modules),
    }


def _git(*arguments: str, cwd: Path) -> str | None:
    try:
        done = subprocess.run(["git", *arguments], cwd=cwd, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
