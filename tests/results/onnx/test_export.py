import json

import awkward as ak
import numpy as np
import onnx
import pytest
import torch
import uproot
from torch import nn

from weaver_tasks.base.errors import ResultError
from weaver_tasks.data.configuration import InputGroup, Variable
from weaver_tasks.networks.pfn import ParticleFlowNetwork
from weaver_tasks.results.onnx.export import FromRaw, Standardize, WithSoftmax, to_onnx
from weaver_tasks.results.onnx.parity import cases, compare, cut
from weaver_tasks.results.onnx.runtime import onnx_session, run_onnx
from weaver_tasks.results.predictions.scoring import gives_probabilities

LENGTH = 128


def variable(name, center=None, scale=1.0, low=-5.0, high=5.0, pad_value=0.0):
    return Variable(name=name, center=center, scale=scale, low=low, high=high, pad_value=pad_value)


def groups(pad_mode="constant", pad_value=0.0):
    features = (
        variable("part_energy", 50.0, 0.02, pad_value=pad_value),
        variable("part_d0val", 0.0, 30.0, -1.0, 1.0),
        variable("part_charge"),
        variable("part_dzval", pad_value=pad_value),
    )
    mask = (variable("part_isMask"),)
    return (
        InputGroup(name="pf_features", length=LENGTH, pad_mode=pad_mode, variables=features),
        InputGroup(name="pf_mask", length=LENGTH, pad_mode="constant", variables=mask),
    )


@pytest.fixture(scope="module")
def particles(jets):
    """The particles of 30 real jets, some values made NaN or infinite as detectors do."""
    names = ["part_energy", "part_d0val", "part_charge", "part_dzval"]
    array = uproot.open(jets / "test" / "HToGG.root")["tree"].arrays(names, entry_stop=30)
    array["part_isMask"] = ak.ones_like(array["part_energy"])
    counts = ak.num(array["part_energy"])
    flat = {name: ak.to_numpy(ak.flatten(array[name])).copy() for name in array.fields}
    flat["part_d0val"][::17] = np.nan
    flat["part_energy"][5::31] = np.inf
    flat["part_dzval"][::23] = -np.inf
    return ak.Array({name: ak.unflatten(values, counts) for name, values in flat.items()})


def raw_inputs(particles, described, length=LENGTH):
    """(N, k, length) per group, padding NaN."""
    inputs = {}
    for group in described:
        columns = [ak.fill_none(ak.pad_none(particles[v.name], length, clip=True), np.nan) for v in group.variables]
        inputs[group.name] = np.stack([ak.to_numpy(column) for column in columns], axis=1).astype(np.float32)
    return inputs


def reference(particles, described):
    """The definition, event by event: transform, pad or wrap, NaN to 0."""
    inputs = {}
    for group in described:
        result = np.zeros((len(particles), len(group.variables), LENGTH), np.float32)
        for i, v in enumerate(group.variables):
            for event, values in enumerate(ak.to_list(particles[v.name])):
                x = np.array(values, np.float32)
                if v.center is not None:
                    x = np.clip((x - np.float32(v.center)) * np.float32(v.scale), v.low, v.high)
                row = np.full(LENGTH, v.pad_value, np.float32) if group.pad_mode == "constant" else np.resize(x, LENGTH)
                row[: len(x[:LENGTH])] = x[:LENGTH]
                result[event, i] = np.where(np.isnan(row), 0, row)
        inputs[group.name] = result
    return inputs


@pytest.mark.parametrize(("pad_mode", "pad_value"), [("constant", 0.0), ("constant", -3.5), ("wrap", 0.0)])
def test_standardization_inside_equals_its_definition(particles, pad_mode, pad_value):
    described = groups(pad_mode, pad_value)
    raw, expected = raw_inputs(particles, described), reference(particles, described)
    for group in described:
        found = Standardize(group)(torch.from_numpy(raw[group.name])).numpy()
        np.testing.assert_allclose(found, expected[group.name], rtol=1e-6)


def test_events_without_particles_and_too_many_particles():
    group = groups("wrap")[0]
    raw = torch.full((1, 4, 10), torch.nan)
    assert (Standardize(group)(raw) == 0).all()
    long = torch.rand(2, 4, 300)
    assert Standardize(group)(long).shape == (2, 4, LENGTH)


def test_flat_group_bounds_infinities():
    group = InputGroup(name="jet", length=None, pad_mode="constant", variables=(variable("a"), variable("b", 1.0, 2.0)))
    raw = torch.tensor([[torch.inf, torch.inf], [torch.nan, 1.5], [-torch.inf, torch.nan]])
    largest = np.finfo(np.float32).max
    np.testing.assert_array_equal(Standardize(group)(raw).numpy(), np.array([[largest, 5], [0, 1], [-largest, 0]], np.float32))
    single = InputGroup(name="jet", length=None, pad_mode="constant", variables=(variable("b", 1.0, 2.0),))
    assert Standardize(single)(torch.tensor([1.5, 9.0])).tolist() == [1, 5]


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(5)
        self.pfn = ParticleFlowNetwork(4, 10, Phi_sizes=(32, 32), F_sizes=(32,), for_inference=False)

    def forward(self, features, mask):
        return self.pfn(torch.clamp(features, -10, 10), mask)


