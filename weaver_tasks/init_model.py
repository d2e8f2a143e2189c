"""Make the network and its optimizer: the state before the first epoch.

Reads the resolved data configuration and the network configuration, loads and freezes weights where `network` says so, and writes
the weights, what else a first step depends on, and the digest from which the digests of the epochs are chained.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from weaver_tasks.base.command_line import run_command, task
from weaver_tasks.base.digests import digest, file_checksum
from weaver_tasks.base.errors import ConfigError
from weaver_tasks.base.files import write_json
from weaver_tasks.base.record import TaskRecord
from weaver_tasks.settings.stage import StageSettings, stage_parser

if TYPE_CHECKING:
    import torch

    from weaver_tasks.data.configuration import DataConfiguration
    from weaver_tasks.networks.loading import Network

logger = logging.getLogger("weaver_tasks")


def main(argv: list[str] | None = None) -> None:
    parser = stage_parser("init_model", __doc__)
    parser.add_argument("--data-config", type=Path, required=True, help="data_config.auto.yaml")
    parser.add_argument("--custom-functions", type=Path, help="functions that the data configuration's expressions use")
    parser.add_argument("--inputs", type=Path, required=True, help="the manifest of input files")
    parser.add_argument("--network", type=Path, required=True, help="the network configuration (Python)")
    parser.add_argument("--state", type=Path, required=True, help="write the weights here")
    parser.add_argument("--optimizer", type=Path, required=True, help="write the state of the optimizer and the rest here")
    parser.add_argument("--metrics", type=Path, required=True, help="write the digest and the size of the model here")
    arguments = parser.parse_args(argv)
    with task(arguments) as record:
        initialize(arguments, record)


def initialize(arguments: argparse.Namespace, record: TaskRecord) -> None:
    # Torch is imported here, not above: --help and mistakes in the arguments do not wait for it.
    from weaver_tasks.data.configuration import load_data_configuration
    from weaver_tasks.training import checkpoint
    from weaver_tasks.training.epoch import first_companion

    network_settings = arguments.settings.network
    configuration = load_data_configuration(arguments.data_config, custom_functions=arguments.custom_functions)
    record.read_configuration(data=arguments.data_config, functions=arguments.custom_functions)
    network, optimizer = fresh_network(arguments.settings, configuration, record.read_code(arguments.network))
    _check_metric(arguments.settings, network)
    continued = continue_training(arguments.settings, network, optimizer)
    checkpoint.save_state(arguments.state, network.model)
    start = digest(
        checkpoint.tensors_digest(network.model.state_dict()),
        arguments.settings.seed,
        [file_checksum(record.read(path)) for path in _loaded_files(network_settings.load_weights)],
        [network_settings.options, network_settings.exclude_weights, network_settings.freeze_weights],
        *(file_checksum(record.read(path)) for path in continued.files),
    )
    companion = first_companion(optimizer, network.model, start)
    companion |= {"global_step": continued.global_step, "scaler": continued.scaler}
    checkpoint.save_companion(arguments.optimizer, companion, state=arguments.state)
    parameters = sum(parameter.numel() for parameter in network.model.parameters())
    trainable = sum(parameter.numel() for parameter in network.model.parameters() if parameter.requires_grad)
    write_json(arguments.metrics, {"parameters": parameters, "trainable_parameters": trainable, "digest": start})
    logger.info("%s: %d parameters, %d of them trainable", arguments.network, parameters, trainable)
    for path in (arguments.state, arguments.optimizer, arguments.metrics):
        record.wrote(path)


def _check_metric(settings: StageSettings, network: Network) -> None:
    """Raises ConfigError when the network's own evaluate function, which gives one number, does not give that of validation.metric."""
    metric, own = settings.validation.metric, "loss" if settings.training.task == "regression" else "accuracy"
    if network.evaluate_fn is not None and metric not in (None, own):
        raise ConfigError(
            f"validation.metric: '{metric}': {network.path} validates by its own evaluate function, whose number is called {own}. "
            "Name that, or leave the key out."
        )


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
    state, companion = (Path(f"{start.prefix}_epoch-{start.epoch}_{kind}.pt") for kind in ("state", "optimizer"))
    if optimizer is None:
        raise ConfigError(
            "training.continue_from: the network configuration makes its own optimizer (init_opt), whose state cannot be carried over. "
            f"Start from the weights alone: network.load_weights: {state}."
        )
    checkpoint.load_state(network.model, state)
    logger.info("continues after epoch %d of %s", start.epoch, start.prefix)
    if not checkpoint.is_companion(checkpoint.load_tensors(companion)):
        load_optimizer(optimizer, companion, network.model)
        return Continued([state, companion])
    content = checkpoint.load_companion(companion, state=state)
    checkpoint.restore_hidden_buffers(network.model, content["buffers"])
    if not take_over_state(optimizer, content["optimizer"]):
        logger.warning(
            "%s: of another optimizer than training.optimizer.name, or of other groups of weights (weight_decay, lr_mult, "
            "network.freeze_weights): the optimizer begins anew, from the weights of epoch %d",
            companion,
            start.epoch,
        )
    return Continued([state, companion], content["global_step"], content["scaler"])


def _loaded_files(weights: Any) -> list[Path]:
    """The files that weights come from (`file.pt` or `file.pt:prefix`)."""
    given = [weights] if isinstance(weights, str) else list(weights or ())
    return [Path(name) if Path(name).exists() else Path(name.rpartition(":")[0]) for name in map(str, given)]


if __name__ == "__main__":
    run_command(main)
