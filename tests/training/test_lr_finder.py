"""The learning-rate finder, beside weaver-core's on the same batches."""

import math
import sys

import numpy as np
import pytest
import torch

from weaver_tasks.settings.model import TrainingSettings
from weaver_tasks.training.lr_finder import suggested_rate, sweep_rates
from weaver_tasks.training.step import TrainStep


@pytest.fixture
def setup(events):
    """A fresh engine and its batches, the same each time."""
    fixtures = sys.modules[type(events).__module__]

    def make(momentum=0.9):
        torch.manual_seed(2)
        model = fixtures.SmallTagger(dropout=0.0)
        model.forward = lambda features, mask: model.jet((model.particle(model.norm(features)) * mask).sum(-1))
        optimizer = torch.optim.SGD([{"params": model.parameters()}], lr=0.1, momentum=momentum)
        rows = np.random.default_rng(1).integers(0, len(events.entry), (60, 64))
        return TrainStep(task=fixtures.make_task(TrainingSettings()), model=model, optimizer=optimizer), [
            events.batch(each) for each in rows
        ]

    return make


def test_rates_and_losses_are_those_of_weaver(setup):
    pytest.importorskip("weaver")
    from weaver.utils.lr_finder import LRFinder

    engine, batches = setup()
    # weaver's first rate is one step above the one it is given.
    first = 1e-5 * 1e4 ** (1 / 40)
    history = sweep_rates(engine, batches, start=first, end=1e-1, steps=40)
    assert history["lr"] == pytest.approx(np.geomspace(first, 1e-1, 40))
    engine, batches = setup()
    inputs = [{name: torch.from_numpy(array) for name, array in batch.inputs.items()} for batch in batches]
    loader = [(each, {"_label_": torch.from_numpy(batch.labels["_label_"])}, {}) for each, batch in zip(inputs, batches, strict=True)]
    loss = torch.nn.CrossEntropyLoss()
    peer = LRFinder(engine.model, engine.optimizer, loss, ["pf_features", "pf_mask"], ["_label_"], device=torch.device("cpu"))
    peer.range_test(loader, start_lr=1e-5, end_lr=1e-1, num_iter=40, smooth_f=0)
    assert history["loss"] == pytest.approx(peer.history["loss"], rel=1e-5)


def test_it_ends_when_the_loss_diverges(setup):
    engine, batches = setup()
    history = sweep_rates(engine, batches, start=1e-4, end=1e6, steps=60)
    assert 5 < len(history["lr"]) < 60
    assert all(map(math.isfinite, history["loss"]))


def test_the_rate_suggested_is_that_of_the_steepest_fall():
    rates = np.geomspace(1e-6, 1, 121)
    loss = 2 - 1.5 / (1 + np.exp(-4 * np.log(rates / 1e-3))) + 10 * (rates / 0.3) ** 3
    history = {"lr": rates.tolist(), "loss": loss.tolist(), "smoothed": loss.tolist()}
    assert suggested_rate(history) == pytest.approx(1e-3, rel=0.01)
    rising = np.linspace(1, 2, 121).tolist()
    assert suggested_rate({"lr": rates.tolist(), "loss": rising, "smoothed": rising}) is None
    assert suggested_rate({"lr": [1e-6], "loss": [1.0], "smoothed": [1.0]}) is None
