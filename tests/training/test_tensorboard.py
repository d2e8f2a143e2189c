"""Scalars of each step, read back with TensorBoard's own reader."""

import pytest

pytestmark = pytest.mark.filterwarnings("ignore")  # tensorboard's own
event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")

CUSTOM = """
def get_tensorboard_custom_fn(tb_writer, model_output, model, epoch, i_batch, mode):
    tb_writer.add_scalar("classes", model_output.shape[1], 100 * epoch + i_batch)
"""


@pytest.mark.slow
def test_steps_count_on_over_epochs_and_outputs_reach_the_custom_function(chain, tmp_path):
    custom = tmp_path / "custom.py"
    custom.write_text(CUSTOM)
    training = chain("watched", epochs=2, tensorboard=str(custom))
    for epoch in range(2):
        training.train(training.trainer(board_folder=tmp_path / "board"), epoch)
    reader = event_accumulator.EventAccumulator(str(tmp_path / "board"))
    reader.Reload()
    losses = reader.Scalars("Loss/train")
    assert [event.step for event in losses] == list(range(1, 15))
    assert [event.value for event in reader.Scalars("classes")] == [3.0] * 14


def test_watching_changes_nothing(chain, tmp_path):
    plain, watched = chain("plain", epochs=1), chain("watched", epochs=1, tensorboard=True)
    plain.train(plain.trainer(), 0)
    watched.train(watched.trainer(board_folder=tmp_path / "board"), 0)
    watched.assert_same([plain.tensors(0)])
