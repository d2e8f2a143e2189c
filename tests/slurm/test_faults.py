"""What befalls jobs on a cluster: each fault strikes a real Slurm job in the middle of its second epoch, and ends in the same weights."""

import os
import re
import signal
import subprocess

import pytest
import torch

pytestmark = [pytest.mark.slow, pytest.mark.slurm, pytest.mark.filterwarnings("default")]

PATIENCE = 600  # seconds
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
    assert snakemake.wait(timeout=PATIENCE) == 0, run.output()


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
    *_, again = re.findall(r"SLURM jobid (\d+)", run.output())
    told = slurm("scontrol", "show", "job", again)
    # Twice the shipped profile's time and the rule's memory.
    assert "TimeLimit=04:00:00" in told
    assert "mem=16G" in told


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
    assert snakemake.wait(timeout=PATIENCE) != 0
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


FAULTS = [cancelled, out_of_time, out_of_memory, requeued, interrupted, snakemake_killed]


def scenario_of(fault):
    """The fault as a scenario: it strikes a run of its own, for which all but the training is made."""

    def scenario(prepared, folder):
        run = prepared.copy(folder)
        fault(run)
        return run

    scenario.__name__ = fault.__name__
    return scenario


def assert_as_undisturbed(run, reference):
    for epoch in (0, 1):
        assert run.weights(epoch).keys() == reference.weights(epoch).keys()
        assert all(torch.equal(run.weights(epoch)[name], value) for name, value in reference.weights(epoch).items())
    # The first epoch was finished before the fault: it was not trained again.
    assert run.record()["epochs_from_journal"] == [0]
    assert run.record()["trained_epochs"] == [1]


@pytest.mark.parametrize("scenario", [scenario_of(fault) for fault in FAULTS], ids=lambda scenario: scenario.__name__)
def test_a_fault_ends_in_the_same_weights(played, reference, scenario):
    assert_as_undisturbed(played(scenario), reference)


def test_a_failed_node_ends_in_the_same_weights(cluster, prepared, reference, tmp_path):
    # Not beside other runs: their jobs would fail with the node.
    assert_as_undisturbed(scenario_of(node_failed)(prepared, tmp_path / "run"), reference)
