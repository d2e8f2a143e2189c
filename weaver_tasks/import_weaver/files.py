"""Convert --data-train, --data-val and --data-test to groups of files in config.yaml, without expanding wildcards."""

from __future__ import annotations

import re
from typing import Any

from weaver_tasks.import_weaver.result import Conversion

_UNNAMED = "unnamed"


def groups_of(files: list[str], option: str, made: Conversion) -> Any:
    """One path, a list of paths, or {group: path or paths}; None if no file is given. Changes are added to the notes of `made`."""
    groups: dict[str, list[str]] = {}
    named: dict[str, str] = {}
    for entry in files:
        name, path = _name_and_path(entry)
        if name and name not in named:
            named[name] = _usable(name, set(named.values()), option, made)
        groups.setdefault(named[name] if name else "", []).append(_one_level(path, option, made))
    if not groups:
        return None
    if set(groups) == {""}:
        return _short(groups[""])
    return {name or _UNNAMED: _short(paths) for name, paths in groups.items()}


def test_groups_of(files: list[str], made: Conversion) -> Any:
    """As `groups_of`, for test files: a group `name%N` becomes {files: …, split: N}."""
    splits: dict[str, int] = {}
    plain = []
    for entry in files:
        name, path = _name_and_path(entry)
        if name and "%" in name:
            name, _, number = name.partition("%")
            if re.fullmatch(r"[1-9]\d*", number):
                splits[name] = int(number)
            else:
                made.todo(
                    f"--data-test {entry}", f"'{number}' is not a number of files per output: written as one output. Give {{split: 10}}"
                )
        plain.append(f"{name}:{path}" if name else path)
    groups = groups_of(plain, "--data-test", made)
    if not splits:
        return groups
    return {name: {"files": paths, "split": splits[name]} if name in splits else paths for name, paths in groups.items()}


def _name_and_path(entry: str) -> tuple[str | None, str]:
    """Split `a:/path` into group and path; `root://host/path` is a path without group."""
    found = re.fullmatch(r"([^:/]+):(?!//)(.+)", entry)
    return (found[1], found[2]) if found else (None, entry)


def _one_level(path: str, option: str, made: Conversion) -> str:
    """Replace `**` by `*`: weaver matches one level of folders with it, but here it would match any number of levels."""
    if "://" in path or "**" not in path:
        return path
    plain = re.sub(r"\*\*+", "*", path)
    made.note(f"{option} {path}", f"weaver reads ** as *, one level of folders, so this is {plain}; here ** is any number of levels")
    return plain


def _usable(name: str, taken: set[str], option: str, made: Conversion) -> str:
    """The name of a group, changed to a valid file name."""
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", name).lstrip("._-") or "group"
    if plain == name:
        return name
    unique = plain
    while unique in taken:
        unique += "-2"
    made.note(f"{option} {name}:", f"names files here, so the group is called {unique}")
    return unique


def _short(paths: list[str]) -> str | list[str]:
    return paths[0] if len(paths) == 1 else paths
