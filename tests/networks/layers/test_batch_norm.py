"""One row that stands for many gives the statistics and gradients of the many."""

import pytest
import torch
from torch import nn

from weaver_tasks.networks.layers.batch_norm import norm


@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize(("tail", "copies"), [(1, 5), (3, 7), (3, 0)])
def test_copies_count(relu: bool, tail: int, copies: int) -> None:
    torch.manual_seed(0)
    few, all_rows = nn.BatchNorm1d(4).double(), nn.BatchNorm1d(4).double()
    for parameter in few.parameters():
        nn.init.normal_(parameter)
    all_rows.load_state_dict(few.state_dict())
    rows = (torch.randn(50, 4, dtype=torch.float64) * 3 + 2).requires_grad_()
    null = torch.randn(4, dtype=torch.float64, requires_grad=True)
    weights, null_weight = torch.randn(50, 4), torch.randn(4)

    packed = norm(few, torch.cat((rows, null.expand(tail, 4))), tail=tail, copies=copies, relu=relu)
    got = torch.autograd.grad((packed[:50] * weights).sum() + copies * (packed[50:] * null_weight).sum(), [rows, null, *few.parameters()])
    full = all_rows(torch.cat((rows, null.expand(tail * copies, 4))))
    full = full.relu() if relu else full
    wanted = torch.autograd.grad((full[:50] * weights).sum() + (full[50:] * null_weight).sum(), [rows, null, *all_rows.parameters()])

    torch.testing.assert_close(packed[:50], full[:50])
    for one, other in zip(got, wanted, strict=True):
        torch.testing.assert_close(one, other)
    torch.testing.assert_close(few.state_dict(), all_rows.state_dict())


def test_half_precision_keeps_its_statistics_in_single() -> None:
    torch.manual_seed(0)
    bn, reference = nn.BatchNorm1d(4), nn.BatchNorm1d(4)
    rows = torch.randn(1000, 4).bfloat16() + 5
    got = norm(bn, rows, tail=1, copies=1)
    assert got.dtype == torch.bfloat16
    torch.testing.assert_close(got.float(), reference(rows.float()).relu(), atol=2e-2, rtol=2e-2)
    torch.testing.assert_close(bn.running_var, reference.running_var)
