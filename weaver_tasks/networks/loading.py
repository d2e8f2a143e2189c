"""Load a user's network configuration: an unchanged Python file with weaver's interface."""

from __future__ import annotations

import importlib.util
import inspect
import logging
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

from torch import nn

from weaver_tasks.base.errors import NetworkError, did_you_mean
from weaver_tasks.base.user_code import users_code

logger = logging.getLogger("weaver_tasks")

_INFO_KEYS = ("input_names", "input_shapes", "output_names", "dynamic_axes")


class ImportHook(Protocol):
    """A hook that decides how imports of another framework's modules in users' files are resolved."""

    def install(self) -> None:
        """Activate the hook. Raises NetworkError if that is impossible."""

    def remedy(self, error: ImportError) -> str | None:
        """The remedy for a failed import, as the end of a message. None if the module does not belong to that framework."""


@dataclass(frozen=True, kw_only=True)
class Network:
    """The contents of a network configuration. `None` means that the pipeline uses its default.

    model: takes the input groups as positional arguments, in the order of the data configuration.
    info: weaver's model_info: input_names, input_shapes, output_names, dynamic_axes (and any other entries).
    loss: the loss module or function, from get_loss. train_fn, evaluate_fn: custom loops in weaver's signature.
    init_opt: init_opt(args, model, **optimizer_options) -> (optimizer, scheduler).
    options: the keyword arguments that get_model received, injected ones included.
    """

    path: Path
    module: ModuleType
    model: nn.Module
    info: dict[str, Any]
    loss: Callable[..., Any] | None
    train_fn: Callable[..., Any] | None
    evaluate_fn: Callable[..., Any] | None
    init_opt: Callable[..., Any] | None
    options: dict[str, Any]


def load_network(
    path: str | Path,
    data_configuration: Any,
    options: Mapping[str, Any] | None = None,
    *,
    use_amp: bool = False,
    compile_model: bool = False,
    for_inference: bool = False,
    imports: ImportHook | None = None,
) -> Network:
    """Execute a network configuration and build its model, loss and loops, as weaver does.

    options: network.options of config.yaml. `use_amp`, `compile_model` and `for_inference` are added if true, for functions of the file
    that accept them.
    imports: the import hook, such as `weaver_compat.imports.WeaverImports`. None: import installed packages.
    Raises NetworkError if the file is missing or lacks get_model, an option is unknown, the code of the file raises an error, or its
    result does not fit the data configuration.
    """
    path = Path(path)
    module = import_network(path, imports=imports)
    keywords = dict(options or {})
    given = {"for_inference": for_inference, "use_amp": use_amp, "compile_model": compile_model}
    injected = {name: True for name, wanted in given.items() if wanted and name not in keywords}
    if not hasattr(module, "get_model"):
        raise NetworkError(f"{path}: no function get_model(data_config, **kwargs).{did_you_mean('get_model', vars(module))} Define it.")
    returned, taken = _call(path, module, "get_model", data_configuration, keywords, injected)
    model, info = _checked(path, returned, data_configuration)

    def provided(name: str) -> Any:
        return _call(path, module, name, data_configuration, keywords, injected)[0] if hasattr(module, name) else None

    loops = [name for name in ("get_train_fn", "get_evaluate_fn") if hasattr(module, name)]
    if len(loops) == 1:
        raise NetworkError(f"{path}: defines {loops[0]} alone. Define both get_train_fn and get_evaluate_fn, or neither.")
    loss = provided("get_loss")
    if loss is not None and not callable(loss) and not loops:
        raise NetworkError(f"{path}: get_loss returned {type(loss).__name__}. Return a module or function that gives the loss, or None.")
    return Network(
        path=path,
        module=module,
        model=model,
        info=info,
        loss=loss,
        train_fn=provided("get_train_fn"),
        evaluate_fn=provided("get_evaluate_fn"),
        init_opt=getattr(module, "init_opt", None),
        options=taken,
    )


