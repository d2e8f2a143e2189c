"""What network files import from weaver.utils.nn.tools, against weaver-core's own."""

import argparse
import copy
import importlib
import itertools
from types import SimpleNamespace

import awkward as ak
import numpy as np
import pytest
import torch

from weaver_tasks.base.errors import ConfigError
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


class Fixed(torch.nn.Module):
    """Gives the output of each batch in turn, whatever comes in."""

    def __init__(self, outputs):
        super().__init__()
        self.outputs = iter(outputs)

    def forward(self, *_):
        return next(self.outputs)


def served(labels, observers, outputs, sizes=(3, 5, 2)):
    """A loader of batches of these sizes, and the model that gives `outputs` (N, …) for them."""
    edges = np.cumsum((0, *sizes))

    def batch(rows):
        truth = {name: torch.from_numpy(values[rows]) for name, values in labels.items()}
        return {"x": torch.zeros(len(truth["_label_"]), 1)}, truth, {name: values[rows] for name, values in observers.items()}

    parts = [slice(*edge) for edge in itertools.pairwise(edges)]
    config = SimpleNamespace(input_names=("x",), label_names=("_label_",))

    class Batches(list):
        dataset = SimpleNamespace(config=config)

    return Batches(map(batch, parts)), Fixed([outputs[part] for part in parts])


OPTIONS = {"args": argparse.Namespace(use_amp=False, amp_dtype="bf16")}
GENERATOR = np.random.default_rng(3)
CASES = {
    "events": {"_label_": GENERATOR.integers(0, 3, 10)},
    "one class": {"_label_": np.ones(10, np.int64)},
    "two of three classes": {"_label_": np.arange(10) % 2},
    "masked particles": {"_label_": GENERATOR.integers(0, 3, (10, 4)), "_label__mask": GENERATOR.random((10, 4)) < 0.5},
    "masked particles of one class": {"_label_": np.zeros((10, 4), np.int64), "_label__mask": np.arange(40).reshape(10, 4) % 3 > 0},
}


@pytest.mark.parametrize("case", CASES)
def test_evaluation_gives_weavers_values_and_shapes(case):
    labels = CASES[case]
    width = labels["_label_"].shape[1:]
    outputs = torch.from_numpy(GENERATOR.normal(size=(10, 3, *width)).astype(np.float32))
    found = []
    for tools in (loops, theirs):
        loader, model = served(labels, {"entry": np.arange(10)}, outputs)
        found.append(tools.evaluate_classification(model, loader, torch.device("cpu"), None, for_training=False, extra_args=OPTIONS))
    ours, expected = found
    assert ours[0] == pytest.approx(expected[0])
    assert ak.almost_equal(ours[1], expected[1], rtol=1e-6)
    assert ours[2].keys() == expected[2].keys() == labels.keys()
    for name in labels:
        assert ak.array_equal(ours[2][name], expected[2][name])
    assert np.array_equal(ours[3]["entry"], np.asarray(expected[3]["entry"]))


def test_particles_without_a_mask_are_grouped_by_event():
    labels = {"_label_": GENERATOR.integers(0, 3, (10, 4))}
    outputs = torch.from_numpy(GENERATOR.normal(size=(10, 3, 4)).astype(np.float32))
    loader, model = served(labels, {}, outputs)
    accuracy, scores, found, _ = loops.evaluate_classification(model, loader, "cpu", None, for_training=False, extra_args=OPTIONS)
    assert np.allclose(scores, outputs.softmax(1).numpy().transpose(0, 2, 1))
    assert np.array_equal(found["_label_"], labels["_label_"])
    assert accuracy == pytest.approx((outputs.numpy().argmax(1) == labels["_label_"]).mean())


def test_a_mask_of_the_models_own_counts():
    labels = {"_label_": GENERATOR.integers(0, 3, (10, 4))}
    outputs, mask = torch.from_numpy(GENERATOR.normal(size=(10, 3, 4))), torch.from_numpy(GENERATOR.random((10, 4)) < 0.5)
    loader, model = served(labels, {}, list(zip(outputs, mask, strict=True)))
    model.outputs = iter([(outputs[:3], mask[:3]), (outputs[3:8], mask[3:8]), (outputs[8:], mask[8:])])
    _, scores, found, _ = loops.evaluate_classification(model, loader, "cpu", None, for_training=False, extra_args=OPTIONS)
    assert ak.array_equal(ak.num(scores), mask.sum(1).numpy())
    assert ak.array_equal(ak.flatten(found["_label_"]), labels["_label_"][mask.numpy()])


def test_an_evaluation_in_which_no_label_counts_ends():
    labels = {"_label_": np.zeros((10, 4), np.int64), "_label__mask": np.zeros((10, 4), bool)}
    loader, model = served(labels, {}, torch.zeros(10, 3, 4))
    accuracy, scores, *_ = loops.evaluate_classification(
        model, loader, "cpu", None, for_training=False, loss_func=torch.nn.CrossEntropyLoss(), extra_args=OPTIONS
    )
    assert np.isnan(accuracy)
    assert ak.num(scores).to_list() == [0] * 10


