"""Removes what weaver ignores in a data configuration (keys of public forks, duplicate names), with a warning."""

from __future__ import annotations

import functools
import logging
from pathlib import Path
from typing import Any

logger = logging.getLogger("weaver_tasks")

# Keys of public forks, which weaver-core does not read. They tune how the fork works and do not change what is learned.
_OF_FORKS = {"labels": ("label_list",), "weights": ("reweight_load_fraction",)}
_NAMES = ("observers", "monitor_variables")


def without_ignored(document: dict[str, Any], path: Path) -> dict[str, Any]:
    """Return the document without keys of forks, and with each name in observers and monitor_variables once."""
    document = dict(document)
    for section, keys in _OF_FORKS.items():
        given = document.get(section)
        if not isinstance(given, dict):
            continue
        for key in set(keys) & given.keys():
            _tell(f"{path}: {section}.{key}: a key of a fork of weaver, which is ignored, as weaver-core does")
        document[section] = {name: value for name, value in given.items() if name not in keys}
    for section in _NAMES:
        names = document.get(section)
        if isinstance(names, list) and all(isinstance(name, str) for name in names):
            once = list(dict.fromkeys(names))
            if len(once) < len(names):
                twice = [name for name in once if names.count(name) > 1]
                _tell(f"{path}: {section}: {', '.join(twice)} {'is' if len(twice) == 1 else 'are'} named twice, and taken once")
            document[section] = once
    return document


@functools.cache
def _tell(message: str) -> None:
    """Show the message, at most once per process."""
    logger.warning("%s", message)
