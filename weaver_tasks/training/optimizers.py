"""Build optimizers by name, with weaver's options: weight decay with a no-decay list, lr_mult, clip_grad_norm."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from weaver_tasks.base.errors import ConfigError, did_you_mean
from weaver_tasks.training.ranger import Ranger
from weaver_tasks.training.schedules import StepRates

_NEVER_DECAYED = {"pos_embed", "cls_token", "mask_token", "register_token"}
_COUNTERS = ("lookahead_step",)  # parts of the optimizer's state that are stored in parameter groups
_NEEDS_MORE = {"LBFGS": "it needs a closure", "SparseAdam": "it needs sparse gradients", "Optimizer": "it is the base class"}


class BuiltOptimizer(NamedTuple):
    optimizer: torch.optim.Optimizer
    clip_grad_norm: float  # infinity: no clipping


def build_optimizer(model: nn.Module, name: str, options: Mapping[str, Any], *, lr: float, compiled_step: bool = False) -> BuiltOptimizer:
    """The optimizer `name` for the trainable parameters of `model`.

    name: ranger, adam, adamW, radam, or a class of torch.optim (case-insensitive).
    options: those of the optimizer, and clip_grad_norm (maximum norm of all gradients), weight_decay (not applied to 1D parameters,
        biases, class tokens and names from `model.no_weight_decay()`), lr_mult ([regular expression, factor], matched from the start
        of parameter names).
    compiled_step: True if the step of the optimizer will be compiled by torch.compile.
    Parameter groups to which lr_mult applies have the key "lr_mult".
    Raises ConfigError if the optimizer does not exist or refuses its options.
    """
    options = dict(options)
    clip = options.pop("clip_grad_norm", None)
    if "lr" in options:
        raise ConfigError(f"training.optimizer.options.lr: {options['lr']} would not be used. Give training.lr instead.")
    optimizer_class, defaults = _find(name)
    groups = _parameter_groups(model, options, lr=lr)
    keywords = {**defaults, **options, "lr": lr}
    if isinstance(keywords.get("betas"), list):
        keywords["betas"] = tuple(keywords["betas"])
    known = [parameter for parameter in inspect.signature(optimizer_class).parameters if parameter != "params"]
    for key in keywords:
        if key not in known:
            raise ConfigError(
                f"training.optimizer.options: {name} has no option '{key}'; it has {', '.join(known)}.{did_you_mean(key, known)}"
            )
    if not compiled_step:
        optimizer_class = _without_compiler(optimizer_class)
    try:
        optimizer = optimizer_class(groups, **keywords)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"training.optimizer: {name} refuses {keywords}: {error}") from error
    return BuiltOptimizer(optimizer, float("inf") if clip is None else float(clip))


def apply_rates(optimizer: torch.optim.Optimizer, rates: StepRates, *, lr: float) -> None:
    """Set the learning rate of every group, and the first momentum if the schedule defines it."""
    has_multiplied = any("lr_mult" in group for group in optimizer.param_groups)
    for group in optimizer.param_groups:
        # If lr_mult names some parameters, flat+decay applies to those only, as in weaver.
        factor = rates.factor if has_multiplied and "lr_mult" not in group else rates.multiplied
        value = lr * group.get("lr_mult", 1.0) * factor
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(value)
        else:
            group["lr"] = value
        if rates.momentum is not None:
            if "betas" in group:
                group["betas"] = (rates.momentum, *group["betas"][1:])
            elif "momentum" in group:
                group["momentum"] = rates.momentum


def compiled_step(optimizer: torch.optim.Optimizer) -> Callable[[], Any]:
    """The step of the optimizer, compiled by torch.compile."""
    if isinstance(optimizer, Ranger):
        optimizer.compile_update()
        return optimizer.step
    return torch.compile(optimizer.step)


def take_over_state(optimizer: torch.optim.Optimizer, saved: Mapping[str, Any]) -> bool:
    """Load the saved state of an optimizer of the same class and parameter groups. `optimizer` keeps its own rates and options.

    saved: the state_dict. Returns False and changes nothing if the class or the groups differ.
    """
    own, groups = optimizer.state_dict()["param_groups"], saved["param_groups"]
    if [_kind(group) for group in own] != [_kind(group) for group in groups]:
        return False
    weights = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for index, state in saved["state"].items():
        shapes = [value.shape for value in state.values() if isinstance(value, Tensor) and value.ndim > 0]
        if any(shape != weights[index].shape for shape in shapes):
            return False
    counted = [{**group, **{key: theirs[key] for key in _COUNTERS if key in theirs}} for group, theirs in zip(own, groups, strict=True)]
    optimizer.load_state_dict({"state": saved["state"], "param_groups": counted})
    return True


def _kind(group: Mapping[str, Any]) -> tuple[int, frozenset[str], Any]:
    """A value by which parameter groups of different optimizer classes, or with different numbers of weights, differ."""
    return len(group["params"]), frozenset(group.keys() - {"lr_mult"}), group.get("decoupled_weight_decay")


def _without_compiler(optimizer_class: type[torch.optim.Optimizer]) -> type[torch.optim.Optimizer]:
    """The class without torch's decorators that disable the compiler, because they import it (2 s per job)."""
    plain = {
        name: inspect.unwrap(getattr(optimizer_class, name)) for name in ("add_param_group", "zero_grad", "state_dict", "load_state_dict")
    }
    step = torch.no_grad()(inspect.unwrap(optimizer_class.step))
    return type(optimizer_class.__name__, (optimizer_class,), {**plain, "step": step})


