"""Checks that the sections of a data configuration are consistent with each other, which a schema cannot express."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from weaver_tasks.base.errors import DataConfigError
from weaver_tasks.data.configuration.parsing import variable_parameters
from weaver_tasks.data.expressions.parsing import names_in, resolve

if TYPE_CHECKING:
    from weaver_tasks.data.configuration.model import DataConfiguration


def check_document(document: dict[str, Any], *, where: str) -> None:
    """Check the sections of the document for consistency, before objects are made of them. Raises DataConfigError."""
    _check_inputs(document, where)
    _check_labels(document["labels"], where)
    if document["weights"] is not None:
        _check_weights(document["weights"], where)
    if document["bucketing"] and isinstance(document["bucketing"]["bins"], list):
        _check_increasing(document["bucketing"]["bins"], f"{where}: bucketing.bins")
    if document["observers"] and document["monitor_variables"]:
        raise DataConfigError(
            f"{where}: observers and monitor_variables are both set. Keep one of them; monitor_variables are written too."
        )
    for variable, patterns in (document["file_magic"] or {}).items():
        if document["new_variables"].get(variable, variable) != variable:
            raise DataConfigError(f"{where}: file_magic.{variable}: also defined in new_variables. Give one of them another name.")
        for pattern in patterns:
            try:
                re.compile(pattern)
            except re.error as error:
                raise DataConfigError(f"{where}: file_magic.{variable}: '{pattern}' is not a regular expression ({error}).") from None


def _check_inputs(document: dict[str, Any], where: str) -> None:
    params = document["preprocess"]["params"]
    seen: dict[str, tuple[str, dict[str, Any]]] = {}
    for name, group in document["inputs"].items():
        key = f"{where}: inputs.{name}"
        if name.endswith("_mask") and group.get("pad_mode", "constant") != "constant":
            raise DataConfigError(f"{key}.pad_mode: '{group['pad_mode']}', but the mask must be padded with constant 0. Write constant.")
        for entry in group["vars"]:
            variable = entry if isinstance(entry, str) else entry[0]
            if params and variable not in params:
                raise DataConfigError(
                    f"{where}: preprocess.params: '{variable}' of inputs.{name} is missing. Remove params to make it anew."
                )
            parameters = variable_parameters(document, group, entry)
            _check_parameters(parameters, f"{key}.vars: {variable}")
            if parameters["length"] != group["length"] or parameters["pad_mode"] != group.get("pad_mode", "constant"):
                raise DataConfigError(
                    f"{where}: preprocess.params.{variable}: length or pad_mode is not that of inputs.{name}. Remove params."
                )
            other, known = seen.setdefault(variable, (name, parameters))
            different = [field for field in parameters if parameters[field] != known[field]]
            if different:
                field = different[0]
                raise DataConfigError(
                    f"{key}.vars: {variable}: {field} is {parameters[field]}, but {known[field]} in inputs.{other}. "
                    "Give the same, or define a second name for it in new_variables."
                )


def _check_parameters(parameters: dict[str, Any], key: str) -> None:
    for field in ("center", "scale", "pad_value"):
        value = parameters[field]
        if isinstance(value, (int, float)) and not math.isfinite(value):
            raise DataConfigError(f"{key}: {field} is {value}. Give a finite number.")
    if not parameters["min"] <= parameters["max"]:
        raise DataConfigError(f"{key}: min {parameters['min']} is not below max {parameters['max']}. Exchange them.")


def _check_labels(labels: dict[str, Any], where: str) -> None:
    if not labels:
        return
    for field in ("type", "value"):
        if labels.get(field) is None:
            raise DataConfigError(f"{where}: key 'labels.{field}' is missing. Give type: simple with a list, or type: custom with a map.")
    if labels["type"] == "simple" and not isinstance(labels["value"], list):
        raise DataConfigError(f"{where}: labels.value is a map, but type: simple wants a list of flags. Write type: custom.")
    if labels["type"] == "custom" and not isinstance(labels["value"], dict):
        raise DataConfigError(f"{where}: labels.value is a list, but type: custom wants name: expression. Write type: simple.")


def _check_weights(weights: dict[str, Any], where: str) -> None:
    wanted = ["weight_branches"] if weights["use_precomputed_weights"] else ["reweight_method", "reweight_vars", "reweight_classes"]
    for field in wanted:
        if not weights.get(field):
            kind = "precomputed weights" if weights["use_precomputed_weights"] else "reweighting"
            raise DataConfigError(f"{where}: key 'weights.{field}' is missing. For {kind} give {', '.join(wanted)}.")
    if weights["use_precomputed_weights"]:
        return
    classes, class_weights = weights["reweight_classes"], weights.get("class_weights")
    if class_weights is not None and len(class_weights) != len(classes):
        raise DataConfigError(
            f"{where}: weights.class_weights: {len(class_weights)} numbers for {len(classes)} reweight_classes. Give one for each."
        )
    _check_finite(class_weights or [], f"{where}: weights.class_weights")
    if class_weights is not None and not any(class_weights):
        raise DataConfigError(f"{where}: weights.class_weights: all are 0, so that no event would be drawn. Give one class a weight.")
    for name, edges in weights["reweight_vars"].items():
        _check_finite(edges, f"{where}: weights.reweight_vars.{name}")
        _check_increasing(edges, f"{where}: weights.reweight_vars.{name}")
    histograms = weights.get("reweight_hists")
    if histograms:
        shape = [len(edges) - 1 for edges in weights["reweight_vars"].values()]
        for name in classes:
            if name not in histograms:
                raise DataConfigError(f"{where}: weights.reweight_hists: '{name}' is missing. Remove reweight_hists to make them anew.")
        for name, histogram in histograms.items():
            if not _has_shape(histogram, shape):
                raise DataConfigError(
                    f"{where}: weights.reweight_hists.{name}: its shape is not that of reweight_vars, {shape}. Remove it to make it anew."
                )


def _has_shape(histogram: Any, shape: list[int]) -> bool:
    if not shape:
        return isinstance(histogram, (int, float))
    return isinstance(histogram, list) and len(histogram) == shape[0] and all(_has_shape(part, shape[1:]) for part in histogram)


def _check_finite(values: Sequence[float], key: str) -> None:
    for value in values:
        if not math.isfinite(value):
            raise DataConfigError(f"{key}: {value} is not finite. Give a number.")


def _check_increasing(edges: Sequence[float], key: str) -> None:
    for lower, upper in itertools.pairwise(edges):
        if not lower < upper:
            raise DataConfigError(f"{key}: the bin edges do not increase ({lower} before {upper}). Sort them.")


def check_meaning(configuration: DataConfiguration) -> None:
    """Parse every expression and resolve every definition, used or not. Raises DataConfigError."""
    where, functions = str(configuration.path), configuration.functions
    for key, text in expressions(configuration):
        names_in(text, functions=functions, where=f"{where}: {key}")
    resolve(configuration.definitions, configuration.definitions, functions=functions, where=where)


def expressions(configuration: DataConfiguration) -> list[tuple[str, str]]:
    """List every expression outside new_variables, as (key, expression)."""
    found = [("selection", configuration.selection), ("test_time_selection", configuration.test_time_selection)]
    labels, weights = configuration.labels, configuration.weights
    if labels:
        found += [(f"labels.value[{index}]", text) for index, text in enumerate(labels.classes if labels.kind == "simple" else ())]
        found += [(f"labels.value.{name}", text) for name, text in labels.expressions.items()]
    if weights:
        found += [(f"weights.weight_branches[{index}]", text) for index, text in enumerate(weights.branches)]
        found.append(("weights.reweight_basewgt", weights.base_weight))
    return [(key, text) for key, text in found if text]
