"""Reads the YAML of a data configuration and normalizes it: all sections are present and numeric strings become numbers."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

from weaver_tasks.base.errors import DataConfigError
from weaver_tasks.base.yaml_files import read_yaml
from weaver_tasks.data.configuration.document import DataDocument, Preprocess, Transformation
from weaver_tasks.data.configuration.ignored import without_ignored
from weaver_tasks.settings.errors import checked

# Top-level keys in weaver's order, each with the value that stands for an absent or empty section.
_EMPTY: dict[str, Any] = {
    "treename": None,
    "branch_magic": None,
    "file_magic": None,
    "selection": None,
    "test_time_selection": None,
    "preprocess": {},
    "new_variables": {},
    "inputs": {},
    "labels": {},
    "observers": [],
    "monitor_variables": [],
    "weights": None,
    "bucketing": None,
}
_PREPROCESS = Preprocess().plain()
_VARIABLE_DEFAULTS = Transformation().plain()


def read_document(path: Path) -> tuple[dict[str, Any], DataDocument]:
    """Return the document in weaver's format, with every top-level key, and its typed sections. Raises DataConfigError."""
    document = read_yaml(path, error=DataConfigError)
    if not isinstance(document, dict):
        raise DataConfigError(f"{path}: holds no keys. A data configuration has at least the section `inputs`.")
    _refuse_hybrid_labels(document, path)
    document = without_ignored(_normalize(document), path)
    sections = checked(DataDocument, document, where=str(path), error=DataConfigError)
    return _complete(document), sections


def _refuse_hybrid_labels(document: dict[str, Any], path: Path) -> None:
    """Refuse the syntax of weaver's forks for labels with both classes and regression targets.

    The message shows weaver-core's syntax with the user's own names.
    """
    labels = document.get("labels")
    if not isinstance(labels, dict) or (labels.get("type") != "hybrid" and "value_custom" not in labels):
        return
    classes, targets = labels.get("value") or [], labels.get("value_custom") or {}
    value = {"truth_label": f"np.argmax(np.stack([{', '.join(map(str, classes))}], axis=1), axis=1)", **dict(targets)}
    written = ", ".join(f"{name}: '{expression}'" for name, expression in value.items())
    raise DataConfigError(
        f"{path}: labels.type: hybrid is of a fork of weaver. Write type: custom, value: {{{written}}}, set training.task: regression, "
        "and give the network configuration loops of its own (get_train_fn, get_evaluate_fn), which get all of these labels."
    )


def _normalize(document: dict[str, Any]) -> dict[str, Any]:
    """Fill empty sections; coerce numeric strings to numbers (YAML 1.1 reads 5e-3 as text) and numbers to text where needed."""
    document = {key: copy.copy(_EMPTY.get(key)) if value is None else value for key, value in document.items()}
    for key in ("selection", "test_time_selection"):
        if isinstance(document.get(key), (bool, int, float)):
            document[key] = str(document[key])
        if isinstance(text := document.get(key), str):
            document[key] = text.strip() or None
    if isinstance(definitions := document.get("new_variables"), dict):
        document["new_variables"] = {key: _as_text(value) for key, value in definitions.items()}
    if isinstance(labels := document.get("labels"), dict) and isinstance(labels.get("value"), dict):
        document["labels"] = {**labels, "value": {key: _as_text(value) for key, value in labels["value"].items()}}
    if isinstance(preprocess := document.get("preprocess"), dict):
        document["preprocess"] = _normalize_preprocess(preprocess)
    if isinstance(inputs := document.get("inputs"), dict):
        document["inputs"] = {key: _normalize_group(group) for key, group in inputs.items()}
    if isinstance(weights := document.get("weights"), dict):
        document["weights"] = _normalize_weights(weights)
    for key in ("observers", "monitor_variables"):
        document[key] = _as_list(document.get(key, []))
    return document


def _as_text(value: Any) -> Any:
    return str(value) if isinstance(value, (int, float)) else value


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _as_number(value: Any) -> Any:
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value


def _normalize_preprocess(preprocess: dict[str, Any]) -> dict[str, Any]:
    given = {key: value for key, value in preprocess.items() if value is not None}
    if isinstance(method := given.get("method"), str):
        # Weaver accepts any word that starts with "auto".
        given["method"] = "auto" if method.lower().startswith("auto") else method.lower()
    if "data_fraction" in given:
        given["data_fraction"] = _as_number(given["data_fraction"])
    return {**_PREPROCESS, **given}


def _normalize_group(group: Any) -> Any:
    if not isinstance(group, dict):
        return group
    group = {key: value for key, value in group.items() if key == "length" or value is not None}
    if isinstance(group.get("pad_mode"), str):
        group["pad_mode"] = group["pad_mode"].lower()
    if isinstance(group.get("vars"), list):
        group["vars"] = [
            [entry[0], *(item if item == "auto" else _as_number(item) for item in entry[1:])]
            if isinstance(entry, list) and entry
            else entry
            for entry in group["vars"]
        ]
    return group


def _normalize_weights(weights: dict[str, Any]) -> dict[str, Any] | None:
    weights = {key: value for key, value in weights.items() if value is not None}
    if not weights:
        return None
    if isinstance(variables := weights.get("reweight_vars"), dict):
        weights["reweight_vars"] = {
            name: [_as_number(edge) for edge in edges] if isinstance(edges, list) else edges for name, edges in variables.items()
        }
    for key in ("weight_branches", "reweight_classes"):
        if key in weights:
            weights[key] = _as_list(weights[key])
    return {"use_precomputed_weights": False, **weights}


def _complete(document: dict[str, Any]) -> dict[str, Any]:
    complete = {key: document.get(key, copy.copy(empty)) for key, empty in _EMPTY.items()}
    complete["preprocess"] = {**_PREPROCESS, **complete["preprocess"]}
    return complete


def variable_parameters(document: dict[str, Any], group: dict[str, Any], entry: str | list[Any]) -> dict[str, Any]:
    """Return name, length, pad_mode, center, scale, min, max and pad_value of one entry of `vars`, with defaults filled in."""
    values = [entry] if isinstance(entry, str) else entry
    shared = {"name": values[0], "length": group["length"], "pad_mode": group.get("pad_mode", "constant")}
    params = document["preprocess"]["params"]
    if params and values[0] in params:
        return {**shared, **params[values[0]]}
    center = "auto" if document["preprocess"]["method"] == "auto" else None
    given = dict(zip(_VARIABLE_DEFAULTS, values[1:], strict=False))
    return {**shared, **_VARIABLE_DEFAULTS, "center": center, **given}
