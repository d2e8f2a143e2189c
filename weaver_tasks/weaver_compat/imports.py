"""Resolve `from weaver… import …` in users' files to the implementations of this project.

Network configurations written for weaver import its models and helpers. With the choice "own", these imports give
the implementations of this project, whether weaver-core is installed or not. With "weaver-core" they give the installed package.
The module names before weaver-core (`utils.nn.model.ParticleNet`) are supported too, unless the user has modules of these names.
"""

from __future__ import annotations

import copy
import functools
import importlib.util
import itertools
import logging
import math
import random
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

from weaver_tasks.base.errors import NetworkError, did_you_mean
from weaver_tasks.networks.loading import Network, import_network, load_network
from weaver_tasks.settings.model import NetworkSettings
from weaver_tasks.settings.stage import StageSettings

Choice = Literal["own", "weaver-core"]


class _Logger(logging.LoggerAdapter):
    """A logger that accepts weaver's `color` argument and ignores it."""

    def process(self, msg: Any, kwargs: Any) -> tuple[Any, Any]:
        kwargs.pop("color", None)
        return msg, kwargs


_logger = _Logger(logging.getLogger("weaver_tasks.network"))


@functools.cache
def _counter(message: str) -> Iterator[int]:
    return itertools.count()


def warn_n_times(message: str, n: int = 10, logger: Any = _logger) -> None:
    """Log a warning, at most n times for the same message."""
    if next(_counter(message)) < n:
        logger.warning(message)


def import_module(path: str, name: str = "_mod") -> ModuleType:
    """Execute the Python file `path` as a module. `name` is accepted for compatibility; the name of the file is used."""
    return import_network(path, imports=WeaverImports())


def _names(home: ModuleType, *names: str, **renamed: str) -> dict[str, Any]:
    """The attributes of `home` that weaver calls `names`, or `renamed` (weaver's name=name in `home`)."""
    return {name: getattr(home, here) for name, here in ({name: name for name in names} | renamed).items()}


def _torch_names() -> dict[str, Any]:
    """Names that weaver's network modules import themselves. Users' files get them from there by `import *`."""
    import numpy
    import torch

    nn, functional = torch.nn, torch.nn.functional
    return {"torch": torch, "nn": nn, "F": functional, "np": numpy, "math": math, "random": random, "partial": functools.partial}


def _particle_net() -> dict[str, Any]:
    from weaver_tasks.networks import particle_net, particle_net_tagger
    from weaver_tasks.networks.layers import neighbors, pair_features, trimming

    return {
        **_torch_names(),
        **_names(particle_net, "ParticleNet", "EdgeConvBlock"),
        **_names(particle_net_tagger, "ParticleNetTagger", "FeatureConv"),
        **_names(neighbors, "knn", "pairwise_distance", "pairwise_distance_etaphi"),
        **_names(trimming, "SequenceTrimmer"),
        **_names(pair_features, "delta_phi"),
        "_logger": _logger,
    }


def _particle_transformer() -> dict[str, Any]:
    from torch.nn.init import trunc_normal_

    from weaver_tasks.networks import particle_transformer_taggers
    from weaver_tasks.networks.layers import pair_features, trimming
    from weaver_tasks.networks.particle_transformer import block, layers, model, pair_embedding

    of_pairs = ("pairwise_lv_fts", "pairwise_lv_fts_ee", "pairwise_lv_fts_pp", "pairwise_lv_fts_xyzt")
    return {
        **_torch_names(),
        **_names(model, "ParticleTransformer"),
        **_names(particle_transformer_taggers, "ParticleTransformerTagger", "ParticleTransformerTaggerWithExtraPairFeatures"),
        **_names(layers, "DropPath", "Embed", "LayerScale", "RMSNorm", "SwiGLUFFN"),
        **_names(block, "Block"),
        **_names(pair_embedding, "PairEmbed", "build_sparse_tensor"),
        **_names(trimming, "SequenceTrimmer"),
        **_names(pair_features, *of_pairs, "boost", "delta_phi", "delta_r2", "p3_norm", "to_m2", "to_p2", "to_pt2", "to_ptrapphim"),
        "copy": copy,
        "trunc_normal_": trunc_normal_,
        "_logger": _logger,
    }


def _particle_next() -> dict[str, Any]:
    from weaver_tasks.networks import particle_next_taggers
    from weaver_tasks.networks.layers import neighbors, pair_features
    from weaver_tasks.networks.particle_next import model

    return {
        **_torch_names(),
        **_names(model, "ParticleNeXt"),
        **_names(particle_next_taggers, "ParticleNeXtTagger"),
        **_names(pair_features, "boost", "delta_phi", "delta_r2", "p3_norm", "to_m2", "to_pt2", "to_ptrapphim"),
        **_names(neighbors, "pairwise_distance", "pairwise_distance_etaphi"),
    }


