"""The functions that expressions may call: those of math, numpy and awkward by name, weaver's helpers, the user's own."""

from __future__ import annotations

import importlib.util
import inspect
import math
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import awkward as ak
import numpy as np

from weaver_tasks.base.errors import DataConfigError
from weaver_tasks.base.hashing import digest
from weaver_tasks.data import helpers_arrays
from weaver_tasks.data.expressions_grammar import ELEMENTWISE, FUNCTIONS, HELPERS, RANDOM_HELPERS

Functions = dict[str, Callable[..., Any]]


def expression_functions(custom_functions: str | Path | None = None, *, random: np.random.RandomState | None = None) -> Functions:
    """Everything that an expression may call, by its full name: "np.hypot", "_clip", "abs", ….

    custom_functions: a Python file of the user; it is run here, as the user's own trusted code.
    random: the source of all random numbers, np.random.RandomState(seed); expressions that draw some need it.
    Raises DataConfigError when the user's file cannot be run.
    """
    random = random or np.random.RandomState()
    functions: Functions = {"len": len}
    functions.update({name: getattr(np, name) for name in ELEMENTWISE})
    for name in FUNCTIONS:
        functions[name] = _of_module(name, random)
    for name in HELPERS:
        helper = getattr(helpers_arrays, name[1:])
        functions[name] = partial(helper, random=random) if name in RANDOM_HELPERS else helper
    if custom_functions:
        functions.update(_own_functions(Path(custom_functions)))
    return functions


def _of_module(name: str, random: np.random.RandomState) -> Any:
    if name.startswith("np.random."):
        return getattr(random, name.removeprefix("np.random."))
    module, *path = name.split(".")
    found: Any = {"math": math, "np": np, "ak": ak}[module]
    for part in path:
        found = getattr(found, part)
    return found


def _own_functions(path: Path) -> Functions:
    """The functions of a user's file. It is imported once per process under a name of its own."""
    name = f"weaver_tasks_custom_functions_{digest(str(path.resolve()))[:12]}"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, path)
        if spec is None or spec.loader is None:
            raise DataConfigError(f"{path}: not a Python file. Correct data.custom_functions.")
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        try:
            spec.loader.exec_module(module)
        except (OSError, SyntaxError, ImportError) as error:
            del sys.modules[name]
            raise DataConfigError(
                f"{path}: cannot be imported ({type(error).__name__}: {error}). Correct data.custom_functions."
            ) from error
    return {key: value for key, value in inspect.getmembers(sys.modules[name], callable) if not key.startswith("__")}
