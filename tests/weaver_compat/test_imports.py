"""Unchanged network files of weaver's users run, with weaver-core installed or not."""

import functools
import importlib
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from weaver_tasks.base.errors import NetworkError
from weaver_tasks.networks.loading import import_network, load_network
from weaver_tasks.weaver_compat import imports
from weaver_tasks.weaver_compat.imports import WeaverImports

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
    network = load_network(file, data_configuration, use_amp=True, imports=WeaverImports())
    assert type(network.model.mod).__module__ == "weaver_tasks.networks.particle_transformer.model"
    assert network.model(*batch).shape == (64, 10)
    assert network.model.no_weight_decay() == {"mod.cls_token"}


def test_the_user_chooses(file: Path, data_configuration: SimpleNamespace) -> None:
    pytest.importorskip("weaver")
    theirs = load_network(file, data_configuration, imports=WeaverImports("weaver-core")).model.mod
    ours = load_network(file, data_configuration, imports=WeaverImports("own")).model.mod
    assert type(theirs).__module__ == "weaver.nn.model.ParticleTransformer"
    assert type(ours).__module__ == "weaver_tasks.networks.particle_transformer.model"
    again = load_network(file, data_configuration, imports=WeaverImports("weaver-core")).model.mod
    assert type(again) is type(theirs)
    with pytest.raises(NetworkError, match=r"network\.weaver_imports: 'mine' is not known\. Use own or weaver-core"):
        load_network(file, data_configuration, imports=WeaverImports("mine"))  # type: ignore[arg-type]


def test_weaver_core_that_is_not_installed_is_told(
    file: Path, data_configuration: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(imports.PathFinder, "find_spec", lambda *_: None)
    with pytest.raises(NetworkError, match="weaver-core is not installed"):
        load_network(file, data_configuration, imports=WeaverImports("weaver-core"))


def test_every_name_resolves() -> None:
    imports.choose("own")
    for module, given in imports.MODULES.items():
        alias, names = importlib.import_module(module), given()
        assert alias.__all__ == sorted(name for name in names if not name.startswith("_"))
        for name, value in names.items():
            found = getattr(alias, name)
            assert found is value or isinstance(value, functools.partial), f"{module}.{name}"


def test_every_name_of_weaver_core_is_here_or_known_to_be_left_out() -> None:
    pytest.importorskip("weaver")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # weaver-core's own
        theirs = {name: importlib.import_module(name) for name in imports.MODULES if name.startswith("weaver")}
    for name, module in theirs.items():
        names = {each for each in vars(module) if not each.startswith("__")} - {"data", "nn", "utils", "model", "loss", "logger", "tools"}
        submodules = {each.rpartition(".")[2] for each in sys.modules if each.rpartition(".")[0] == name}
        missing = names - submodules - imports.MODULES[name]().keys() - imports.LEFT_OUT.get(name, frozenset())
        assert not missing, name


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("from utils.nn.model.ParticleNet import ParticleNetTagger as Net", "particle_net_tagger"),
        ("import utils.nn.model.ParticleNet as pn; Net = pn.ParticleNet", "particle_net"),
        ("from utils.nn.model.ParticleNeXt import *; Net = ParticleNeXtTagger; nn.Linear", "particle_next_taggers"),
    ],
)
def test_the_layout_before_weaver_core_is_known(tmp_path: Path, line: str, name: str) -> None:
    path = tmp_path / "net.py"
    path.write_text(
        f"{line}\nfrom utils.logger import _logger\nfrom utils.nn.tools import _concat, AllGather\n_logger.info('x', color='bold')\n"
    )
    assert import_network(path, imports=WeaverImports()).Net.__module__ == f"weaver_tasks.networks.{name}"