def _focal_loss() -> dict[str, Any]:
    from weaver_tasks.networks.layers import losses

    return {**_names(losses, "FocalLoss", "focal_loss"), **{name: _torch_names()[name] for name in ("torch", "nn", "F")}}


def _tools() -> dict[str, Any]:
    import time
    from collections import Counter, defaultdict

    import awkward
    import numpy
    import torch
    import tqdm

    from weaver_tasks.weaver_compat import loops

    modules = {"ak": awkward, "np": numpy, "torch": torch, "dist": torch.distributed, "tqdm": tqdm, "time": time}
    loop_names = ("train_classification", "evaluate_classification", "train_regression", "evaluate_regression", "evaluate_onnx")
    other_names = ("AllGather", "evaluate_metrics", "get_autocast_config", "get_tensorboard_helper", "unwrap_model")
    return {
        **modules,
        **_names(loops, *loop_names, *other_names, "_flatten_label", "_flatten_preds", "_concat"),
        "Counter": Counter,
        "defaultdict": defaultdict,
        "_logger": _logger,
    }


def _metrics() -> dict[str, Any]:
    import numpy

    from weaver_tasks.weaver_compat import loops

    return {**_names(loops, "evaluate_metrics", "roc_auc_score_ovo", "confusion_matrix"), "np": numpy, "_logger": _logger}


def _array_functions() -> dict[str, Any]:
    import awkward
    import numpy

    from weaver_tasks.data.expressions import array_functions
    from weaver_tasks.data.expressions.grammar import HELPERS, RANDOM_HELPERS

    functions = {name: getattr(array_functions, name[1:]) for name in HELPERS}
    functions |= {name: functools.partial(functions[name], random=numpy.random) for name in RANDOM_HELPERS}
    return {**functions, "ak": awkward, "np": numpy}


# weaver's modules and functions that return their names. They import on demand, since some networks take a second. Packages have no names.
_WEAVER: dict[str, Callable[[], dict[str, Any]]] = {
    "weaver": dict,
    "weaver.nn": dict,
    "weaver.nn.model": dict,
    "weaver.nn.model.ParticleNet": _particle_net,
    "weaver.nn.model.ParticleTransformer": _particle_transformer,
    "weaver.nn.model.ParticleNeXt": _particle_next,
    "weaver.nn.loss": dict,
    "weaver.nn.loss.focal": _focal_loss,
    "weaver.utils": dict,
    "weaver.utils.logger": lambda: {"_logger": _logger, "warn_n_times": warn_n_times},
    "weaver.utils.import_tools": lambda: {"import_module": import_module},
    "weaver.utils.nn": dict,
    "weaver.utils.nn.tools": _tools,
    "weaver.utils.nn.metrics": _metrics,
    "weaver.utils.data": dict,
    "weaver.utils.data.tools": _array_functions,
}


def _before_weaver_core(name: str) -> str:
    """The name of a module before weaver-core, when all modules were below `utils`."""
    return f"utils{name.removeprefix('weaver').removeprefix('.utils')}"


MODULES = _WEAVER | {_before_weaver_core(name): names for name, names in _WEAVER.items()}

# Names of weaver-core that network files do not need. They are missing here, and a file that imports one gets a clear error.
LEFT_OUT: dict[str, frozenset[str]] = {
    "weaver.nn.model.ParticleNet": frozenset({"gather", "get_graph_feature"}),
    "weaver.nn.model.ParticleTransformer": frozenset(
        {"Any", "Attention", "Callable", "Optional", "Tuple", "drop_path", "init_weights_vit_moco", "init_weights_vit_timm", "named_apply"}
        | {"numbers", "to_cos_sin_angles", "to_cylindrical", "to_energy_momentum", "to_spherical", "tril_indices"}
        | {"_canonical_mask", "_none_or_dtype"}
    ),
    "weaver.nn.model.ParticleNeXt": frozenset(
        {"MultiScaleEdgeConv", "SqueezeAndExcitation1d", "SqueezeAndExcitation2d", "atan2", "gather", "gather_edges"}
        | {"get_graph_feature", "knn", "pairwise_lv_fts", "to_xyzt"}
    ),
    "weaver.nn.loss.focal": frozenset({"Optional", "one_hot"}),
    "weaver.utils.logger": frozenset({"ColoredLogger", "_configLogger", "_warning_counter", "logging", "os", "sys"}),
    "weaver.utils.import_tools": frozenset({"module_from_spec", "spec_from_file_location"}),
    "weaver.utils.nn.tools": frozenset({"TensorboardHelper", "_tb_global_helper"}),
    "weaver.utils.nn.metrics": frozenset({"_get_metric", "_m", "_metric_dict", "partial", "traceback"}),
    "weaver.utils.data.tools": frozenset(
        {"_batched_fused_constant_pad", "_batched_fused_repeat_pad", "_fused_pad_and_stack", "_get_content_and_offsets"}
        | {"_pad_jagged_kernel", "_repeat_pad_jagged_kernel", "numba"}
    ),
}
# Modules of weaver-core that network files do not need.
_LEFT_OUT_MODULES = (
    "weaver.train", "weaver.utils.dataset", "weaver.utils.flops_counter", "weaver.utils.lr_finder", "weaver.utils.convert_to_parquet",
    "weaver.utils.data.config", "weaver.utils.data.preprocess", "weaver.utils.data.fileio", "weaver.utils.data.eval_utils",
    "weaver.utils.nn.optimizer",
)  # fmt: skip

