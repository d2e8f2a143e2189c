"""A digest of Python source code that does not depend on comments, formatting and docstrings.

It follows imports of sibling modules (same folder), so that editing a module beside a network configuration counts as
editing the network. It uses only the standard library, because the workflow computes it each time the Snakefile is parsed.
"""

from __future__ import annotations

import ast
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from weaver_tasks.base.digests import digest
from weaver_tasks.base.errors import NetworkError

# Declarations of a network that do not affect training: whether prediction may leave out padding.
_DECLARATIONS = {"ignores_padding"}
# Fields of the syntax tree that differ between Python versions or do not change what the code does.
_IGNORED_FIELDS = {"ctx", "kind", "type_comment", "type_ignores"}


def source_digest(path: str | os.PathLike[str]) -> str:
    """The digest (32 hexadecimal characters) of a Python file and of the sibling modules that it imports.

    The declaration `ignores_padding` of a class is left out, because it does not affect training. The
    path of the file is left out too. Raises NetworkError if a file is missing or has a syntax error.
    """
    path = Path(path)
    trees = {name: _canonical(_without_declarations(_without_docstrings(tree))) for name, tree in _sources(path).items()}
    return digest(trees)


def source_files(path: str | os.PathLike[str]) -> list[Path]:
    """The files that `source_digest` reads: `path` first, then its sibling modules sorted by name."""
    path = Path(path)
    return [path, *(path.parent / name for name in sorted(_sources(path)) if name)]


def _sources(path: Path) -> dict[str, ast.Module]:
    """Name relative to the folder of `path` -> parsed source; `path` itself has the name ''."""
    folder = path.parent
    sources: dict[str, ast.Module] = {"": _parse(path)}
    unread = [(path, sources[""])]
    while unread:
        importer, tree = unread.pop()
        for found in sorted(set(_imported(tree, importer, folder))):
            name = found.relative_to(folder).as_posix()
            if found != path and name not in sources:
                sources[name] = _parse(found)
                unread.append((found, sources[name]))
    return sources


def _parse(path: Path) -> ast.Module:
    try:
        return ast.parse(path.read_bytes(), filename=str(path))
    except FileNotFoundError:
        raise NetworkError(f"{path}: no such file. Give the path of a Python file in network.config.") from None
    except (SyntaxError, ValueError) as error:
        line = getattr(error, "lineno", None)
        where = f"{path}, line {line}" if line else f"{path}"
        raise NetworkError(f"{where}: not valid Python ({getattr(error, 'msg', error)}).") from None


def _imported(tree: ast.Module, importer: Path, folder: Path) -> Iterator[Path]:
    """Files below `folder` that the code may import, or that it names in a string (such as 'block.py' for import_module(path))."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield from _module_files(folder, alias.name)
        elif isinstance(node, ast.ImportFrom):
            base = importer.parents[node.level - 1] if 0 < node.level <= len(importer.parents) else folder
            for alias in node.names:
                yield from _module_files(base, f"{node.module or ''}.{alias.name}".lstrip("."))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.endswith(".py"):
            named = folder / node.value
            if named.is_file() and folder.resolve() in named.resolve().parents:
                yield folder / os.path.relpath(named, folder)


def _module_files(folder: Path, dotted: str) -> Iterator[Path]:
    """The files that an import of `dotted` from `folder` executes (its last part may be a name in a module)."""
    for part in dotted.split("."):
        for candidate in (folder / f"{part}.py", folder / part / "__init__.py"):
            if candidate.is_file():
                yield candidate
        folder = folder / part


def _without_docstrings(tree: ast.Module) -> ast.Module:
    documentable = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    for node in ast.walk(tree):
        if isinstance(node, documentable) and ast.get_docstring(node, clean=False) is not None:
            del node.body[0]
    return tree


def _without_declarations(tree: ast.Module) -> ast.Module:
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            node.body = [statement for statement in node.body if not _declares(statement)]
    return tree


def _declares(statement: ast.stmt) -> bool:
    if isinstance(statement, ast.Assign):
        return all(isinstance(target, ast.Name) and target.id in _DECLARATIONS for target in statement.targets)
    return isinstance(statement, ast.FunctionDef) and statement.name in _DECLARATIONS


def _canonical(node: Any) -> Any:
    """Convert a syntax tree to plain data. Empty fields are left out, because newer Python versions add fields that are often empty."""
    if isinstance(node, ast.Constant):
        return [type(node.value).__name__, repr(node.value)]
    if isinstance(node, ast.AST):
        fields = {name: _canonical(value) for name, value in ast.iter_fields(node) if name not in _IGNORED_FIELDS}
        return [type(node).__name__, {name: value for name, value in fields.items() if value not in (None, [])}]
    if isinstance(node, list):
        return [_canonical(element) for element in node]
    return node
