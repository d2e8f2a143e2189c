"""Small helpers that weaver's users import in their network configurations."""

from __future__ import annotations

import logging
from types import ModuleType

from weaver_tasks.networks.loading import import_network

_logger = logging.getLogger("weaver_tasks.network")


def import_module(path: str, name: str = "_mod") -> ModuleType:
    """The Python file `path`, executed as a module. `name` is taken for compatibility; the file's own name serves."""
    return import_network(path)
