"""Make the network and its optimizer: the state before the first epoch.

Reads the resolved data configuration and the network configuration, loads and freezes weights where `network` says so, and writes
the weights, what else a first step depends on, and the digest from which the digests of the epochs are chained.
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import Any

from weaver_tasks.base.command_line import run_command, stage_parser, task
from weaver_tasks.base.files import write_json
from weaver_tasks.base.hashing import digest, file_checksum
from weaver_tasks.base.record import TaskRecord

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
    from weaver_tasks.networks.loading import load_network
    from weaver_tasks.networks.weights import load_weights
    from weaver_tasks.training import checkpoint
    from weaver_tasks.training.device import seed_generators
    from weaver_tasks.training.optimizers import build_optimizer
    from weaver_tasks.training.settings import TrainingSettings
    from weaver_tasks.training.trainer import first_companion

    training = TrainingSettings.of(arguments.settings)
    network_settings = arguments.settings.get("network") or {}
    configuration = load_data_configuration(record.read(arguments.data_config), custom_functions=arguments.custom_functions)
    seed_generators(arguments.settings.get("seed", 1), "model")
    network = load_network(
        record.read(arguments.network),
        configuration.weaver,
        network_settings.get("options"),
        use_amp=training.amp is not None,
        compile_model=bool(training.compile),
        weaver_imports=network_settings.get("weaver_imports") or "own",
    )
    weights = network_settings.get("load_weights")
    load_weights(
        network.model,
        weights,
        exclude=network_settings.get("exclude_weights") or (),
        freeze=network_settings.get("freeze_weights") or (),
    )
    optimizer = None
    if network.init_opt is None:
        optimizer = build_optimizer(
            network.model, training.optimizer.get("name", "ranger"), training.optimizer.get("options") or {}, lr=training.lr
        ).optimizer
    checkpoint.save_state(arguments.state, network.model)
    start = digest(
        checkpoint.tensors_digest(network.model.state_dict()),
        arguments.settings.get("seed", 1),
        _loaded_checksums(weights),
        [network_settings.get(key) for key in ("options", "exclude_weights", "freeze_weights")],
    )
    checkpoint.save_companion(arguments.optimizer, first_companion(optimizer, network.model, start), state=arguments.state)
    parameters = sum(parameter.numel() for parameter in network.model.parameters())
    trainable = sum(parameter.numel() for parameter in network.model.parameters() if parameter.requires_grad)
    write_json(arguments.metrics, {"parameters": parameters, "trainable_parameters": trainable, "digest": start})
    logger.info("%s: %d parameters, %d of them trainable", arguments.network, parameters, trainable)
    for path in (arguments.state, arguments.optimizer, arguments.metrics):
        record.wrote(path)


def _loaded_checksums(weights: Any) -> list[str]:
    """The checksums of the files that weights come from (`file.pt` or `file.pt:prefix`)."""
    given = [weights] if isinstance(weights, str) else list(weights or ())
    paths = (Path(name) if Path(name).exists() else Path(name.rpartition(":")[0]) for name in map(str, given))
    return [file_checksum(path) for path in paths]


if __name__ == "__main__":
    run_command(main)