def _find(name: str) -> tuple[type[torch.optim.Optimizer], dict[str, Any]]:
    ours: dict[str, tuple[type[torch.optim.Optimizer], dict[str, Any]]] = {
        "ranger": (Ranger, {}),
        # weaver's defaults for adamW.
        "adamw": (torch.optim.AdamW, {"betas": (0.95, 0.999), "weight_decay": 0.0}),
    }
    if name.lower() in ours:
        return ours[name.lower()]
    classes = {
        key: value for key, value in vars(torch.optim).items() if inspect.isclass(value) and issubclass(value, torch.optim.Optimizer)
    }
    for key, value in classes.items():
        if key.lower() == name.lower():
            if key in _NEEDS_MORE:
                raise ConfigError(f"training.optimizer.name: '{name}' cannot be used: {_NEEDS_MORE[key]}. Choose another, such as adamW.")
            return value, {}
    known = ["ranger", *(key for key in classes if key not in _NEEDS_MORE)]
    raise ConfigError(f"training.optimizer.name: there is no '{name}'. Choose from {', '.join(known)}.{did_you_mean(name, known)}")


def _parameter_groups(model: nn.Module, options: dict[str, Any], *, lr: float) -> list[dict[str, Any]]:
    """Non-empty parameter groups in weaver's order: no decay, decay, then the same two with lr_mult. Removes lr_mult from `options`."""
    trainable = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    if not trainable:
        raise ConfigError("network.freeze_weights: no weight is left to train. Freeze fewer of them.")
    pattern, factor = _multiplier(options.pop("lr_mult", None))
    if "weight_decay" not in options and pattern is None:
        return [{"params": [parameter for _, parameter in trainable]}]
    decay = options.get("weight_decay", 0.0)
    no_weight_decay: Any = getattr(model, "no_weight_decay", tuple)
    spared = set(no_weight_decay())
    groups: dict[tuple[bool, bool], list[Tensor]] = {(multiplied, decayed): [] for multiplied in (False, True) for decayed in (False, True)}
    for name, parameter in trainable:
        multiplied = pattern is not None and re.match(pattern, name) is not None
        groups[multiplied, _is_decayed(name, parameter, spared)].append(parameter)
    if pattern is not None and not (groups[True, False] or groups[True, True]):
        raise ConfigError(f"training.optimizer.options.lr_mult: no weight matches '{pattern}'. They are named like {trainable[0][0]}.")
    return [
        {
            "params": parameters,
            **({"weight_decay": decay if decayed else 0.0} if "weight_decay" in options else {}),
            **({"lr": lr * factor, "lr_mult": float(factor)} if multiplied else {}),
        }
        for (multiplied, decayed), parameters in groups.items()
        if parameters
    ]


def _multiplier(given: Any) -> tuple[str | None, float]:
    if not given:
        return None, 1.0
    if not isinstance(given, (list, tuple)) or len(given) != 2 or not isinstance(given[0], str) or not isinstance(given[1], (int, float)):
        raise ConfigError(f"training.optimizer.options.lr_mult: {given!r} does not fit. Write [regular expression, factor].")
    try:
        re.compile(given[0])
    except re.error as error:
        raise ConfigError(f"training.optimizer.options.lr_mult: '{given[0]}' is not a regular expression ({error}).") from None
    return given[0], float(given[1])


def _is_decayed(name: str, parameter: Tensor, spared: set[str]) -> bool:
    return not (parameter.ndim == 1 or name.endswith(".bias") or name.split(".")[-1] in _NEVER_DECAYED or name in spared)
