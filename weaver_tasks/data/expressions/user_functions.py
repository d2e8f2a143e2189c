"""Finds the functions in the user's file, and which of them draw random numbers, without executing the file."""

from __future__ import annotations

import ast
from pathlib import Path

from weaver_tasks.base.errors import DataConfigError

_RANDOM = {"random", "default_rng"}


def own_functions(path: Path) -> dict[str, bool]:
    """Return name -> whether it draws random numbers, for everything that the file defines, assigns or imports by name.

    A function counts as random when it mentions `random` (np.random, random) or another function of the file that does.
    Raises DataConfigError when the file cannot be read or is not Python.
    """
    mentions: dict[str, set[str]] = {}
    for node in _parsed(path).body:
        if isinstance(node, ast.FunctionDef):
            mentions[node.name] = _words(node)
        elif isinstance(node, ast.ImportFrom):
            mentions.update({alias.asname or alias.name: {*(node.module or "").split("."), alias.name} for alias in node.names})
        elif isinstance(node, ast.Assign):
            mentions.update({target.id: _words(node.value) for target in node.targets if isinstance(target, ast.Name)})
    random: set[str] = set(_RANDOM)
    while found := {name for name, words in mentions.items() if words & random and name not in random}:
        random |= found
    return {name: name in random for name in sorted(mentions)}


def _parsed(path: Path) -> ast.Module:
    try:
        return ast.parse(path.read_bytes(), filename=str(path))
    except OSError as error:
        raise DataConfigError(f"{path}: cannot be read ({error.strerror}). Correct data.custom_functions.") from error
    except SyntaxError as error:
        raise DataConfigError(f"{path}: line {error.lineno}: not valid Python ({error.msg}). Correct the file and run again.") from None
    except ValueError as error:
        raise DataConfigError(f"{path}: not valid Python ({error}). Correct data.custom_functions.") from None


def _words(node: ast.AST) -> set[str]:
    words: set[str] = set()
    for part in ast.walk(node):
        if isinstance(part, ast.Name):
            words.add(part.id)
        elif isinstance(part, ast.Attribute):
            words.add(part.attr)
        elif isinstance(part, (ast.Import, ast.ImportFrom)):
            words.update(word for alias in part.names for word in alias.name.split("."))
            words.update((getattr(part, "module", None) or "").split("."))
    return words
