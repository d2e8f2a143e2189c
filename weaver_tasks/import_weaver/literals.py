"""Options `name value` of a command line, the values as Python literals."""

from __future__ import annotations

import ast
from typing import Any

from weaver_tasks.base.errors import ConfigError


def literals(pairs: list[list[str]], option: str) -> dict[str, Any]:
    """Options `name value`, the values read as Python literals, tuples as lists. Raises ConfigError for what YAML cannot hold."""
    return {name: _plain(_literal(name, text, option), f"{option} {name} {text}") for name, text in pairs}


def _literal(name: str, text: str, option: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        raise ConfigError(
            f"the weaver command: {option} {name} {text}: not a Python literal. Text needs quotes of its own: {option} {name} '\"{text}\"'."
        ) from None


def _plain(value: Any, where: str) -> Any:
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (list, tuple)):
        return [_plain(item, where) for item in value]
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {key: _plain(item, where) for key, item in value.items()}
    raise ConfigError(
        f"the weaver command: {where}: config.yaml holds numbers, text, lists, and maps with text as keys. Write it as those."
    )
