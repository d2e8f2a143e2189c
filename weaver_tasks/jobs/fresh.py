"""Set up the training of a run before its first step, for tools such as the profiler that do not write epochs."""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from weaver_tasks.base.errors import TrainingError
from weaver_tasks.base.record import TaskRecord
from weaver_tasks.jobs.epoch_chain import EpochChain
from weaver_tasks.jobs.options import add_data_configuration, add_inputs, add_network
from weaver_tasks.jobs.trainer import make_trainer
from weaver_tasks.settings.stage import stage_parser

if TYPE_CHECKING:
    import torch

    from weaver_tasks.settings.model import TrainingSettings
    from weaver_tasks.training.epoch import Trainer


def tool_parser(tool: str, description: str | None) -> argparse.ArgumentParser:
    """A parser with the options that identify a training."""
    parser = stage_parser(tool, description)
    parser.set_defaults(epochs=[0], validation=[])
    add_data_configuration(parser)
    add_inputs(parser)
    add_network(parser)
    parser.add_argument("--checkpoints", type=Path, required=True, metavar="FOLDER", help="where init_state.pt is")
    parser.add_argument("--metrics", type=Path, required=True, metavar="FOLDER", help="where init_model.json is")
    return parser


def fresh_trainer(arguments: argparse.Namespace, training: TrainingSettings, device: torch.device, record: TaskRecord) -> Trainer:
    """A trainer with the network of `init_model`, its optimizer and its data, on one rank. It writes nothing by itself."""
    from weaver_tasks.training import checkpoint
    from weaver_tasks.training.device import seed_generators
    from weaver_tasks.training.distributed import rank

    chain = EpochChain(arguments, training)
    record.read_configuration(data=arguments.data_config, functions=arguments.custom_functions)
    record.read_code(arguments.network)
    record.read(arguments.inputs)
    trainer = make_trainer(chain, device)
    checkpoint.load_state(trainer.engine.model, record.read(chain.journal.state(-1)))
    seed_generators(trainer.seed, arguments.stage, "rank", rank())
    return trainer


def endless_batches(trainer: Trainer) -> Iterator[Any]:
    """The batches of consecutive epochs, without end. Raises TrainingError if an epoch has no batches."""
    for epoch in itertools.count():
        batches = trainer.open_batches(epoch, None)
        if not batches.steps:
            raise TrainingError(
                f"training.batch_size: an epoch has fewer than {trainer.engine.settings.batch_size} jets a rank: not one step. Lower it."
            )
        yield from batches
