"""Scalars of each step and epoch, read back with TensorBoard's own reader."""

import contextlib
import types
import typing

import numpy as np
import pytest
import torch

from weaver_tasks.training import checkpoint

pytestmark = pytest.mark.filterwarnings("ignore")  # tensorboard's own
event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")

CUSTOM = """
def get_tensorboard_custom_fn(tb_writer, model_output, model, epoch, i_batch, mode):
    tb_writer.add_scalar("classes", model_output.shape[1], 100 * epoch + i_batch)
"""


def scalars(folder):
    reader = event_accumulator.EventAccumulator(str(folder))
    reader.Reload()
    return {tag: [(event.step, event.value) for event in reader.Scalars(tag)] for tag in reader.Tags()["scalars"]}


def test_steps_count_on_over_epochs_and_outputs_reach_the_custom_function(chain, tmp_path):
    custom = tmp_path / "custom.py"
    custom.write_text(CUSTOM)
    training = chain("watched", epochs=2, tensorboard=str(custom))
    metrics = [training.train(training.trainer(board_folder=tmp_path / "board"), epoch) for epoch in range(2)]
    found = scalars(tmp_path / "board")
    assert found.keys() == {
        *("Loss/train", "Acc/train", "GradNorm/train", "LearningRate/train", "Loss/train (epoch)", "Acc/train (epoch)", "classes")
    }
    for tag in ("Loss/train", "Acc/train", "GradNorm/train", "LearningRate/train"):
        assert [step for step, _ in found[tag]] == list(range(1, 15)), tag
    # Each batch by its number from 1 on, and the last one again as -1.
    assert [step for step, _ in found["classes"]] == [*range(1, 8), -1, *range(101, 108), 99]
    for epoch in range(2):
        steps = slice(7 * epoch, 7 * epoch + 7)
        for name, tag in (("loss", "Loss"), ("accuracy", "Acc")):
            assert found[f"{tag}/train (epoch)"][epoch] == (epoch, pytest.approx(metrics[epoch][name]))
            assert np.mean([value for _, value in found[f"{tag}/train"][steps]]) == pytest.approx(metrics[epoch][name], rel=1e-4)


def test_validation_writes_its_epochs_beside(chain, events, tmp_path):
    from memory_run import MemoryBatches
    from weaver_tasks.training.tensorboard import wanted_board
    from weaver_tasks.training.validation import validate

    custom = tmp_path / "custom.py"
    custom.write_text(CUSTOM)
    training = chain("watched", epochs=1, tensorboard=str(custom))
    engine = training.trainer().engine
    with contextlib.closing(wanted_board(training.settings, tmp_path / "board", mode="eval")) as board:
        told = {"description": "validation", "samples": 700, "area_under_curve": lambda scores, truth: 0.5}
        metrics = validate(engine.task, engine.model, MemoryBatches(events, 100, 0, None), board=board, epoch=3, **told)
    found = scalars(tmp_path / "board" / "validation")
    assert found["Loss/eval (epoch)"] == [(3, pytest.approx(metrics["loss"]))]
    assert found["Acc/eval (epoch)"] == [(3, pytest.approx(metrics["accuracy"]))]
    assert [step for step, _ in found["classes"]] == [*range(301, 308), 299]
    assert len(found) == 3


def test_tags_steps_and_values_are_those_of_weavers_loops(chain, events, tmp_path):
    """The same training by weaver-core's own loops: plain gradient descent on batches in the same order."""
    weaver = pytest.importorskip("weaver.utils.nn.tools")
    from weaver_tasks.training.device import seed_generators

    settings = {"optimizer": {"name": "SGD", "options": {}}, "scheduler": {"name": "none"}, "lr": 0.01, "epochs": 1, "tensorboard": True}
    training = chain("ours", **settings)
    trainer = training.trainer(board_folder=tmp_path / "board")
    training.train(trainer, 0)
    found = scalars(tmp_path / "board")
    del found["LearningRate/train"]  # not of weaver

    class Board:
        global_step = batch_train_count = 0
        custom_fn = None
        written: typing.ClassVar = []

        def write_scalars(self, values):
            self.written += values

    class Loader:
        dataset = types.SimpleNamespace(config=types.SimpleNamespace(input_names=("pf_features", "pf_mask"), label_names=("_label_",)))

        def __iter__(self):
            for batch in training.open_batches(0, None):
                inputs, labels = ({name: torch.from_numpy(part[name]) for name in part} for part in (batch.inputs, batch.labels))
                yield inputs, {"_label_": labels["_label_"]}, {}

    model = training.trainer().engine.model
    model.load_state_dict(checkpoint.load_tensors(training.journal.state(-1)))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    seed_generators(trainer.seed, "epoch", 0, "rank", 0)
    options = {"args": types.SimpleNamespace(use_amp=False, amp_dtype="bf16")}
    constant = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
    weaver.train_classification(
        model, torch.nn.CrossEntropyLoss(), optimizer, constant, Loader(), torch.device("cpu"), 0, tb_helper=Board(), extra_args=options
    )
    expected = {}
    for tag, value, step in Board.written:
        expected.setdefault(tag, []).append((step, pytest.approx(value, rel=1e-4)))
    assert found == expected


def test_watching_changes_nothing(chain, tmp_path):
    plain, watched = chain("plain", epochs=1), chain("watched", epochs=1, tensorboard=True)
    plain.train(plain.trainer(), 0)
    watched.train(watched.trainer(board_folder=tmp_path / "board"), 0)
    watched.assert_same([plain.tensors(0)])
