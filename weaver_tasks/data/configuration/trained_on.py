"""Records what a model was trained on (classes, inputs, standardization), and compares it with a data configuration.

The record is kept with the model, because the model is valid for such a configuration only.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from weaver_tasks.data.configuration.model import DataConfiguration

FILE = "trained_on.json"
"""Beside the checkpoints of a training. ONNX models hold the same in their metadata."""


def trained_on(configuration: DataConfiguration) -> dict[str, Any]:
    """Return everything in a resolved data configuration that a network's weights depend on, as plain data (ordered where it matters)."""
    labels = configuration.labels
    return {
        "classes": list(labels.classes) if labels else [],
        "labels": list(labels.names) if labels else [],
        "inputs": configuration.input_dicts,
        "lengths": {group.name: group.length for group in configuration.inputs},
        "pad_modes": {group.name: group.pad_mode for group in configuration.inputs if group.length is not None},
        "standardization": {
            variable.name: [
                _finite(number) for number in (variable.center, variable.scale, variable.low, variable.high, variable.pad_value)
            ]
            for group in configuration.inputs
            for variable in group.variables
        },
    }


def difference(then: Mapping[str, Any], configuration: DataConfiguration) -> str | None:
    """Describe the first difference between a configuration and what a model was trained on; None if there is none.

    then: the result of `trained_on`, or the known part of it.
    """
    now = trained_on(configuration)
    if "inputs" in then and list(then["inputs"]) != list(now["inputs"]):
        return f"the input groups {_listed(then['inputs'])}, in this order, and not {_listed(now['inputs'])}"
    for key, what in (("classes", "the classes"), ("labels", "the labels")):
        # A configuration without labels (real data, for example) has no class names to compare.
        if key in then and configuration.labels is not None and list(then[key]) != now[key]:
            return f"{what} {_listed(then[key])}, in this order, and not {_listed(now[key])}"
    for group in now["inputs"]:
        if "inputs" in then and list(then["inputs"][group]) != now["inputs"][group]:
            return f"input group '{group}' of {_listed(then['inputs'][group])}, in this order, and not of {_listed(now['inputs'][group])}"
        for key, what in (("lengths", "length"), ("pad_modes", "pad_mode")):
            before, after = ((known.get(key) or {}).get(group) for known in (then, now))
            if key in then and group in now[key] and before != after:
                return f"input group '{group}' with {what} {before}, and not {after}"
    for name, numbers in now["standardization"].items():
        before = then.get("standardization", {}).get(name)
        if before is not None and not all(_same(a, b) for a, b in zip(before, numbers, strict=True)):
            return f"variable '{name}' with (center, scale, min, max, pad_value) {_numbers(before)}, and not {_numbers(numbers)}"
    return None


def assumed(configuration: DataConfiguration) -> str:
    """Describe what is assumed about a model that has no record of what it was trained on."""
    now = trained_on(configuration)
    groups = "; ".join(f"{name} ({', '.join(variables)})" for name, variables in now["inputs"].items())
    outputs = f"the classes {_listed(now['classes'])}" if now["classes"] else f"the labels {_listed(now['labels'])}"
    return f"{outputs} and the inputs {groups}, in this order, with the standardization of {configuration.path}"


def _finite(number: Any) -> Any:
    """Replace infinity, which JSON cannot represent."""
    return str(number) if isinstance(number, float) and not math.isfinite(number) else number


def _listed(names: Any) -> str:
    return ", ".join(map(str, names)) or "none"


def _numbers(values: Any) -> str:
    return ", ".join("null" if value is None else f"{value:g}" if isinstance(value, int | float) else str(value) for value in values)


def _same(before: Any, after: Any) -> bool:
    if isinstance(before, int | float) and isinstance(after, int | float):
        return before == after or math.isclose(before, after, rel_tol=1e-6)
    return before == after
