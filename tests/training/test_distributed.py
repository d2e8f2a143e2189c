"""Several gloo ranks against one process."""

from pathlib import Path

import pytest
import torch
from torch import nn

from weaver_tasks.training.checkpoint import load_tensors
from weaver_tasks.training.launch import run_ranks

WORKER = Path(__file__).with_name("ranks_worker.py")


@pytest.fixture
def ranks(tmp_path, monkeypatch):
    """Runs a function of the worker on some ranks and gives what it saved."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")

    def run(what: str, count: int) -> dict:
        folder = tmp_path / f"{what}-{count}"
        folder.mkdir()
        assert run_ranks([str(WORKER), what, str(folder)], ranks=count) == 0
        result = folder / "result.pt"
        return torch.load(result, weights_only=True) if result.exists() else load_all(folder)

    return run


def load_all(folder: Path) -> list[dict]:
    return [load_tensors(path) for path in sorted(folder.glob("rank-*.pt"))]


@pytest.mark.parametrize("what", ["gradients", "masked_gradients"])
def test_two_ranks_have_the_gradients_of_one(ranks, what):
    one, two = ranks(what, 1), ranks(what, 2)
    assert one.keys() == two.keys()
    for name, expected in one.items():
        assert torch.allclose(two[name].float(), expected.float(), rtol=1e-5, atol=1e-5), name


def test_batch_norm_is_that_of_all_rows(ranks):
    """Against torch's on all rows together, forward, backward and running statistics, with uneven shares."""
    rows = torch.randn(24, 5, 7, generator=torch.Generator().manual_seed(1)) * 3 + 2
    rows.requires_grad_()
    layer = nn.BatchNorm1d(5)
    with torch.no_grad():
        layer.weight.copy_(torch.arange(5.0))
    output = layer(rows)
    (output.square() * torch.linspace(0, 1, 7)).sum().backward()
    parts = ranks("batch_norm", 3)
    assert torch.allclose(torch.cat([part["output"] for part in parts]), output, atol=1e-5)
    assert torch.allclose(torch.cat([part["gradient"] for part in parts]), rows.grad, atol=1e-5)
    for part in parts:
        assert torch.allclose(part["0.running_mean"], layer.running_mean, atol=1e-6)
        assert torch.allclose(part["0.running_var"], layer.running_var, atol=1e-5)
        assert part["0.num_batches_tracked"] == 1


@pytest.mark.slow
def test_validation_does_not_depend_on_the_ranks(ranks):
    one, two, three = (ranks("validation", count) for count in (1, 2, 3))
    assert one == two == three
    assert one["samples"] == 750


def test_a_failing_rank_ends_the_task_with_its_own_error(tmp_path, capfd):
    assert run_ranks([str(WORKER), "failure", str(tmp_path)], ranks=2) == 2
    errors = capfd.readouterr().err
    assert "ERROR: rank 1 cannot go on" in errors
    assert "Traceback" not in errors


@pytest.mark.slow
def test_two_ranks_train_to_the_same_bits_in_jobs_and_in_one_loop(tmp_path, same_bits, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    for name in ("whole", "jobs"):
        assert run_ranks([str(WORKER), "chain", str(tmp_path / name)], ranks=2) == 0
    for epoch in range(3):
        for part in ("state", "optimizer"):
            files = [tmp_path / name / "checkpoints" / f"net_epoch-{epoch}_{part}.pt" for name in ("whole", "jobs")]
            same_bits(load_tensors(files[0]), load_tensors(files[1]), f"epoch {epoch}")
