"""What befalls jobs on a cluster: each fault strikes a real Slurm job in the middle of its second epoch, and ends in the same weights.

The faults strike at the same time, each in a run of its own: most of the time is waiting.
"""

import os
import signal
import subprocess
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

pytestmark = [pytest.mark.slow, pytest.mark.slurm, pytest.mark.filterwarnings("default")]

TRAINED = "results/small/metrics/train_epoch-1.json"
ON_SLURM = ("--workflow-profile", "slurm", TRAINED)


def slurm(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def until_held(run, *options):
    """Start the run; return Snakemake and the job, which waits in its second epoch."""
    (run.folder / "hold").touch()
    snakemake = run.start(*ON_SLURM, *options)
    run.wait_for((run.folder / "held").exists, "the second epoch", of=snakemake)
    (job,) = run.jobs()
    return snakemake, job


def let_go(run):
    (run.folder / "hold").unlink()


def finish(run, snakemake):
    assert snakemake.wait(timeout=300) == 0, run.output()


def strike(run, *command, ends_the_job=True):
    """Let the job be struck by a command about it, and Snakemake mend that."""
    snakemake, job = until_held(run)
    slurm(*(part.replace("JOB", job) for part in command))
    if ends_the_job:
        run.wait_for(lambda: job not in run.jobs(), f"the end of job {job}")
    let_go(run)
    finish(run, snakemake)


def cancelled(run):
    strike(run, "scancel", "JOB")


def out_of_time(run):
    # As when the limit that the job was submitted with is reached: Slurm says TIMEOUT.
    strike(run, "scontrol", "update", "JobId=JOB", "EndTime=now+1")


def start_at_once(run, job):
    """Slurm holds a job back for two minutes after it put it into the queue again."""
    run.wait_for(lambda: slurm("squeue", "--noheader", "--jobs", job, "--format", "%T") == "PENDING", f"job {job} in the queue")
    slurm("scontrol", "update", f"JobId={job}", "StartTime=now")


def requeued(run):
    snakemake, job = until_held(run)
    (run.folder / "held").unlink()
    slurm("scontrol", "requeue", job)
    start_at_once(run, job)
    run.wait_for((run.folder / "held").exists, "the requeued job", of=snakemake)
    assert run.jobs() == [job]
    let_go(run)
    finish(run, snakemake)


def out_of_memory(run):
    (run.folder / "hog").touch()
    snakemake, job = until_held(run, "--set-resources", "train_epoch:mem_mb=1400*attempt")
    let_go(run)
    run.wait_for(lambda: job not in run.jobs(), f"the end of job {job}")
    (run.folder / "hog").unlink()
    finish(run, snakemake)


def node_failed(run):
    snakemake, job = until_held(run)
    (run.folder / "held").unlink()
    node = slurm("squeue", "--noheader", "--jobs", job, "--format", "%N")
    slurm("scontrol", "update", f"NodeName={node}", "State=DOWN", "Reason=test")
    start_at_once(run, job)
    try:
        run.wait_for((run.folder / "held").exists, "the job on another node", of=snakemake)
    finally:
        slurm("scontrol", "update", f"NodeName={node}", "State=RESUME")
    let_go(run)
    finish(run, snakemake)


def interrupted(run):
    """Ctrl-C cancels the jobs; started again, the run goes on."""
    snakemake, _ = until_held(run)
    os.killpg(snakemake.pid, signal.SIGINT)
    assert snakemake.wait(timeout=120) != 0
    run.wait_for(lambda: run.jobs() == [], "the cancellation of the jobs")
    let_go(run)
    run.run(*ON_SLURM)


def snakemake_killed(run):
    """SIGKILL of Snakemake leaves its job behind; started again, the run ends that one and goes on."""
    snakemake, job = until_held(run)
    snakemake.send_signal(signal.SIGKILL)
    snakemake.wait()
    assert run.jobs() == [job]
    # Still held: only that its workflow was replaced can end this job.
    (run.folder / "held").unlink()
    snakemake = run.start(*ON_SLURM)
    run.wait_for(lambda: job not in run.jobs(), f"the end of job {job}", of=snakemake)
    run.wait_for((run.folder / "held").exists, "the second epoch", of=snakemake)
    let_go(run)
    finish(run, snakemake)


AT_ONCE = [cancelled, out_of_time, out_of_memory, requeued, interrupted, snakemake_killed]


@pytest.fixture(scope="module")
def struck(cluster, prepared, tmp_path_factory, request):
    """Gives the run that a fault has struck. The faults that are tested at all strike at once."""
    tested = [item.callspec.params.get("fault") for item in request.session.items if hasattr(item, "callspec")]
    folder = tmp_path_factory.mktemp("faults")

    def strike_one(fault):
        run = prepared.copy(folder / fault.__name__)
        fault(run)
        return run

    with ThreadPoolExecutor(max_workers=3) as pool:
        futures = {fault: pool.submit(strike_one, fault) for fault in AT_ONCE if fault in tested}
        # A failing node takes the jobs of others with it: it comes when they have ended.
        yield lambda fault: futures[fault].result() if fault in futures else strike_one(fault)


@pytest.mark.parametrize("fault", [*AT_ONCE, node_failed], ids=lambda fault: fault.__name__)
def test_a_fault_ends_in_the_same_weights(struck, reference, fault):
    run = struck(fault)
    for epoch in (0, 1):
        assert run.weights(epoch).keys() == reference.weights(epoch).keys()
        assert all(torch.equal(run.weights(epoch)[name], value) for name, value in reference.weights(epoch).items())
    # The first epoch was finished before the fault: it was not trained again.
    assert run.record()["epochs_from_journal"] == [0]
    assert run.record()["trained_epochs"] == [1]
