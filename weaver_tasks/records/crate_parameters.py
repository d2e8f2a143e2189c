"""Classify the inputs, outputs and settings of tasks: they become the parameters of the stages in an RO-Crate."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator, Mapping
from pathlib import PurePath
from typing import Any

_MEMBER = re.compile(r"^(?:fold|seed)-\d+/")
_NUMBER = re.compile(r"epoch-\d+")
_FORMATS = {
    ".json": "application/json",
    ".yaml": "application/yaml",
    ".yml": "application/yaml",
    ".md": "text/markdown",
    ".png": "image/png",
    ".pdf": "application/pdf",
    ".py": "text/x-python",
    ".smk": "text/x-snakemake",
    ".root": "application/x-root",
    ".parquet": "application/vnd.apache.parquet",
    ".arrow": "application/vnd.apache.arrow.file",
    ".h5": "application/x-hdf5",
    ".pt": "application/x-pytorch",
    ".onnx": "application/onnx",
}


def encoding_format(name: str) -> str:
    """The media type of a file, from its suffix."""
    return _FORMATS.get(PurePath(name).suffix, "application/octet-stream")


def kind_of_file(name: str) -> str:
    """The kind of a file of a run: its name relative to the run's folder, without the parts that distinguish files of one kind."""
    name = _NUMBER.sub("epoch-<n>", _MEMBER.sub("", name))
    path = PurePath(name)
    if path.parts[0] == "staged" and len(path.parts) > 2:
        return f"staged/<split>/<group>/<file>{path.suffix}"
    if path.parts[0] == "predictions":
        return f"predictions/<group>{path.suffix}"
    return name


def option_of(path: str, command: str) -> str | None:
    """The option, without dashes, whose value in a command is `path`."""
    # shlex would be too slow for tens of thousands of commands, each with pages of settings.
    before, found, _ = f"{command} ".partition(f" {shlex.quote(path)} ")
    words = before.rpartition(" --")[2].split() if found else []
    return words[0] if words else None


def flat_settings(settings: Mapping[str, Any], name: str = "") -> Iterator[tuple[str, str]]:
    """The dotted keys and the values of nested settings. Values are text: strings unchanged, everything else as JSON."""
    for key, value in settings.items():
        full = f"{name}.{key}" if name else str(key)
        if isinstance(value, Mapping) and value:
            yield from flat_settings(value, full)
        else:
            yield full, value if isinstance(value, str) else json.dumps(value)