# Modules that public forks of weaver have added, and that their network files import.
_FORKS = {
    "colizz/weaver-core-dev": ("weaver.networks", "weaver.nn.model.ParticleNetJittable", "weaver.utils.nn.scheduler"),
    "doloresgarcia/weaver-core": (
        "weaver.nn.data", "weaver.nn.model.GAT_net", "weaver.nn.model.GCN", "weaver.nn.model.GIN_net", "weaver.nn.model.GatedGCN",
        "weaver.nn.model.SAN", "weaver.nn.model.graph_transformer_net", "weaver.nn.model.graph_transformer_net_edges",
        "weaver.nn.model.graphgps", "weaver.nn.model.layers", "weaver.nn.model.lgatr", "weaver.nn.model.mo_net",
        "weaver.nn.model.simpleMLP", "weaver.utils.logger_wandb", "weaver.utils.nn.interactions", "weaver.utils.nn.interactions_ee",
        "weaver.utils.nn.tools_graphs", "weaver.utils.nn.tools_san", "weaver.utils.parser_args", "weaver.utils.trainer_utils",
    ),
    "SWuchterl/weaver-core": ("weaver.utils.nn.tools_domain",),
    "HephyAnalysisSW/ParticleNet4EFT": (
        "utils.nn.model.ParticleNetGlobal", "utils.nn.model.ParticleNetNN", "utils.nn.model.ParticleNetOriginal",
        "utils.nn.model.ParticleNetTopDecay", "utils.nn.model.ParticleNet_Lena", "utils.predict",
    ),
    "zichunhao/weaver": (
        "utils.nn.model.IN", "utils.nn.model.ParticleNetNoSV", "utils.nn.model.ParticleNetPyG", "utils.nn.model.ParticleNetPyGHetero",
        "utils.nn.model.ParticleNetPyGJittable",
    ),
    "farakiko/weaver": ("utils.nn.model.ParticleNetMET", "utils.nn.model.ParticleNetPyG_met"),
}  # fmt: skip
# Modules in development branches of weaver-core that are in no release on PyPI.
_DEVELOPED = (
    "weaver.nn.model.LGATr", "weaver.nn.model.LGATrSlim", "weaver.nn.model.LLoCaTransformer", "weaver.nn.model.PlainTransformer",
    "weaver.nn.model.PointTransformerV3", "weaver.nn.model.gatr", "weaver.nn.model.ParticleEdge", "weaver.nn.model.ParticleEdgeNeXt",
    "weaver.nn.model.ParticleEdgeNet", "weaver.nn.model.ParticleEdgeNew",
)  # fmt: skip


@dataclass(frozen=True)
class WeaverImports:
    """The import hook of `networks.loading` for `weaver…`: this project's stand-ins ("own"), or the installed weaver-core."""

    choice: Choice = "own"

    @classmethod
    def of(cls, section: NetworkSettings) -> WeaverImports:
        """The hook chosen by `network.weaver_imports` of config.yaml."""
        return cls(section.weaver_imports)

    def install(self) -> None:
        choose(self.choice)

    def remedy(self, error: ImportError) -> str | None:
        return remedy(error, self.choice)


def configured_network(path: str | Path, data_configuration: Any, settings: StageSettings) -> Network:
    """Call `load_network` for training with the sections network and training of config.yaml."""
    return load_network(
        path,
        data_configuration,
        settings.network.options,
        use_amp=settings.training.amp is not None,
        compile_model=bool(settings.training.compile),
        imports=WeaverImports.of(settings.network),
    )


