"""The parts of a data configuration that each stage uses, as plain data for digests.

Each part holds nothing else, so that a change reruns only the stages whose result depends on it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from weaver_tasks.data.configuration.model import DataConfiguration
from weaver_tasks.data.expressions.parsing import names_in, normal_form, resolve


def selection_of(configuration: DataConfiguration, split: str) -> str | None:
    """Return the selection of a split (train, val or test)."""
    return configuration.test_time_selection if split == "test" else configuration.selection


def wanted_names(configuration: DataConfiguration, split: str) -> set[str]:
    """Return the variables that a split needs: those of its selection, inputs, labels, weights, observers and so on."""
    wanted = {variable.name for group in configuration.inputs for variable in group.variables}
    wanted |= set(configuration.monitor_variables)
    used = [selection_of(configuration, split)]
    labels = configuration.labels
    if labels:
        wanted |= set(labels.expressions)
        used += labels.classes if labels.kind == "simple" else ()
    if split == "test":
        wanted |= set(configuration.observers)
    else:
        wanted |= weight_names(configuration)
        if configuration.bucketing:
            wanted.add(configuration.bucketing.variable)
    for text in used:
        wanted |= names_in(text, functions=configuration.functions) if text else set()
    return wanted


def weight_names(configuration: DataConfiguration) -> set[str]:
    """Return the variables from which the weights are computed."""
    weights = configuration.weights
    if weights is None:
        return set()
    wanted = {*weights.variables, *weights.classes}
    for text in (*weights.branches, weights.base_weight):
        wanted |= names_in(text, functions=configuration.functions) if text else set()
    return wanted


def _reading(configuration: DataConfiguration, wanted: set[str], selection: str | None) -> dict[str, Any]:
    """How the variables `wanted` are obtained from the files: tree, branch_magic, file_magic, selection and definitions."""
    wanted = wanted | (names_in(selection, functions=configuration.functions) if selection else set())
    branches, definitions = resolve(configuration.definitions, wanted, functions=configuration.functions, where=str(configuration.path))
    return {
        "treename": configuration.treename,
        "branch_magic": [[old, new] for old, new in configuration.branch_magic.items() if any(old in name for name in branches)],
        "file_magic": {
            name: [[pattern, value] for pattern, value in patterns.items()]
            for name, patterns in configuration.file_magic.items()
            if name in branches
        },
        "selection": normal_form(selection) if selection else None,
        "branches": branches,
        "definitions": {name: normal_form(text) for name, text in definitions.items()},
    }


def staging(configuration: DataConfiguration, split: str, also: Mapping[str, str] | None = None) -> dict[str, Any]:
    """What the staged events of a split depend on.

    also: expressions from outside the data configuration whose variables are needed too: key of the expression -> its text.
    """
    selection = selection_of(configuration, split)
    columns: dict[str, Any] = {
        # Staged values are raw and not padded. They depend only on the grouping of the variables and on which groups are flat.
        "inputs": [
            [group.name, group.length is not None, [variable.name for variable in group.variables]] for group in configuration.inputs
        ],
        "labels": _labels(configuration),
        "monitor_variables": configuration.monitor_variables,
    }
    if split == "test":
        columns["observers"] = configuration.observers
    else:
        columns["weights"] = _ingredients(configuration)
        columns["bucketing"] = configuration.bucketing.variable if configuration.bucketing else None
    wanted = wanted_names(configuration, split)
    for where, text in (also or {}).items():
        wanted |= names_in(text, functions=configuration.functions, where=where)
    return {**_reading(configuration, wanted, selection), **columns}


def standardization(configuration: DataConfiguration) -> dict[str, Any]:
    """What the standardization depends on: the given parameters and, for those to be computed, how the variables are read."""
    variables = {variable.name: variable for group in configuration.inputs for variable in group.variables}
    automatic = {name for name, variable in variables.items() if variable.center == "auto"}
    return {
        "variables": {name: [variable.center, variable.scale, variable.low, variable.high] for name, variable in sorted(variables.items())},
        "fraction": configuration.preprocess_fraction if automatic else None,
        "reading": _reading(configuration, automatic, configuration.selection) if automatic else None,
    }


def weighting(configuration: DataConfiguration) -> dict[str, Any]:
    """What the weights depend on; empty if there are no weights."""
    weights = configuration.weights
    if weights is None:
        return {}
    return {
        **_reading(configuration, weight_names(configuration), configuration.selection),
        "ingredients": _ingredients(configuration),
        "method": weights.method,
        "edges": [[name, list(edges)] for name, edges in weights.variables.items()],
        "class_weights": list(weights.class_weights),
        "threshold": weights.threshold,
        "discard_under_overflow": weights.discard_under_overflow,
        "histograms": weights.histograms,
    }


def batches(configuration: DataConfiguration) -> dict[str, Any]:
    """What the content of the batches depends on, besides the staged events."""
    bucketing = configuration.bucketing
    return {
        "inputs": [
            [
                group.name,
                group.length,
                group.pad_mode,
                [[v.name, v.center, v.scale, v.low, v.high, v.pad_value] for v in group.variables],
            ]
            for group in configuration.inputs
        ],
        "labels": _labels(configuration),
        "monitor_variables": configuration.monitor_variables,
        "bucketing": [bucketing.variable, bucketing.edges] if bucketing else None,
    }


def _labels(configuration: DataConfiguration) -> dict[str, Any] | None:
    labels = configuration.labels
    if labels is None:
        return None
    classes = [normal_form(text) for text in labels.classes] if labels.kind == "simple" else list(labels.classes)
    return {"kind": labels.kind, "names": labels.names, "classes": classes}


def _ingredients(configuration: DataConfiguration) -> dict[str, Any] | None:
    weights = configuration.weights
    if weights is None:
        return None
    return {
        "variables": list(weights.variables),
        "classes": weights.classes,
        "branches": [normal_form(text) for text in weights.branches],
        "base_weight": normal_form(weights.base_weight) if weights.base_weight else None,
    }
