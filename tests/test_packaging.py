"""environment.yml, pyproject.toml and requirements.lock say the same; what is made of the models follows them."""

import re
import runpy
import subprocess
import sys
import tomllib

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

CONDA_NAMES = {"pytorch": "torch", "matplotlib-base": "matplotlib", "python-xxhash": "xxhash"}


@pytest.fixture(scope="module")
def project(repository):
    return tomllib.loads((repository / "pyproject.toml").read_text())["project"]


@pytest.fixture(scope="module")
def locked(repository):
    lines = (repository / "requirements.lock").read_text().splitlines()
    pins = [Requirement(line) for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(pin.name): str(pin.specifier).removeprefix("==") for pin in pins}


def test_environment_lists_what_pyproject_needs(repository, project):
    listed = yaml.safe_load((repository / "environment.yml").read_text())["dependencies"]
    specifiers = {}
    for entry in [*[e for e in listed if isinstance(e, str)], *next(e["pip"] for e in listed if isinstance(e, dict))]:
        if match := re.fullmatch(r"([A-Za-z0-9-]+) ?(>=.*)", entry):
            specifiers[canonicalize_name(CONDA_NAMES.get(match[1], match[1]))] = match[2]
    assert specifiers.pop("python") == project["requires-python"]
    wanted = {canonicalize_name(r.name): str(r.specifier) for r in map(Requirement, project["dependencies"])}
    assert specifiers == wanted


def test_lock_satisfies_pyproject_and_its_extras(project, locked):
    extras = [line for name in project["optional-dependencies"] for line in project["optional-dependencies"][name]]
    for requirement in map(Requirement, [*project["dependencies"], *extras]):
        name = canonicalize_name(requirement.name)
        if name != canonicalize_name(project["name"]):
            assert name in locked, f"{name} is not in requirements.lock"
            assert locked[name] in SpecifierSet(str(requirement.specifier)), f"{name} {locked[name]}"


def test_what_is_made_of_the_models_of_the_configurations_is_up_to_date(repository):
    for name, text in runpy.run_path(str(repository / "docs" / "generated_files.py"))["generated"]().items():
        assert (repository / name).read_text() == text, f"{name}: run: python docs/generated_files.py"


def test_the_workflow_imports_neither_numpy_nor_torch():
    code = "import sys, weaver_tasks.plan; sys.exit(' '.join({'numpy', 'torch', 'awkward', 'numba'} & set(sys.modules)) or None)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_layers_hold(repository):
    done = subprocess.run([f"{sys.prefix}/bin/lint-imports", "--no-cache"], cwd=repository, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_pre_commit_runs_the_locked_linters(repository, locked):
    repositories = yaml.safe_load((repository / ".pre-commit-config.yaml").read_text())["repos"]
    revisions = {entry["hooks"][0]["id"]: entry["rev"] for entry in repositories if "rev" in entry}
    assert revisions == {"ruff-check": f"v{locked['ruff']}", "snakefmt": f"v{locked['snakefmt']}", "mypy": f"v{locked['mypy']}"}
