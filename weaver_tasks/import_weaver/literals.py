"""Parse options of the form `name value` whose values are Python literals."""

from __future__ import annotations

import ast
from typing import Any

from weaver_tasks.import_weaver.result import TODO, Conversion


def literals(pairs: list[list[str]], option: str, made: Conversion) -> dict[str, Any]:
    """name -> value, read as a Python literal, with tuples as lists. A value that YAML cannot represent becomes a TODO of `made`."""
    return {name: _value(name, text, option, made) for name, text in pairs}


def _value(name: str, text: str, option: str, made: Conversion) -> Any:
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        made.todo(f"{option} {name} {text}", "weaver refuses it: not a Python literal. Taken as text; correct it if it is none")
        return text
    try:
        return _plain(value)
    except TypeError:
        made.todo(f"{option} {name} {text}", "config.yaml holds numbers, text, lists, and maps with text as keys. Write it as those")
        return TODO


def _plain(value: Any) -> Any:
    """Convert tuples to lists. Raises TypeError for values that YAML cannot represent."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {key: _plain(item) for key, item in value.items()}
    raise TypeError(type(value).__name__)
