"""Real jets as batches in memory, and a small network with all that may differ between runs: dropout, batch norm, a random trimmer."""

import random
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
import uproot
from torch import nn

from weaver_tasks.settings.model import TrainingSettings
from weaver_tasks.training import checkpoint
from weaver_tasks.training.distributed import from_first_rank
from weaver_tasks.training.epoch import EpochTask, Trainer, first_training_state
from weaver_tasks.training.journal import Journal, epoch_digest
from weaver_tasks.training.losses import default_loss
from weaver_tasks.training.optimizers import build_optimizer
from weaver_tasks.training.schedules import epoch_rates
from weaver_tasks.training.step import Task, TrainStep

PARTICLES = 32


@dataclass
class Batch:
    inputs: dict
    labels: dict
    file: np.ndarray
    entry: np.ndarray
    end_position: dict
    observers: dict | None = None


@dataclass
class Events:
    """features: (N, 4, P) float32; mask: (N, 1, P); labels by name; file, entry: (N,)."""

    inputs: dict
    labels: dict
    file: np.ndarray
    entry: np.ndarray

    def batch(self, rows: np.ndarray, position: int = 0) -> Batch:
        return Batch(
            inputs={name: array[rows] for name, array in self.inputs.items()},
            labels={name: array[rows] for name, array in self.labels.items()},
            file=self.file[rows],
            entry=self.entry[rows],
            end_position={"offset": position},
        )


class MemoryBatches:
    """Batches of an epoch in a random order of its own: like the loader, a function of (seed, epoch, rank, position)."""

    def __init__(self, events: Events, batch_size: int, epoch: int, position: dict | None, *, rank: int = 0, world_size: int = 1) -> None:
        self._events, self._batch_size = events, batch_size
        self._order = np.random.default_rng([7, epoch]).permutation(len(events.entry))
        self._first = position["offset"] if position and position["offset"] < self._usable(world_size) else 0
        self._rank, self._world = rank, world_size
        self.steps = len(self._order) // (batch_size * world_size)
        self.samples = self.steps * batch_size * world_size

    def _usable(self, world_size: int) -> int:
        size = self._batch_size * world_size
        return len(self._order) // size * size

    def __iter__(self):
        size = self._batch_size * self._world
        for begin in range(self._first, self.samples, size):
            rows = self._order[begin : begin + size][self._rank * self._batch_size : (self._rank + 1) * self._batch_size]
            yield self._events.batch(rows, begin + size)


