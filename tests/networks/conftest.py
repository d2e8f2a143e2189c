"""What the tests of the networks share: real jets as padded batches, and weaver-core as the reference."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace

import awkward as ak
import numpy as np
import pytest
import torch
import uproot
from torch import Tensor, nn

from weaver_tasks.weaver_compat import imports

GROUPS = {"pf_points": 2, "pf_features": 17, "pf_vectors": 4, "pf_mask": 1}


@pytest.fixture(scope="session")
def peer() -> Callable[[str], ModuleType]:
    """weaver-core's own modules, by their names below `weaver.`."""
    pytest.importorskip("weaver")

    def module(name: str) -> ModuleType:
        imports.restore()
        found = importlib.import_module(f"weaver.{name}")
        assert "site-packages" in str(found.__file__)
        return found

    return module


@pytest.fixture(scope="session")
def data_configuration() -> SimpleNamespace:
    """What network configurations read of a data configuration, with JetClass's input groups."""
    features = [f"part_{number}" for number in range(17)]
    names = {"pf_points": features[:2], "pf_features": features, "pf_vectors": features[:4], "pf_mask": features[:1]}
    return SimpleNamespace(
        input_names=tuple(GROUPS),
        input_dicts=names,
        input_shapes={name: (-1, width, 128) for name, width in GROUPS.items()},
        label_value=[f"label_{number}" for number in range(10)],
        label_names=("_label_",),
    )


@pytest.fixture(scope="session")
def batch(jets: Path) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """64 real jets of all classes, padded to 128: points (64, 2, 128), features (64, 17, 128), vectors in GeV, mask."""
    parts = [_read(path, 7) for path in sorted((jets / "test").glob("*.root"))]
    joined = [torch.cat(group)[:64] for group in zip(*parts, strict=True)]
    return joined[0], joined[1], joined[2], joined[3]


def _same(theirs: nn.Module, ours: nn.Module, inputs: tuple[Tensor, ...], *, real: Tensor | None = None, gradient: float = 1e-7) -> None:
    """Equal in double precision: scores and gradients in training, the statistics that it leaves, scores in evaluation.

    gradient: the largest difference, relative to the largest element of each gradient. real: compare only these outputs.
    """
    assert list(theirs.state_dict()) == list(ours.state_dict())
    for parameter in theirs.parameters():
        if parameter.dim() < 2:
            nn.init.normal_(parameter, mean=0.5, std=0.3)
    ours.load_state_dict(theirs.state_dict())
    gradients, outputs = [], []
    for model in (theirs.double(), ours.double()):
        torch.manual_seed(4)
        output = model(*(part.double() for part in inputs))
        outputs.append(output if real is None else output.masked_fill(~real, 0))
        weights = torch.linspace(-1, 1, outputs[-1].numel(), dtype=torch.float64).view_as(outputs[-1])
        (outputs[-1] * weights).sum().backward()
        gradients.append({name: parameter.grad for name, parameter in model.named_parameters()})
    torch.testing.assert_close(outputs[1], outputs[0], atol=1e-9, rtol=1e-9)
    for name, wanted in gradients[0].items():
        got = gradients[1][name]
        assert (wanted is None) == (got is None), name
        if wanted is not None and got is not None:
            assert (got - wanted).abs().max() <= gradient * wanted.abs().max() + 1e-10, name
    left = ours.state_dict()
    for name, wanted in theirs.state_dict().items():
        torch.testing.assert_close(left[name], wanted, atol=1e-9, rtol=1e-9, msg=name)
    theirs.eval()
    ours.eval()
    with torch.no_grad():
        wanted, got = (model(*(part.double() for part in inputs)) for model in (theirs, ours))
    if real is not None:
        wanted, got = wanted.masked_fill(~real, 0), got.masked_fill(~real, 0)
    torch.testing.assert_close(got, wanted, atol=1e-9, rtol=1e-9)


@pytest.fixture(scope="session")
def same() -> Callable[..., None]:
    """Assert that two models are equal, see `_same`."""
    return _same


def _read(path: Path, count: int) -> tuple[Tensor, ...]:
    """Padded inputs as JetClass_full.yaml of the public examples makes them (arXiv:2202.03772)."""
    with uproot.open(path) as file:
        tree = file["tree"]
        particle = {name: tree[f"part_{name}"].array(entry_stop=count) for name in _BRANCHES}
        jet = {name: tree[f"jet_{name}"].array(entry_stop=count) for name in ("pt", "energy")}
    pt, energy = np.hypot(particle["px"], particle["py"]), particle["energy"]
    scaled = [
        (np.log(pt) - 1.7) * 0.7,
        (np.log(energy) - 2.0) * 0.7,
        (np.log(pt / jet["pt"]) + 4.7) * 0.7,
        (np.log(energy / jet["energy"]) + 4.7) * 0.7,
        (np.hypot(particle["deta"], particle["dphi"]) - 0.2) * 4,
    ]
    identity = [particle[name] for name in _BRANCHES[6:12]]
    displacement = [np.tanh(particle["d0val"]), particle["d0err"], np.tanh(particle["dzval"]), particle["dzerr"]]
    points = [particle["deta"], particle["dphi"]]
    return (
        _padded(points, -1e9, 1e9),
        torch.cat([_padded(scaled, -5, 5), _padded(identity, -5, 5), _padded(displacement, -1, 1), _padded(points, -5, 5)], dim=1),
        _padded([particle[name] for name in ("px", "py", "pz", "energy")], -1e9, 1e9),
        _padded([ak.ones_like(pt)], 0, 1),
    )


_BRANCHES = (
    "px", "py", "pz", "energy", "deta", "dphi", "charge", "isChargedHadron", "isNeutralHadron", "isPhoton", "isElectron", "isMuon",
    "d0val", "d0err", "dzval", "dzerr",
)  # fmt: skip


def _padded(variables: list[ak.Array], low: float, high: float) -> Tensor:
    dense = [ak.to_numpy(ak.fill_none(ak.pad_none(values, 128, clip=True), 0)).clip(low, high) for values in variables]
    return torch.from_numpy(np.stack(dense, axis=1).astype(np.float32))
