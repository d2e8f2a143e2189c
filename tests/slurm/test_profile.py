"""What the shipped profile would ask Slurm for. No cluster is needed."""

import re
import subprocess
import sys

import pytest

pytest.importorskip("snakemake_executor_plugin_slurm")
pytestmark = pytest.mark.slow


def planned_text(repository, tmp_path, training: str, *options: str) -> str:
    """A dry run of the demo with a changed training section."""
    (tmp_path / "change.yaml").write_text(f"training: {training}\nstaging: {{files_per_job: 10}}\n")
    command = [
        sys.executable,
        "-m",
        "snakemake",
        "--configfile",
        "config/demo.yaml",
        str(tmp_path / "change.yaml"),
        "--config",
        "run=planned",
    ]
    done = subprocess.run(
        [*command, "--dry-run", "--workflow-profile", "slurm", *options], cwd=repository, capture_output=True, text=True, check=True
    )
    return done.stdout + done.stderr


def planned(repository, tmp_path, training: str, *options: str) -> dict[str, dict[str, str]]:
    """rule -> the resources of one of its jobs."""
    output = planned_text(repository, tmp_path, training, *options)
    resources = {}
    for rule, text in re.findall(r"^ *(?:local)?rule (\w+):\n(?:    .*\n)*?    +resources: (.*)$", output, re.MULTILINE):
        resources[rule] = dict(re.findall(r"(\w+)=([^,]+)", text))
    return resources


def test_several_nodes_with_gpus_are_one_mpi_job(repository, tmp_path):
    options = ("--set-resources", "train_epoch:slurm_partition=gpu", "train_epoch:runtime=720")
    resources = planned(
        repository, tmp_path, "{device: cuda, ranks: 4, nodes: 2, threads: 2, epochs_per_job: 6}", *options
    )  # fmt: skip
    train = resources["train_epoch_0_to_5"]
    asked = {key: train[key] for key in ("gres", "nodes", "tasks", "mpi", "cpus_per_task", "tasks_per_gpu")}
    assert asked == {"gres": "gpu:4", "nodes": "2", "tasks": "2", "mpi": "srun", "cpus_per_task": "8", "tasks_per_gpu": "0"}
    # What the profile says of a stage holds for the jobs of several epochs.
    assert (train["slurm_partition"], train["runtime"]) == ("gpu", "720")
    assert "slurm_partition" not in resources["validate_epoch_0_to_5"]
    assert resources["validate_epoch_0_to_5"]["gres"] == "gpu:4"
    assert resources["predict"]["gpu"] == "1"
    assert "gpu" not in resources["standardize"]


def test_one_node_with_gpus(repository, tmp_path):
    train = planned(repository, tmp_path, "{device: cuda, ranks: 2}")["train_epoch"]
    assert train["gpu"] == "2"
    assert "mpi" not in train
    assert "gres" not in train


def test_a_cpu_job_asks_for_cpus_alone(repository, tmp_path):
    train = planned(repository, tmp_path, "{device: auto, ranks: 3, threads: 2}")["train_epoch"]
    assert train["cpus_per_task"] == "6"
    assert not {"gpu", "gres", "mpi", "nodes"} & train.keys()


@pytest.mark.parametrize("statistics", ["{}", "{files_per_job: 5}"])
def test_small_stages_that_follow_each_other_are_one_job(repository, tmp_path, statistics):
    text = planned_text(repository, tmp_path, "{}", "--config", "run=planned", f"statistics={statistics}")
    (group,) = re.findall(r"Group job preparation.*\n((?:    .*\n|\n)*)", text)
    assert sorted(re.findall(r"^    rule (\w+):", group, re.MULTILINE)) == ["init_model", "reweight", "standardize"]


def test_those_of_several_members_are_jobs_of_their_own(repository, tmp_path):
    """All in one, they would ask a node for the memory of all."""
    assert "Group job" not in planned_text(repository, tmp_path, "{}\nseeds: [1, 2]")
