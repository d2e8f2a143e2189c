"""Loss functions that torch does not have: focal loss, log-cosh, and a hybrid of classification and regression."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_LABEL_FLOOR = 1e-6


def focal_loss(input: Tensor, target: Tensor, alpha: float = 1.0, gamma: float = 2.0, reduction: str = "none", eps: float = 1e-8) -> Tensor:
    """Focal loss, -alpha (1 - p)^gamma ln p of the true class: events that are classified well count less (arXiv:1708.02002, eq. 5).

    input: (B, C, …) logits; target: (B, …) class indices. eps is added to each p; the other classes have a weight of 1e-6,
    as in the implementation of weaver. Returns (B, …), or a scalar for reduction 'mean' or 'sum'.
    """
    probability = input.softmax(dim=1) + eps
    each = -alpha * (1 - probability) ** gamma * probability.log()  # (B, C, …)
    loss = each.gather(1, target.unsqueeze(1)).squeeze(1) + _LABEL_FLOOR * each.sum(dim=1)
    return _reduced(loss, reduction)


class FocalLoss(nn.Module):
    """`focal_loss` as a module; the mean over the batch by default."""

    def __init__(self, alpha: float = 1.0, gamma: float = 2.0, reduction: str = "mean") -> None:
        super().__init__()
        self.alpha, self.gamma, self.reduction = alpha, gamma, reduction

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return focal_loss(input, target, self.alpha, self.gamma, self.reduction, eps=1e-6)


def log_cosh(difference: Tensor) -> Tensor:
    """ln cosh x, computed without overflow: x^2 / 2 near zero, |x| - ln 2 at large |x|. Any shape."""
    return difference.abs() + F.softplus(-2 * difference.abs()) - torch.log(difference.new_tensor(2.0))


class HybridLoss(nn.Module):
    """Classification and regression from one network: cross entropy of the first outputs and `weight` x log-cosh of the others.

    num_classes: the number of outputs that are logits of classes; the others are regressed values.
    Returns the loss and its parts {"cls": …, "reg": …}, both means over the batch.
    """

    def __init__(self, num_classes: int, weight: float = 1.0) -> None:
        super().__init__()
        self.num_classes, self.weight = num_classes, weight

    def forward(self, output: Tensor, target: Tensor, regression_target: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """output: (B, num_classes + K); target: (B,) class indices; regression_target: (B, K) or, for K = 1, (B,)."""
        classification = F.cross_entropy(output[:, : self.num_classes], target)
        predicted = output[:, self.num_classes :]
        regression = log_cosh(predicted - regression_target.view_as(predicted)).mean()
        return classification + self.weight * regression, {"cls": classification.detach(), "reg": regression.detach()}


def _reduced(loss: Tensor, reduction: str) -> Tensor:
    if reduction == "none":
        return loss
    if reduction not in ("mean", "sum"):
        raise ValueError(f"reduction '{reduction}' is not known: use none, mean or sum")
    return loss.mean() if reduction == "mean" else loss.sum()
