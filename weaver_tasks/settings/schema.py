"""Make the JSON schema of a document, which editors use for completion and checks, and the Markdown table of its keys."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from weaver_tasks.settings.fields import Section
from weaver_tasks.settings.model import Configuration

JsonSchema = dict[str, Any]

_README = """# config.yaml

One file says which files, how to train, and on what; `demo.yaml` is a complete example. Files given by several `--configfile`s are merged
key by key, and `--config training='{epochs: 30}'` is laid over them. Unknown keys are refused. `data/` holds data
configurations and `networks/` network configurations, both in weaver's format.

| key | type | default | meaning |
|---|---|---|---|
"""


def json_schema(model: type[Section] | None = None, *, title: str = "config.yaml") -> JsonSchema:
    """The JSON schema of a document, with its sections inlined. model: None for config.yaml.

    Besides the keywords of JSON schema it has `unit`, and `affects`: the stages that rerun when the key changes.
    """
    made = (model or Configuration).model_json_schema()
    named = made.pop("$defs", {})
    schema = _tidy(made, named)
    kept = {name: _tidy(named[name], named) for name in _references(schema)}
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": title}
    return {**head, **schema, **({"$defs": kept} if kept else {})}


def _tidy(node: Any, named: dict[str, JsonSchema]) -> Any:
    """Simplify the schema of pydantic: inline sections, use {"type": ["integer", "null"]} for nullable keys, remove titles."""
    if isinstance(node, list):
        return [_tidy(item, named) for item in node]
    if not isinstance(node, dict):
        return node
    node = dict(node)
    if "properties" in node:
        node["properties"] = {name: _tidy(child, named) for name, child in node["properties"].items()}
    node = {name: value if name in ("properties", "default", "enum") else _tidy(value, named) for name, value in node.items()}
    if not isinstance(node.get("title"), dict):
        node.pop("title", None)
    target = str(node.get("$ref", "")).rpartition("/")[2]
    if target and "properties" in named[target]:
        node = {**_tidy(named[target], named), **{name: value for name, value in node.items() if name != "$ref"}}
    # Names that pydantic uses for the limits of a type with a custom validator.
    for name, limit in (("gt", "exclusiveMinimum"), ("ge", "minimum"), ("lt", "exclusiveMaximum"), ("le", "maximum")):
        if name in node:
            node[limit] = node.pop(name)
    if "patternProperties" in node:
        node["additionalProperties"] = False
    return _joined(node)


def _joined(node: JsonSchema) -> JsonSchema:
    """Combine several forms of a value into one, if that is equivalent."""
    forms = node.get("anyOf") or node.get("oneOf")
    if not forms:
        return node
    rest = {name: value for name, value in node.items() if name not in ("anyOf", "oneOf")}
    others = [form for form in forms if form != {"type": "null"}]
    null = len(others) < len(forms)
    if len(others) == 1 and null:
        form = others[0]
        if "enum" in form:
            return {"enum": [*form["enum"], None], **rest}
        if "oneOf" in form or "anyOf" in form:
            name = "oneOf" if "oneOf" in form else "anyOf"
            return _joined({name: [*form[name], {"type": "null"}], **rest})
        if isinstance(form.get("type"), str):
            return {**form, "type": [form["type"], "null"], **rest}
    # The limits of one form do not restrict values of another.
    types = [form.get("type") for form in forms]
    if len(set(map(str, types))) == len(types) and all(isinstance(each, str) for each in types):
        joined: JsonSchema = {}
        for form in forms:
            joined |= form
        return {**joined, "type": types, **rest}
    return node


def _references(node: Any) -> list[str]:
    """The names of the definitions that a schema references."""
    if isinstance(node, list):
        return [name for item in node for name in _references(item)]
    if not isinstance(node, dict):
        return []
    own = [node["$ref"].rpartition("/")[2]] if "$ref" in node else []
    return list(dict.fromkeys([*own, *(name for item in node.values() for name in _references(item))]))


# Text for the documentation


def kind(schema: JsonSchema) -> str:
    """The type of a key in words, as Markdown."""
    if "files" in str(schema.get("$ref", "")).lower():
        return "path, list of paths, or named groups of them"
    if "$ref" in schema:
        return "map"
    if "enum" in schema:
        return " \\| ".join(f"`{json.dumps(value)}`" for value in schema["enum"])
    if "const" in schema:
        return f"`{json.dumps(schema['const'])}`"
    for several in ("anyOf", "oneOf"):
        if several in schema:
            return " or ".join(dict.fromkeys(kind(choice) for choice in schema[several]))
    types = schema.get("type", "")
    names = {"object": "map", "array": "list"}
    words = " or ".join(names.get(name, name) for name in ([types] if isinstance(types, str) else types))
    return f"{words} ({schema['unit']})" if "unit" in schema else words


def readme() -> str:
    """The text of config/README.md, with all keys in one table."""
    return _README + "".join(_rows(json_schema(), ""))


def _rows(schema: JsonSchema, prefix: str) -> Iterator[str]:
    for key, child in schema["properties"].items():
        name = f"{prefix}{key}"
        if "properties" in child:
            yield f"| **`{name}`** | | | {child['description']} |\n"
            yield from _rows(child, f"{name}.")
        else:
            default = "*required*" if key in schema.get("required", []) else f"`{json.dumps(child.get('default'))}`"
            yield f"| `{name}` | {kind(child)} | {default} | {child['description']} |\n"
