"""Create the network of a run before its first step: load and freeze weights, or continue an earlier training."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from weaver_tasks.base.errors import ConfigError
from weaver_tasks.settings.stage import StageSettings

if TYPE_CHECKING:
    import torch

    from weaver_tasks.data.configuration import DataConfiguration
    from weaver_tasks.networks.loading import Network

logger = logging.getLogger("weaver_tasks")


def fresh_network(settings: StageSettings, configuration: DataConfiguration, path: Path) -> tuple[Network, torch.optim.Optimizer | None]:
    """The initial network of a run with loaded and frozen weights, and its optimizer (None if the network's own init_opt creates it).

    settings: those of the rule. Raises a WeaverTasksError if network, weights and optimizer do not fit each other or the data.
    """
    from weaver_tasks.networks.weights import load_weights
    from weaver_tasks.training.device import compiled, seed_generators
    from weaver_tasks.training.optimizers import build_optimizer
    from weaver_tasks.weaver_compat.imports import configured_network

    chosen, optimizer = settings.network, settings.training.optimizer
    seed_generators(settings.seed, "model")
    network = configured_network(path, configuration.weaver, settings)
    load_weights(
        network.model,
        chosen.load_weights,
        exclude=chosen.exclude_weights,
        freeze=chosen.freeze_weights,
    )
    compiled(network.model, settings.training)  # does not compile yet, but reports wrong options before the first epoch
    if network.init_opt is not None:
        return network, None
    return network, build_optimizer(network.model, optimizer.name, optimizer.options, lr=settings.training.lr).optimizer


class Continued(NamedTuple):
    """The files of the continued training, its number of steps, and the state of its gradient scaler."""

    files: Sequence[Path] = ()
    global_step: int = 0
    scaler: Mapping[str, Any] | None = None


def continue_training(settings: StageSettings, network: Network, optimizer: torch.optim.Optimizer | None) -> Continued:
    """Load the state named by `training.continue_from` (of weaver, or of a run of this project) into `network` and `optimizer`.

    A run of this project may continue with other options, another learning rate or another optimizer, which then starts from its
    initial state, with a warning. Raises CheckpointError if the files belong to another network or, for weaver, to another optimizer.
    Raises ConfigError if the network creates its own optimizer.
    """
    from weaver_tasks.training import checkpoint
    from weaver_tasks.training.optimizers import take_over_state
    from weaver_tasks.weaver_compat.checkpoint import load_optimizer

    start = settings.training.continue_from
    if start is None:
        return Continued()
    state, training_state = (Path(f"{start.prefix}_epoch-{start.epoch}_{kind}.pt") for kind in ("state", "optimizer"))
    if optimizer is None:
        raise ConfigError(
            "training.continue_from: the network configuration makes its own optimizer (init_opt), whose state cannot be carried over. "
            f"Start from the weights alone: network.load_weights: {state}."
        )
    checkpoint.load_state(network.model, state)
    logger.info("continues after epoch %d of %s", start.epoch, start.prefix)
    if not checkpoint.is_training_state(checkpoint.load_tensors(training_state)):
        load_optimizer(optimizer, training_state, network.model)
        return Continued([state, training_state])
    content = checkpoint.load_training_state(training_state, state=state)
    checkpoint.restore_hidden_buffers(network.model, content["buffers"])
    if not take_over_state(optimizer, content["optimizer"]):
        logger.warning(
            "%s: of another optimizer than training.optimizer.name, or of other groups of weights (weight_decay, lr_mult, "
            "network.freeze_weights): the optimizer begins anew, from the weights of epoch %d",
            training_state,
            start.epoch,
        )
    return Continued([state, training_state], content["global_step"], content["scaler"])
