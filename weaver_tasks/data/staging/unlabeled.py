"""Handles test files without labels, such as recorded data: they are predicted but not evaluated."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from weaver_tasks.base.errors import DataConfigError, InputFileError
from weaver_tasks.data.events.transform import plan_transformation
from weaver_tasks.data.readers import branch_names, open_reader

if TYPE_CHECKING:
    from weaver_tasks.data.configuration.model import DataConfiguration
    from weaver_tasks.data.events.block import StagingOptions


def without_labels(configuration: DataConfiguration) -> DataConfiguration:
    """Return the configuration for events without labels."""
    return dataclasses.replace(configuration, labels=None)


def lacks_labels(
    path: str, source: str, configuration: DataConfiguration, split: str, options: StagingOptions, *, custom_functions: Path | None
) -> bool:
    """Whether a test file has all branches that its events need, except those that only the labels need, of which it has none.

    path: the path to read. source: the name of the file in messages. Raises InputFileError when it cannot be read.
    """
    if split != "test" or configuration.labels is None:
        return False
    plans = [
        plan_transformation(each, split, options, custom_functions=custom_functions)
        for each in (configuration, without_labels(configuration))
    ]
    with_labels, others = (list(plan.branches) for plan in plans)
    only_labels = [name for name in with_labels if name not in others]
    with open_reader(path, tree=configuration.treename) as reader:

        def has(names: Iterable[str]) -> bool:
            magic: dict[str, Any] = {"branch_magic": configuration.branch_magic, "file_magic": configuration.file_magic}
            try:
                branch_names(reader, source, list(names), **magic)
            except InputFileError:
                return False
            return True

        return bool(only_labels) and has(others) and not any(has([name]) for name in only_labels)


def is_labeled(manifest: Mapping[str, Any], group: str) -> bool:
    """Whether the test files of a group have labels."""
    return all(file.get("labeled", True) for file in manifest["files"] if file["split"] == "test" and file["group"] == group)


def check_groups(records: Iterable[Mapping[str, Any]]) -> None:
    """Raise DataConfigError if only some of the good files of a test group have labels: a group forms one table."""
    first: dict[str, Mapping[str, Any]] = {}
    for record in records:
        if record["split"] != "test":
            continue
        other = first.setdefault(record["group"], record)
        if other.get("labeled", True) != record.get("labeled", True):
            labeled, bare = (other, record) if other.get("labeled", True) else (record, other)
            raise DataConfigError(
                f"{bare['source']}: has no labels, but {labeled['source']} of the same test group '{record['group']}' has. "
                "Put files without labels into a group of their own (data.test)."
            )
