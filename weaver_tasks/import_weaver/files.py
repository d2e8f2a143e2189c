"""--data-train, --data-val and --data-test as groups of config.yaml, with their globs as they are."""

from __future__ import annotations

import re
from typing import Any

from weaver_tasks.base.errors import ConfigError

_UNNAMED = "unnamed"


def groups_of(files: list[str], option: str) -> Any:
    """One path, a list of them, or {group: path or paths}; None when no file is given. Raises ConfigError for a name that cannot be."""
    groups: dict[str, list[str]] = {}
    for entry in files:
        name, path = _name_and_path(entry)
        groups.setdefault(_checked(name, option) if name else "", []).append(path)
    if not groups:
        return None
    if set(groups) == {""}:
        return _short(groups[""])
    return {name or _UNNAMED: _short(paths) for name, paths in groups.items()}


def test_groups_of(files: list[str]) -> Any:
    """The same; a group `name%N` is {files: …, split: N}."""
    splits: dict[str, int] = {}
    plain = []
    for entry in files:
        name, path = _name_and_path(entry)
        if name and "%" in name:
            name, _, number = name.partition("%")
            if not re.fullmatch(r"[1-9]\d*", number):
                raise ConfigError(
                    f"the weaver command: --data-test {entry}: '{number}' is no number of files per output. Write name%10:path."
                )
            splits[name] = int(number)
        plain.append(f"{name}:{path}" if name else path)
    groups = groups_of(plain, "--data-test")
    if not splits:
        return groups
    return {name: {"files": paths, "split": splits[name]} if name in splits else paths for name, paths in groups.items()}


def _name_and_path(entry: str) -> tuple[str | None, str]:
    """`a:/path` is a group and a path; `root://host/path` is a path."""
    found = re.fullmatch(r"([^:/]+):(?!//)(.+)", entry)
    return (found[1], found[2]) if found else (None, entry)


def _checked(name: str, option: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise ConfigError(f"the weaver command: {option}: group '{name}' names files here. Use only letters, digits, . _ and - in it.")
    return name


def _short(paths: list[str]) -> str | list[str]:
    return paths[0] if len(paths) == 1 else paths