@pytest.mark.parametrize("truth", [np.arange(60) % 3, np.arange(60) % 2, np.zeros(60, int)])
def test_metrics_are_weavers_where_they_are_defined_and_none_else(truth):
    metrics = importlib.import_module("weaver.utils.nn.metrics")
    scores = GENERATOR.random((60, 3))
    scores /= scores.sum(1, keepdims=True)
    names = ["roc_auc_score", "roc_auc_score_matrix", "confusion_matrix", "accuracy_score", "log_loss"]
    ours, expected = loops.evaluate_metrics(truth, scores, names), metrics.evaluate_metrics(truth, scores, names)
    assert ours.keys() == expected.keys()
    for name in names:
        assert (ours[name] is None) == (expected[name] is None), name
        if ours[name] is not None:
            assert np.allclose(ours[name], expected[name], equal_nan=True), name


def test_a_metric_that_cannot_be_computed_is_told_once(caplog):
    def broken(truth, scores):
        raise RuntimeError("of no use")

    for _ in range(2):
        assert loops.evaluate_metrics(np.zeros(4), np.zeros((4, 2)), [broken, "roc_auc_score"]) == {"broken": None, "roc_auc_score": None}
    assert caplog.text.count("metric broken cannot be computed: of no use") == 1
    with pytest.raises(ConfigError, match=r"sklearn\.metrics has no 'acuracy_score'\. Did you mean: accuracy_score"):
        loops.evaluate_metrics(np.zeros(4), np.zeros((4, 2)), ["acuracy_score"])


def test_onnx_models_are_evaluated(tmp_path):
    model, x = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Softmax(1)), torch.randn(10, 4)
    torch.onnx.export(model, (x[:2],), tmp_path / "m.onnx", input_names=["x"], dynamic_axes={"x": {0: "N"}}, dynamo=False)
    truth = GENERATOR.integers(0, 3, 10)
    loader, _ = served({"_label_": truth}, {"entry": np.arange(10)}, x)
    loader[:] = [({"x": x[start : start + len(y["_label_"])]}, y, z) for (_, y, z), start in zip(loader, (0, 3, 8), strict=True)]
    accuracy, scores, labels, observers = loops.evaluate_onnx(str(tmp_path / "m.onnx"), loader)
    assert np.allclose(scores, model(x).detach().numpy(), atol=1e-6)
    assert accuracy == pytest.approx((scores.argmax(1) == truth).mean())
    assert np.array_equal(labels["_label_"], truth)
    assert np.array_equal(observers["entry"], np.arange(10))


class Recorder:
    """What weaver's loops use of their tb_helper: writes down scalars and calls."""

    def __init__(self):
        self.global_step = self.batch_train_count = 0
        self.scalars, self.calls = [], []

    def write_scalars(self, scalars):
        self.scalars += scalars

    def custom_fn(self, *, model_output, model, epoch, i_batch, mode):
        self.calls.append((tuple(model_output.shape), epoch, i_batch, mode))


@pytest.mark.parametrize("task", ["classification", "regression"])
def test_scalars_and_calls_of_the_loops_are_weavers_tag_by_tag(chain, events, task):
    config = SimpleNamespace(input_names=("pf_features", "pf_mask"), label_names=("_label_",))
    first = chain("any").trainer().engine.model
    if task == "regression":
        first.jet[3] = torch.nn.Linear(16, 1)
    loss = torch.nn.CrossEntropyLoss() if task == "classification" else torch.nn.MSELoss()
    recorders = []
    for tools in (loops, theirs):
        model, board = copy.deepcopy(first), Recorder()
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.9**step)
        train, evaluate = getattr(tools, f"train_{task}"), getattr(tools, f"evaluate_{task}")
        watched = {"tb_helper": board, "extra_args": OPTIONS}
        for epoch in range(2):
            seed_generators(1, epoch)
            train(model, loss, optimizer, scheduler, Loader(events, config), torch.device("cpu"), epoch, **watched)
            evaluate(model, Loader(events, config), torch.device("cpu"), epoch, loss_func=loss, eval_metrics=[], **watched)
        recorders.append(board)
    ours, expected = recorders
    assert ours.calls == expected.calls
    assert (ours.global_step, ours.batch_train_count) == (expected.global_step, expected.batch_train_count)
    found, wanted = ({(tag, step): value for tag, value, step in board.scalars} for board in recorders)
    assert found.keys() == wanted.keys()
    assert len(found) == len(ours.scalars)
    for key, value in wanted.items():
        assert found[key] == pytest.approx(value, rel=1e-4, abs=1e-6), key
