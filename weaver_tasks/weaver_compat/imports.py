"""`from weaver… import …` in users' files, answered by this project.

Network configurations written for weaver import its models and helpers. While the choice is "own", those imports give
this project's implementations, whether weaver-core is installed or not; with "weaver-core" they give the installed package.
"""

from __future__ import annotations

import importlib.util
import logging
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

from weaver_tasks.base.errors import NetworkError, nearest
from weaver_tasks.networks.loading import Network, import_network, load_network

Choice = Literal["own", "weaver-core"]

logger = logging.getLogger("weaver_tasks.network")


def import_module(path: str, name: str = "_mod") -> ModuleType:
    """The Python file `path`, executed as a module. `name` is taken for compatibility; the file's own name serves."""
    return import_network(path, imports=WeaverImports())


def _names(home: ModuleType, *names: str, **renamed: str) -> dict[str, Any]:
    """What weaver calls `names`, or `renamed` (its name=name here), as it is in `home`."""
    return {name: getattr(home, here) for name, here in ({name: name for name in names} | renamed).items()}


def _particle_net() -> dict[str, Any]:
    from weaver_tasks.networks import kinematics, neighbors, particle_net, particle_net_tagger, trimming

    return {
        **_names(particle_net, "ParticleNet", "EdgeConvBlock"),
        **_names(particle_net_tagger, "ParticleNetTagger", "FeatureConv"),
        **_names(neighbors, "knn", "pairwise_distance", "pairwise_distance_etaphi"),
        **_names(trimming, "SequenceTrimmer"),
        **_names(kinematics, "delta_phi"),
    }


def _particle_transformer() -> dict[str, Any]:
    from weaver_tasks.networks import (
        kinematics,
        pair_embedding,
        particle_transformer,
        particle_transformer_taggers,
        transformer_block,
        transformer_blocks,
        trimming,
    )

    pair_features = ("pairwise_lv_fts", "pairwise_lv_fts_ee", "pairwise_lv_fts_pp", "pairwise_lv_fts_xyzt")
    return {
        **_names(particle_transformer, "ParticleTransformer"),
        **_names(particle_transformer_taggers, "ParticleTransformerTagger", "ParticleTransformerTaggerWithExtraPairFeatures"),
        **_names(transformer_blocks, "DropPath", "Embed", "LayerScale", "RMSNorm", "SwiGLUFFN"),
        **_names(transformer_block, "Block"),
        **_names(pair_embedding, "PairEmbed", "build_sparse_tensor"),
        **_names(trimming, "SequenceTrimmer"),
        **_names(kinematics, *pair_features, "boost", "delta_phi", "delta_r2", "p3_norm", "to_m2", "to_p2", "to_pt2", "to_ptrapphim"),
    }


def _particle_next() -> dict[str, Any]:
    from weaver_tasks.networks import particle_next, particle_next_taggers

    return {**_names(particle_next, "ParticleNeXt"), **_names(particle_next_taggers, "ParticleNeXtTagger")}


def _focal_loss() -> dict[str, Any]:
    from weaver_tasks.networks import losses

    return _names(losses, "FocalLoss", "focal_loss")


def _tools() -> dict[str, Any]:
    from weaver_tasks.weaver_compat import loops

    loop_names = ("train_classification", "evaluate_classification", "train_regression", "evaluate_regression")
    return _names(loops, *loop_names, "_flatten_label", "_flatten_preds", "AllGather", "get_autocast_config")


def _metrics() -> dict[str, Any]:
    from weaver_tasks.weaver_compat import loops

    return _names(loops, "evaluate_metrics")


def _array_functions() -> dict[str, Any]:
    from weaver_tasks.data import helpers_arrays

    return _names(helpers_arrays, _clip="clip", _concat="concat", _hash="hash", _pad="pad", _repeat_pad="repeat_pad", _stack="stack")


# weaver's modules, and what gives their names: imported when the module is, since some networks take a second. A package has none.
MODULES: dict[str, Callable[[], dict[str, Any]]] = {
    "weaver": dict,
    "weaver.nn": dict,
    "weaver.nn.model": dict,
    "weaver.nn.model.ParticleNet": _particle_net,
    "weaver.nn.model.ParticleTransformer": _particle_transformer,
    "weaver.nn.model.ParticleNeXt": _particle_next,
    "weaver.nn.loss": dict,
    "weaver.nn.loss.focal": _focal_loss,
    "weaver.utils": dict,
    "weaver.utils.logger": lambda: {"_logger": logger},
    "weaver.utils.import_tools": lambda: {"import_module": import_module},
    "weaver.utils.nn": dict,
    "weaver.utils.nn.tools": _tools,
    "weaver.utils.nn.metrics": _metrics,
    "weaver.utils.data": dict,
    "weaver.utils.data.tools": _array_functions,
}


@dataclass(frozen=True)
class WeaverImports:
    """The import hook of `networks.loading` for `weaver…`: this project's stand-ins ("own"), or the installed weaver-core."""

    choice: Choice = "own"

    @classmethod
    def of(cls, section: Mapping[str, Any]) -> WeaverImports:
        """As `weaver_imports` of the section `network` of config.yaml says."""
        return cls(section.get("weaver_imports") or "own")

    def install(self) -> None:
        choose(self.choice)

    def remedy(self, error: ImportError) -> str | None:
        return remedy(error) if (error.name or "").partition(".")[0] == "weaver" else None


def configured_network(path: str | Path, data_configuration: Any, settings: Mapping[str, Any]) -> Network:
    """`load_network` for training, as the sections network and training of config.yaml want it."""
    chosen, training = settings.get("network") or {}, settings.get("training") or {}
    return load_network(
        path,
        data_configuration,
        chosen.get("options"),
        use_amp=training.get("amp") is not None,
        compile_model=bool(training.get("compile")),
        imports=WeaverImports.of(chosen),
    )


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
    similar = nearest(error.name or "", MODULES) if missing is None else nearest(missing[1], MODULES.get(error.name or "", dict)())
    return f"{similar} Or set network.weaver_imports to weaver-core, with weaver-core installed."


class _AliasFinder(MetaPathFinder, Loader):
    """Finds weaver's modules before any installed ones, and makes each of them as a view of this project's."""

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if fullname.partition(".")[0] != "weaver":
            return None
        if fullname not in MODULES:
            raise ModuleNotFoundError(f"No module named '{fullname}' among this project's stand-ins for weaver.", name=fullname)
        return importlib.util.spec_from_loader(fullname, self, is_package=MODULES[fullname] is dict)

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return ModuleType(spec.name, f"This project's stand-in for {spec.name}.")

    def exec_module(self, module: ModuleType) -> None:
        names = MODULES[module.__name__]()
        module.__dict__.update(names, __all__=sorted(names))


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
