"""Load a trained network or an ONNX model for scoring events."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from weaver_tasks.base.errors import ConfigError, NetworkError
from weaver_tasks.base.files import check_regular, read_json
from weaver_tasks.data.configuration import trained_on

if TYPE_CHECKING:
    import torch

    from weaver_tasks.data.configuration import DataConfiguration
    from weaver_tasks.results.predictions.scoring import Inputs, Scorer, ScorerPool
    from weaver_tasks.settings.model import NetworkSettings, TrainingSettings

logger = logging.getLogger("weaver_tasks")

_MOST_SCORERS = 8  # batches scored in parallel on a CPU; each needs memory for its layers


@dataclass(frozen=True, kw_only=True)
class Scoring:
    """The functions that score events (`scorers`), or a `network` (of `networks.loading`) with its own evaluate function.

    any_length: whether the model accepts any number of particles. ignores_padding: whether it declares that padding changes no score.
    in_threads: number of batches scored in parallel; 0: only in the calling thread.
    """

    scorers: ScorerPool | None
    network: Any = None
    any_length: bool = False
    ignores_padding: bool = False
    in_threads: int = 0


def load_scoring(
    model: Path,
    network: Path | None,
    configuration: DataConfiguration,
    training: TrainingSettings,
    options: NetworkSettings,
    device: torch.device,
    examples: Callable[[], Iterable[Inputs]],
) -> Scoring:
    """Load weights (.pt) into a network, or an ONNX model.

    network: its Python file; an ONNX model needs none. configuration: that of the training. options: the section `network` of config.yaml.
    examples: opens the inputs of some events, to find properties that an ONNX model does not declare.
    Raises a WeaverTasksError if configuration, network and model do not fit.
    """
    from weaver_tasks.results.predictions.scoring import ScorerPool

    check_regular(model)

    at_a_time = min(max(1, training.threads), _MOST_SCORERS)
    threads = max(1, training.threads // at_a_time)
    if model.suffix == ".onnx":
        from weaver_tasks.results.onnx.runtime import OnnxScorer

        onnx = OnnxScorer(model, configuration.input_names, task=training.task, threads=threads)
        _check_fits(onnx.metadata if "inputs" in onnx.metadata else None, configuration, model, source=model)
        onnx.check_shapes(
            {name: (count,) if length is None else (count, length) for name, (_, count, length) in configuration.input_shapes.items()}
        )
        onnx.decide(examples)
        pool = ScorerPool([onnx] * at_a_time, threads=threads)
        return Scoring(scorers=pool, any_length=onnx.any_length, ignores_padding=onnx.ignores_padding, in_threads=at_a_time)
    if network is None:
        raise ConfigError(f"--network is missing: {model} holds weights only. Name the network configuration.")
    beside = model.parent / trained_on.FILE
    _check_fits(read_json(beside) if beside.is_file() else None, configuration, model, source=beside)
    first = _load_network(model, network, configuration, options, device)
    if first.evaluate_fn is not None:
        return Scoring(scorers=None, network=first)
    from weaver_tasks.networks.layers.trimming import ignores_padding

    padded = [group.name for group in configuration.inputs if group.length is not None]
    any_length = any(2 in first.info["dynamic_axes"].get(name, ()) for name in padded)
    if device.type != "cpu":
        pool = ScorerPool([_scorer(first, configuration, training, device)], threads=training.threads)
        return Scoring(scorers=pool, any_length=any_length, ignores_padding=ignores_padding(first.model))
    networks = [first, *(_load_network(model, network, configuration, options, device) for _ in range(at_a_time - 1))]
    pool = ScorerPool([_scorer(each, configuration, training, device) for each in networks], threads=threads)
    return Scoring(scorers=pool, any_length=any_length, ignores_padding=ignores_padding(first.model), in_threads=at_a_time)


def _check_fits(then: Mapping[str, Any] | None, configuration: DataConfiguration, model: Path, *, source: Path) -> None:
    """Raise NetworkError if the inputs of the training of a model differ from those of the data configuration.

    then: the inputs of the training, from the file `source`. If None, the assumption is logged.
    """
    if then is None:
        logger.info("%s: nothing with it says what it was trained on. Assumed are %s", model, trained_on.assumed(configuration))
        return
    if differing := trained_on.difference(then, configuration):
        own = "" if source == model else f" ({source})"
        raise NetworkError(
            f"{model}: was trained on {differing} as in {configuration.path}{own}. Give the data configuration of its training, the "
            "data_config.auto.yaml of that run."
        )


def _load_network(model: Path, network: Path, configuration: DataConfiguration, options: NetworkSettings, device: torch.device) -> Any:
    from weaver_tasks.networks.loading import load_network
    from weaver_tasks.training import checkpoint
    from weaver_tasks.weaver_compat.imports import WeaverImports

    loaded = load_network(network, configuration.weaver, options.options, imports=WeaverImports.of(options))
    checkpoint.load_state(loaded.model, model)
    loaded.model.to(device).eval()
    return loaded


def _scorer(network: Any, configuration: DataConfiguration, training: TrainingSettings, device: torch.device) -> Scorer:
    from weaver_tasks.results.predictions.scoring import torch_scorer
    from weaver_tasks.training.device import mixed_precision

    amp = training if device.type == "cuda" else training.model_copy(update={"amp": None})
    precision = lambda: mixed_precision(amp, device)  # noqa: E731
    return torch_scorer(network.model, configuration.input_names, task=training.task, device=device, precision=precision)
