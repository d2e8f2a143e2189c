"""Losses against weaver-core's and against torch."""

from collections.abc import Callable
from types import ModuleType

import pytest
import torch

from weaver_tasks.networks.layers.losses import FocalLoss, HybridLoss, focal_loss, log_cosh


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_focal_loss_equals_weaver(peer: Callable[[str], ModuleType], reduction: str) -> None:
    torch.manual_seed(0)
    logits, target = torch.randn(50, 7, dtype=torch.float64), torch.randint(0, 7, (50,))
    theirs = peer("nn.loss.focal")
    torch.testing.assert_close(FocalLoss(0.3, 1.5, reduction)(logits, target), theirs.FocalLoss(0.3, 1.5, reduction)(logits, target))
    torch.testing.assert_close(focal_loss(logits, target, 0.3, 1.5, reduction), theirs.focal_loss(logits, target, 0.3, 1.5, reduction))


def test_without_focus_it_is_the_cross_entropy() -> None:
    torch.manual_seed(0)
    logits, target = torch.randn(50, 7), torch.randint(0, 7, (50,))
    wanted = torch.nn.functional.cross_entropy(logits, target)
    torch.testing.assert_close(FocalLoss(gamma=0)(logits, target), wanted, atol=1e-4, rtol=1e-4)


def test_log_cosh_is_exact_and_does_not_overflow() -> None:
    x = torch.linspace(-5, 5, 101, dtype=torch.float64)
    torch.testing.assert_close(log_cosh(x), torch.log(torch.cosh(x)))
    assert log_cosh(torch.tensor([1e4, -1e4])).tolist() == pytest.approx([1e4 - 0.6931, 1e4 - 0.6931])


def test_hybrid_loss_is_the_sum_of_both() -> None:
    torch.manual_seed(0)
    output, target, mass = torch.randn(20, 6), torch.randint(0, 5, (20,)), torch.randn(20)
    loss, parts = HybridLoss(5, weight=0.5)(output, target, mass)
    torch.testing.assert_close(parts["cls"], torch.nn.functional.cross_entropy(output[:, :5], target))
    torch.testing.assert_close(parts["reg"], torch.log(torch.cosh(output[:, 5] - mass)).mean())
    torch.testing.assert_close(loss, parts["cls"] + 0.5 * parts["reg"])
