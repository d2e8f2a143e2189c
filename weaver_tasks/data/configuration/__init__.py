"""Reads and checks a data configuration (a YAML file in weaver's format) and returns it as one frozen object.

Every parse of the workflow imports this package, so it does not import numpy.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from weaver_tasks.data.configuration.checks import check_document, check_meaning
from weaver_tasks.data.configuration.document import BucketingSection, LabelsSection, WeightsSection
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
    document, sections = read_document(path)
    functions = own_functions(Path(custom_functions)) if custom_functions else {}
    check_document(document, where=str(path))
    configuration = DataConfiguration(
        path=path,
        treename=sections.treename,
        branch_magic=sections.branch_magic or {},
        file_magic=sections.file_magic or {},
        selection=sections.selection,
        test_time_selection=sections.test_time_selection or sections.selection,
        definitions=_definitions(document),
        preprocess_method=sections.preprocess.method,
        preprocess_fraction=sections.preprocess.data_fraction,
        inputs=_inputs(document),
        labels=_labels(sections.labels),
        observers=tuple(sections.observers),
        monitor_variables=tuple(sections.monitor_variables),
        weights=_weights(sections.weights),
        bucketing=_bucketing(sections.bucketing),
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


def _labels(labels: LabelsSection) -> Labels | None:
    if isinstance(labels.value, list):
        return Labels(kind="simple", names=("_label_",), classes=tuple(labels.value))
    if isinstance(labels.value, dict):
        return Labels(kind="custom", names=tuple(labels.value), classes=tuple(labels.names or ()), expressions=dict(labels.value))
    return None


def _weights(weights: WeightsSection | None) -> Weights | None:
    if weights is None:
        return None
    if weights.use_precomputed_weights:
        return Weights(precomputed=True, branches=tuple(weights.weight_branches or ()))
    classes = tuple(weights.reweight_classes or ())
    return Weights(
        precomputed=False,
        method=weights.reweight_method,
        variables={name: tuple(map(float, edges)) for name, edges in (weights.reweight_vars or {}).items()},
        classes=classes,
        class_weights=tuple(map(float, weights.class_weights or [1.0] * len(classes))),
        threshold=float(weights.reweight_threshold),
        discard_under_overflow=weights.reweight_discard_under_overflow,
        base_weight=weights.reweight_basewgt,
        histograms=weights.reweight_hists,
    )


def _bucketing(bucketing: BucketingSection | None) -> Bucketing | None:
    if bucketing is None:
        return None
    bins = bucketing.bins
    return Bucketing(variable=bucketing.var, edges=bins if isinstance(bins, int) else tuple(map(float, bins)))
