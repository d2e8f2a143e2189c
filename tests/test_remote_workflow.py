"""The whole chain on remote files: the same predictions as on local ones, no credentials in what is written, faults told in one line."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest
import uproot

from fault_server import PASSWORD, TOKEN, FaultServer
from workflow_run import CLASSES, Run
from xrootd_server import serving

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]

pytest.importorskip("aiohttp")


@pytest.fixture(scope="module")
def served(tmp_path_factory, jets):
    """A server of the training files (Hbb.root) and the test files (Hbb-test.root), and its folder."""
    folder = tmp_path_factory.mktemp("served")
    fill(folder, jets)
    server = FaultServer(folder)
    yield server, folder
    server.close()


def fill(folder, jets):
    for name, process in CLASSES.items():
        shutil.copy(jets / "train" / f"{process}.root", folder / f"{name}.root")
        shutil.copy(jets / "test" / f"{process}.root", folder / f"{name}-test.root")


def run_on(folder, repository, jets, train, test, **staging):
    run = Run(folder, repository, jets)
    run.config["training"]["epochs"] = 2
    run.config["data"] |= {"train": train, "test": {"all": test}}
    run.config |= {"staging": staging, "remote": {"silence": 2, "retries": 3, "longest_wait": 2}}
    return run


def scores(run):
    with uproot.open(run.results / "predictions" / "all.root") as file:
        return file["Events"].arrays(library="np") if "Events" in file else file[file.keys()[0]].arrays(library="np")


@pytest.fixture(scope="module")
def local(tmp_path_factory, repository, jets, served):
    _, folder = served
    train, test = ({name: f"{folder}/{name}{end}.root" for name in CLASSES} for end in ("", "-test"))
    run = run_on(tmp_path_factory.mktemp("local"), repository, jets, train, list(test.values()))
    run.snakemake()
    return scores(run)


def assert_same_scores(run, local):
    found = scores(run)
    assert found.keys() == local.keys()
    for name, values in local.items():
        assert (found[name] == values).all(), name


def with_credentials(server, *, token=TOKEN):
    protected = server.address.replace("://", f"://user:{PASSWORD}@")
    train = {
        "QCD": f"{server.address}/token/QCD.root?authz={token}",
        "Hbb": f"{protected}/password/Hbb.root",
        "Tbl": f"{server.address}/drop_once/Tbl.root",
    }
    test = [
        f"{server.address}/signed/QCD-test.root",
        f"{server.address}/busy_once/Hbb-test.root",
        f"{server.address}/slow/Tbl-test.root?X-Amz-Signature={token}",
    ]
    return train, test


@pytest.mark.parametrize("mode", ["columnar", "copy", "none"])
def test_predictions_are_those_of_local_files_and_credentials_are_nowhere(mode, served, local, tmp_path, repository, jets):
    server, _ = served
    run = run_on(tmp_path, repository, jets, *with_credentials(server), mode=mode)
    output = run.snakemake("--printshellcmds")
    assert_same_scores(run, local)
    assert "SECRET" not in output
    found = subprocess.run(["grep", "-rl", "SECRET", tmp_path / "results", tmp_path / ".snakemake"], capture_output=True, text=True)
    assert found.stdout == ""
    # Another token is the same input.
    run.config["data"] |= dict(zip(("train", "test"), with_credentials(server, token=f"{TOKEN}-fresh"), strict=True))
    run.config["data"]["test"] = {"all": run.config["data"]["test"]}
    assert run.planned() == {}


def test_predictions_over_xrootd_are_those_of_local_files(served, local, tmp_path_factory, repository, jets):
    with serving() as (address, folder, _):
        fill(folder, jets)
        train, test = ({name: f"{address}/{name}{end}.root" for name in CLASSES} for end in ("", "-test"))
        for mode in ("columnar", "copy", "none"):
            run = run_on(tmp_path_factory.mktemp(mode), repository, jets, train, list(test.values()), mode=mode)
            run.snakemake()
            assert_same_scores(run, local)


def test_a_silent_xrootd_server_is_given_up(jets):
    code = (
        "import sys; from weaver_tasks.base.remote_limits import *; set_limits(RemoteLimits(2, 1, 5))\n"
        "from weaver_tasks.data.readers.remote import remote_state; print(remote_state(sys.argv[1]))"
    )
    with serving() as (address, folder, server):
        fill(folder, jets)
        server.send_signal(signal.SIGSTOP)
        begin = time.monotonic()
        done = subprocess.run([sys.executable, "-c", code, f"{address}/Hbb.root"], capture_output=True, text=True, timeout=120)
        assert done.returncode == 1
        assert re.search(r"RemoteFileError: root://.*Hbb\.root: cannot be read: ", done.stderr.splitlines()[-1])
        assert time.monotonic() - begin < 90


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("password", "401 Unauthorized"), ("token", "403 Forbidden"), ("busy", "503 Service Unavailable"), ("too_many", "429 Too Many"),
        ("drop", "connection was lost"), ("silent", "silent for 2 s"), ("stalls", "silent for 2 s"), ("page", "web page"),
        ("no_ranges", "staging.mode: copy"), ("other_range", "other bytes"), ("cut", "knows no ranges"),
    ],
)  # fmt: skip
def test_a_fault_is_one_line_and_can_be_skipped(fault, words, served, tmp_path, repository, jets):
    server, folder = served
    bad = f"{server.address}/{fault}/Hbb.root"
    train = {name: [f"{folder}/{name}.root", *([bad] if name == "Hbb" else [])] for name in CLASSES}
    run = run_on(tmp_path, repository, jets, train, [f"{folder}/Hbb-test.root"])
    output = run.snakemake("--until", "gather_fitting_inputs", code=1)
    last = [line for line in output.splitlines() if line.startswith("ERROR: ")]
    assert len(last) >= 1
    assert bad in last[-1]
    assert words in last[-1]
    assert "Traceback" not in output
    assert "damaged" not in output
    run.config["staging"] = {"on_bad_file": "skip", "max_bad_fraction": 0.5}
    run.snakemake("--until", "gather_fitting_inputs")


def test_a_file_replaced_between_runs_is_refused_by_name(served, tmp_path, repository, jets):
    server, folder = served
    shutil.copy(folder / "Hbb.root", folder / "again.root")
    train = {name: f"{folder}/{name}.root" for name in CLASSES} | {"Hbb": f"{server.address}/right/again.root"}
    run = run_on(tmp_path, repository, jets, train, [f"{folder}/Hbb-test.root"], mode="none")
    run.snakemake("results/small/metrics/train_epoch-1.json")
    os.utime(folder / "again.root", (1_000_000_000, 1_000_000_000))
    # One epoch more opens the files again.
    run.config["training"] |= {"epochs": 3, "scheduler": {"name": "none"}}
    output = run.snakemake("results/small/metrics/train_epoch-2.json", code=1)
    assert f"{server.address}/right/again.root: was replaced on the server" in output
    # Staged again, it is compared with what was recorded, and the line says how to accept the new one.
    output = run.snakemake("--until", "gather_fitting_inputs", "--forcerun", "stage_inputs", code=1)
    told = re.search(r"if the new one is right, delete (\S+) and run again", output)
    (tmp_path / told[1]).unlink()
    run.snakemake("--until", "gather_fitting_inputs", "--forcerun", "stage_inputs")
