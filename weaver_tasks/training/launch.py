"""Start the ranks of a distributed task: R processes on each node (this one, or all nodes of a Slurm job).

This small launcher replaces torchrun. It does not import torch (2 s). The task takes the one-line error and the exit code of the rank
that failed first. No rank outlives the launcher. Processes that were started by torchrun or another launcher (RANK and WORLD_SIZE are
set) are recognized as ranks too.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence

from weaver_tasks.base.digests import digest
from weaver_tasks.base.errors import TrainingError
from weaver_tasks.base.lifetime import VARIABLE, end_with_workflow, name_this_process
from weaver_tasks.settings.model import TrainingSettings

_GRACE = 10.0  # seconds between asking the other ranks to end and killing them


def is_rank() -> bool:
    """Whether this process is one of the ranks of a distributed task (rather than its launcher)."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def is_first_rank() -> bool:
    return os.environ.get("RANK", "0") == "0"


def launch_ranks(stage: str, argv: Sequence[str] | None, training: TrainingSettings) -> None:
    """If a stage needs several ranks and this process is not one of them: run the ranks instead, and exit with their exit code.

    argv: arguments of the stage's main function, None for the command line. Raises TrainingError as `run_ranks`.
    """
    if is_rank() or training.ranks * training.nodes == 1:
        return
    end_with_workflow()
    given = sys.argv[1:] if argv is None else argv
    raise SystemExit(run_ranks(["-m", f"weaver_tasks.{stage}", *given], ranks=training.ranks, nodes=training.nodes))


def run_ranks(command: Sequence[str], *, ranks: int, nodes: int = 1) -> int:
    """Run `python command` once per rank and wait. Returns the exit code of the rank that failed first, or 0.

    nodes: with more than one, srun runs this function once on each node, and gives the node's number and the first node's name.
    Raises TrainingError if the Slurm job has fewer nodes than requested.
    """
    with _rendezvous(ranks, nodes) as (environment, first):
        processes = [
            subprocess.Popen(
                [sys.executable, *command],
                env={**os.environ, **environment, "RANK": str(first + local), "LOCAL_RANK": str(local), VARIABLE: name_this_process()},
            )
            for local in range(ranks)
        ]
        try:
            return _wait(processes)
        finally:
            _end(processes)


@contextlib.contextmanager
def _rendezvous(ranks: int, nodes: int) -> Iterator[tuple[dict[str, str], int]]:
    """Environment variables by which ranks find each other, and the number of the first rank of this node.

    On one node the ranks meet at a file, on several nodes at the address of the first node.
    """
    common = {"WORLD_SIZE": str(ranks * nodes), "LOCAL_WORLD_SIZE": str(ranks)}
    if nodes == 1:
        with tempfile.TemporaryDirectory(prefix="weaver-tasks-") as folder:
            if sys.platform == "linux":
                # The name of a machine may not resolve; the loopback device always works.
                common["GLOO_SOCKET_IFNAME"] = os.environ.get("GLOO_SOCKET_IFNAME", "lo")
            yield {**common, "WEAVER_TASKS_RENDEZVOUS": f"file://{folder}/ranks"}, 0
        return
    if int(os.environ.get("SLURM_NNODES", "0")) != nodes or "SLURM_NODEID" not in os.environ:
        raise TrainingError(
            f"training.nodes: {nodes}, but this task runs on {os.environ.get('SLURM_NNODES', '1')} under srun. "
            "Start it with srun on that many nodes (profiles/slurm does), or set training.nodes: 1."
        )
    job = os.environ["SLURM_JOB_ID"]
    port = 20000 + int(digest(job, os.environ.get("SLURM_STEP_ID", ""))[:6], 16) % 20000
    address = {"MASTER_ADDR": _first_host(), "MASTER_PORT": str(port), "WEAVER_TASKS_RENDEZVOUS": "env://"}
    yield {**common, **address}, int(os.environ["SLURM_NODEID"]) * ranks


def _first_host() -> str:
    listed = subprocess.run(["scontrol", "show", "hostnames", os.environ["SLURM_JOB_NODELIST"]], capture_output=True, text=True, check=True)
    return listed.stdout.split()[0]


def _wait(processes: Sequence[subprocess.Popen[bytes]]) -> int:
    """Wait until all processes succeed or one fails. Returns the exit code."""
    while True:
        codes = [process.poll() for process in processes]
        failed = [code for code in codes if code]
        if failed:
            # If several ranks have failed, prefer the one with an error of its own (2) to those that lost the connection to it.
            code = 2 if 2 in failed else failed[0]
            return code if code > 0 else 128 - code
        if all(code == 0 for code in codes):
            return 0
        time.sleep(0.05)


def _end(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    for process in processes:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
    deadline = time.monotonic() + _GRACE
    for process in processes:
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
