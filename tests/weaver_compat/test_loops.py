"""What network files import from weaver.utils.nn.tools, against weaver-core's own."""

import argparse
import copy
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from weaver_tasks.training.device import seed_generators
from weaver_tasks.weaver_compat import loops

theirs = pytest.importorskip("weaver.utils.nn.tools")
pytestmark = pytest.mark.filterwarnings("ignore")  # weaver-core's own


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("per_particle", [True, False])
def test_flattening_is_weavers(masked, per_particle):
    output = torch.randn(6, 3, 5) if per_particle else torch.randn(6, 3)
    label = torch.randint(3, (6, 5) if per_particle else (6,))
    mask = torch.rand(6, 5) > 0.4 if masked and per_particle else None
    ours = loops._flatten_preds(output, label=label, mask=mask)
    expected = theirs._flatten_preds(output, label=label, mask=mask)
    assert torch.equal(ours[0], expected[0])
    assert torch.equal(ours[1], expected[1])


class Loader:
    def __init__(self, events, config) -> None:
        self.dataset = SimpleNamespace(config=config)
        self._events = events

    def __iter__(self):
        for begin in range(0, 600, 100):
            batch = self._events.batch(np.arange(begin, begin + 100))
            labels = {"_label_": torch.from_numpy(batch.labels["_label_"])}
            yield {name: torch.from_numpy(array) for name, array in batch.inputs.items()}, labels, {"entry": batch.entry}


def test_training_and_evaluation_are_weavers(chain, events):
    config = SimpleNamespace(input_names=("pf_features", "pf_mask"), label_names=("_label_",))
    options = {"args": argparse.Namespace(use_amp=False, amp_dtype="bf16")}
    results = []
    first = chain("any").trainer().engine.model
    for tools in (loops, theirs):
        model = copy.deepcopy(first)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.9**step)
        scheduler._update_per_step = True
        loss = torch.nn.CrossEntropyLoss()
        seed_generators(1)
        tools.train_classification(model, loss, optimizer, scheduler, Loader(events, config), torch.device("cpu"), 0, extra_args=options)
        found = tools.evaluate_classification(
            model, Loader(events, config), torch.device("cpu"), 0, for_training=False, loss_func=loss, extra_args=options
        )
        results.append((model.state_dict(), found))
    (ours, our_results), (expected, their_results) = results
    for name, value in expected.items():
        assert torch.allclose(ours[name].float(), value.float(), atol=1e-6), name
    assert our_results[0] == pytest.approx(their_results[0])
    assert np.allclose(our_results[1], their_results[1], atol=1e-6)
    assert np.array_equal(our_results[2]["_label_"], their_results[2]["_label_"])
    assert np.array_equal(our_results[3]["entry"], np.asarray(their_results[3]["entry"]))


def test_regression_loops_are_weavers(chain, events):
    config = SimpleNamespace(input_names=("pf_features", "pf_mask"), label_names=("mass",))
    options = {"args": argparse.Namespace(use_amp=False, amp_dtype="bf16")}

    class Masses(Loader):
        def __iter__(self):
            for inputs, _, observers in super().__iter__():
                yield inputs, {"mass": torch.from_numpy(events.labels["mass"][observers["entry"]])}, observers

    results = []
    first = chain("any").trainer().engine.model
    first.jet[3] = torch.nn.Linear(16, 1)
    for tools in (loops, theirs):
        model = copy.deepcopy(first)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        optimizer._clip_grad_norm = 0.5
        seed_generators(1)
        # weaver's progress bar needs a scheduler: one that changes nothing.
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
        loader, loss = Masses(events, config), torch.nn.MSELoss()
        tools.train_regression(model, loss, optimizer, scheduler, loader, torch.device("cpu"), 0, steps_per_epoch=4, extra_args=options)
        results.append(tools.evaluate_regression(model, Masses(events, config), "cpu", 0, loss_func=torch.nn.MSELoss(), extra_args=options))
    assert results[0] == pytest.approx(results[1], rel=1e-5)


def test_the_area_of_two_classes_is_that_of_the_second_ones_score():
    generator = np.random.default_rng(1)
    truth, score = generator.integers(0, 2, 50), generator.random(50)
    found = loops.evaluate_metrics(truth, np.stack([1 - score, score], axis=1), ["roc_auc_score"])
    # Of all pairs of one event of each class, those in the right order.
    assert found["roc_auc_score"] == pytest.approx(np.mean(score[truth == 1][:, None] > score[truth == 0][None, :]))
