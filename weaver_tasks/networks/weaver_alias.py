"""`from weaver… import …` in users' files, answered by this project.

Network configurations written for weaver import its models and helpers. While the choice is "own", those imports give
this project's implementations, whether weaver-core is installed or not; with "weaver-core" they give the installed package.
Names resolve only when they are used, so that the networks import nothing of the data plane or the training engine.
"""

from __future__ import annotations

import importlib
import importlib.util
import re
import sys
from collections.abc import Mapping, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any, Literal

from weaver_tasks.base.errors import NetworkError, nearest

Choice = Literal["own", "weaver-core"]

_PARTICLE_TRANSFORMER = {
    "weaver_tasks.networks.particle_transformer.model": ("ParticleTransformer",),
    "weaver_tasks.networks.particle_transformer_taggers": (
        "ParticleTransformerTagger", "ParticleTransformerTaggerWithExtraPairFeatures",
    ),
    "weaver_tasks.networks.particle_transformer.layers": (
        "DropPath", "Embed", "LayerScale", "RMSNorm", "SwiGLUFFN",
    ),
    "weaver_tasks.networks.particle_transformer.block": ("Block",),
    "weaver_tasks.networks.particle_transformer.pair_embedding": ("PairEmbed", "build_sparse_tensor"),
    "weaver_tasks.networks.layers.trimming": ("SequenceTrimmer",),
    "weaver_tasks.networks.layers.pair_features": (
        "boost", "delta_phi", "delta_r2", "p3_norm", "pairwise_lv_fts", "pairwise_lv_fts_ee", "pairwise_lv_fts_pp",
        "pairwise_lv_fts_xyzt", "to_m2", "to_p2", "to_pt2", "to_ptrapphim",
    ),
}  # fmt: skip
_LOOPS = "weaver_tasks.training.weaver_loops"

# weaver's module -> where each of its names lives here ("name" or "name here as name there"). An empty map is a package.
MODULES: dict[str, dict[str, tuple[str, ...]]] = {
    "weaver": {},
    "weaver.nn": {},
    "weaver.nn.model": {},
    "weaver.nn.model.ParticleNet": {
        "weaver_tasks.networks.particle_net": ("ParticleNet", "EdgeConvBlock"),
        "weaver_tasks.networks.particle_net_tagger": ("ParticleNetTagger", "FeatureConv"),
        "weaver_tasks.networks.layers.neighbors": ("knn", "pairwise_distance", "pairwise_distance_etaphi"),
        "weaver_tasks.networks.layers.trimming": ("SequenceTrimmer",),
        "weaver_tasks.networks.layers.pair_features": ("delta_phi",),
    },
    "weaver.nn.model.ParticleTransformer": _PARTICLE_TRANSFORMER,
    "weaver.nn.model.ParticleNeXt": {
        "weaver_tasks.networks.particle_next.model": ("ParticleNeXt",),
        "weaver_tasks.networks.particle_next_taggers": ("ParticleNeXtTagger",),
    },
    "weaver.nn.loss": {},
    "weaver.nn.loss.focal": {"weaver_tasks.networks.layers.losses": ("FocalLoss", "focal_loss")},
    "weaver.utils": {},
    "weaver.utils.logger": {"weaver_tasks.networks.weaver_helpers": ("_logger",)},
    "weaver.utils.import_tools": {"weaver_tasks.networks.weaver_helpers": ("import_module",)},
    "weaver.utils.nn": {},
    "weaver.utils.nn.tools": {
        _LOOPS: (
            "_flatten_label", "_flatten_preds", "AllGather", "get_autocast_config",
            "train_classification", "evaluate_classification", "train_regression", "evaluate_regression",
        ),
    },
    "weaver.utils.nn.metrics": {_LOOPS: ("evaluate_metrics",)},
    "weaver.utils.data": {},
    "weaver.utils.data.tools": {
        "weaver_tasks.data.expressions.array_functions": (
            "clip as _clip", "concat as _concat", "hash as _hash", "pad as _pad", "repeat_pad as _repeat_pad", "stack as _stack",
        ),
    },
}  # fmt: skip


def choose(choice: Choice) -> None:
    """Make `import weaver…` mean this project ("own") or the installed weaver-core from here on, for the whole process.

    Raises NetworkError when weaver-core is chosen and not installed, or the choice is neither.
    """
    if choice not in ("own", "weaver-core"):
        raise NetworkError(f"network.weaver_imports: '{choice}' is not known. Use own or weaver-core.")
    if choice == "own":
        if _FINDER not in sys.meta_path:
            _swap_modules()
            sys.meta_path.insert(0, _FINDER)
        return
    if _FINDER in sys.meta_path:
        sys.meta_path.remove(_FINDER)
        _swap_modules()
    if PathFinder.find_spec("weaver") is None:
        raise NetworkError("network.weaver_imports: weaver-core is not installed. Run `pip install weaver-core`, or use own.")


def restore() -> None:
    """Take the alias away: `import weaver` means again what is installed, if anything."""
    if _FINDER in sys.meta_path:
        sys.meta_path.remove(_FINDER)
        _swap_modules()


def remedy(error: ImportError) -> str:
    """A hint for an import from weaver that failed: the nearest name that exists here."""
    missing = re.search(r"cannot import name '(\w+)'", str(error))
    if missing is None:
        return f"{nearest(error.name or '', MODULES)} Or set network.weaver_imports to weaver-core, with weaver-core installed."
    return f"{nearest(missing[1], _homes(error.name or ''))} Or set network.weaver_imports to weaver-core, with weaver-core installed."


def _homes(module: str) -> dict[str, tuple[str, str]]:
    """Each name of a module of weaver's: the module where it lives here, and its name there."""
    entries = [(home, entry.partition(" as ")) for home, names in MODULES.get(module, {}).items() for entry in names]
    return {alias or name: (home, name) for home, (name, _, alias) in entries}


class _AliasFinder(MetaPathFinder, Loader):
    """Finds weaver's modules before any installed ones, and makes each of them as a view of this project's."""

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if fullname.partition(".")[0] != "weaver":
            return None
        if fullname not in MODULES:
            raise ModuleNotFoundError(f"No module named '{fullname}' among this project's stand-ins for weaver.", name=fullname)
        return importlib.util.spec_from_loader(fullname, self, is_package=not MODULES[fullname])

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _AliasModule(spec.name, f"This project's stand-in for {spec.name}.")

    def exec_module(self, module: ModuleType) -> None:
        homes = _homes(module.__name__)
        module.__dict__["__all__"] = sorted(homes)
        module.__dict__["_homes"] = homes


class _AliasModule(ModuleType):
    """A module whose names are looked up where they live here, when they are first used."""

    def __getattr__(self, name: str) -> Any:
        homes: Mapping[str, tuple[str, str]] = self.__dict__.get("_homes", {})
        if name not in homes:
            raise AttributeError(f"module '{self.__name__}' has no '{name}' here", name=name, obj=self)
        home, name_here = homes[name]
        value = getattr(importlib.import_module(home), name_here)
        setattr(self, name, value)
        return value


_FINDER = _AliasFinder()
# The modules named weaver… that are out of use while the other choice holds.
_ASIDE: dict[str, ModuleType] = {}


def _swap_modules() -> None:
    in_use = {name: module for name, module in sys.modules.items() if name.partition(".")[0] == "weaver"}
    for name in in_use:
        del sys.modules[name]
    sys.modules.update(_ASIDE)
    _ASIDE.clear()
    _ASIDE.update(in_use)
