"""A trained network, or an ONNX model, ready to score events."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from weaver_tasks.base.errors import ConfigError

if TYPE_CHECKING:
    import torch

    from weaver_tasks.data.configuration import DataConfiguration
    from weaver_tasks.results.predictions.scoring import Scorer, ScorerPool
    from weaver_tasks.training.settings import TrainingSettings

_MOST_SCORERS = 8  # batches scored at a time on a CPU; each holds the memory of its layers


@dataclass(frozen=True, kw_only=True)
class Scoring:
    """What scores events: `scorers`, or a network whose own evaluate function does (`network`, of `networks.loading`).

    any_length: whether the model takes any number of particles. in_threads: how many batches it scores at a time; 0: the caller's only.
    """

    scorers: ScorerPool | None
    network: Any = None
    any_length: bool = False
    in_threads: int = 0


def load_scoring(
    model: Path,
    network: Path | None,
    configuration: DataConfiguration,
    training: TrainingSettings,
    options: Mapping[str, Any],
    device: torch.device,
) -> Scoring:
    """Load weights (.pt) into a network, or an ONNX model.

    network: its Python file; an ONNX model needs none. configuration: that of the training. options: the section `network` of config.yaml.
    Raises a WeaverTasksError when configuration, network and model do not fit.
    """
    from weaver_tasks.results.predictions.scoring import ScorerPool

    at_a_time = min(max(1, training.threads), _MOST_SCORERS)
    threads = max(1, training.threads // at_a_time)
    if model.suffix == ".onnx":
        from weaver_tasks.results.onnx.runtime import OnnxScorer

        onnx = OnnxScorer(model, configuration.input_names, task=training.task, threads=threads)
        return Scoring(scorers=ScorerPool([onnx] * at_a_time, threads=threads), any_length=onnx.any_length, in_threads=at_a_time)
    if network is None:
        raise ConfigError(f"--network is missing: {model} holds weights only. Name the network configuration.")
    first = _load_network(model, network, configuration, options, device)
    if first.evaluate_fn is not None:
        return Scoring(scorers=None, network=first)
    padded = [group.name for group in configuration.inputs if group.length is not None]
    any_length = any(2 in first.info["dynamic_axes"].get(name, ()) for name in padded)
    if device.type != "cpu":
        pool = ScorerPool([_scorer(first, configuration, training, device)], threads=training.threads)
        return Scoring(scorers=pool, any_length=any_length)
    networks = [first, *(_load_network(model, network, configuration, options, device) for _ in range(at_a_time - 1))]
    pool = ScorerPool([_scorer(each, configuration, training, device) for each in networks], threads=threads)
    return Scoring(scorers=pool, any_length=any_length, in_threads=at_a_time)


def _load_network(model: Path, network: Path, configuration: DataConfiguration, options: Mapping[str, Any], device: torch.device) -> Any:
    from weaver_tasks.networks.loading import load_network
    from weaver_tasks.training import checkpoint
    from weaver_tasks.weaver_compat.imports import WeaverImports

    loaded = load_network(network, configuration.weaver, options.get("options"), imports=WeaverImports.of(options))
    checkpoint.load_state(loaded.model, model)
    loaded.model.to(device).eval()
    return loaded


def _scorer(network: Any, configuration: DataConfiguration, training: TrainingSettings, device: torch.device) -> Scorer:
    from weaver_tasks.results.predictions.scoring import torch_scorer
    from weaver_tasks.training.device import mixed_precision

    amp = training if device.type == "cuda" else dataclasses.replace(training, amp=None)
    precision = lambda: mixed_precision(amp, device)  # noqa: E731
    return torch_scorer(network.model, configuration.input_names, task=training.task, device=device, precision=precision)
