"""Load the state of an optimizer saved by weaver into an optimizer of this project.

weaver's `<prefix>_epoch-<n>_optimizer.pt` is the state_dict of a torch optimizer (for `ranger`, of the inner RAdam). It does not contain
the slow weights of Lookahead. As in weaver, the loaded weights become the slow weights, and the count to the next synchronization starts
from 0.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from weaver_tasks.base.errors import CheckpointError
from weaver_tasks.training.checkpoint import load_tensors
from weaver_tasks.training.ranger import Ranger

# Values that the schedule sets, or that choose how a step is computed. They are not part of the state.
_NOT_COMPARED = {"params", "lr", "initial_lr", "max_lr", "min_lr", "max_momentum", "base_momentum", "foreach", "fused", "capturable"}
_NOT_COMPARED |= {"differentiable", "lr_mult", "buffer", "k", "alpha", "lookahead_step"}


def load_optimizer(optimizer: torch.optim.Optimizer, path: Path, model: nn.Module) -> None:
    """Load the state in weaver's file at `path` into `optimizer`, built for the weights of `model`, which are already loaded.

    `optimizer` keeps its groups and rates. Raises CheckpointError if the file is missing, or belongs to another optimizer, other options
    or another network.
    """
    content = load_tensors(path)
    if not {"state", "param_groups"} <= content.keys():
        raise CheckpointError(
            f"{path}: not the state of an optimizer. Give the --model-prefix of weaver's training in training.continue_from."
        )
    ours = optimizer.state_dict()
    # weaver keeps groups without parameters; drop them.
    theirs = [group for group in content["param_groups"] if group["params"]]
    _check_optimizer(theirs, optimizer, path)
    _check_groups(ours["param_groups"], theirs, path)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    state = {}
    pairs = _pairs(optimizer.param_groups, ours["param_groups"], theirs)
    for parameter, index, their_index in pairs:
        if their_index not in content["state"]:
            continue
        entry = dict(content["state"][their_index])
        _check_shapes(entry, parameter, f"{path}: {names[id(parameter)]}")
        if isinstance(optimizer, Ranger):
            entry = {**entry, "step": int(entry["step"]), "slow": parameter.detach().cpu().clone()}
        state[index] = entry
    optimizer.load_state_dict({"state": state, "param_groups": ours["param_groups"]})


def _pairs(groups: list[Any], ours: list[Any], theirs: list[Any]) -> Iterable[tuple[torch.Tensor, int, int]]:
    """Pairs of parameters: (parameter, its index here, its index in the file)."""
    for group, own, their in zip(groups, ours, theirs, strict=True):
        yield from zip(group["params"], own["params"], their["params"], strict=True)


def _check_optimizer(theirs: list[dict[str, Any]], optimizer: torch.optim.Optimizer, path: Path) -> None:
    """Raise CheckpointError if the file belongs to another optimizer.

    The inner RAdam of weaver's ranger is recognized by a `buffer` in each group, which no optimizer of torch has.
    """
    is_ranger = any("buffer" in group for group in theirs)
    known = optimizer.param_groups[0].keys()
    strange = {key for group in theirs for key in group} - known - _NOT_COMPARED
    decoupled = [group.get("decoupled_weight_decay", False) for group in (*theirs, *optimizer.param_groups)]
    if is_ranger != isinstance(optimizer, Ranger) or strange or len(set(decoupled)) > 1:
        wrote = "ranger" if is_ranger else "another optimizer"
        raise CheckpointError(
            f"{path}: written by {wrote}, not by {type(optimizer).__name__}. Set training.optimizer.name to the one that weaver used, "
            "or start from the weights alone with network.load_weights."
        )


def _check_groups(ours: list[dict[str, Any]], theirs: list[dict[str, Any]], path: Path) -> None:
    sizes, their_sizes = ([len(group["params"]) for group in groups] for groups in (ours, theirs))
    if sizes != their_sizes:
        raise CheckpointError(
            f"{path}: its groups hold {their_sizes} parameters, those here {sizes}. Give the network, and weight_decay, lr_mult and "
            "network.freeze_weights, as weaver had them."
        )
    for own, their in zip(ours, theirs, strict=True):
        for key in sorted((own.keys() & their.keys()) - _NOT_COMPARED):
            # The schedule may set the first momentum.
            given, wanted = (group[key][1:] if key == "betas" else group[key] for group in (own, their))
            if given != wanted:
                raise CheckpointError(
                    f"{path}: weaver's {key} was {their[key]}, here it is {own[key]}. Set it in training.optimizer.options."
                )


def _check_shapes(entry: Mapping[str, Any], parameter: torch.Tensor, where: str) -> None:
    for key, value in entry.items():
        if isinstance(value, torch.Tensor) and value.ndim > 0 and value.shape != parameter.shape:
            raise CheckpointError(
                f"{where}: its {key} has the shape {tuple(value.shape)}, the parameter {tuple(parameter.shape)}. "
                "Give the network that weaver trained."
            )
