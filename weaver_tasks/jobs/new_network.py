"""A run's network before its first step: made, its weights loaded and frozen, or continued from an earlier training."""

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
    """The network of a run as it begins, with loaded and frozen weights, and its optimizer (None: the network's own init_opt makes it).

    settings: those of the rule. Raises a WeaverTasksError when network, weights and optimizer do not fit each other or the data.
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
    compiled(network.model, settings.training)  # compiles nothing yet, but tells wrong options now, not in the first epoch
    if network.init_opt is not None:
        return network, None
    return network, build_optimizer(network.model, optimizer.name, optimizer.options, lr=settings.training.lr).optimizer


class Continued(NamedTuple):
    """The files of the training that is continued, the steps that it had taken, and the state of its gradient scaler."""

    files: Sequence[Path] = ()
    global_step: int = 0
    scaler: Mapping[str, Any] | None = None


def continue_training(settings: StageSettings, network: Network, optimizer: torch.optim.Optimizer | None) -> Continued:
    """Put `network` and `optimizer` into the state that `training.continue_from` names: of weaver, or of a run of this project.

    A run of this project may go on with other options, another learning rate or another optimizer, which then begins anew, with a
    warning. Raises CheckpointError when the files are of another network, or weaver's of another optimizer; ConfigError when the
    network makes its own optimizer.
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
