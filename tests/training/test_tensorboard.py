"""Scalars of each step and epoch, read back with TensorBoard's own reader."""

import contextlib

import numpy as np
import pytest

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
        metrics = validate(
            engine.task, engine.model, MemoryBatches(events, 100, 0, None), description="v", samples=700, board=board, epoch=3
        )
    found = scalars(tmp_path / "board" / "validation")
    assert found["Loss/eval (epoch)"] == [(3, pytest.approx(metrics["loss"]))]
    assert found["Acc/eval (epoch)"] == [(3, pytest.approx(metrics["accuracy"]))]
    assert [step for step, _ in found["classes"]] == [*range(301, 308), 299]
    assert len(found) == 3


def test_watching_changes_nothing(chain, tmp_path):
    plain, watched = chain("plain", epochs=1), chain("watched", epochs=1, tensorboard=True)
    plain.train(plain.trainer(), 0)
    watched.train(watched.trainer(board_folder=tmp_path / "board"), 0)
    watched.assert_same([plain.tensors(0)])
