"""The provenance record of a task: its command, settings, inputs, outputs, software versions and times.

Each task has one record in <run>/provenance/tasks/. Its paths are those of the command, relative to the working directory of the task.
"""

from __future__ import annotations

import functools
import getpass
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
from weaver_tasks.base.addresses import clean, without_credentials_in
from weaver_tasks.base.digests import digest, file_checksum
from weaver_tasks.base.files import write_json
from weaver_tasks.base.source_digest import source_files

_PACKAGES = (
    "snakemake", "torch", "numpy", "awkward", "uproot", "pyarrow", "numba",
    "pandas", "scikit-learn", "onnx", "onnxruntime",
)  # fmt: skip


RECORDS = "provenance/tasks"  # below the folder of a run


class TaskRecord:
    """Collects the inputs and outputs of a task. `read` and `wrote` may be called in any order, once per file.

    path: where the record will be written, if anywhere.
    """

    def __init__(self, stage: str, settings: dict[str, Any], path: str | os.PathLike[str] | None = None) -> None:
        self.stage = stage
        self.settings = settings
        self.path = None if path is None else os.fspath(path)
        self.inputs: dict[str, str] = {}
        self.outputs: dict[str, dict[str, Any]] = {}
        self.notes: dict[str, Any] = {}
        self._start = datetime.now(UTC)

    def read(self, path: str | os.PathLike[str], *, checksum: str | None = None) -> Path:
        """Note an input. Give its `checksum` if it is known already, so that large files are not read twice."""
        self.inputs[clean(os.fspath(path))] = checksum or file_checksum(path)
        return Path(path)

    def read_code(self, path: str | os.PathLike[str]) -> Path:
        """Note a Python file and the modules beside it that it imports."""
        for source in source_files(path):
            self.read(source)
        return Path(path)

    def read_configuration(self, *, data: Path | None, functions: Path | None = None) -> None:
        """Note a data configuration and the functions that its expressions use."""
        if data is not None:
            self.read(data)
        if functions is not None:
            self.read_code(functions)

    def wrote(self, path: str | os.PathLike[str], *, checksum: str | None = None) -> None:
        """Note an output, which must be complete."""
        self.outputs[os.fspath(path)] = {"sha256": checksum or file_checksum(path), "bytes": Path(path).stat().st_size}

    def note(self, **facts: Any) -> None:
        """Add other facts to the record (the device, an epoch that was found in the journal …)."""
        self.notes.update(facts)

    def digest(self) -> str:
        """A digest of the task, independent of paths: the stage, its settings, and the checksums of its inputs so far."""
        return digest(self.stage, self.settings, sorted(self.inputs.values()))

    def stamp(self) -> dict[str, Any]:
        """Metadata for output files, by which the lineage of a copy can be found. Call it after all inputs were read."""
        run, _, name = (self.path or "").rpartition(f"/{RECORDS}/")
        return {"run": Path(run).name if run else None, "record": f"{RECORDS}/{name}" if run else None, "digest": self.digest()}

    def write(self, path: str | os.PathLike[str]) -> None:
        end = datetime.now(UTC)
        # A command given by hand may hold the credentials of an address.
        content = without_credentials_in(
            {
                "stage": self.stage,
                "digest": self.digest(),
                "command": shlex.join([Path(sys.executable).name, *sys.orig_argv[1:]]),
                "folder": os.getcwd(),
                "record": os.fspath(path),
                "settings": self.settings,
                "settings_digest": digest(self.settings),
                "seed": self.settings.get("seed"),
                "inputs": self.inputs,
                "outputs": self.outputs,
                **environment(),
                "device": "cpu",
                "start": self._start.isoformat(timespec="milliseconds"),
                "end": end.isoformat(timespec="milliseconds"),
                "seconds": round((end - self._start).total_seconds(), 3),
                **self.notes,
            }
        )
        write_json(path, content)


def environment() -> dict[str, Any]:
    """A description of the code, the packages and the machine of this process."""
    return {
        "code": code_version(),
        "packages": package_versions(),
        "python": platform.python_version(),
        "host": platform.node(),
        "user": _user(),
        "processor": processor(),
    }


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        # The user id has no entry in the user database, as in some containers.
        return str(os.getuid())


@functools.cache
def processor() -> str:
    """The model of the processor, if the system provides it. The last bits of a training result depend on it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{platform.machine()} {models[0]}" if models else platform.machine()


@functools.cache
def package_versions() -> dict[str, str]:
    """The installed versions of the packages that results depend on."""
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = "not installed"
    return versions


def code_version() -> dict[str, Any]:
    """The version of the code that this process runs.

    version; commit (None outside of a checkout); dirty: whether files of the package differ from the commit; changed: which ones;
    modules: a digest of the package's modules that were imported so far; package: a digest of all its modules.
    """
    package = Path(__file__).parent.parent
    checksums = _module_checksums()
    paths = (getattr(module, "__file__", None) for name, module in list(sys.modules.items()) if name.partition(".")[0] == package.name)
    run = {os.path.relpath(path, package) for path in paths if path}
    main = getattr(sys.modules.get("__main__"), "__file__", None)
    if main and Path(main).is_relative_to(package):
        run.add(os.path.relpath(main, package))
    return {
        "version": __version__,
        **_checkout(),
        "modules": digest({name: checksum for name, checksum in checksums.items() if name in run}),
        "package": digest(checksums),
    }


@functools.cache
def _module_checksums() -> dict[str, str]:
    package = Path(__file__).parent.parent
    return {path.relative_to(package).as_posix(): file_checksum(path) for path in sorted(package.rglob("*.py"))}


@functools.cache
def _checkout() -> dict[str, Any]:
    package = Path(__file__).parent.parent
    commit = git("rev-parse", "HEAD", folder=package)
    changed = changed_files(package) if commit else None
    return {"commit": commit, "dirty": None if changed is None else bool(changed), "changed": changed or []}


def changed_files(path: Path) -> list[str] | None:
    """The files at or below `path` that differ from the git commit or are not tracked; None outside of a checkout."""
    folder = path if path.is_dir() else path.parent
    listed = git("status", "--porcelain", "--untracked-files=all", "--", str(path.absolute()), folder=folder)
    return None if listed is None else [line[3:] for line in listed.splitlines()]


def git(*arguments: str, folder: Path) -> str | None:
    """The output of a git command in a folder, or None if it is not a checkout or git is not installed."""
    try:
        done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.rstrip()
