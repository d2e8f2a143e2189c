"""data_config.auto.yaml: a data configuration with its standardization and weights filled in, in weaver's own format."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import yaml

from weaver_tasks.base.errors import DataConfigError
from weaver_tasks.data.expressions import resolve

if TYPE_CHECKING:
    from weaver_tasks.data.configuration_types import DataConfiguration


def dump_auto(
    configuration: DataConfiguration, standardization: Mapping[str, Mapping[str, Any]], histograms: Mapping[str, Any] | None
) -> str:
    """The YAML text of the resolved configuration; weaver's DataConfig loads it, and so does `load_data_configuration`.

    standardization: variable -> its center and scale (other keys are not used), for all whose center is auto;
    a variable named *_mask gets no transformation.
    histograms: class -> weights, nested lists or arrays; None keeps those of the configuration.
    Raises DataConfigError when a variable with center auto is missing.
    """
    document = copy.deepcopy(configuration.raw)
    params = configuration.preprocess_params
    for name, parameters in params.items():
        if parameters["center"] != "auto":
            continue
        if name.endswith("_mask"):
            parameters["center"] = None
            continue
        if name not in standardization:
            raise DataConfigError(f"{configuration.path}: the standardization of '{name}' is missing. Run the rule standardize.")
        parameters["center"] = float(standardization[name]["center"])
        parameters["scale"] = float(standardization[name]["scale"])
    document["preprocess"]["params"] = params
    document["new_variables"] = _ordered(configuration)
    if document["weights"] is not None and histograms is not None:
        document["weights"]["reweight_hists"] = {name: _nested(values) for name, values in histograms.items()}
    return yaml.dump(document, Dumper=_Plain, sort_keys=False, default_flow_style=None, width=140, allow_unicode=True)


class _Plain(yaml.SafeDumper):
    """Writes shared objects out in full: weaver's users read these files."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _nested(values: Any) -> Any:
    return values.tolist() if hasattr(values, "tolist") else values


def _ordered(configuration: DataConfiguration) -> dict[str, str]:
    """The definitions with each after those that it needs: weaver computes them in the order written."""
    given = configuration.raw["new_variables"]
    _, ordered = resolve(configuration.definitions, configuration.definitions, functions=configuration.functions)
    names = [*(name for name in ordered if name in given), *(name for name in given if name not in ordered)]
    return {name: given[name] for name in names}
