"""Create the trainer of a run on one rank, with its network, optimizer and batches."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from weaver_tasks.data.loading.loader import EpochLoader
    from weaver_tasks.jobs.epoch_chain import EpochChain
    from weaver_tasks.networks.loading import Network
    from weaver_tasks.training.epoch import Trainer


def make_trainer(chain: EpochChain, device: torch.device) -> Trainer:
    """A trainer with the network of this run, its optimizer and its data, on one rank."""
    from weaver_tasks.networks.weights import load_weights
    from weaver_tasks.training.epoch import Trainer
    from weaver_tasks.training.step import Task, TrainStep
    from weaver_tasks.weaver_compat.adapter import custom_epoch
    from weaver_tasks.weaver_compat.imports import configured_network

    arguments, settings = chain.arguments, chain.settings
    network = configured_network(arguments.network, chain.configuration.weaver, settings)
    load_weights(network.model, None, freeze=settings.network.freeze_weights)
    network.model.to(device)
    open_batches = _opener(chain, device, own_loop=network.train_fn is not None)
    optimizer, clip, scheduler = _optimizer(chain, network, open_batches)
    task_of = Task.of(network, chain.configuration, chain.training, device)
    engine = TrainStep(task=task_of, model=network.model, optimizer=optimizer, clip_grad_norm=clip, scheduler=scheduler)
    return Trainer(
        engine=engine,
        journal=chain.journal,
        seed=settings.seed,
        open_batches=open_batches,
        describe=lambda batch: describe_batch(batch, chain.manifest),
        board_folder=arguments.checkpoints.parent / "tensorboard",
        custom=custom_epoch(network, engine, chain.configuration) if network.train_fn is not None else None,
    )


def _opener(chain: EpochChain, device: torch.device, *, own_loop: bool) -> Callable[[int, Any], EpochLoader]:
    """A function that opens the batches of an epoch: (epoch, stream position or None) -> loader.

    own_loop: the network has its own loop, which always gets padded inputs.
    """
    from weaver_tasks.data.loading.buffers import BufferPool
    from weaver_tasks.data.loading.loader import EpochLoader
    from weaver_tasks.data.loading.parts import OpenFiles
    from weaver_tasks.training.device import batch_memory
    from weaver_tasks.training.distributed import rank, world_size

    settings = chain.settings
    buffers = BufferPool(batch_memory(device))
    files = OpenFiles(chain.manifest, chain.configuration, custom_functions=chain.arguments.custom_functions)

    def open_batches(epoch: int, position: Any) -> EpochLoader:
        return EpochLoader(
            chain.manifest,
            chain.configuration,
            settings,
            split="train",
            seed=settings.seed,
            epoch=epoch,
            rank=rank(),
            world_size=world_size(),
            position=position,
            threads=settings.loading.num_workers,
            files=files,
            buffers=buffers,
            pad=own_loop or not settings.loading.pad_on_device,
        )

    return open_batches


def _optimizer(
    chain: EpochChain, network: Network, open_batches: Callable[[int, Any], EpochLoader]
) -> tuple[torch.optim.Optimizer, float, Any]:
    """The optimizer, the maximum norm of the gradients, and the scheduler if the network's init_opt creates one."""
    from weaver_tasks.training.optimizers import build_optimizer
    from weaver_tasks.weaver_compat.adapter import optimizer_of_network

    training = chain.training
    if network.init_opt is not None:
        return optimizer_of_network(network, training, steps=open_batches(chain.epochs[0].epoch, None).steps)
    chosen = training.optimizer
    built = build_optimizer(network.model, chosen.name, chosen.options, lr=training.lr, compiled_step=training.compile_optimizer)
    return built.optimizer, built.clip_grad_norm, None


def describe_batch(batch: Any, manifest: dict[str, Any]) -> str:
    """A text with the first few files and entries of a batch."""
    parts = []
    for index in dict.fromkeys(batch.file.tolist()):
        entries = batch.entry[batch.file == index].tolist()
        shown = ", ".join(map(str, entries[:5])) + (" …" if len(entries) > 5 else "")
        parts.append(f"{manifest['files'][index]['source']} entries {shown}")
    return "; ".join(parts[:5]) + (f"; and {len(parts) - 5} files more" if len(parts) > 5 else "")
