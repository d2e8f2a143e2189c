"""Unchanged network files of weaver's users run, with weaver-core installed or not."""

import importlib
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from weaver_tasks.base.errors import NetworkError
from weaver_tasks.networks import weaver_alias
from weaver_tasks.networks.loading import load_network

# In the shape of the public example networks of weaver's users.
FILE = """
import torch
from weaver.nn.model.ParticleTransformer import ParticleTransformer
from weaver.utils.logger import _logger


class Wrapper(torch.nn.Module):
    def __init__(self, **kwargs):
        super().__init__()
        self.mod = ParticleTransformer(**kwargs)

    @torch.jit.ignore
    def no_weight_decay(self):
        return {"mod.cls_token"}

    def forward(self, points, features, lorentz_vectors, mask):
        return self.mod(features, v=lorentz_vectors, mask=mask)


def get_model(data_config, **kwargs):
    cfg = dict(input_dim=len(data_config.input_dicts["pf_features"]), num_classes=len(data_config.label_value), num_layers=1,
               embed_dims=[16], pair_embed_dims=[8], num_heads=2, trim=True, for_inference=False)
    cfg.update(**kwargs)
    _logger.info("Model config: %s" % str(cfg))
    return Wrapper(**cfg), {
        "input_names": list(data_config.input_names),
        "input_shapes": {k: ((1,) + s[1:]) for k, s in data_config.input_shapes.items()},
        "output_names": ["softmax"],
        "dynamic_axes": {**{k: {0: "N", 2: "n_" + k.split("_")[0]} for k in data_config.input_names}, **{"softmax": {0: "N"}}},
    }
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "example.py"
    path.write_text(FILE)
    return path


def test_a_public_network_runs_on_this_projects_model(file: Path, data_configuration: SimpleNamespace, batch: tuple[Tensor, ...]) -> None:
    network = load_network(file, data_configuration, use_amp=True)
    assert type(network.model.mod).__module__ == "weaver_tasks.networks.particle_transformer.model"
    assert network.model(*batch).shape == (64, 10)
    assert network.model.no_weight_decay() == {"mod.cls_token"}


def test_the_user_chooses(file: Path, data_configuration: SimpleNamespace) -> None:
    pytest.importorskip("weaver")
    theirs = load_network(file, data_configuration, weaver_imports="weaver-core").model.mod
    ours = load_network(file, data_configuration, weaver_imports="own").model.mod
    assert type(theirs).__module__ == "weaver.nn.model.ParticleTransformer"
    assert type(ours).__module__ == "weaver_tasks.networks.particle_transformer.model"
    again = load_network(file, data_configuration, weaver_imports="weaver-core").model.mod
    assert type(again) is type(theirs)
    with pytest.raises(NetworkError, match=r"network\.weaver_imports: 'mine' is not known\. Use own or weaver-core"):
        load_network(file, data_configuration, weaver_imports="mine")  # type: ignore[arg-type]


def test_weaver_core_that_is_not_installed_is_told(
    file: Path, data_configuration: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weaver_alias.PathFinder, "find_spec", lambda *_: None)
    with pytest.raises(NetworkError, match="weaver-core is not installed"):
        load_network(file, data_configuration, weaver_imports="weaver-core")


def test_every_name_resolves() -> None:
    weaver_alias.choose("own")
    for module, homes in weaver_alias.MODULES.items():
        alias = importlib.import_module(module)
        assert bool(homes) == bool(alias.__all__)
        for name in alias.__all__:
            assert getattr(alias, name) is not None, f"{module}.{name}"


def test_restoring_gives_back_what_is_installed() -> None:
    before = {name: module for name, module in sys.modules.items() if name.partition(".")[0] == "weaver"}
    weaver_alias.choose("own")
    stand_in = importlib.import_module("weaver.nn.loss.focal")
    assert "stand-in" in (stand_in.__doc__ or "")
    weaver_alias.restore()
    assert {name: module for name, module in sys.modules.items() if name.partition(".")[0] == "weaver"} == before


def test_files_named_by_path_are_imported(tmp_path: Path, data_configuration: SimpleNamespace) -> None:
    (tmp_path / "base_network.py").write_text(FILE)
    path = tmp_path / "net.py"
    path.write_text(
        "import os\nfrom weaver.utils.import_tools import import_module\n"
        "get_model = import_module(os.path.join(os.path.dirname(__file__), 'base_network.py'), 'base').get_model\n"
    )
    assert isinstance(load_network(path, data_configuration).model, torch.nn.Module)


def test_a_name_that_does_not_exist_is_told(tmp_path: Path, data_configuration: SimpleNamespace) -> None:
    path = tmp_path / "net.py"
    path.write_text("from weaver.nn.model.ParticleNet import ParticleNett\n")
    with pytest.raises(NetworkError, match=r"net\.py: .*Did you mean: ParticleNet, .*weaver_imports to weaver-core"):
        load_network(path, data_configuration)
