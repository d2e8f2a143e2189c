"""Loading, excluding and freezing weights, with weaver's meaning; mistakes are told."""

import argparse
from pathlib import Path

import pytest
import torch
from torch import nn

from weaver_tasks.base.errors import NetworkError
from weaver_tasks.networks.weights import load_weights


def model() -> nn.Module:
    return nn.ModuleDict({"body": nn.Linear(2, 3), "fc": nn.Linear(3, 4)})


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "net_best_epoch_state.pt"
    torch.save(model().state_dict(), path)
    return path


def test_all_of_a_file(saved: Path) -> None:
    taught = model()
    report = load_weights(taught, saved)
    torch.testing.assert_close(taught.state_dict(), torch.load(saved), rtol=0, atol=0)
    assert set(report.loaded) == set(taught.state_dict())
    assert not report.missing
    assert not report.frozen


def test_below_a_prefix(saved: Path) -> None:
    taught = nn.Linear(3, 4)
    report = load_weights(taught, f"{saved}:fc")
    assert torch.equal(taught.weight, torch.load(saved)["fc.weight"])
    assert not report.unexpected


def test_several_files_the_later_ones_win(saved: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.pt"
    torch.save({"fc.bias": torch.full((4,), 7.0), "extra": torch.zeros(1)}, other)
    taught = model()
    report = load_weights(taught, [saved, other])
    assert (taught["fc"].bias == 7).all()
    assert torch.equal(taught["body"].weight, torch.load(saved)["body.weight"])
    assert report.unexpected == ("extra",)


def test_excluded_ones_keep_their_values_and_may_have_another_shape(saved: Path) -> None:
    taught = nn.ModuleDict({"body": nn.Linear(2, 3), "fc": nn.Linear(3, 9)})
    before = taught["fc"].weight.clone()
    report = load_weights(taught, saved, exclude=["fc"])
    assert torch.equal(taught["fc"].weight, before)
    assert set(report.excluded) == set(report.missing) == {"fc.weight", "fc.bias"}


def test_frozen_ones_do_not_train(saved: Path) -> None:
    taught = model()
    report = load_weights(taught, None, freeze="body,fc.b")
    assert set(report.frozen) == {"body.weight", "body.bias", "fc.bias"}
    assert [name for name, parameter in taught.named_parameters() if parameter.requires_grad] == ["fc.weight"]
    assert report.loaded == ()


@pytest.mark.parametrize(
    ("path", "options", "message"),
    [
        ("none.pt", {}, r"none\.pt: no such file"),
        ("{}:fcc", {}, r"no tensor lies below the prefix 'fcc'\. Did you mean: fc\?"),
        ("{}", {"exclude": ["bdy"]}, r"network\.exclude_weights: 'bdy' matches no tensor"),
        ("{}", {"freeze": ["head"]}, r"network\.freeze_weights: 'head' matches no tensor"),
        ("{}", {"freeze": ["("]}, r"network\.freeze_weights: '\(' is not a regular expression"),
        ("{}", {"exclude": ["body", "fc"]}, r"none of its tensors fits the model"),
    ],
)
def test_mistakes_are_told(saved: Path, path: str, options: dict[str, list[str]], message: str) -> None:
    with pytest.raises(NetworkError, match=message):
        load_weights(model(), path.format(saved), **options)


def test_another_shape_is_told(saved: Path) -> None:
    with pytest.raises(NetworkError, match=r"size mismatch for fc\.weight.*network\.exclude_weights"):
        load_weights(nn.ModuleDict({"body": nn.Linear(2, 3), "fc": nn.Linear(3, 9)}), saved)


def test_what_is_no_state_dict_is_told(tmp_path: Path) -> None:
    text, scalar = tmp_path / "text.pt", tmp_path / "scalar.pt"
    text.write_text("weights")
    torch.save(1.0, scalar)
    for path in (text, scalar):
        with pytest.raises(NetworkError, match=rf"{path.name}: .*state_dict"):
            load_weights(model(), path)


@pytest.mark.parametrize("key", ["state_dict", "model_state_dict", "model"])
def test_weights_inside_the_checkpoint_of_a_training_framework(tmp_path: Path, key: str) -> None:
    """As Lightning and others write them: beside counters, the state of optimizers and averages of the weights."""
    source, path = model(), tmp_path / "last.ckpt"
    inner = {f"net.tagger.{name}": tensor for name, tensor in source.state_dict().items()} | {"loss.weight": torch.ones(2)}
    average = {name: torch.zeros_like(tensor) for name, tensor in inner.items()}
    optimizer = torch.optim.Adam(source.parameters()).state_dict()
    torch.save({"epoch": 3, "ema": average, "optimizer_states": [optimizer], key: inner, "lr": torch.ones(1)}, path)
    taught = model()
    with pytest.raises(NetworkError, match=r"none of its tensors fits .*Its weights have the prefix 'net\.tagger': write .*:net\.tagger"):
        load_weights(taught, path)
    report = load_weights(taught, f"{path}:net.tagger")
    torch.testing.assert_close(taught.state_dict(), source.state_dict(), rtol=0, atol=0)
    assert not report.missing


def test_a_checkpoint_that_would_run_code_is_refused_with_the_remedy(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    torch.save({"state_dict": model().state_dict(), "hyper_parameters": argparse.Namespace(lr=1)}, path)
    with pytest.raises(NetworkError, match=r"would run code when it is loaded \(argparse\.Namespace\).* Save model\.state_dict"):
        load_weights(model(), path)


def test_a_checkpoint_without_weights_names_what_it_holds(tmp_path: Path) -> None:
    path = tmp_path / "optimizer.pt"
    torch.save({"state": {}, "param_groups": []}, path)
    with pytest.raises(NetworkError, match="holds the entries state, param_groups, not a state_dict of tensors"):
        load_weights(model(), path)
