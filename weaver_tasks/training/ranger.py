"""The Ranger optimizer: rectified Adam inside Lookahead, as one optimizer with its whole state in its state_dict.

RAdam: Liu et al., arXiv:1908.03265; Lookahead: Zhang et al., arXiv:1907.08610. It behaves like weaver's `ranger`:
decoupled weight decay, plain momentum steps while the variance of the adaptive rate cannot be rectified, and the same defaults.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

_RECTIFIABLE = 5.0  # minimum length of the simple moving average for which the variance is rectified


class Ranger(torch.optim.Optimizer):
    """RAdam with Lookahead.

    lr, betas, eps, weight_decay: options of RAdam. Decay is decoupled: parameters shrink by a factor 1 - lr x weight_decay each step.
    alpha, k: options of Lookahead. Every k steps the slow weights move by alpha towards the fast ones, and the fast ones restart there.

    State of each parameter: exp_avg, exp_avg_sq, slow (float32, the parameter's shape) and step; of each group: lookahead_step.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.95, 0.999),
        eps: float = 1e-5,
        weight_decay: float = 0.0,
        alpha: float = 0.5,
        k: int = 6,
    ) -> None:
        if not (0 <= betas[0] < 1 and 0 <= betas[1] < 1 and 0 < alpha <= 1 and k >= 1 and eps >= 0):
            raise ValueError(f"betas in [0, 1), alpha in (0, 1], k >= 1, eps >= 0 needed, not {betas}, {alpha}, {k}, {eps}")
        defaults = {"lr": lr, "betas": tuple(betas), "eps": eps, "weight_decay": weight_decay, "alpha": alpha, "k": k, "lookahead_step": 0}
        super().__init__(params, defaults)
        self._compiled_update: Callable[..., None] | None = None

    def compile_update(self) -> None:
        """Compile the arithmetic of a step with torch.compile.

        Values that change between steps are passed as tensors. Otherwise each new learning rate would trigger a new compilation.
        """
        self._compiled_update = torch.compile(_update)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            # Step counts differ if some parameters had no gradient in some steps.
            by_step: dict[int, list[Tensor]] = defaultdict(list)
            for parameter in group["params"]:
                if parameter.grad is not None:
                    by_step[self._advance(parameter)].append(parameter)
            for step, parameters in by_step.items():
                self._rectified_adam(parameters, step, group)
            group["lookahead_step"] += 1
            if group["lookahead_step"] >= group["k"]:
                group["lookahead_step"] = 0
                self._lookahead([parameter for parameter in group["params"] if parameter in self.state], group["alpha"])
        return loss

    def _advance(self, parameter: Tensor) -> int:
        state = self.state[parameter]
        if not state:
            state["step"] = 0
            state["exp_avg"] = torch.zeros_like(parameter, dtype=torch.float32, memory_format=torch.preserve_format)
            state["exp_avg_sq"] = torch.zeros_like(parameter, dtype=torch.float32, memory_format=torch.preserve_format)
            state["slow"] = parameter.detach().clone(memory_format=torch.preserve_format)
        state["step"] += 1
        return state["step"]

    def _rectified_adam(self, parameters: list[Tensor], step: int, group: dict[str, Any]) -> None:
        lr, (beta1, beta2) = float(group["lr"]), group["betas"]
        gradients = [parameter.grad.float() for parameter in parameters if parameter.grad is not None]
        mean = [self.state[parameter]["exp_avg"] for parameter in parameters]
        mean_of_squares = [self.state[parameter]["exp_avg_sq"] for parameter in parameters]
        rectification = _rectification(step, beta2)
        size = lr / (1 - beta1**step)
        if self._compiled_update is not None:
            size *= -1 if rectification is None else -rectification
            numbers = torch.tensor([size, 1 - group["weight_decay"] * lr], dtype=torch.float32, device=mean[0].device)
            options = {"betas": (beta1, beta2), "eps": None if rectification is None else group["eps"]}
            self._compiled_update(parameters, gradients, mean, mean_of_squares, numbers, **options)
            return
        torch._foreach_mul_(mean_of_squares, beta2)
        torch._foreach_addcmul_(mean_of_squares, gradients, gradients, 1 - beta2)
        torch._foreach_mul_(mean, beta1)
        torch._foreach_add_(mean, gradients, alpha=1 - beta1)
        if group["weight_decay"]:
            torch._foreach_mul_(parameters, 1 - group["weight_decay"] * lr)
        if rectification is None:
            torch._foreach_add_(parameters, mean, alpha=-size)
        else:
            denominator = torch._foreach_sqrt(mean_of_squares)
            torch._foreach_add_(denominator, group["eps"])
            torch._foreach_addcdiv_(parameters, mean, denominator, -size * rectification)

    def _lookahead(self, parameters: list[Tensor], alpha: float) -> None:
        if not parameters:
            return
        slow = [self.state[parameter]["slow"] for parameter in parameters]
        torch._foreach_mul_(parameters, alpha)
        torch._foreach_add_(parameters, slow, alpha=1 - alpha)
        torch._foreach_copy_(slow, parameters)


def _update(
    parameters: list[Tensor],
    gradients: list[Tensor],
    mean: list[Tensor],
    mean_of_squares: list[Tensor],
    numbers: Tensor,
    *,
    betas: tuple[float, float],
    eps: float | None,
) -> None:
    """The arithmetic of `Ranger._rectified_adam`. numbers: (2,) the factor of the update, and the factor of the weights (weight decay).

    eps: None while the variance cannot be rectified.
    """
    size, kept = numbers.unbind()
    torch._foreach_mul_(mean_of_squares, betas[1])
    torch._foreach_addcmul_(mean_of_squares, gradients, gradients, 1 - betas[1])
    torch._foreach_mul_(mean, betas[0])
    torch._foreach_add_(mean, gradients, alpha=1 - betas[0])
    torch._foreach_mul_(parameters, kept)
    if eps is None:
        update = list(torch._foreach_mul(mean, size))
    else:
        denominator = torch._foreach_sqrt(mean_of_squares)
        torch._foreach_add_(denominator, eps)
        update = list(torch._foreach_div(mean, denominator))
        torch._foreach_mul_(update, size)
    torch._foreach_add_(parameters, update)


def _rectification(step: int, beta2: float) -> float | None:
    """r_t sqrt(1 - beta2^t) of arXiv:1908.03265, algorithm 2; None while the variance is intractable."""
    decayed = beta2**step
    longest = 2 / (1 - beta2) - 1
    length = longest - 2 * step * decayed / (1 - decayed)
    if length < _RECTIFIABLE:
        return None
    ratio = (length - 4) * (length - 2) * longest / ((longest - 4) * (longest - 2) * length)
    return math.sqrt((1 - decayed) * ratio)
