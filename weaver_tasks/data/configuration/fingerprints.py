"""What each stage uses of a data configuration, as plain data for digests: no more, so that nothing reruns needlessly."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from weaver_tasks.data.configuration.model import DataConfiguration
from weaver_tasks.data.expressions.parsing import names_in, normal_form, resolve


def selection_of(configuration: DataConfiguration, split: str) -> str | None:
    """The selection of a split: train, val or test."""
    return configuration.test_time_selection if split == "test" else configuration.selection


def wanted_names(configuration: DataConfiguration, split: str) -> set[str]:
    """The variables that a split's events are made of: inputs, labels, weight ingredients, observers …, and its selection's."""
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
    """The variables that the weights are made of."""
    weights = configuration.weights
    if weights is None:
        return set()
    wanted = {*weights.variables, *weights.classes}
    for text in (*weights.branches, weights.base_weight):
        wanted |= names_in(text, functions=configuration.functions) if text else set()
    return wanted


def _reading(configuration: DataConfiguration, wanted: set[str], selection: str | None) -> dict[str, Any]:
    """How `wanted` comes out of the files: the tree, the names' magic, the selection and the definitions needed."""
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

    also: expressions from elsewhere whose variables the events need: where each stands -> its text.
    """
    selection = selection_of(configuration, split)
    columns: dict[str, Any] = {
        # Raw values are staged, unpadded: only which variables lie together, and whether they are flat.
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
    """What the standardization depends on: parameters given, and for those to be computed, how they are read."""
    variables = {variable.name: variable for group in configuration.inputs for variable in group.variables}
    automatic = {name for name, variable in variables.items() if variable.center == "auto"}
    return {
        "variables": {name: [variable.center, variable.scale, variable.low, variable.high] for name, variable in sorted(variables.items())},
        "fraction": configuration.preprocess_fraction if automatic else None,
        "reading": _reading(configuration, automatic, configuration.selection) if automatic else None,
    }


def weighting(configuration: DataConfiguration) -> dict[str, Any]:
    """What the weights depend on; empty without weights."""
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
    """What the batches hold, given the staged events."""
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
