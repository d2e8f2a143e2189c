"""The import graph of the package: no circle of modules, nothing upward, also through names of modules in strings.

The layers are those of the import contract in pyproject.toml, which `lint-imports` holds; it sees neither circles within a layer nor
modules that are imported by their names.
"""

import ast
import graphlib
import tomllib

import pytest

PACKAGE = "weaver_tasks"


@pytest.fixture(scope="module")
def modules(repository):
    """Name of each module -> its syntax tree."""
    trees = {}
    for path in sorted((repository / PACKAGE).rglob("*.py")):
        name = ".".join(path.relative_to(repository).with_suffix("").parts).removesuffix(".__init__")
        trees[name] = ast.parse(path.read_text())
    return trees


@pytest.fixture(scope="module")
def imports(modules):
    """Module -> the modules that it imports, anywhere in its code; those that a string names are imports too."""
    return {name: set(_imported(tree, modules)) - {name} for name, tree in modules.items()}


@pytest.fixture(scope="module")
def layers(repository):
    """The layers of the contract, the lowest first: the parts of the package in each."""
    contracts = tomllib.loads((repository / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    contract = next(each for each in contracts if each["type"] == "layers")
    return [[part.strip() for part in layer.split("|")] for layer in reversed(contract["layers"])]


def _imported(tree, modules):
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == PACKAGE:
            for alias in node.names:
                yield f"{node.module}.{alias.name}" if f"{node.module}.{alias.name}" in modules else node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in modules)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value in modules and node.value != PACKAGE:
            yield node.value


def test_no_modules_import_each_other_in_a_circle(imports):
    try:
        list(graphlib.TopologicalSorter(imports).static_order())
    except graphlib.CycleError as error:
        pytest.fail(f"a circle: {' -> '.join(error.args[1])}")


def test_every_part_is_in_one_layer(modules, layers):
    parts = {name.split(".")[1] for name in modules if "." in name}
    placed = [part for layer in layers for part in layer]
    assert sorted(placed) == sorted(parts)


def test_nothing_is_imported_from_above_or_beside(imports, layers):
    height = {part: number for number, layer in enumerate(layers) for part in layer}
    found = [
        f"{name} imports {other}"
        for name, others in imports.items()
        for other in others
        if "." in name and "." in other
        for mine, theirs in [(name.split(".")[1], other.split(".")[1])]
        if mine != theirs and height[mine] <= height[theirs]
    ]
    assert not found, found


def test_a_circle_and_an_upward_import_would_be_found(modules):
    # The graph is not empty, and holds what the code says: one import of each kind.
    edges = {name: set(_imported(tree, modules)) for name, tree in modules.items()}
    assert f"{PACKAGE}.base.errors" in edges[f"{PACKAGE}.predict"]
    named = ast.parse(f'importlib.import_module("{PACKAGE}.predict")')
    assert set(_imported(named, modules)) == {f"{PACKAGE}.predict"}
