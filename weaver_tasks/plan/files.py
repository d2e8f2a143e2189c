"""Expand the file patterns of the configuration into the list of input files, each with a unique name."""

from __future__ import annotations

import glob
import itertools
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from weaver_tasks.base.addresses import clean, complete, is_remote, remember
from weaver_tasks.base.digests import digest
from weaver_tasks.base.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class InputFile:
    """One input file of the run. `name` is unique within its split and group."""

    split: str
    group: str
    source: str
    name: str

    @property
    def is_local(self) -> bool:
        return not is_remote(self.source)


def without_credentials(files: Any) -> Any:
    """The files of a split as the configuration gives them, with addresses that hold no credentials; these are kept for `complete`."""
    if isinstance(files, str):
        if not is_remote(files):
            return files
        remember(os.path.expandvars(files))
        return clean(files)
    if isinstance(files, list):
        return [without_credentials(each) for each in files]
    return {name: without_credentials(each) for name, each in files.items()} if isinstance(files, dict) else files


def patterns_of(files: Any, split: str) -> dict[str, dict[str, Any]]:
    """Named groups of patterns: {group: {patterns: […], split: N or 0}}. A plain list is one group with the name of its split."""
    if not files:
        return {}
    if not isinstance(files, dict):
        files = {split: files}
    groups = {}
    for name, entry in files.items():
        listed = entry["files"] if isinstance(entry, dict) else entry
        patterns = [listed] if isinstance(listed, str) else list(listed)
        groups[name] = {"patterns": patterns, "split": (entry.get("split") or 0) if isinstance(entry, dict) else 0}
    return groups


def expand(groups: dict[str, dict[str, Any]], split: str, where: str, *, may_be_made: bool = False) -> Iterator[InputFile]:
    """The files that the patterns of a split match now. Raises ConfigError if a pattern matches nothing or a file is listed twice.

    may_be_made: a path without wildcards may name a file that does not exist yet, because a rule of the host workflow makes it.
    """
    seen: dict[str, str] = {}
    for group, entry in groups.items():
        sources: list[str] = []
        for pattern in entry["patterns"]:
            sources += _matches(os.path.expandvars(pattern), f"{where}: data.{split}.{group}", may_be_made=may_be_made)
        for source in sources:
            if source in seen:
                raise ConfigError(f"{where}: data.{split}: '{source}' is listed twice, in {seen[source]} and {group}. {_once(source)}")
            seen[source] = group
        parts = _parts(sources, entry["split"])
        for index, part in enumerate(parts):
            name = f"{group}_{index}" if entry["split"] else group
            for source, unique in zip(part, unique_names(part), strict=True):
                yield InputFile(split=split, group=name, source=source, name=unique)


def _once(source: str) -> str:
    if complete(source) == source:
        return "List it once."
    return "List it once. (Parameters of an address count as credentials, unless they are called id, file, path, version or the like.)"


def _parts(sources: list[str], size: int) -> list[list[str]]:
    size = size or max(1, len(sources))
    return [sources[start : start + size] for start in range(0, len(sources), size)]


def _matches(pattern: str, where: str, *, may_be_made: bool) -> list[str]:
    if is_remote(pattern):
        return [clean(pattern)]
    # Normalize, because Snakemake warns about each path such as './a.root'.
    pattern = str(Path(pattern))
    if not glob.has_magic(pattern) or Path(pattern).is_file():
        if Path(pattern).is_dir():
            raise ConfigError(f"{where}: '{pattern}' is a folder. Say which of its files: {pattern.rstrip('/')}/*.root, for instance.")
        if not Path(pattern).is_file() and not may_be_made:
            raise ConfigError(f"{where}: no such file '{pattern}'. Correct the path.")
        return [pattern]
    found = sorted(path for path in glob.glob(pattern, recursive=True) if os.path.isfile(path))
    if not found:
        folder = Path(pattern).parent
        while glob.has_magic(str(folder)):
            folder = folder.parent
        there = sorted(path.name for path in folder.iterdir())[:3] if folder.is_dir() else []
        hint = f"The folder '{folder}' holds {', '.join(there)} …" if there else f"There is no folder '{folder}', or it is empty."
        if may_be_made:
            hint += " Files that a rule makes are listed by their paths, without wildcards."
        raise ConfigError(f"{where}: '{pattern}' matches no file. {hint}")
    return found


def unique_names(sources: list[str]) -> list[str]:
    """The stem of each file. A digest of the path is added if stems are equal or contain braces, which are wildcards in Snakemake."""
    stems = [Path(source.partition("?")[0]).stem for source in sources]
    plain = [stem.replace("{", "_").replace("}", "_") for stem in stems]
    times = Counter(plain)
    return [
        name if times[name] == 1 and name == stem else f"{name}-{digest(source)[:8]}"
        for source, stem, name in zip(sources, stems, plain, strict=True)
    ]


def staging_jobs(files: Sequence[InputFile], size: int) -> dict[tuple[str, str, str], list[InputFile]]:
    """(split, group, name) of each staging job -> its files: at most `size`, all of one split and group.

    If all jobs have one file, a job has the name of its file. Otherwise its name gives the range of its files in the group.
    """
    jobs = {}
    for (split, group), listed in itertools.groupby(files, key=lambda file: (file.split, file.group)):
        of_group = list(listed)
        for first in range(0, len(of_group), size):
            part = of_group[first : first + size]
            jobs[split, group, part[0].name if size == 1 else f"files-{first}-to-{first + len(part) - 1}"] = part
    return jobs
