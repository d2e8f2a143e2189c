"""The code blocks of the documentation, run against files that the demo made."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import uproot
import yaml

from weaver_tasks.data.configuration import load_data_configuration
from weaver_tasks.data.events.block import StagingOptions, packed_columns
from weaver_tasks.data.staging.sources import open_source
from weaver_tasks.import_weaver.main import import_command
from weaver_tasks.jobs.parity_events import raw_inputs


def blocks(repository: Path, page: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", (repository / "docs" / page).read_text(), re.DOTALL | re.MULTILINE)


@pytest.fixture(scope="module")
def demo(tmp_path_factory, repository) -> Path:
    """The demo's results, of one epoch."""
    folder = tmp_path_factory.mktemp("demo")
    for name in ("config", "tests"):
        (folder / name).symlink_to(repository / name)
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(repository / "workflow" / "Snakefile"), "--cores", "2"]
    command += ["--configfile", "config/demo.yaml", "--config", "training={epochs: 1}"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "results" / "demo"


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_every_code_block_of_the_results_runs_on_the_demo(demo, repository, monkeypatch):
    """The loop over preprocess.json gives the scores of the prediction files."""
    monkeypatch.chdir(demo)
    code = {}
    found = blocks(repository, "results.md", "python")
    assert found
    for block in found:
        exec(block, code)
    monkeypatch.chdir(demo.parent.parent)
    manifest = json.loads((demo / "inputs.json").read_text())
    record = next(file for file in manifest["files"] if file["group"] == "higgs")
    configuration = load_data_configuration(demo / "data_config.auto.yaml")
    columns = [column.name for column in packed_columns(configuration)]
    block = open_source(record, configuration, StagingOptions.from_manifest(manifest)).read(0, record["entries"], columns)
    raw = raw_inputs(block, configuration)
    predicted = uproot.open(demo / "predictions" / "higgs.root")["Events"].arrays()
    expected = np.stack([np.asarray(predicted[name]) for name in predicted.fields if name.startswith("score_")], axis=1)
    for event in range(20):
        jet = {}
        for group in configuration.inputs:
            for place, variable in enumerate(group.variables):
                values = raw[group.name][event, place]
                jet[variable.name] = values[: np.flatnonzero(~np.isnan(raw[group.name][event]).all(axis=0))[-1] + 1]
        np.testing.assert_allclose(code["scores"](jet), expected[event], atol=1e-5)


def test_the_command_that_weaver_users_are_shown_is_imported(repository):
    command = next(block for block in blocks(repository, "for_weaver_users.md", "bash") if "import_weaver" in block)
    words = shlex.split(command.replace("\\\n", " ").splitlines()[0])
    made = import_command(words[words.index("--") + 1 :])
    assert made.todos == []
    assert yaml.safe_load(made.text)["training"]["epochs"] == 20


@pytest.mark.slow
@pytest.mark.parametrize(("number", "names"), [(0, ["tagger"]), (1, ["loose", "tight"])])
def test_the_modules_that_are_shown_are_planned(tmp_path, repository, number, names):
    text = blocks(repository, "as_a_module.md", "python")[number].replace("/path/to/weaver-tasks", str(repository))
    text = text if "configfile:" in text else f'configfile: "config.yaml"\n\n{text}'
    config = yaml.safe_load((repository / "config" / "demo.yaml").read_text())
    runs = {name: {**config, "run": "my_tagger" if name == "tagger" else name} for name in names}
    for run in runs.values():
        run["data"] = {**config["data"], "test": {"signal": config["data"]["test"]["higgs"]}}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(runs))
    for name in ("config", "tests"):
        (tmp_path / name).symlink_to(repository / name)
    (tmp_path / "Snakefile").write_text(text)
    target = ["limits.json"] if number == 0 else []
    done = subprocess.run(
        [sys.executable, "-m", "snakemake", "--cores", "1", "--dry-run", *target], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for name in names:
        assert f"rule {name}_train_epoch:" in done.stdout
