"""Determine how many processes a weaver command trains with, and on which devices."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace

from weaver_tasks.import_weaver.launch import Launch
from weaver_tasks.import_weaver.result import TODO


@dataclass(frozen=True, kw_only=True)
class Processes:
    """The number of ranks of the run here, and the processes of weaver.

    ranks: TODO if the command does not give their number; the comment then says what to do.
    shares: the number of GPUs among which a single weaver process split each batch (DataParallel), 1 otherwise.
    copies: the number of weaver processes that each counted their own steps, samples and batches; None if unknown.
    """

    ranks: int | str
    nodes: int
    device: str
    shares: int
    copies: int | None
    comment: str
    notes: tuple[tuple[str, str], ...]


def processes_of(options: SimpleNamespace, launch: Launch) -> Processes:
    gpus = [gpu for gpu in options.gpus.split(",") if gpu.strip()]
    device = "cpu" if not gpus else "auto"
    if launch.unknown:
        return _unknown(device, launch.unknown)
    if options.backend is None:
        if (launch.ranks or 1) * launch.nodes > 1:
            return _unknown(device, "without --backend torchrun trains one copy in each process. Give the number of ranks, or 1")
        return _one_process(gpus, device)
    if launch.ranks is None:
        return _unknown(
            device,
            f"--backend {options.backend} without a launcher does not say how many ranks (torchrun --nproc_per_node N). Give the number",
        )
    copies = launch.ranks * launch.nodes
    notes = []
    own = "nccl" if gpus else "gloo"
    if options.backend != own:
        notes.append(("--backend", f"{own} is used, as always on {'GPUs' if gpus else 'CPUs'}"))
    if gpus and gpus != [str(index) for index in range(launch.ranks)] and launch.ranks > 1:
        notes.append(
            (
                "--gpus",
                f"with --backend weaver takes the GPU of each rank's number, whatever --gpus {options.gpus} says: {launch.ranks} GPUs",
            )
        )
    return Processes(
        ranks=launch.ranks,
        nodes=launch.nodes,
        device="cuda" if gpus and copies > 1 else device,
        shares=1,
        copies=copies,
        comment="of torchrun; Snakemake starts them, without torchrun before it" if copies > 1 else "",
        notes=tuple(notes),
    )


def _unknown(device: str, comment: str) -> Processes:
    return Processes(ranks=TODO, nodes=1, device=device, shares=1, copies=None, comment=comment, notes=())


def _one_process(gpus: list[str], device: str) -> Processes:
    shares = max(1, len(gpus))
    notes = []
    if shares > 1:
        notes.append(("--gpus", "DataParallel becomes one rank per GPU: the same batches in all; batch normalization sees the whole batch"))
    if gpus and gpus != [str(index) for index in range(shares)]:
        notes.append(("--gpus", f"start Snakemake with CUDA_VISIBLE_DEVICES={','.join(gpus)} to use these GPUs"))
    return Processes(
        ranks=shares,
        nodes=1,
        device="cuda" if shares > 1 else device,
        shares=shares,
        copies=1,
        comment="weaver split each batch among these GPUs (DataParallel)" if shares > 1 else "",
        notes=tuple(notes),
    )
