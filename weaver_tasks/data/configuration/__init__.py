"""The data configuration, in weaver's YAML format: read, checked by schema and by meaning, as one frozen object.

Imported at every parse of the workflow: standard library and PyYAML only, nothing of numpy.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from weaver_tasks.data.configuration.checks import check_document, check_meaning
from weaver_tasks.data.configuration.model import Bucketing, DataConfiguration, InputGroup, Labels, Variable, WeaverView, Weights
from weaver_tasks.data.configuration.parsing import read_document, variable_parameters
from weaver_tasks.data.configuration.resolved import dump_auto
from weaver_tasks.data.expressions.user_functions import own_functions

__all__ = [
    "Bucketing",
    "DataConfiguration",
    "InputGroup",
    "Labels",
    "Variable",
    "WeaverView",
    "Weights",
    "dump_auto",
    "load_data_configuration",
]


def load_data_configuration(path: str | Path, *, custom_functions: str | Path | None = None) -> DataConfiguration:
    """Read a data configuration.

    custom_functions: a Python file whose functions the expressions may call; it is parsed here, not run.
    Raises DataConfigError naming the file, the key, its value and the remedy.
    """
    path = Path(path)
    document = read_document(path)
    functions = own_functions(Path(custom_functions)) if custom_functions else {}
    check_document(document, where=str(path))
    configuration = DataConfiguration(
        path=path,
        treename=document["treename"],
        branch_magic=document["branch_magic"] or {},
        file_magic=document["file_magic"] or {},
        selection=document["selection"],
        test_time_selection=document["test_time_selection"] or document["selection"],
        definitions=_definitions(document),
        preprocess_method=document["preprocess"]["method"],
        preprocess_fraction=document["preprocess"]["data_fraction"],
        inputs=_inputs(document),
        labels=_labels(document["labels"]),
        observers=tuple(document["observers"]),
        monitor_variables=tuple(document["monitor_variables"]),
        weights=_weights(document["weights"]),
        bucketing=_bucketing(document["bucketing"]),
        functions=functions,
        raw=document,
    )
    check_meaning(configuration)
    return configuration


def _definitions(document: dict[str, Any]) -> dict[str, str]:
    definitions = dict(document["new_variables"])
    if document["labels"].get("type") == "custom":
        definitions.update(document["labels"]["value"])
    return {name: text for name, text in definitions.items() if text.strip() != name}


def _inputs(document: dict[str, Any]) -> tuple[InputGroup, ...]:
    groups = []
    for name, group in document["inputs"].items():
        variables = []
        for entry in group["vars"]:
            parameters = variable_parameters(document, group, entry)
            center = parameters["center"]
            variables.append(
                Variable(
                    name=parameters["name"],
                    center=float(center) if isinstance(center, (int, float)) else center,
                    scale=float(parameters["scale"]),
                    low=float(parameters["min"]),
                    high=float(parameters["max"]),
                    pad_value=float(parameters["pad_value"]),
                )
            )
        pad_mode = group.get("pad_mode", "constant")
        groups.append(InputGroup(name=name, length=group["length"], pad_mode=pad_mode, variables=tuple(variables)))
    return tuple(groups)


def _labels(labels: dict[str, Any]) -> Labels | None:
    if not labels:
        return None
    if labels["type"] == "simple":
        return Labels(kind="simple", names=("_label_",), classes=tuple(labels["value"]))
    return Labels(kind="custom", names=tuple(labels["value"]), classes=tuple(labels.get("names") or ()), expressions=dict(labels["value"]))


def _weights(weights: dict[str, Any] | None) -> Weights | None:
    if weights is None:
        return None
    if weights["use_precomputed_weights"]:
        return Weights(precomputed=True, branches=tuple(weights["weight_branches"]))
    classes = tuple(weights["reweight_classes"])
    return Weights(
        precomputed=False,
        method=weights["reweight_method"],
        variables={name: tuple(map(float, edges)) for name, edges in weights["reweight_vars"].items()},
        classes=classes,
        class_weights=tuple(map(float, weights.get("class_weights") or [1.0] * len(classes))),
        threshold=float(weights.get("reweight_threshold", 10)),
        discard_under_overflow=weights.get("reweight_discard_under_overflow", True),
        base_weight=weights.get("reweight_basewgt"),
        histograms=weights.get("reweight_hists"),
    )


def _bucketing(bucketing: dict[str, Any] | None) -> Bucketing | None:
    if bucketing is None:
        return None
    bins = bucketing["bins"]
    return Bucketing(variable=bucketing["var"], edges=bins if isinstance(bins, int) else tuple(map(float, bins)))
