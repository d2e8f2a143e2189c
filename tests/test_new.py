"""A fresh analysis folder: that it plans and runs through the workflow as a module, and overwrites nothing."""

import ast
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import uproot
import yaml

from weaver_tasks.base.errors import InputFileError, WeaverTasksError
from weaver_tasks.new import main, write_analysis
from weaver_tasks.plan import make_plan
from weaver_tasks.settings.reading import read_config

FILES = {"config.yaml", "data.yaml", "network.py", "Snakefile", "README.md", ".gitignore", "profiles/default/config.yaml"}


def snakemake(folder: Path, *options: str) -> str:
    done = subprocess.run([sys.executable, "-m", "snakemake", "--cores", "2", *options], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_it_passes_a_dry_run(tmp_path, jets, capsys):
    folder = tmp_path / "my analysis"
    main([str(folder), "--jets", str(jets)])
    assert "Now: cd" in capsys.readouterr().out
    written = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert written >= FILES
    planned = snakemake(folder, "--dry-run", "--printshellcmds")
    assert "results/my-analysis/export/model.onnx" in planned
    # Commands are filled in with what the module's rules know.
    assert f"{sys.executable} -m weaver_tasks.standardize --data-config data.yaml" in planned


def test_the_workflow_runs_as_a_module_and_freezes_its_files(tmp_path, jets):
    write_analysis(tmp_path / "a", jets=jets)
    snakemake(tmp_path / "a", "results/a/staged/test/higgs/HToBB.json")
    assert (tmp_path / "a/results/a/staged/test/higgs/HToBB.arrow").exists()
    assert (tmp_path / "a/results/a/files.json").exists()


def test_from_an_installed_package(tmp_path, repository, jets):
    """Without a clone: with the files that pyproject.toml puts into a wheel."""
    site = tmp_path / "site"
    shutil.copytree(repository / "weaver_tasks", site / "weaver_tasks", ignore=shutil.ignore_patterns("__pycache__"))
    included = tomllib.loads((repository / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]
    for source, target in included.items():
        shutil.copytree(repository / source, site / target)
    environment = {**os.environ, "PYTHONPATH": str(site)}
    for command in (
        ["-m", "weaver_tasks.new", "a", "--jets", str(jets)],
        ["-m", "snakemake", "-n", "--directory", "a", "--snakefile", "a/Snakefile"],
    ):
        done = subprocess.run([sys.executable, *command], cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    assert str(site / "weaver_tasks" / "installed") in (tmp_path / "a" / "Snakefile").read_text()


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_it_runs_to_the_end(tmp_path, jets):
    write_analysis(tmp_path / "a", jets=jets)
    snakemake(tmp_path / "a", "--config", "training={epochs: 2}")
    results = tmp_path / "a" / "results" / "a"
    assert (results / "export" / "model.onnx").exists()
    with uproot.open(results / "predictions" / "higgs.root") as file:
        assert file["Events"].num_entries > 0


def test_files_of_a_user(tmp_path, monkeypatch):
    write_analysis(tmp_path / "a")
    monkeypatch.chdir(tmp_path / "a")
    config = read_config([Path("config.yaml")])
    for split in ("train", "test"):
        Path(f"data/{split}").mkdir(parents=True)
        for process in config["data"]["train"]:
            Path(f"data/{split}/{process}_000.root").touch()
    plan = make_plan(config, where="config.yaml")
    # One file each: the pattern of TTBar does not take those of TTBarLep.
    assert {file.group: file.source for file in plan.files_of("train")} == {
        process: f"data/train/{process}_000.root" for process in config["data"]["train"]
    }
    assert len(plan.files_of("test")) == 10


def test_numbered_files_in_a_folder_of_any_name(tmp_path, jets):
    folder = tmp_path / 'jets [13 TeV] "a"'
    for split in ("train", "test"):
        (folder / split).mkdir(parents=True)
        for path in (jets / split).iterdir():
            shutil.copy(path, folder / split / f"{path.stem}_000.root")
    write_analysis(tmp_path / "a", jets=folder)
    config = read_config([tmp_path / "a" / "config.yaml"])
    config["data"]["config"], config["network"]["config"] = str(tmp_path / "a/data.yaml"), str(tmp_path / "a/network.py")
    plan = make_plan(config, where="config.yaml")
    assert len(plan.files) == 20


def test_nothing_is_overwritten(tmp_path, jets):
    (tmp_path / "network.py").write_text("mine")
    with pytest.raises(WeaverTasksError, match=r"network\.py: exists already"):
        write_analysis(tmp_path, jets=jets)
    assert {path.name for path in tmp_path.iterdir()} == {"network.py"}
    assert (tmp_path / "network.py").read_text() == "mine"


def test_jets_that_are_not_there_are_named(tmp_path, jets):
    with pytest.raises(InputFileError, match=r"ZJetsToNuNu_\*\.root.*--jets"):
        write_analysis(tmp_path / "a", jets=jets / "train")
    assert not (tmp_path / "a").exists()


def test_the_snakefile_is_in_the_house_format(tmp_path, jets):
    snakefmt = shutil.which("snakefmt", path=str(Path(sys.executable).parent))
    if snakefmt is None:
        pytest.skip("snakefmt is not installed")
    write_analysis(tmp_path / "a", jets=jets)
    assert subprocess.run([snakefmt, "--check", str(tmp_path / "a" / "Snakefile")], capture_output=True).returncode == 0


def test_network_and_data_are_those_of_the_repository(tmp_path, repository):
    write_analysis(tmp_path / "a")
    assert ast.dump(ast.parse((tmp_path / "a/network.py").read_text())) == ast.dump(
        ast.parse((repository / "config/networks/pfn.py").read_text())
    )
    assert yaml.safe_load((tmp_path / "a/data.yaml").read_text()) == yaml.safe_load((repository / "config/data/demo.yaml").read_text())
