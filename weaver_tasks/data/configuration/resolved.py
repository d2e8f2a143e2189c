"""Writes data_config.auto.yaml: a data configuration in weaver's format with the standardization and weights filled in."""

from __future__ import annotations

import ast
import copy
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import yaml

from weaver_tasks.base.errors import DataConfigError
from weaver_tasks.data.expressions.grammar import ELEMENTWISE
from weaver_tasks.data.expressions.parsing import names_in, parse_expression, resolve

if TYPE_CHECKING:
    from weaver_tasks.data.configuration.model import DataConfiguration


_NOTHING: Mapping[str, str] = {}


def dump_auto(
    configuration: DataConfiguration, standardization: Mapping[str, Mapping[str, Any]], histograms: Mapping[str, Any] | None
) -> str:
    """Return the YAML text of the resolved configuration, which weaver's DataConfig and `load_data_configuration` can load.

    Weaver does not support definitions in arbitrary order (in selections too), bare `abs(…)` or multi-line expressions.
    These are rewritten to an equivalent form that weaver supports.
    standardization: variable -> its center and scale (other keys are not used), for all variables whose center is auto;
    a variable named *_mask gets no transformation.
    histograms: class -> weights, nested lists or arrays; None keeps those of the configuration.
    Raises DataConfigError when a variable with center auto is missing.
    """
    document = copy.deepcopy(configuration.raw)
    document["preprocess"]["params"] = _parameters(configuration, standardization)
    document["new_variables"] = _definitions(configuration)
    for key in ("selection", "test_time_selection"):
        if document[key] is not None:
            document[key] = _for_weaver(document[key], configuration, inline=_deep(document[key], configuration))
    if document["labels"].get("type") == "custom":
        document["labels"]["value"] = {name: _for_weaver(text, configuration) for name, text in document["labels"]["value"].items()}
    if document["weights"] is not None:
        _fill_weights(document["weights"], configuration, histograms)
    return yaml.dump(document, Dumper=_Plain, sort_keys=False, default_flow_style=None, width=140, allow_unicode=True)


class _Plain(yaml.SafeDumper):
    """A dumper that writes shared objects in full instead of as YAML aliases, because people read these files."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _parameters(configuration: DataConfiguration, standardization: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
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
    return params


def _fill_weights(weights: dict[str, Any], configuration: DataConfiguration, histograms: Mapping[str, Any] | None) -> None:
    if weights.get("weight_branches"):
        weights["weight_branches"] = [_for_weaver(text, configuration) for text in weights["weight_branches"]]
    if weights.get("reweight_basewgt"):
        weights["reweight_basewgt"] = _for_weaver(weights["reweight_basewgt"], configuration)
    if histograms is not None:
        weights["reweight_hists"] = {name: _nested(values) for name, values in histograms.items()}


def _nested(values: Any) -> Any:
    return values.tolist() if hasattr(values, "tolist") else values


def _definitions(configuration: DataConfiguration) -> dict[str, str]:
    """Return the definitions, each after those that it needs, because weaver computes them in the order written."""
    given = configuration.raw["new_variables"]
    _, ordered = resolve(configuration.definitions, configuration.definitions, functions=configuration.functions)
    names = [*(name for name in ordered if name in given), *(name for name in given if name not in ordered)]
    return {name: _for_weaver(given[name], configuration) for name in names}


def _deep(selection: str, configuration: DataConfiguration) -> dict[str, str]:
    """Return the definitions in a selection that need other definitions: weaver computes only one level before it selects."""
    _, ordered = resolve(
        configuration.definitions, names_in(selection, functions=configuration.functions), functions=configuration.functions
    )
    return {
        name: text for name, text in ordered.items() if names_in(text, functions=configuration.functions) & configuration.definitions.keys()
    }


def _for_weaver(text: str, configuration: DataConfiguration, *, inline: Mapping[str, str] = _NOTHING) -> str:
    """Return the expression unchanged if weaver can compute it. Otherwise rewrite it: on one line, np.abs for abs, `inline` inserted."""
    rewriting = _Rewriting(configuration, inline)
    rewritten = rewriting.visit(rewriting.tree(text))
    changed = rewriting.changed or "\n" in text or "#" in text
    return ast.unparse(rewritten) if changed else text


class _Rewriting(ast.NodeTransformer):
    def __init__(self, configuration: DataConfiguration, inline: Mapping[str, str]) -> None:
        self.configuration = configuration
        self.inline = inline
        self.changed = False

    def tree(self, text: str) -> ast.expr:
        """Return a syntax tree that may be changed. Parsed expressions are shared and must not be."""
        return copy.deepcopy(parse_expression(text, functions=self.configuration.functions).tree)

    def visit_Call(self, node: ast.Call) -> ast.AST:
        if isinstance(node.func, ast.Name):
            if node.func.id in ELEMENTWISE and node.func.id not in self.configuration.functions:
                self.changed = True
                node.func = ast.Attribute(value=ast.Name(id="np", ctx=ast.Load()), attr=node.func.id, ctx=ast.Load())
            node.args = [self.visit(argument) for argument in node.args]
            node.keywords = [self.visit(keyword) for keyword in node.keywords]
            return node
        return self.generic_visit(node)

    def visit_Name(self, node: ast.Name) -> ast.AST:
        if node.id not in self.inline:
            return node
        self.changed = True
        return self.visit(self.tree(self.inline[node.id]))
