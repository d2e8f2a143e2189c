"""What the ranks of test_distributed do: `python ranks_worker.py WHAT FOLDER`, started once per rank."""

import sys
from pathlib import Path

import numpy as np
import torch
from torch import nn

from weaver_tasks.base.command_line import run_command
from weaver_tasks.base.errors import TrainingError
from weaver_tasks.results.metrics.classification import auc
from weaver_tasks.settings.model import TrainingSettings
from weaver_tasks.training.distributed import joined_ranks, rank, synchronize_batch_norm, world_size
from weaver_tasks.training.step import TrainStep
from weaver_tasks.training.validation import validate

sys.path.insert(0, str(Path(__file__).parent.parent / "runs"))
import memory_run as fixtures

JETS = Path(__file__).parent.parent / "files" / "jets" / "train"
FIXED_BATCH = 128


def gradients(folder: Path) -> None:
    """The gradients of a fixed batch, of which every rank takes its part."""
    events = fixtures.read_jets(JETS)
    rows = np.random.default_rng(1).permutation(len(events.entry))[:FIXED_BATCH]
    mine = rows[rank() * (FIXED_BATCH // world_size()) :][: FIXED_BATCH // world_size()]
    torch.manual_seed(1)
    model = fixtures.SmallTagger(dropout=0.0)
    model.forward = lambda features, mask: model.jet((model.particle(model.norm(features)) * mask).sum(-1))
    engine = TrainStep(task=fixtures.make_task(TrainingSettings()), model=model, optimizer=torch.optim.SGD(model.parameters(), lr=0.0))
    engine.step(events.batch(mine))
    save(folder, {name: parameter.grad for name, parameter in model.named_parameters()} | dict(model.named_buffers()))


def masked_gradients(folder: Path) -> None:
    """Per-particle labels: the ranks have different numbers of particles."""
    events = fixtures.read_jets(JETS)
    rows = np.random.default_rng(1).permutation(len(events.entry))[:FIXED_BATCH]
    # The jets with most particles first, so that the ranks differ.
    rows = rows[np.argsort(-events.inputs["pf_mask"][rows].sum((1, 2)), kind="stable")]
    batch = events.batch(rows[rank() * (FIXED_BATCH // world_size()) :][: FIXED_BATCH // world_size()])
    batch.labels = {"track": (batch.inputs["pf_features"][:, 1] > 0).astype(np.int64), "track_mask": batch.inputs["pf_mask"][:, 0] > 0}

    class PerParticle(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Conv1d(4, 2, 1)

        def forward(self, features, mask):
            return self.layer(features)

    torch.manual_seed(1)
    model = PerParticle()
    task = fixtures.make_task(TrainingSettings(), labels=("track", "track_mask"))
    engine = TrainStep(task=task, model=model, optimizer=torch.optim.SGD(model.parameters(), lr=0.0))
    engine.step(batch)
    save(folder, {name: parameter.grad for name, parameter in model.named_parameters()})


def batch_norm(folder: Path) -> None:
    """Synchronized batch norm of 24 rows, shared out unevenly."""
    rows = torch.randn(24, 5, 7, generator=torch.Generator().manual_seed(1)) * 3 + 2
    bounds = {1: [0, 24], 2: [0, 5, 24], 3: [0, 5, 6, 24]}[world_size()]
    mine = rows[bounds[rank()] : bounds[rank() + 1]].clone().requires_grad_()
    layer = synchronize_batch_norm(nn.Sequential(nn.BatchNorm1d(5)), torch.device("cpu"))
    with torch.no_grad():
        layer[0].weight.copy_(torch.arange(5.0))
    output = layer(mine)
    (output.square() * torch.linspace(0, 1, 7)).sum().backward()
    parts = {"output": output.detach(), "gradient": mine.grad}
    torch.save({**parts, **layer.state_dict()}, folder / f"rank-{rank()}.pt")


def validation(folder: Path) -> None:
    events = fixtures.read_jets(JETS)
    torch.manual_seed(1)
    model = fixtures.SmallTagger()
    bounds = range(0, len(events.entry), 64)
    batches = [events.batch(np.arange(begin, min(begin + 64, len(events.entry)))) for begin in bounds]
    mine = batches[rank() :: world_size()]
    task = fixtures.make_task(TrainingSettings())
    metrics = validate(task, model, mine, description="validation", samples=None, area_under_curve=auc)
    save(folder, {name: value for name, value in metrics.items() if "second" not in name})


def chain(folder: Path) -> None:
    """Three epochs: in one process each time, or as `jobs`: from the checkpoint each time."""
    events = fixtures.read_jets(JETS)
    settings = TrainingSettings(epochs=3, batch_size=50, lr=5e-3, threads=1, scheduler={"name": "flat+cos", "warmup": 0.5})
    folder.mkdir(exist_ok=True)
    training = fixtures.Chain(folder, events, settings, write=rank() == 0)

    def open_batches(epoch, position):
        return fixtures.MemoryBatches(events, 50, epoch, position, rank=rank(), world_size=world_size())

    trainer = training.trainer(open_batches=open_batches)
    for epoch in range(3):
        if folder.name == "jobs":
            trainer = training.trainer(open_batches=open_batches)
        training.train(trainer, epoch)


def failure(folder: Path) -> None:
    if rank() == 1:
        raise TrainingError("rank 1 cannot go on")
    torch.distributed.barrier()


def save(folder: Path, content: dict) -> None:
    if rank() == 0:
        torch.save(content, folder / "result.pt")


def main() -> None:
    torch.set_num_threads(1)
    with joined_ranks(torch.device("cpu")):
        globals()[sys.argv[1]](Path(sys.argv[2]))


if __name__ == "__main__":
    run_command(main)
