"""What the README says is there: files, modules, rules, artefacts."""

import importlib.util
import re

import pytest


@pytest.fixture(scope="module")
def readme(repository):
    return (repository / "README.md").read_text()


def test_named_files_exist(readme, repository):
    named = re.findall(r"`((?:docs|config|benchmarks|tests)/[\w./-]+|[A-Z]+\.md|environment\.yml)`", readme)
    assert len(named) >= 6
    assert [name for name in named if not (repository / name).exists()] == []


def test_named_modules_exist(readme):
    modules = {*re.findall(r"python -m (weaver_tasks\.\w+)", readme), *re.findall(r"^\| `(\w+)` \|", readme, re.MULTILINE)}
    for module in modules:
        name = module if module.startswith("weaver_tasks.") else f"weaver_tasks.{module}"
        assert importlib.util.find_spec(name), name


def test_the_table_of_rules_is_complete(readme, repository):
    table = set(re.findall(r"^\| `(\w+)` \|", readme, re.MULTILINE))
    chapters = sorted((repository / "workflow" / "rules").glob("*.smk"))
    rules = {rule for chapter in chapters for rule in re.findall(r"^ *rule (\w+):", chapter.read_text(), re.MULTILINE)}
    # They gather what stage_inputs wrote, or do a part of standardize and reweight, with the same modules.
    rules = {rule for rule in rules if not rule.startswith("gather_") and not rule.endswith(("_part", "_gather"))}
    rules -= {"export", "train"}  # targets, without a task of their own
    assert table == rules