def choose(choice: Choice) -> None:
    """Make `import weaver…` mean this project ("own") or the installed weaver-core from now on, in the whole process.

    Raises NetworkError if weaver-core is chosen but not installed, or the choice is unknown.
    """
    if choice not in ("own", "weaver-core"):
        raise NetworkError(f"network.weaver_imports: '{choice}' is not known. Use own or weaver-core.")
    _forget_old_layout()
    if choice == "own":
        if _FINDER not in sys.meta_path:
            _swap_modules()
            sys.meta_path.insert(0, _FINDER)
            sys.meta_path.append(_OLD_LAYOUT)
        return
    restore()
    if PathFinder.find_spec("weaver") is None:
        raise NetworkError("network.weaver_imports: weaver-core is not installed. Run `pip install weaver-core`, or use own.")


def restore() -> None:
    """Remove the alias, so that `import weaver` imports the installed package again, if there is one."""
    if _FINDER in sys.meta_path:
        sys.meta_path.remove(_FINDER)
        sys.meta_path.remove(_OLD_LAYOUT)
        _swap_modules()
        _forget_old_layout()


def remedy(error: ImportError, choice: Choice = "own") -> str | None:
    """The remedy for a failed import, as the end of a message, which says where the name belongs. None if it is not part of weaver."""
    module = error.name or ""
    missing = re.search(r"cannot import name '(\w+)'", str(error))
    fork = next((fork for fork, modules in _FORKS.items() if _below(module, modules)), None)
    if fork is not None:
        return f". It is of a fork, https://github.com/{fork}: copy that module beside the network configuration and import the copy."
    if choice == "weaver-core" and module.partition(".")[0] == "utils":
        return ". It is the layout before weaver-core: set network.weaver_imports to own, or import from weaver."
    if module not in MODULES and module.partition(".")[0] != "weaver":
        return None
    if choice == "weaver-core":
        return ". The installed weaver-core has it not: install the version that has, or copy it beside the network configuration."
    if _below(module, _DEVELOPED):
        return ". It is of a development version of weaver-core: install that one, and set network.weaver_imports to weaver-core."
    known = next((name for name in _WEAVER if module in (name, _before_weaver_core(name))), module)
    if _below(module, _LEFT_OUT_MODULES) or (missing and missing[1] in LEFT_OUT.get(known, ())):
        return ". weaver-core has it, this project has not: set network.weaver_imports to weaver-core, with weaver-core installed."
    similar = did_you_mean(module, MODULES) if missing is None else did_you_mean(missing[1], MODULES.get(module, dict)())
    return (
        f".{similar} weaver-core has no such name: if a fork of it has, copy that beside the network configuration and import the copy, "
        "or install the fork and set network.weaver_imports to weaver-core."
    )


def _below(module: str, modules: Iterable[str]) -> bool:
    """Whether a module is one of `modules` or a submodule of one."""
    return any(module == other or module.startswith(f"{other}.") for other in modules)


class _AliasFinder(MetaPathFinder, Loader):
    """Finds weaver's modules before installed ones, and fills them with names of this project."""

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if fullname.partition(".")[0] != "weaver":
            return None
        if fullname not in MODULES:
            raise ModuleNotFoundError(f"No module named '{fullname}' among this project's stand-ins for weaver", name=fullname)
        return self.spec(fullname)

    def spec(self, fullname: str) -> ModuleSpec | None:
        return importlib.util.spec_from_loader(fullname, self, is_package=MODULES[fullname] is dict)

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return ModuleType(spec.name, f"This project's stand-in for {spec.name}.")

    def exec_module(self, module: ModuleType) -> None:
        names = MODULES[module.__name__]()
        # Export all public names, as weaver's modules do, which define no __all__.
        module.__dict__.update(names, __all__=sorted(name for name in names if not name.startswith("_")))


class _OldLayoutFinder(MetaPathFinder):
    """Finds modules by their names before weaver-core if no other finder does, since the user may have a `utils` too."""

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        return _FINDER.spec(fullname) if fullname.partition(".")[0] == "utils" and fullname in MODULES else None


_FINDER = _AliasFinder()
_OLD_LAYOUT = _OldLayoutFinder()
# Modules named weaver… of the choice that is not active.
_ASIDE: dict[str, ModuleType] = {}


def _swap_modules() -> None:
    in_use = {name: module for name, module in sys.modules.items() if name.partition(".")[0] == "weaver"}
    for name in in_use:
        del sys.modules[name]
    sys.modules.update(_ASIDE)
    _ASIDE.clear()
    _ASIDE.update(in_use)


def _forget_old_layout() -> None:
    """Forget imported `utils…` modules, since another network configuration may have its own modules of these names."""
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] == "utils" and getattr(module, "__loader__", None) is _FINDER:
            del sys.modules[name]