class SmallTagger(nn.Module):
    """A particle-flow network with batch norm, dropout, and a trimmer that counts its calls and draws from `random`."""

    def __init__(self, classes: int = 3, dropout: float = 0.1) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(4)
        self.particle = nn.Sequential(nn.Conv1d(4, 16, 1), nn.ReLU(), nn.Conv1d(16, 16, 1), nn.BatchNorm1d(16), nn.ReLU())
        self.jet = nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Dropout(dropout), nn.Linear(16, classes))
        self.register_buffer("calls", torch.zeros(1, dtype=torch.int64), persistent=False)

    def forward(self, features: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        if self.training:
            self.calls += 1
            length = min(features.shape[-1], int(features.shape[-1] * random.uniform(0.7, 1.0)) + int(self.calls) % 3)
            features, mask = features[..., :length], mask[..., :length]
        return self.jet((self.particle(self.norm(features)) * mask).sum(-1))


def read_jets(folder: Path, processes: tuple[str, ...] = ("HToBB", "TTBar", "ZJetsToNuNu")) -> Events:
    features, masses, labels, files, entries = [], [], [], [], []
    for number, process in enumerate(processes):
        with uproot.open(folder / f"{process}.root") as file:
            branches = file["tree"].arrays(["part_energy", "part_deta", "part_dphi", "part_px", "jet_sdmass"])
        for index, jet in enumerate(branches.tolist()):
            padded = np.zeros((4, PARTICLES), np.float32)
            columns = (np.log1p(jet["part_energy"]), jet["part_deta"], jet["part_dphi"], np.tanh(np.array(jet["part_px"]) / 100))
            for row, column in zip(padded, columns, strict=True):
                row[: min(PARTICLES, len(column))] = column[:PARTICLES]
            features.append(padded)
            masses.append(jet["jet_sdmass"] / 100)
            labels.append(number)
            files.append(number)
            entries.append(index)
    inputs = np.stack(features)
    mask = (inputs[:, :1] > 0).astype(np.float32)
    return Events(
        inputs={"pf_features": inputs, "pf_mask": mask},
        labels={"_label_": np.array(labels), "mass": np.array(masses, np.float32)},
        file=np.array(files, np.int32),
        entry=np.array(entries),
    )


@pytest.fixture(scope="session")
def events(jets: Path) -> Events:
    """750 jets of three classes."""
    return read_jets(jets / "train")


def make_task(settings: TrainingSettings, *, labels: tuple[str, ...] = ("_label_",), loss=None) -> Task:
    return Task(
        settings=settings,
        device=torch.device("cpu"),
        input_names=("pf_features", "pf_mask"),
        label_names=labels,
        loss_function=loss or default_loss(settings.task),
    )


class Chain:
    """A training below `folder`, as the stages run it: epochs linked by digests, from a first checkpoint."""

    def __init__(self, folder: Path, events: Events, settings: TrainingSettings, *, write: bool = True) -> None:
        self.events, self.settings = events, settings
        self.journal = Journal(folder / "checkpoints", folder / "metrics")
        torch.manual_seed(3)
        model = SmallTagger()
        optimizer = self._optimizer(model)[0]
        self._write = write
        if not write:
            return
        checkpoint.save_state(self.journal.state(-1), model)
        checkpoint.save_training_state(
            self.journal.training_state(-1), first_training_state(optimizer, model, "start"), state=self.journal.state(-1)
        )

    def _optimizer(self, model: nn.Module):
        optimizer = self.settings.optimizer
        return build_optimizer(model, optimizer.name, optimizer.options, lr=self.settings.lr)

    def trainer(self, **changes) -> Trainer:
        """A fresh process's trainer, with other weights and generators than the checkpoint's."""
        torch.manual_seed(random.SystemRandom().randrange(2**31))
        model = SmallTagger()
        optimizer, clip = self._optimizer(model)
        return Trainer(
            engine=TrainStep(task=make_task(self.settings), model=model, optimizer=optimizer, clip_grad_norm=clip),
            journal=self.journal,
            seed=5,
            open_batches=changes.pop("open_batches", self.open_batches),
            describe=lambda batch: f"entries {batch.entry.tolist()}",
            **changes,
        )

    def open_batches(self, epoch: int, position: dict | None) -> MemoryBatches:
        return MemoryBatches(self.events, self.settings.batch_size, epoch, position)

    def digest(self, epoch: int) -> str:
        return "start" if epoch < 0 else epoch_digest(self.digest(epoch - 1), epoch=epoch, rates=self.rates(epoch), uses={})

    def rates(self, epoch: int):
        scheduler = self.settings.scheduler
        return epoch_rates(scheduler.name, horizon=self.settings.horizon, warmup=scheduler.warmup, epoch=epoch)

    def train(self, trainer: Trainer, epoch: int) -> dict:
        task = EpochTask(epoch=epoch, digest=self.digest(epoch), previous=self.digest(epoch - 1), rates=self.rates(epoch))
        metrics = trainer.train(task)
        if self._write:
            self.journal.publish(epoch, task.digest)
        from_first_rank(None)
        return metrics

    def tensors(self, epoch: int) -> dict:
        return {
            "state": checkpoint.load_tensors(self.journal.state(epoch)),
            "training_state": checkpoint.load_tensors(self.journal.training_state(epoch)),
        }

    def assert_same(self, expected: list[dict]) -> None:
        for epoch, tensors in enumerate(expected):
            same_bits(self.tensors(epoch), tensors, f"epoch {epoch}")


@pytest.fixture
def chain(tmp_path: Path, events: Events):
    """Makes chains: chain(name, **training settings)."""

    def make(name: str, **settings) -> Chain:
        defaults = {"epochs": 4, "batch_size": 100, "lr": 5e-3, "threads": 1, "scheduler": {"name": "flat+cos", "warmup": 0.5}}
        return Chain(tmp_path / name, events, TrainingSettings(**{**defaults, **settings}))

    return make


@pytest.fixture(name="same_bits")
def same_bits_fixture():
    return same_bits


def same_bits(one, other, where: str = "") -> None:
    """Assert that nested values, tensors among them, are equal to the last bit. Checksums of files are left out."""
    if isinstance(one, torch.Tensor):
        assert one.dtype == other.dtype, where
        assert torch.equal(one, other), f"{where}: {(one.double() - other.double()).abs().max()}"
    elif isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for key in one:
            if key != "state_checksum":
                same_bits(one[key], other[key], f"{where}.{key}")
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(other), where
        for index, (first, second) in enumerate(zip(one, other, strict=True)):
            same_bits(first, second, f"{where}[{index}]")
    else:
        assert one == other, where
