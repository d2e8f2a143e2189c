"""The functions that expressions may call: from math, numpy and awkward, weaver's helpers, and the user's own file."""

from __future__ import annotations

import functools
import importlib.util
import math
import random as python_random
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import awkward as ak
import numpy as np

from weaver_tasks.base.digests import digest
from weaver_tasks.base.errors import DataConfigError
from weaver_tasks.data.expressions import array_functions
from weaver_tasks.data.expressions.grammar import ELEMENTWISE, FUNCTIONS, HELPERS, RANDOM_HELPERS
from weaver_tasks.data.expressions.user_functions import own_functions

Functions = dict[str, Callable[..., Any]]
_GLOBAL_GENERATORS = threading.Lock()


def expression_functions(custom_functions: str | Path | None = None, *, random: np.random.RandomState | None = None) -> Functions:
    """Return all functions that an expression may call, by full name: "np.hypot", "_clip", "abs", ….

    custom_functions: a Python file of the user. It is executed here, as trusted code.
    random: the source of all random numbers, np.random.RandomState(seed). Needed for expressions that draw random numbers.
    Raises DataConfigError when the user's file cannot be executed.
    """
    random = random or np.random.RandomState()
    functions: Functions = {"len": len}
    functions.update({name: getattr(np, name) for name in ELEMENTWISE})
    for name in FUNCTIONS:
        functions[name] = _of_module(name, random)
    for name in HELPERS:
        helper = getattr(array_functions, name[1:])
        functions[name] = functools.partial(helper, random=random) if name in RANDOM_HELPERS else helper
    if custom_functions:
        functions.update(_own_functions(Path(custom_functions), random))
    return functions


def _of_module(name: str, random: np.random.RandomState) -> Any:
    if name.startswith("np.random."):
        return getattr(random, name.removeprefix("np.random."))
    if name == "ak.unflatten":
        return array_functions.unflatten
    module, *path = name.split(".")
    found: Any = {"math": math, "np": np, "ak": ak}[module]
    for part in path:
        found = getattr(found, part)
    return found


def _own_functions(path: Path, random: np.random.RandomState) -> Functions:
    module = _own_module(path)
    functions: Functions = {}
    for name, draws in own_functions(path).items():
        function = getattr(module, name)
        if callable(function):
            functions[name] = _seeded(function, random) if draws else function
    return functions


def _own_module(path: Path) -> ModuleType:
    """Import a user's file, once per process, under a unique module name."""
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
    return sys.modules[name]


def _seeded(function: Callable[..., Any], random: np.random.RandomState) -> Callable[..., Any]:
    """Wrap a user function that draws from the global generators of numpy or Python: each call seeds them from `random`.

    A lock allows one call at a time, because all threads share the global generators. Their states are restored afterwards.
    """

    @functools.wraps(function)
    def call(*arguments: Any, **keywords: Any) -> Any:
        with _GLOBAL_GENERATORS:
            numpy_state, python_state = np.random.get_state(), python_random.getstate()
            seed = random.randint(2**31)
            np.random.seed(seed)
            python_random.seed(seed)
            try:
                return function(*arguments, **keywords)
            finally:
                np.random.set_state(numpy_state)
                python_random.setstate(python_state)

    return call
