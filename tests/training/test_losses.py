"""What a network's own code gets wrong in a step is told in one line."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from weaver_tasks.base.errors import NetworkError, TrainingError
from weaver_tasks.networks.loading import import_network
from weaver_tasks.settings.model import TrainingSettings
from weaver_tasks.training.step import Task, TrainStep

BATCH = SimpleNamespace(
    inputs={"features": np.ones((6, 4), np.float32)}, labels={"_label_": np.array([0, 1, 2, 0, 1, 2])}, entry=np.arange(6)
)
MODEL = """
import torch
class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(4, 3)
    def forward(self, features):
        return self.layer(features)
"""


def step(folder, *, text=MODEL, loss=None, classes=3, kind="classification"):
    """A step of the model that a file network.py defines."""
    path = folder / "network.py"
    path.write_text(text)
    model = import_network(path).Model()
    task = Task(
        settings=TrainingSettings(task=kind),
        device=torch.device("cpu"),
        input_names=["features"],
        label_names=["_label_"],
        loss_function=loss or torch.nn.CrossEntropyLoss(),
        classes=classes,
    )
    return TrainStep(task=task, model=model, optimizer=torch.optim.SGD(model.parameters(), lr=0.1)).step(BATCH)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (MODEL.replace("forward(self, features)", "forward(self)"), r"forward\(\) takes 1 positional argument"),
        (
            MODEL.replace("self.layer(features)", "self.layer(features.T)"),
            r"network\.py, line 8, in forward: its model failed \(RuntimeError",
        ),
        (MODEL.replace("self.layer(features)", "features[99]"), r"network\.py, line 8, in forward: its model failed \(IndexError"),
    ],
)
def test_a_forward_pass_that_fails(tmp_path, text, message):
    with pytest.raises(NetworkError, match=message):
        step(tmp_path, text=text)


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (lambda logits, truth: None, r"gives NoneType for an output of shape \(6, 3\) and labels of shape \(6,\)"),
        (torch.nn.CrossEntropyLoss(reduction="none"), r"gives a tensor of shape \(6,\) for an output"),
        (lambda logits: logits.sum(), r"its loss function for an output of shape \(6, 3\).* failed \(TypeError"),
        (torch.nn.CrossEntropyLoss(weight=torch.ones(5)), r"failed \(RuntimeError: weight tensor"),
    ],
)
def test_a_loss_that_is_none(tmp_path, loss, message):
    with pytest.raises(NetworkError, match=message):
        step(tmp_path, loss=loss)


def test_as_many_outputs_as_classes_are_wanted(tmp_path):
    for classes in (2, 4):
        with pytest.raises(NetworkError, match=f"the model gives 3 outputs for the {classes} classes of labels.value"):
            step(tmp_path, classes=classes)
    assert step(tmp_path, classes=None)[0].count == 6


def test_a_regression_wants_one_output_for_each_label(tmp_path):
    with pytest.raises(NetworkError, match=r"output of shape \(6, 3\) for targets of shape \(6,\)\. Give it one output for each label"):
        step(tmp_path, kind="regression", loss=torch.nn.MSELoss())


def test_a_loss_of_its_own_may_take_more_outputs(tmp_path):
    assert step(tmp_path, classes=2, loss=lambda logits, truth: cross_entropy(logits, truth))[0].count == 6
    with pytest.raises(NetworkError, match="3 outputs for the 4 classes"):
        step(tmp_path, classes=4, loss=lambda logits, truth: cross_entropy(logits, truth))


def test_a_gpu_that_is_too_small_is_told(tmp_path):
    def out_of_memory(logits, truth):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    with pytest.raises(TrainingError, match=r"training\.batch_size: 6 events at a time need more memory than the GPU has \(CUDA out"):
        step(tmp_path, loss=out_of_memory)
