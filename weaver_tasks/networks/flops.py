"""Count the parameters of a network and its floating-point operations per jet, in total and for every layer."""

from __future__ import annotations

import contextlib
import copy
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

_OWN = "weaver_tasks.networks."


def network_costs(model: nn.Module, info: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One row per module, the whole network first: name, type, parameters, trainable_parameters, flops, output (shape, or None).

    info: weaver's model_info. The jet has ones in all `input_shapes`, so no particle is masked. The numbers of a module include its
    submodules. flops: matrix products, convolutions and attention in one forward pass, as torch counts them (a multiplication and an
    addition are two). None for a module whose weights are used by another module without a call; they then count for that one.
    """
    # Set requires_grad False: torch's counter follows modules by gradient functions, which parameters have inside no_grad too.
    counted = copy.deepcopy(model).cpu().eval().requires_grad_(False)
    outputs: dict[str, list[int] | None] = {}
    for name, module in counted.named_modules():
        module.register_forward_hook(_note_output(outputs, name))
    inputs = [torch.ones(tuple(info["input_shapes"][name])) for name in info["input_names"]]
    counter = FlopCounterMode(display=False, depth=None)
    with _spelled_out(), counter:
        counted(*inputs)
    root = type(model).__name__
    counts = {name.removeprefix(f"{root}."): sum(of.values()) for name, of in counter.get_flop_counts().items()}
    return [
        {
            "name": name or root,
            "type": type(module).__name__,
            "parameters": sum(parameter.numel() for parameter in module.parameters()),
            "trainable_parameters": sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad),
            "flops": _flops(module, name, counts, outputs) if name else counter.get_total_flops(),
            "output": outputs.get(name),
        }
        for name, module in model.named_modules()
    ]


@contextlib.contextmanager
def _spelled_out() -> Iterator[None]:
    """Compute attention and recurrent layers as matrix products, since torch's counter does not know their fast CPU kernels."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with warnings.catch_warnings(), sdpa_kernel(SDPBackend.MATH):
            warnings.filterwarnings("ignore", message="TF32 acceleration")  # irrelevant for a count
            with torch.backends.mkldnn.flags(enabled=False):
                yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


def own_networks(model: nn.Module) -> list[str]:
    """The classes of this project among the modules of a model. They may need fewer operations than those of weaver."""
    if type(model).__module__.startswith(_OWN):
        return [type(model).__name__]
    return sorted({name for child in model.children() for name in own_networks(child)})


def _flops(module: nn.Module, name: str, counts: Mapping[str, int], called: Mapping[str, Any]) -> int | None:
    """The operations of a module. For a container that is not called itself: the sum over its submodules."""
    if name in called:
        return counts.get(name, 0)
    parts = [_flops(part, f"{name}.{own}", counts, called) for own, part in module.named_children()]
    known = [flops for flops in parts if flops is not None]
    return sum(known) if known and len(known) == len(parts) else None


def _note_output(outputs: dict[str, list[int] | None], name: str) -> Any:
    def note(module: nn.Module, inputs: Any, output: Any) -> None:
        outputs[name] = list(output.shape) if isinstance(output, Tensor) else None

    return note
