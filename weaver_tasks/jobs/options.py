"""Options that several commands share: the data configuration, the manifest of input files, the network configuration."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_data_configuration(parser: argparse.ArgumentParser, help: str = "data_config.auto.yaml", *, required: bool = True) -> None:
    """Add --data-config and --custom-functions. help: describes which data configuration to give."""
    parser.add_argument("--data-config", type=Path, required=required, help=help)
    parser.add_argument("--custom-functions", type=Path, help="a Python file of functions that the data configuration's expressions use")


def add_inputs(parser: argparse.ArgumentParser, help: str = "the manifest of input files", *, required: bool = True) -> None:
    """Add --inputs."""
    parser.add_argument("--inputs", type=Path, required=required, help=help)


def add_network(parser: argparse.ArgumentParser, help: str = "the network configuration (Python)", *, required: bool = True) -> None:
    """Add --network."""
    parser.add_argument("--network", type=Path, required=required, help=help)
