"""Finds the keys of a data configuration that use a variable, for error messages about a missing variable."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from weaver_tasks.base.errors import did_you_mean
from weaver_tasks.data.expressions.parsing import names_in

if TYPE_CHECKING:
    from weaver_tasks.data.configuration.model import DataConfiguration
    from weaver_tasks.data.events.block import StagingOptions


def describe_use(configuration: DataConfiguration, name: str, *, options: StagingOptions | None = None) -> str:
    """Return a text such as ' data.yaml: inputs.particles uses it. Did you mean part_pt, of new_variables?', or '' if nothing is known.

    options: the staging options of config.yaml, which may use variables too.
    """
    keys = list(dict.fromkeys(_keys(configuration, name)))
    used = f" {configuration.path}: {', '.join(keys[:3])}{' …' if len(keys) > 3 else ''} {'uses' if len(keys) == 1 else 'use'} it."
    hint = did_you_mean(name, configuration.definitions, count=1).replace("?", ", of new_variables?")
    asked = list(_keys_of_options(configuration, name, options)) if options else []
    also = f" config.yaml: {', '.join(asked)} {'uses' if len(asked) == 1 else 'use'} it." if asked else ""
    return (used if keys else "") + also + hint


def _keys_of_options(configuration: DataConfiguration, name: str, options: StagingOptions) -> Iterator[str]:
    for split, text in options.extra_selection.items():
        if name in names_in(text, functions=configuration.functions):
            yield f"data.extra_selection.{split}"
    if options.fold_variable == name:
        yield "cross_validation.variable"


def _keys(configuration: DataConfiguration, name: str) -> Iterator[str]:
    for group in configuration.inputs:
        if any(variable.name == name for variable in group.variables):
            yield f"inputs.{group.name}"
    for key, text in _expressions(configuration):
        if name in names_in(text, functions=configuration.functions):
            yield key
    weights, bucketing = configuration.weights, configuration.bucketing
    if weights is not None:
        for key, names in (("reweight_vars", weights.variables), ("reweight_classes", weights.classes)):
            if name in names:
                yield f"weights.{key}"
    for key in ("observers", "monitor_variables"):
        if name in getattr(configuration, key):
            yield key
    if bucketing is not None and bucketing.variable == name:
        yield "bucketing.var"


def _expressions(configuration: DataConfiguration) -> Iterator[tuple[str, str]]:
    """Yield the key and text of every expression."""
    labels, weights = configuration.labels, configuration.weights
    if configuration.selection:
        yield "selection", configuration.selection
    # test_time_selection falls back to selection.
    if configuration.test_time_selection and configuration.test_time_selection != configuration.selection:
        yield "test_time_selection", configuration.test_time_selection
    custom = labels.expressions if labels is not None else {}
    for name, text in configuration.definitions.items():
        yield ("labels.value" if name in custom else f"new_variables.{name}"), text
    if labels is not None and labels.kind == "simple":
        for text in labels.classes:
            yield "labels.value", text
    if weights is not None:
        for text in weights.branches:
            yield "weights.weight_branches", text
        if weights.base_weight:
            yield "weights.reweight_basewgt", weights.base_weight
