"""The workflow as a Snakemake module of another one: one run, two runs side by side, a rule changed, what cannot work."""

import gc
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from weaver_tasks.plan import Plan, SettingsFile, make_plan

SNAKEFILE = """
configfile: "both.yaml"

module first:
    snakefile: "{repository}/workflow/Snakefile"
    config: config["first"]

use rule * from first as first_*

module second:
    snakefile: "{repository}/workflow/Snakefile"
    config: config["second"]

use rule * from second as second_*

use rule init_model from second as second_init_model with:
    resources:
        mem_mb=1234

onstart:
    first.start_run()
    second.start_run()

rule compare:
    default_target: True
    input: rules.first_all.input, rules.second_all.input
    output: "comparison.txt"
    shell: "ls {input} > {output}"
"""


@pytest.fixture
def other(tmp_path, repository, jets) -> Path:
    """A folder outside the repository with a Snakefile that uses two runs: epochs and files in blocks, and one by one."""
    one = {
        "run": "one",
        "data": {
            "config": str(repository / "config/data/demo.yaml"),
            "train": {"all": str(jets / "train" / "*.root")},
            "test": {"higgs": [str(jets / "test" / "HToBB.root"), str(jets / "test" / "HToCC.root")]},
        },
        "network": {"config": str(repository / "config/networks/pfn.py"), "options": {"Phi_sizes": [8], "F_sizes": [8]}},
        "staging": {"files_per_job": 5},
        "training": {"epochs": 2, "epochs_per_job": 2, "threads": 1, "batch_size": 100},
    }
    two = {**one, "run": "two", "seed": 2, "staging": {}, "training": {**one["training"], "epochs_per_job": 1}}
    (tmp_path / "both.yaml").write_text(yaml.safe_dump({"first": one, "second": two}))
    (tmp_path / "Snakefile").write_text(SNAKEFILE.replace("{repository}", str(repository)))
    return tmp_path


def plan_of(folder: Path, run: str) -> Plan:
    return make_plan(yaml.safe_load((folder / "both.yaml").read_text())[run], where="both.yaml")


def snakemake(folder: Path, *options: str, code: int = 0) -> str:
    done = subprocess.run([sys.executable, "-m", "snakemake", "--cores", "2", *options], cwd=folder, capture_output=True, text=True)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_two_runs_are_planned_side_by_side(other):
    planned = snakemake(other, "--dry-run", "--printshellcmds", "--set-threads", "first_train_epoch=2", "second_stage_inputs=2")
    for run, name in (("one", "first"), ("two", "second")):
        assert f"rule {name}_standardize:" in planned
        assert f"--output results/{run}/standardization.json" in planned
    assert "rule first_train_epoch_0_to_1:" in planned
    # Ten training files and two of the test: in jobs of five, and one by one.
    assert planned.count("rule first_stage_inputs:") == 2 + 1
    assert planned.count("rule second_stage_inputs:") == 10 + 2
    assert "rule second_train_epoch:" in planned
    commands = [line for line in planned.splitlines() if "-m weaver_tasks.init_model" in line]
    assert len(commands) == 2
    slice_of_two = plan_of(other, "second").settings("init_model")
    assert slice_of_two["seed"] == 2
    expected = SettingsFile("init_model", slice_of_two, folder="results/two", writes=lambda: False).path
    assert f"--settings {expected} " in next(line for line in commands if "results/two/" in line)
    assert not (other / "results").exists()
    assert "mem_mb=1234" in planned


def test_what_a_profile_says_of_training_holds_for_blocks(other):
    """In a module, under the name that the host gives to `train_epoch`."""
    said = ("first_train_epoch:slurm_partition=gpu", "first_train_epoch:mem_mb=4000*attempt", "first_validate_epoch:runtime=7")
    planned = snakemake(other, "--dry-run", "--set-resources", *said, "--set-threads", "first_train_epoch=2")
    jobs = {match[1]: match[2] for match in re.finditer(r"^rule (\w+):\n((?:    .*\n)+)", planned, re.MULTILINE)}
    trained, validated = jobs["first_train_epoch_0_to_1"], jobs["first_validate_epoch_0_to_1"]
    assert "mem_mb=4000" in trained
    assert "slurm_partition=gpu" in trained
    assert "threads: 2" in trained
    assert "runtime=7" in validated
    assert "slurm_partition" not in validated
    assert "slurm_partition" not in jobs["second_train_epoch"]


@pytest.mark.slow
def test_two_runs_go_to_the_end_and_then_nothing_is_left(other):
    snakemake(other)
    for run in ("one", "two"):
        files = json.loads((other / "results" / run / "files.json").read_text())["files"]
        assert len(files) == 12
        assert (other / "results" / run / "export" / "model.onnx").exists()
    assert "ro-crate-metadata.json" in (other / "comparison.txt").read_text()
    assert "Nothing to be done" in snakemake(other)
    # What only changes speed makes no task run again but the last one, which records the whole configuration.
    config = yaml.safe_load((other / "both.yaml").read_text())
    config["first"]["loading"] = {"num_workers": 2}
    (other / "both.yaml").write_text(yaml.safe_dump(config))
    again = set(re.findall(r"^(?:local)?rule (\w+):", snakemake(other), re.MULTILINE))
    assert again == {"first_provenance", "compare"}
    snakemake(other, "--report", "report.html")
    assert (other / "report.html").stat().st_size > 100_000