def import_network(path: str | Path, *, imports: ImportHook | None = None) -> ModuleType:
    """Execute a Python file as a module. Like a script, it can import modules from its own folder.

    imports: as in `load_network`. Raises NetworkError if the file or a module that it imports does not exist, or the file raises an error.
    """
    path = Path(path)
    if not path.is_file():
        raise NetworkError(f"{path}: no such file. Give the path of a Python file in network.config.")
    if imports is not None:
        imports.install()
    folder = str(path.parent.resolve())
    if folder not in sys.path:
        sys.path.insert(0, folder)
    spec = importlib.util.spec_from_file_location(f"_network_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses and pickle look up the module of a class there
    try:
        with users_code(path, NetworkError, doing="importing it", passing=(SyntaxError, ImportError)):
            spec.loader.exec_module(module)
    except SyntaxError as error:
        raise NetworkError(f"{error.filename}, line {error.lineno}: not valid Python ({error.msg}).") from error
    except ImportError as error:
        remedy = None if imports is None else imports.remedy(error)
        raise NetworkError(f"{path}: {error}{remedy or '. Install it, or correct the import.'}") from error
    return module


def _call(
    path: Path, module: ModuleType, name: str, data_configuration: Any, options: Mapping[str, Any], injected: Mapping[str, Any]
) -> tuple[Any, dict[str, Any]]:
    """Call name(data_configuration, **options, **injected). Distinguishes unknown options from errors in the code of the file.

    injected: options added by the pipeline. They are left out if the function, or the model that it creates, does not accept them.
    Returns the result and the options that were accepted.
    """
    function = getattr(module, name)
    if not callable(function):
        raise NetworkError(f"{path}: {name} is {type(function).__name__}. Define it as a function.")
    signature = inspect.signature(function)
    known = [name for name, parameter in signature.parameters.items() if parameter.kind is not parameter.VAR_KEYWORD]
    if len(known) == len(signature.parameters):
        injected = {option: value for option, value in injected.items() if option in known}
        for option in set(options) - set(known):
            raise NetworkError(
                f"{path}: {name} takes no option '{option}' (network.options).{did_you_mean(option, known[1:])} "
                f"Let it take **kwargs if the option is for another function."
            )
    keywords = {**options, **injected}
    try:
        with users_code(path, NetworkError, doing=name):
            return function(data_configuration, **keywords), keywords
    except NetworkError as error:
        refused = [option for option in injected if option in str(error.__cause__)]
        if refused:
            logger.info("%s: %s does not take %s: called without (%s)", path, name, ", ".join(refused), error.__cause__)
            left = {option: value for option, value in injected.items() if option not in refused}
            return _call(path, module, name, data_configuration, options, left)
        for option in keywords:
            if isinstance(error.__cause__, TypeError) and f"unexpected keyword argument '{option}'" in str(error.__cause__):
                raise NetworkError(f"{path}: option '{option}' (network.options) is not taken: {error.__cause__}.") from error.__cause__
        raise


def _checked(path: Path, returned: Any, data_configuration: Any) -> tuple[nn.Module, dict[str, Any]]:
    if not (isinstance(returned, tuple) and len(returned) == 2 and isinstance(returned[0], nn.Module) and isinstance(returned[1], dict)):
        raise NetworkError(f"{path}: get_model returned {type(returned).__name__}. Return (model: torch.nn.Module, model_info: dict).")
    model, info = returned
    for key in _INFO_KEYS:
        if key not in info:
            raise NetworkError(f"{path}: model_info of get_model lacks '{key}'.{did_you_mean(key, info)} It needs {', '.join(_INFO_KEYS)}.")
    groups, named = list(data_configuration.input_names), list(info["input_names"])
    if named != groups:
        raise NetworkError(
            f"{path}: model_info['input_names'] is {named}, but the data configuration's input groups are {groups}. "
            f"Use list(data_config.input_names): the model gets the groups in that order."
        )
    return model, {**info, "dynamic_axes": _existing_axes(info["dynamic_axes"], data_configuration.input_shapes)}


def _existing_axes(dynamic: Mapping[str, Any], shapes: Mapping[str, Any]) -> dict[str, Any]:
    """The dynamic axes without those that an input does not have. Users often name the particle axis for flat inputs too.

    dynamic: {name: {axis: its name}} or {name: [axis]}. shapes: (-1, variables, length or None) of each input group. The ONNX exporter
    refuses an axis that is too large, and crashes at a negative one.
    """

    def existing(name: str, axes: Any) -> Any:
        if name not in shapes:
            return axes
        _, variables, *length = shapes[name]
        count = 3 if length and length[0] is not None else 2 if variables > 1 else 1
        counted = {axis + count if axis < 0 else axis: axis for axis in axes}
        kept = {axis: given for axis, given in counted.items() if 0 <= axis < count}
        return {axis: axes[given] for axis, given in kept.items()} if isinstance(axes, Mapping) else list(kept)

    return {name: existing(name, axes) for name, axes in dynamic.items()}
