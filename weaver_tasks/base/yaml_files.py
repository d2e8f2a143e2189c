"""Read YAML files as plain data, with error messages of one line."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import yaml

from weaver_tasks.base.errors import ConfigError, WeaverTasksError

_MOST_NODES = 1_000_000
_DEEPEST = 60
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def read_yaml(
    path: str | os.PathLike[str],
    *,
    error: type[WeaverTasksError] = ConfigError,
    keys_as_text: bool = False,
    names: Collection[str] = (),
) -> Any:
    """The content of a YAML file. Raises `error` with file, line and column if it cannot be read.

    Keys must be strings. A document that contains itself, or whose aliases expand without limit, is refused.
    keys_as_text: keep keys that YAML reads as numbers (2016) as the written text. names: top-level keys whose values are kept as text too.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as cause:
        raise error(f"{path}: cannot be read ({cause.strerror}). Correct the path or the permissions.") from cause
    except UnicodeDecodeError as cause:
        raise error(f"{path}: not a text file in UTF-8 (byte {cause.start}). Save it as UTF-8.") from cause
    try:
        document = _parsed(text, path, error, keys_as_text=keys_as_text, names=names)
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
        # An invalid value for a tag (!!int x, a date such as 2020-13-01), or nesting that is too deep.
        raise error(f"{path}: not valid YAML ({_one_line(cause)}).") from None
    _check_plain(document, path, error)
    return document


def check_no_key_twice(path: str | os.PathLike[str]) -> None:
    """Raise ConfigError if a YAML file, which another reader has read, gives a key twice. Nothing else is checked."""
    with contextlib.suppress(yaml.YAMLError, OSError, UnicodeDecodeError):
        root = yaml.compose(Path(path).read_text(encoding="utf-8"), Loader=_LOADER)
        if root is not None:
            _check_no_key_twice(root, path, ConfigError)


def _parsed(text: str, path: str | os.PathLike[str], error: type[WeaverTasksError], *, keys_as_text: bool, names: Collection[str]) -> Any:
    loader = _LOADER(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        if keys_as_text:
            _take_as_text(node, names)
        _check_no_key_twice(node, path, error)
        return loader.construct_document(node)
    finally:
        loader.dispose()


def _take_as_text(root: yaml.Node, names: Collection[str]) -> None:
    """Convert keys that are numbers or booleans to text, and also the values of the top-level keys `names`."""
    for node in _nodes(root):
        for key, value in node.value if isinstance(node, yaml.MappingNode) else ():
            for each in [key, *([value] if node is root and key.value in names else [])]:
                if isinstance(each, yaml.ScalarNode) and each.tag in _NUMBERS:
                    each.tag = "tag:yaml.org,2002:str"


_NUMBERS = {f"tag:yaml.org,2002:{kind}" for kind in ("int", "float", "bool", "timestamp")}


def _nodes(root: yaml.Node) -> Iterator[yaml.Node]:
    """All nodes of a document, each once, because an alias refers to the same node."""
    pending, seen = [root], {id(root)}
    while pending:
        node = pending.pop()
        yield node
        children = list(node.value) if isinstance(node, yaml.SequenceNode) else []
        if isinstance(node, yaml.MappingNode):
            children = [value for _, value in node.value]
        for child in children:
            if id(child) not in seen:
                seen.add(id(child))
                pending.append(child)


def _check_no_key_twice(root: yaml.Node, path: str | os.PathLike[str], error: type[WeaverTasksError]) -> None:
    """Raise `error` if a key occurs twice; YAML would silently take the later one."""
    for node in _nodes(root):
        lines: dict[tuple[str, str], int] = {}
        for key, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            if isinstance(key, yaml.ScalarNode):
                line, name = key.start_mark.line + 1, (key.tag, key.value)
                if name in lines:
                    raise error(
                        f"{path}: line {line}: the key '{_one_line(key.value)}' is given twice, first in line {lines[name]}. "
                        "Keep one of them."
                    )
                lines[name] = line


def _one_line(problem: object) -> str:
    return " ".join(str(problem).split())[:200]


def _check_plain(document: Any, path: str | os.PathLike[str], error: type[WeaverTasksError]) -> None:
    """Refuse what is not plain data: keys that are not text, NaN, cycles, nested aliases that expand without limit."""
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
                    raise error(f"{path}: key {name!r} of '{key or 'the document'}' is not text. Put it in quotes.")
                if not name.isprintable():
                    raise error(f"{path}: key {name!r} of '{key or 'the document'}' holds a line break or the like. Remove it.")
                pending.append((value, f"{key}.{name}" if key else name, depth + 1))
        elif node != node or (isinstance(node, int) and abs(node) >= 1 << 63):
            raise error(f"{path}: key '{key[:80]}': {'not a number' if node != node else 'the number is too large'}. Correct it.")
        elif isinstance(node, (list, tuple)):
            pending += [(value, key, depth + 1) for value in node]