def test_commands_take_nothing_from_the_globals(repository):
    """They would be those of the workflow that uses this one."""
    for chapter in (repository / "workflow" / "rules").glob("*.smk"):
        for line in chapter.read_text().splitlines():
            if 'f"' not in line and "f'" not in line:
                assert not re.search(r"\{[A-Z_]{2,}", line), f"{chapter.name}: {line}"


def test_a_mistake_is_an_error_of_the_workflow_that_makes_it(other):
    """As Snakemake tells it: the process is the host's, and is neither ended nor tuned by the module."""
    (other / "Snakefile").write_text(
        (other / "Snakefile")
        .read_text()
        .replace("module first:", "import atexit, gc\n\natexit.register(lambda: print('ended', gc.get_threshold()))\n\nmodule first:")
    )
    default = f"ended {gc.get_threshold()}"
    assert default in snakemake(other, "--dry-run")
    config = yaml.safe_load((other / "both.yaml").read_text())
    config["second"]["training"]["epoch"] = 3
    (other / "both.yaml").write_text(yaml.safe_dump(config))
    said = snakemake(other, "--dry-run", code=1)
    assert [line for line in said.splitlines() if "unknown key" in line] == [
        "both.yaml: unknown key 'training.epoch'. Did you mean: epochs?"
    ]
    assert "Traceback" not in said
    assert default in said


def test_a_prefix_is_refused(other):
    text = (other / "Snakefile").read_text()
    (other / "Snakefile").write_text(text.replace('config: config["first"]', 'config: config["first"]\n    prefix: "elsewhere"'))
    said = snakemake(other, "--dry-run", code=1)
    assert "both.yaml: the module has a prefix. Take it out" in said


def test_two_modules_of_one_run_are_told_apart(other):
    config = yaml.safe_load((other / "both.yaml").read_text())
    config["second"]["run"] = "one"
    (other / "both.yaml").write_text(yaml.safe_dump(config))
    said = snakemake(other, "--dry-run", code=1)
    assert "both.yaml: run: two modules have the run 'one', and would write the same files" in said


MAKES_ITS_INPUTS = """
configfile: "config.yaml"

module tagger:
    snakefile: "{repository}/workflow/Snakefile"
    config: config["tagger"]

use rule * from tagger as tagger_*

onstart:
    tagger.start_run()

rule ntuple:
    input: "{jets}/train/{name}.root"
    output: "ntuples/{name}.root"
    shell: "cp {input} {output}"

rule limits:
    default_target: True
    input: rules.tagger_all.input
    output: "limits.txt"
    shell: "ls {input} > {output}"
"""


@pytest.fixture
def made(other, repository, jets) -> Path:
    """A workflow whose own rule makes the training files."""
    config = yaml.safe_load((other / "both.yaml").read_text())["second"]
    config["data"]["train"] = {"all": [f"ntuples/{name}.root" for name in ("HToBB", "HToCC", "ZJetsToNuNu")]}
    config["data"]["config"] = "data.yaml"
    data = yaml.safe_load((repository / "config/data/demo.yaml").read_text())
    classes = ["label_Hbb", "label_Hcc", "label_QCD"]
    data["labels"]["value"] = classes
    data["weights"] |= {"reweight_classes": classes, "class_weights": [1, 1, 1]}
    (other / "data.yaml").write_text(yaml.safe_dump(data, sort_keys=False))  # the network takes its inputs in their order
    (other / "config.yaml").write_text(yaml.safe_dump({"tagger": {**config, "training": {**config["training"], "epochs": 1}}}))
    (other / "Snakefile").write_text(MAKES_ITS_INPUTS.replace("{repository}", str(repository)).replace("{jets}", str(jets)))
    return other


def test_inputs_that_a_rule_of_the_host_makes_are_planned(made):
    planned = snakemake(made, "--dry-run")
    assert planned.count("rule ntuple:") == 3
    assert "input: ntuples/HToBB.root" in planned
    config = yaml.safe_load((made / "config.yaml").read_text())
    config["tagger"]["data"]["train"] = {"all": "ntuples/*.root"}
    (made / "config.yaml").write_text(yaml.safe_dump(config))
    said = snakemake(made, "--dry-run", code=1)
    assert "Files that a rule makes are listed by their paths, without wildcards." in said


@pytest.mark.slow
def test_inputs_that_a_rule_of_the_host_makes_are_trained_on(made):
    snakemake(made)
    assert "ro-crate-metadata.json" in (made / "limits.txt").read_text()
    inputs = json.loads((made / "results/two/inputs.json").read_text())["files"]
    assert {file["source"] for file in inputs if file["split"] == "train"} == {
        f"ntuples/{n}.root" for n in ("HToBB", "HToCC", "ZJetsToNuNu")
    }
    assert "Nothing to be done" in snakemake(made)


@pytest.mark.slow
def test_a_host_that_does_not_start_the_run_is_told(made):
    text = (made / "Snakefile").read_text()
    (made / "Snakefile").write_text(text.replace("onstart:\n    tagger.start_run()\n", ""))
    said = snakemake(made, code=1)
    assert "results/two/files.json: is missing" in said
    assert "start_run()" in said
