"""The documentation: it builds without a warning, its reference is complete, its tutorial runs."""

import json
import re
import runpy
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from weaver_tasks.data.configuration.document import Group, Parameters


@pytest.fixture(scope="module")
def pages(repository) -> dict[str, str]:
    """The generated pages, by their path."""
    return runpy.run_path(str(repository / "docs" / "reference_pages.py"))["pages"]()


def keys(schema: dict[str, Any], prefix: str = "") -> Iterator[str]:
    for name, child in schema.get("properties", {}).items():
        yield f"{prefix}{name}"
        yield from keys(child, f"{prefix}{name}.")


@pytest.mark.parametrize(("schema", "page"), [("config", "configuration"), ("data_config", "data_configuration")])
def test_every_key_of_the_schemas_is_in_the_reference(repository, pages, schema, page):
    document = json.loads((repository / "workflow" / "schemas" / f"{schema}.schema.json").read_text())
    text = pages[f"reference/{page}.md"]
    rows = set(re.findall(r"^\| `([\w.]+)` \| .+ \| .* \| .{10,} \|$", text, re.MULTILINE))
    sections = set(re.findall(r"^## (\w+)\n\n.{10,}", text, re.MULTILINE))
    assert set(keys(document)) - rows - sections == set()
    if schema == "data_config":
        for name in (*Group.model_fields, *Parameters.model_fields):
            assert f".{name}` |" in text


def test_errors_that_the_code_gives_are_listed_with_their_remedy(pages):
    text = pages["reference/errors.md"]
    # One of each kind, and one that is put together of several strings.
    for message in (
        "no such file '&lt;…>'. Correct the path.",
        "damaged checkpoint (&lt;…>). Delete it and run again.",
        "matches no tensor from the start of its name",
        "whose state cannot be carried over. Start from the weights alone: network.load_weights: &lt;state>",
    ):
        assert message in text
    assert text.count("**Remedy:**") >= 7


def test_errors_worded_by_a_function_and_those_of_any_class_are_listed(pages):
    text = pages["reference/errors.md"]
    for message in (
        "unknown key '&lt;…>'",  # of settings.errors, which raises the class that its caller names
        "is given twice, first in line",
        "input files cannot be used, more than staging.max_bad_fraction",
        "are staged in",
    ):
        assert message in text


def test_within_backticks_nothing_is_markup(repository):
    cell = runpy.run_path(str(repository / "docs" / "reference_pages.py"))["_cell"]
    assert cell("a <b> | `<c>=4`") == "a &lt;b> \\| `<c>=4`"


def test_every_file_that_rules_write_is_among_the_artefacts(repository):
    text = (repository / "docs" / "reference" / "artefacts.md").read_text()
    written = set()
    for chapter in (repository / "workflow" / "rules").glob("*.smk"):
        written |= set(re.findall(r"\{RUN\}/([^\"]+\.\w+)\"", chapter.read_text()))
    written = {
        re.sub(r"\{+(\w+\.)?(member|TOOL_MEMBER)\}+", "", path)
        for path in written
        if not path.startswith(("logs/", "benchmarks/", "provenance/tasks/"))
    }
    assert len(written) > 20
    for path in written:
        name = Path(path).name
        stands_for = re.sub(r"\{+(\w+)\}+", lambda found: f"<{_WORDS.get(found[1], found[1])}>", name)
        assert stands_for in text or name in ("{name}.png", "{{group}}.{FORMAT}", "{group}.{FORMAT}"), path


_WORDS = {"index": "n", "name": "file"}


def test_every_command_is_listed(repository, pages):
    text = pages["reference/commands.md"]
    for path in (repository / "weaver_tasks").glob("*.py"):
        if "run_command(main)" in path.read_text():
            assert f"\n### {path.stem}\n" in text


def test_every_page_can_be_found(repository):
    listed = yaml.safe_load((repository / "mkdocs.yml").read_text())["nav"]
    written = {path.relative_to(repository / "docs").as_posix() for path in (repository / "docs").rglob("*.md")}
    assert written - set(_leaves(listed)) == set(), "add them to the nav of mkdocs.yml"


def _leaves(nav: Any) -> Iterator[str]:
    if isinstance(nav, str):
        yield nav
    else:
        for entry in nav.values() if isinstance(nav, dict) else nav:
            yield from _leaves(entry)


def test_links_to_files_lead_somewhere(repository):
    for page in [*(repository / "docs").rglob("*.md"), *repository.glob("*.md"), repository / "benchmarks" / "README.md"]:
        for target in re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", page.read_text()):
            generated = (page.parent / target).resolve().relative_to(repository / "docs").as_posix().startswith("reference/")
            assert generated or (page.parent / target).exists(), f"{page}: {target}"


@pytest.mark.slow
def test_it_builds_without_a_warning_and_loads_nothing_from_the_network(repository, tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--quiet", "--site-dir", str(tmp_path)], cwd=repository, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for page in tmp_path.rglob("*.html"):
        loaded = re.findall(r"<(?:script|link|img|iframe)[^>]+(?:src|href)=\"?(https?://[^\s\">]+)", page.read_text())
        assert loaded == [], page


def blocks(text: str) -> Iterator[tuple[str, str]]:
    """(language, code) of each fenced block."""
    yield from re.findall(r"^```(\w+)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


@pytest.mark.slow
def test_the_tutorial_runs(repository, tmp_path):
    script = [f"export PYTHONPATH='{repository}' PATH='{Path(sys.executable).parent}':$PATH", "set -euo pipefail"]
    (tmp_path / "tests").symlink_to(repository / "tests")
    for language, code in blocks((repository / "docs" / "tutorial.md").read_text()):
        if language == "sh":
            script.append(code)
        elif language == "python":
            script.append(f"python - <<'END_OF_PYTHON'\n{code}END_OF_PYTHON")
    assert len(script) > 12
    done = subprocess.run(["bash", "-c", "\n".join(script)], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    said = done.stdout + done.stderr
    assert "Nothing to be done" in said
    assert (tmp_path / "my_analysis" / "results" / "my_analysis" / "export" / "model.onnx").exists()
    assert {path.name for path in (tmp_path / "my_analysis" / "results" / "applied" / "predictions").iterdir()} == {
        "higgs.parquet",
        "other.parquet",
    }
