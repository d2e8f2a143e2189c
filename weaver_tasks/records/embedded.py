"""Read the provenance metadata that prediction files, ONNX models and staged files carry, also in copies."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import onnx
import pyarrow as pa
from google.protobuf.message import DecodeError

from weaver_tasks.base.errors import ResultError
from weaver_tasks.results.predictions.tables import METADATA_KEY, SUFFIXES, table_metadata


def embedded_origin(path: Path) -> dict[str, Any]:
    """The metadata of a prediction file, an ONNX model or a staged file; {} for other files and for files of other programs."""
    if path.suffix in SUFFIXES:
        try:
            return table_metadata(path)
        except ResultError:
            # Not a prediction table, but for example a ROOT file of events.
            return {}
    if path.suffix == ".onnx":
        return _of_model(path)
    if path.suffix == ".arrow":
        return _of_staged(path)
    return {}


def _of_model(path: Path) -> dict[str, Any]:
    try:
        model = onnx.load(path, load_external_data=False)
    except DecodeError:
        return {}
    return {entry.key: _plain(entry.value) for entry in model.metadata_props}


def _of_staged(path: Path) -> dict[str, Any]:
    try:
        with pa.OSFile(str(path)) as file, pa.ipc.open_file(file) as reader:
            text = (reader.schema.metadata or {}).get(METADATA_KEY.encode())
    except pa.ArrowInvalid:
        return {}
    return json.loads(text) if text else {}


def _plain(text: str) -> Any:
    """The value of a property: decoded if it is JSON, otherwise the text itself."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text
