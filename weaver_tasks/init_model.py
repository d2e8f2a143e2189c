"""Make the network and its optimizer: the state before the first epoch.

Reads the resolved data configuration and the network configuration, loads and freezes weights where `network` says so, and writes
the weights, what else a first step depends on, and the digest from which the digests of the epochs are chained.
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from weaver_tasks.base.command_line import run_command, task
from weaver_tasks.base.digests import digest, file_checksum
from weaver_tasks.base.errors import ConfigError
from weaver_tasks.base.files import write_json
from weaver_tasks.base.record import TaskRecord
from weaver_tasks.jobs.new_network import continue_training, fresh_network
from weaver_tasks.jobs.options import add_data_configuration, add_inputs, add_network
from weaver_tasks.settings.stage import StageSettings, stage_parser

if TYPE_CHECKING:
    pass

if TYPE_CHECKING:
    from weaver_tasks.networks.loading import Network

logger = logging.getLogger("weaver_tasks")


def main(argv: list[str] | None = None) -> None:
    parser = stage_parser("init_model", __doc__)
    add_data_configuration(parser)
    add_inputs(parser)
    add_network(parser)
    parser.add_argument("--state", type=Path, required=True, help="write the weights here")
    parser.add_argument("--optimizer", type=Path, required=True, help="write the state of the optimizer and the rest here")
    parser.add_argument("--metrics", type=Path, required=True, help="write the digest and the size of the model here")
    arguments = parser.parse_args(argv)
    with task(arguments) as record:
        initialize(arguments, record)


def initialize(arguments: argparse.Namespace, record: TaskRecord) -> None:
    # Torch is imported here, so that --help and errors in the arguments appear without delay.
    from weaver_tasks.data.configuration import load_data_configuration
    from weaver_tasks.training import checkpoint
    from weaver_tasks.training.epoch import first_training_state

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
    training_state = first_training_state(optimizer, network.model, start)
    training_state |= {"global_step": continued.global_step, "scaler": continued.scaler}
    checkpoint.save_training_state(arguments.optimizer, training_state, state=arguments.state)
    parameters = sum(parameter.numel() for parameter in network.model.parameters())
    trainable = sum(parameter.numel() for parameter in network.model.parameters() if parameter.requires_grad)
    checksums = {"state.pt": file_checksum(arguments.state), "optimizer.pt": file_checksum(arguments.optimizer)}
    write_json(arguments.metrics, {"parameters": parameters, "trainable_parameters": trainable, "digest": start, "checksums": checksums})
    logger.info("%s: %d parameters, %d of them trainable", arguments.network, parameters, trainable)
    for path in (arguments.state, arguments.optimizer, arguments.metrics):
        record.wrote(path)


def _check_metric(settings: StageSettings, network: Network) -> None:
    """Raises ConfigError if validation.metric is not the single number that the network's own evaluate function gives."""
    metric, own = settings.validation.metric, "loss" if settings.training.task == "regression" else "accuracy"
    if network.evaluate_fn is not None and metric not in (None, own):
        raise ConfigError(
            f"validation.metric: '{metric}': {network.path} validates by its own evaluate function, whose number is called {own}. "
            "Name that, or leave the key out."
        )


def _loaded_files(weights: Any) -> list[Path]:
    """The files of the weights, given as `file.pt` or `file.pt:prefix`."""
    given = [weights] if isinstance(weights, str) else list(weights or ())
    return [Path(name) if Path(name).exists() else Path(name.rpartition(":")[0]) for name in map(str, given)]


if __name__ == "__main__":
    run_command(main)
