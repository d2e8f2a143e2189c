"""A Slurm cluster for the tests, and runs of the small chain on it."""

import json
import os
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
import yaml

import workflow_run
from workflow_run import data_configuration

HERE = Path(__file__).parent
CLUSTER = HERE / "cluster.sh"
PATIENCE = 600  # seconds for anything that is waited for


@pytest.fixture(scope="session")
def cluster(tmp_path_factory):
    """A two-node cluster, taken down at the end; the tests are skipped, with the reason, where there can be none."""
    able = subprocess.run([CLUSTER, "can"], capture_output=True, text=True)
    if able.returncode:
        pytest.skip(f"NO SLURM TESTS: {able.stdout.strip()}")
    folder = Path(os.environ.get("CLUSTER", "/tmp/weaver-tasks-slurm"))
    up = subprocess.run([CLUSTER, "up"], capture_output=True, text=True)
    assert up.returncode == 0, up.stdout + up.stderr
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLURM_CONF", str(folder / "slurm.conf"))
        yield folder
    subprocess.run([CLUSTER, "down"], check=True)


def configuration(repository: Path, **training) -> dict:
    """Three classes, a small network, two epochs."""
    config = workflow_run.configuration(repository / "tests" / "files" / "jets", repository)
    config["staging"] = {"files_per_job": 3}
    config["network"] = {"config": str(HERE / "held_network.py")}
    config["training"] |= {"epochs": 2, "epochs_per_job": 2, **training}
    return config


class Run:
    """A working folder with a configuration, and Snakemake in it."""

    def __init__(self, folder: Path, repository: Path, **training) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.repository = folder, repository
        self.results = folder / "results" / "small"
        self.config = configuration(repository, **training)
        (folder / "data.yaml").write_text(yaml.safe_dump(data_configuration(repository), sort_keys=False))

    def copy(self, folder: Path, **training) -> "Run":
        """The same in another folder, with what has been made until now."""
        shutil.copytree(self.folder, folder, ignore=shutil.ignore_patterns("log", "slurm_logs", "locks", "incomplete"))
        copied = Run(folder, self.repository)
        copied.config = json.loads(json.dumps(self.config))
        copied.config["training"].update(training)
        return copied

    def start(self, *options: str, **environment: str) -> subprocess.Popen:
        """Start Snakemake, in a process group of its own. environment: more variables of it."""
        (self.folder / "config.yaml").write_text(yaml.safe_dump(self.config, sort_keys=False))
        command = [
            *(sys.executable, "-m", "snakemake", "--snakefile", str(self.repository / "workflow" / "Snakefile")),
            *("--configfile", "config.yaml", *options),
        ]
        environment = {**os.environ, **environment, "OMP_NUM_THREADS": "1", "XDG_CONFIG_HOME": str(self.folder / "user")}
        with (self.folder / "output.txt").open("a") as output:
            return subprocess.Popen(command, cwd=self.folder, stdout=output, stderr=output, env=environment, start_new_session=True)

    def run(self, *options: str, **environment: str) -> str:
        """Run Snakemake to its end. Returns all output so far."""
        assert self.start(*options, **environment).wait(timeout=2 * PATIENCE) == 0, self.output()
        return self.output()

    def output(self) -> str:
        return (self.folder / "output.txt").read_text()

    def jobs(self) -> list[str]:
        """The ids of this run's jobs that are in the queue."""
        listed = subprocess.run(["squeue", "--noheader", "--format", "%A|%Z"], capture_output=True, text=True, check=True).stdout
        pairs = [line.split("|") for line in listed.splitlines()]
        return [job for job, folder in pairs if folder == str(self.folder)]

    def wait_for(self, condition, what: str, of: subprocess.Popen | None = None) -> None:
        """Wait for a condition. of: the process that is to bring it about."""
        deadline = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < deadline, f"waited in vain for {what}\n{self.output()}"
            assert of is None or of.poll() is None, f"ended before {what}\n{self.output()}"
            time.sleep(0.2)

    def weights(self, epoch: int = 1) -> dict[str, torch.Tensor]:
        return torch.load(self.results / f"checkpoints/net_epoch-{epoch}_state.pt", weights_only=True)

    def record(self) -> dict:
        """What the job that trained says of itself."""
        return json.loads((self.results / "provenance/tasks/train_epoch/epoch-0-to-1.json").read_text())


@pytest.fixture(scope="session")
def prepared(tmp_path_factory, repository) -> Run:
    """All that comes before the training, made on this machine."""
    run = Run(tmp_path_factory.mktemp("prepared"), repository)
    run.run("--cores", "2", "--until", "init_model")
    return run


@pytest.fixture(scope="session")
def reference(prepared, tmp_path_factory) -> Run:
    """Trained by the local executor, undisturbed."""
    run = prepared.copy(tmp_path_factory.mktemp("reference") / "run")
    run.run("--cores", "2", "results/small/metrics/train_epoch-1.json")
    return run


@pytest.fixture(scope="session")
def two_ranks(prepared, tmp_path_factory) -> Run:
    """Trained with two ranks by the local executor."""
    run = prepared.copy(tmp_path_factory.mktemp("two_ranks") / "run", ranks=2)
    run.run("--cores", "2", "results/small/metrics/train_epoch-1.json")
    return run


@pytest.fixture(scope="session")
def played(cluster, prepared, tmp_path_factory, request):
    """Gives the run in which a scenario, a function of (prepared, folder), was played on the cluster.

    All scenarios that are tested are played at once: most of the time is waiting.
    """
    parameters = [item.callspec.params for item in request.session.items if hasattr(item, "callspec")]
    scenarios = dict.fromkeys(chosen["scenario"] for chosen in parameters if "scenario" in chosen)
    folder = tmp_path_factory.mktemp("played")
    with ThreadPoolExecutor(max_workers=3) as pool:
        runs = {scenario: pool.submit(scenario, prepared, folder / scenario.__name__) for scenario in scenarios}
        yield lambda scenario: runs[scenario].result()