def test_a_users_own_utils_come_first(tmp_path: Path) -> None:
    old, own = tmp_path / "old", tmp_path / "own"
    (own / "utils").mkdir(parents=True)
    old.mkdir()
    (old / "net.py").write_text("from utils.nn.tools import _concat\n")
    (own / "utils" / "__init__.py").write_text("")
    (own / "utils" / "mine.py").write_text("WIDTH = 3\n")
    (own / "net.py").write_text("from utils.mine import WIDTH\nfrom utils.nn.model.ParticleNet import ParticleNet\n")
    try:
        import_network(old / "net.py", imports=WeaverImports())
        assert import_network(own / "net.py", imports=WeaverImports()).WIDTH == 3
    finally:
        for name in [name for name in sys.modules if name.partition(".")[0] == "utils"]:
            del sys.modules[name]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("from weaver.nn.model.ParticleNetJittable import X", r"fork, https://github\.com/colizz/weaver-core-dev: copy that module"),
        ("from utils.nn.model.ParticleNetGlobal import X", r"No module named .*fork, https://github\.com/HephyAnalysisSW/ParticleNet4EFT"),
        ("from weaver.utils.nn.tools_domain import X", r"fork, https://github\.com/SWuchterl/weaver-core"),
        ("from weaver.nn.model.PlainTransformer import X", r"a development version of weaver-core: install that one"),
        (
            "from weaver.nn.model.ParticleTransformer import Attention",
            r"it, this project has not: set network\.weaver_imports",
        ),
        ("from utils.nn.model.ParticleTransformer import named_apply", r"weaver-core has it, this project has not"),
        ("from weaver.utils.dataset import SimpleIterDataset", r"weaver-core has it, this project has not"),
        ("from weaver.utils.nn.tools import train_hybrid", r"weaver-core has no such name: if a fork of it has, copy that"),
        ("from weaver.nn.model.ParticleNett import ParticleNet", r"Did you mean: weaver\.nn\.model\.ParticleNet"),
        ("from weaver.nn.model.ParticleNet import ParticleNett", r"net\.py: .*Did you mean: ParticleNet, .*weaver_imports to weaver-core"),
        ("import torchh", r"No module named 'torchh'\. Install it, or correct the import"),
    ],
)
def test_a_name_that_is_not_here_is_told_with_whose_it_is(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "net.py"
    path.write_text(f"{line}\n")
    with pytest.raises(NetworkError, match=message) as told:
        import_network(path, imports=WeaverImports())
    assert ".." not in str(told.value)


def test_a_warning_is_given_so_many_times(caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(5):
        imports.warn_n_times("said thrice", n=3)
    assert caplog.text.count("said thrice") == 3


def test_the_two_halves_of_a_particle_transformer_are_weavers(batch: tuple[Tensor, ...]) -> None:
    """As the public Sophon model calls them, for class tokens, a global token and an average."""
    theirs = pytest.importorskip("weaver.nn.model.ParticleTransformer")
    from weaver_tasks.networks.particle_transformer.model import ParticleTransformer

    _, features, vectors, mask = batch
    for options in ({}, {"include_global_token": True, "num_cls_layers": 0}, {"num_cls_layers": 0}):
        small = {"num_layers": 2, "num_heads": 2, "embed_dims": [16], "pair_embed_dims": [8], **options}
        models = [kind(input_dim=17, num_classes=3, **small) for kind in (ParticleTransformer, theirs.ParticleTransformer)]
        models[0].load_state_dict(models[1].state_dict())
        found = []
        for model in models:
            model.double().eval()
            assert (model.use_amp, model.for_inference) == (False, False)
            with torch.no_grad():
                x, padding = model._forward_encoder(features.double(), v=vectors.double(), mask=mask.double().bool())
                found.append((x.masked_fill(padding.unsqueeze(2), 0), padding, model._forward_aggregator(x, padding)))
        for ours, expected in zip(*found, strict=True):
            torch.testing.assert_close(ours, expected, atol=1e-9, rtol=1e-9)


def test_restoring_gives_back_what_is_installed() -> None:
    before = {name: module for name, module in sys.modules.items() if name.partition(".")[0] == "weaver"}
    imports.choose("own")
    stand_in = importlib.import_module("weaver.nn.loss.focal")
    assert "stand-in" in (stand_in.__doc__ or "")
    imports.restore()
    assert {name: module for name, module in sys.modules.items() if name.partition(".")[0] == "weaver"} == before


def test_files_named_by_path_are_imported(tmp_path: Path, data_configuration: SimpleNamespace) -> None:
    (tmp_path / "base_network.py").write_text(FILE)
    path = tmp_path / "net.py"
    path.write_text(
        "import os\nfrom weaver.utils.import_tools import import_module\n"
        "get_model = import_module(os.path.join(os.path.dirname(__file__), 'base_network.py'), 'base').get_model\n"
    )
    assert isinstance(load_network(path, data_configuration, imports=WeaverImports()).model, torch.nn.Module)
