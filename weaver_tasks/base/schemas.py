"""YAML files read, and checked against the JSON schemas of this project, with errors of one line."""

from __future__ import annotations

import contextlib
import functools
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jsonschema
import yaml

from weaver_tasks.base.errors import ConfigError, WeaverTasksError, nearest

_PACKAGE = Path(__file__).parent.parent
_MOST_NODES = 1_000_000
_DEEPEST = 60
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def read_yaml(path: str | os.PathLike[str], *, error: type[WeaverTasksError] = ConfigError) -> Any:
    """The content of a YAML file. Raises `error` naming file, line and column when it cannot be read.

    Keys are strings; a document that contains itself, or that aliases blow up, is refused.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as cause:
        raise error(f"{path}: cannot be read ({cause.strerror}). Correct the path or the permissions.") from cause
    except UnicodeDecodeError as cause:
        raise error(f"{path}: not a text file in UTF-8 (byte {cause.start}). Save it as UTF-8.") from cause
    try:
        document = _parsed(text, path, error)
    except yaml.MarkedYAMLError as cause:
        mark = cause.problem_mark or cause.context_mark
        place = f" line {mark.line + 1}, column {mark.column + 1}:" if mark else ""
        line = text.split("\n")[mark.line] if mark and mark.line <= text.count("\n") else ""
        if "\t" in line[: len(line) - len(line.lstrip())]:
            raise error(f"{path}:{place} a tab, which YAML does not take as indentation. Put spaces in its place.") from None
        raise error(
            f"{path}:{place} not valid YAML ({_one_line(cause.problem or cause.context)}). Mind indentation, colons and quotes."
        ) from None
    except yaml.YAMLError as cause:
        raise error(f"{path}: not valid YAML ({_one_line(cause)}).") from None
    except (ValueError, RecursionError, TypeError) as cause:
        # A tag's value that is none (!!int x, a date such as 2020-13-01), or nesting without end.
        raise error(f"{path}: not valid YAML ({_one_line(cause)}).") from None
    _check_plain(document, path, error)
    return document


def check_no_key_twice(path: str | os.PathLike[str]) -> None:
    """Raise ConfigError where a YAML file that another reader has read gives a key twice; nothing else of it is judged."""
    with contextlib.suppress(yaml.YAMLError, OSError, UnicodeDecodeError):
        root = yaml.compose(Path(path).read_text(encoding="utf-8"), Loader=_LOADER)
        if root is not None:
            _check_no_key_twice(root, path, ConfigError)


def _parsed(text: str, path: str | os.PathLike[str], error: type[WeaverTasksError]) -> Any:
    loader = _LOADER(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        _check_no_key_twice(node, path, error)
        return loader.construct_document(node)
    finally:
        loader.dispose()


def _check_no_key_twice(root: yaml.Node, path: str | os.PathLike[str], error: type[WeaverTasksError]) -> None:
    """YAML would let the later of two equal keys win without a word."""
    pending, seen = [root], {id(root)}
    while pending:
        node = pending.pop()
        children: list[yaml.Node] = list(node.value) if isinstance(node, yaml.SequenceNode) else []
        if isinstance(node, yaml.MappingNode):
            lines: dict[tuple[str, str], int] = {}
            for key, value in node.value:
                children.append(value)
                if isinstance(key, yaml.ScalarNode):
                    line, name = key.start_mark.line + 1, (key.tag, key.value)
                    if name in lines:
                        raise error(
                            f"{path}: line {line}: the key '{_one_line(key.value)}' is given twice, first in line {lines[name]}. "
                            "Keep one of them."
                        )
                    lines[name] = line
        for child in children:
            # An alias stands for the same node.
            if id(child) not in seen:
                seen.add(id(child))
                pending.append(child)


def _one_line(problem: object) -> str:
    return " ".join(str(problem).split())[:200]


def _check_plain(document: Any, path: str | os.PathLike[str], error: type[WeaverTasksError]) -> None:
    """Refuse what is not plain data: keys that are no text, NaN, cycles, aliases of aliases that expand without end."""
    pending: list[tuple[Any, str, int]] = [(document, "", 0)]
    nodes = 0
    while pending:
        node, key, depth = pending.pop()
        nodes += 1
        if nodes > _MOST_NODES or depth > _DEEPEST:
            raise error(f"{path}: key '{key[:80]}': nested too deep, or too large. Write it without anchors and aliases.")
        if isinstance(node, dict):
            for name, value in node.items():
                if not isinstance(name, str):
                    raise error(f"{path}: key {name!r} of '{key or 'the document'}' is no text. Put it in quotes.")
                if not name.isprintable():
                    raise error(f"{path}: key {name!r} of '{key or 'the document'}' holds a line break or the like. Remove it.")
                pending.append((value, f"{key}.{name}" if key else name, depth + 1))
        elif node != node or (isinstance(node, int) and abs(node) >= 1 << 63):
            raise error(f"{path}: key '{key[:80]}': {'not a number' if node != node else 'the number is too large'}. Correct it.")
        elif isinstance(node, (list, tuple)):
            pending += [(value, key, depth + 1) for value in node]


@functools.cache
def load_schema(name: str) -> dict[str, Any]:
    """The schema `<name>.schema.json`, from workflow/schemas of a checkout or from the installed package."""
    folders = (_PACKAGE.parent / "workflow" / "schemas", _PACKAGE / "schemas")
    path = next(folder / f"{name}.schema.json" for folder in folders if (folder / f"{name}.schema.json").is_file())
    return json.loads(path.read_text(encoding="utf-8"))


def _is_whole(_: object, value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


# To JSON, 1.0 is whole; to Python, it is not.
_Validator = jsonschema.validators.extend(
    jsonschema.Draft202012Validator, type_checker=jsonschema.Draft202012Validator.TYPE_CHECKER.redefine("integer", _is_whole)
)


def validate(document: Any, schema: dict[str, Any], *, where: str, error: type[WeaverTasksError] = ConfigError) -> None:
    """Check a document against a schema.

    where: what the message calls the document (its file names).
    Raises `error`, one line naming the dotted key, its value, what is wanted, and the known key most like an unknown one.
    """
    validator = _Validator(schema)
    found = jsonschema.exceptions.best_match(validator.iter_errors(document))
    if found is not None:
        raise error(f"{where}: {_message(_narrowed(found))}")


def _narrowed(found: jsonschema.ValidationError) -> jsonschema.ValidationError:
    """Of a value that may have one of several forms: what is wrong with it in the form that it has."""
    while found.validator in ("anyOf", "oneOf"):
        forms: dict[Any, list[jsonschema.ValidationError]] = {}
        for inner in found.context or ():
            forms.setdefault(inner.relative_schema_path[0], []).append(inner)
        own = [errors for errors in forms.values() if not any(_is_of_another_form(each) for each in errors)]
        if len(own) != 1:
            break
        inner = jsonschema.exceptions.best_match(own[0])
        assert inner is not None
        found = inner
    return found


def _is_of_another_form(found: jsonschema.ValidationError) -> bool:
    return found.validator in ("type", "const", "enum") and not found.relative_path


def _message(found: jsonschema.ValidationError) -> str:
    key = _dotted(found.absolute_path)
    if found.validator == "additionalProperties":
        known = found.schema.get("properties", {})
        unknown = sorted(set(found.instance) - set(known))[0]
        return f"unknown key '{_join(key, unknown)}'.{nearest(unknown, known) or ' Known here: ' + ', '.join(sorted(known)) + '.'}"
    if found.validator == "required":
        missing = sorted(set(found.validator_value) - set(found.instance))[0]
        return f"key '{_join(key, missing)}' is missing.{_description(found.schema.get('properties', {}).get(missing, {}))}"
    hint = nearest(found.instance, found.validator_value) if found.validator == "enum" and isinstance(found.instance, str) else ""
    place = f"key '{key}'" if key else "the document"
    return f"{place}: {_shown(found.instance)} does not fit; {_wanted(found)} is wanted.{hint or _description(found.schema)}"


def _join(key: str, name: str) -> str:
    return f"{key}.{name}" if key else name


def _dotted(path: Iterable[str | int]) -> str:
    key = ""
    for part in path:
        key = f"{key}[{part}]" if isinstance(part, int) else _join(key, part)
    return key


def _shown(value: Any) -> str:
    text = "nothing" if value is None else repr(value)
    return text if len(text) <= 80 else text[:77] + "…"


def _description(schema: dict[str, Any]) -> str:
    return f" ({schema['description']})" if "description" in schema else ""


_KINDS = {"object": "a map of keys", "array": "a list", "string": "text", "integer": "a whole number", "number": "a number",
          "boolean": "true or false", "null": "nothing"}  # fmt: skip


def _form(schema: dict[str, Any]) -> str:
    """A word for what a schema asks for."""
    if "const" in schema:
        return str(schema["const"])
    kinds = schema.get("type", [])
    return " or ".join(_KINDS[kind] for kind in ([kinds] if isinstance(kinds, str) else kinds)) or schema.get("description", "another form")


def _wanted(found: jsonschema.ValidationError) -> str:
    value: Any = found.validator_value
    match found.validator:
        case "type":
            return _form({"type": value})
        case "enum":
            return "one of " + ", ".join("nothing" if item is None else str(item) for item in value)
        case "const":
            return str(value)
        case "minimum":
            return f"at least {value}"
        case "maximum":
            return f"at most {value}"
        case "exclusiveMinimum":
            return f"more than {value}"
        case "exclusiveMaximum":
            return f"less than {value}"
        case "minItems" | "minProperties" | "minLength":
            return f"at least {value} of them" if value > 1 else "one that is not empty"
        case "maxLength":
            return f"at most {value} letters"
        case "maxItems":
            return f"at most {value} of them"
        case "uniqueItems":
            return "no item twice"
        case "not":
            return "a name without line breaks"
        case "pattern":
            return f"text like {value}"
        case "anyOf" | "oneOf":
            return " or ".join(_form(option) for option in value)
        case _:
            return found.message
