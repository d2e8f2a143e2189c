"""Which axes are dynamic indeed, and what is no fault of an export: ties."""

import numpy as np
import pytest
import torch
from torch import nn

from weaver_tasks.results.onnx.export import to_onnx
from weaver_tasks.results.onnx.parity import compare, fixed_axes, taken_axes
from weaver_tasks.results.onnx.runtime import onnx_session


class Fixed(nn.Module):
    def __init__(self, length: int) -> None:
        super().__init__()
        self.layer = nn.Linear(2 * length, 3)

    def forward(self, x):
        return self.layer(x.flatten(1))


class NeedsFive(nn.Module):
    def forward(self, x):
        return torch.topk(x, 5, dim=2)[0].mean(dim=2)


class AnyLength(nn.Module):
    def forward(self, x):
        return x.mean(dim=2)


@pytest.mark.parametrize(
    ("model", "length", "lengths", "dynamic"),
    [
        (Fixed(64), 64, {None}, False),
        (Fixed(16), 16, {None}, False),
        (Fixed(1), 1, {1}, True),  # of one slot nobody knows
        (AnyLength(), 64, {20, 60, 64}, True),
        (AnyLength(), 10, {10}, True),
        (NeedsFive(), 64, {20, 60, 64}, True),
    ],
    ids=["fixed", "fixed and short", "one slot", "any", "any but short", "some"],
)
def test_lengths_that_pytorch_refuses_are_no_case(model, length, lengths, dynamic):
    inputs = {"x": np.random.default_rng(1).random((17, 2, length), np.float32)}
    declared = {"x": {0: "N", 2: "n"}, "y": {0: "N"}}
    axes, tried = taken_axes(model, inputs, names=["x"], dynamic_axes=declared, lengths={"x": length})
    assert {found for _, found in tried} == lengths
    assert (2 in axes["x"]) == dynamic
    assert 0 in axes["x"]
    assert fixed_axes(declared, axes) == ({} if dynamic else {"x": "axis 2"})


def test_an_axis_that_a_flat_input_has_not_is_left_out():
    inputs = {"jet": np.ones((4, 3), np.float32)}
    declared = {"jet": {0: "N", 2: "n"}, "y": [0]}
    axes, tried = taken_axes(nn.Linear(3, 2), inputs, names=["jet"], dynamic_axes=declared, lengths={"jet": None})
    assert axes == {"jet": {0: "N"}, "y": [0]}
    assert tried == [(1, None), (2, None), (17, None)]
    for given in (axes, declared):
        info = {"input_names": ["jet"], "output_names": ["y"], "dynamic_axes": given}
        session = onnx_session(to_onnx(nn.Linear(3, 2), info, [torch.ones(2, 3)], opset=15, metadata={}))
        assert session.run(None, {"jet": np.ones((9, 3), np.float32)})[0].shape == (9, 2)


class Nearest(nn.Module):
    """The charge of the particle nearest to the first; of two at the same distance one is taken."""

    def __init__(self, *, last: bool = False, wrong: float = 0.0) -> None:
        super().__init__()
        self.last, self.wrong = last, wrong

    def forward(self, x):
        distance = (x[:, :1, 1:] - x[:, :1, :1]).abs().squeeze(1)
        distance = distance.flip(1) if self.last else distance
        place = distance.argmin(dim=1)
        place = distance.shape[1] - 1 - place if self.last else place
        return torch.gather(x[:, 1, 1:], 1, place[:, None]) + self.wrong


def events(ties: int) -> np.ndarray:
    x = np.random.default_rng(3).random((8, 2, 6)).astype(np.float32) + 1
    # Two particles at the same place, of other charges.
    x[:ties, 0] = 9
    x[:ties, 0, 0], x[:ties, 0, 2], x[:ties, 0, 4] = 1.5, 1.75, 1.75
    return x


def compared(exported: nn.Module, x: np.ndarray) -> dict:
    info = {"input_names": ["x"], "output_names": ["y"], "dynamic_axes": {"x": {0: "N"}, "y": {0: "N"}}}
    session = onnx_session(to_onnx(exported, info, [torch.from_numpy(x[:2])], opset=15, metadata={}))
    (found,) = compare(Nearest(), session, [{"x": x}], names=["x"], tried=[(8, None)], dynamic_axes={}, tolerance=1e-5)
    return found


def test_exact_ties_are_no_fault_of_the_export():
    assert compared(Nearest(last=True), events(0))["max_abs_difference"] == 0
    found = compared(Nearest(last=True), events(3))
    assert (found["events"], found["left_out"], found["max_abs_difference"]) == (5, 3, 0)
    everywhere = compared(Nearest(last=True), events(8))
    assert (everywhere["events"], everywhere["left_out"]) == (0, 8)


def test_a_fault_is_found_where_there_are_ties_too():
    found = compared(Nearest(last=True, wrong=0.01), events(3))
    assert (found["events"], found["left_out"]) == (8, 0)
    assert found["max_abs_difference"] > 0.005