INFO = {
    "input_names": ["pf_features", "pf_mask"],
    "output_names": ["softmax"],
    "dynamic_axes": {"pf_features": {0: "N", 2: "n_pf"}, "pf_mask": {0: "N", 2: "n_pf"}, "softmax": {0: "N"}},
}


@pytest.mark.parametrize("pad_mode", ["constant", "wrap"])
def test_exported_models_agree_with_pytorch(particles, pad_mode):
    described = groups(pad_mode)
    expected, raw = reference(particles, described), raw_inputs(particles, described)
    model = WithSoftmax(Network()).eval()
    example = [torch.from_numpy(expected[name][:2]) for name in INFO["input_names"]]
    tried = cases(INFO["dynamic_axes"], {"pf_features": LENGTH, "pf_mask": LENGTH})
    assert tried == [(batch, length) for batch in (1, 2, 17) for length in (20, 60, 128)]
    options = {"names": INFO["input_names"], "tried": tried, "dynamic_axes": INFO["dynamic_axes"]}

    standardized = to_onnx(model, INFO, example, opset=15, metadata={"classes": ["a", "b"], "task": "classification"})
    for case in compare(model, onnx_session(standardized), [expected], **options):
        assert case["events"] == case["batch"]
        assert case["max_abs_difference"] < 1e-6
    properties = {entry.key: entry.value for entry in onnx.load_model_from_string(standardized).metadata_props}
    assert json.loads(properties["classes"]) == ["a", "b"]
    assert properties["task"] == "classification"

    raw_example = [torch.from_numpy(raw[name][:2]) for name in INFO["input_names"]]
    from_raw = to_onnx(FromRaw(model, described).eval(), INFO, raw_example, opset=15, metadata={})
    for case in compare(model, onnx_session(from_raw), [expected], raw=[raw], **options):
        assert case["max_abs_difference"] < 1e-6
    scores = run_onnx(onnx_session(from_raw), raw)
    assert scores.shape == (30, 10)
    assert len(np.unique(scores.argmax(axis=1))) >= 1
    np.testing.assert_allclose(scores.sum(axis=1), 1, atol=1e-5)


def test_parity_sees_a_wrong_model(particles):
    described = groups()
    expected = reference(particles, described)
    model = WithSoftmax(Network()).eval()
    example = [torch.from_numpy(expected[name][:2]) for name in INFO["input_names"]]
    session = onnx_session(to_onnx(model, INFO, example, opset=15, metadata={}))
    with torch.no_grad():
        model.model.pfn.fc[-1].bias[0] += 1e-3
    [case] = compare(model, session, [expected], names=INFO["input_names"], tried=[(17, None)], dynamic_axes=INFO["dynamic_axes"])
    assert case["max_abs_difference"] > 1e-5


def test_fixed_lengths_are_not_cut():
    assert cases({"pf_features": {0: "N"}}, {"pf_features": 128}) == [(1, None), (2, None), (17, None)]
    assert cases({"jet": {0: "N"}}, {"jet": None})[0] == (1, None)
    inputs = {"pf": np.zeros((3, 2, 50)), "sv": np.zeros((3, 2, 10)), "jet": np.zeros((3, 4))}
    shapes = {name: array.shape for name, array in cut(inputs, 2, 20, {"pf": {2: "n"}, "sv": {2: "m"}}).items()}
    assert shapes == {"pf": (2, 2, 20), "sv": (2, 2, 10), "jet": (2, 4)}


def test_probabilities_are_told_from_logits():
    assert gives_probabilities(torch.softmax(torch.randn(5, 3), dim=1))
    assert not gives_probabilities(torch.randn(5, 3))


class Unexportable(nn.Module):
    def forward(self, x):
        return torch.linalg.eigh(x @ x.transpose(1, 2))[0]


def test_unexportable_network_is_told_in_one_line():
    info = {"input_names": ["x"], "output_names": ["y"], "dynamic_axes": {"x": {0: "N"}}}
    with pytest.raises(ResultError, match=r"export\.opset: 15.*eigh"):
        to_onnx(Unexportable(), info, [torch.rand(2, 3, 3)], opset=15, metadata={})


def test_an_opset_that_there_is_not_is_told():
    info = {"input_names": ["x"], "output_names": ["y"], "dynamic_axes": {"x": {0: "N"}}}
    with pytest.raises(ResultError, match=r"export\.opset: 99: Unsupported onnx_opset_version: 99"):
        to_onnx(nn.Linear(2, 3), info, [torch.rand(2, 2)], opset=99, metadata={})


def test_damaged_model_is_told(tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(b"no model")
    with pytest.raises(ResultError, match=r"model\.onnx"):
        onnx_session(path)
    with pytest.raises(ResultError, match=r"absent\.onnx"):
        onnx_session(tmp_path / "absent.onnx")
