import json
import subprocess
import sys
from pathlib import Path

import pytest

STAGE = """
from pathlib import Path
from weaver_tasks.base.command_line import run_command, stage_parser, task
from weaver_tasks.base.errors import DataConfigError
from weaver_tasks.base.files import write_json
import sys

def main():
    parser = stage_parser("standardize", "A stage.")
    parser.add_argument("--input", type=Path)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    with task(arguments) as record:
        record.read(arguments.input)
        if arguments.settings.get("fail"):
            raise DataConfigError("demo.yaml: inputs.pf:\\n  no such branch 'x'. Correct it.")
        write_json(arguments.output, arguments.settings)
        record.wrote(arguments.output)

run_command(main)
"""


def run(folder: Path, *options: str):
    (folder / "in.txt").write_text("x")
    command = [
        sys.executable,
        "-c",
        STAGE,
        "--input",
        "in.txt",
        "--output",
        "out.json",
        "--log-file",
        "a.log",
        "--record",
        "r.json",
        *options,
    ]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


def test_settings_are_merged_and_recorded(tmp_path):
    done = run(tmp_path, "--settings", '{"training": {"lr": 1}}', "--settings", '{"training": {"epochs": 2}}')
    assert done.returncode == 0, done.stderr
    settings = {"training": {"lr": 1, "epochs": 2}}
    assert json.loads((tmp_path / "out.json").read_text()) == settings
    record = json.loads((tmp_path / "r.json").read_text())
    assert record["stage"] == "standardize"
    assert record["settings"] == settings
    assert list(record["inputs"]) == ["in.txt"]
    assert record["outputs"]["out.json"]["bytes"] == (tmp_path / "out.json").stat().st_size
    assert record["start"] <= record["end"]
    assert record["packages"]["numpy"]


def test_a_mistake_is_one_line_and_exit_code_2(tmp_path):
    done = run(tmp_path, "--settings", '{"fail": true}')
    assert done.returncode == 2
    assert done.stderr == "ERROR: demo.yaml: inputs.pf: no such branch 'x'. Correct it.\n"
    assert "no such branch" in (tmp_path / "a.log").read_text()
    assert not (tmp_path / "out.json").exists()
    assert not (tmp_path / "r.json").exists()


def test_settings_are_files_or_text(tmp_path):
    (tmp_path / "of the stage.json").write_text('{"training": {"lr": 1, "epochs": 3}, "seed": 5}\n')
    done = run(tmp_path, "--settings", "of the stage.json", "--settings", ' {"training": {"epochs": 2}}')
    assert done.returncode == 0, done.stderr
    settings = {"training": {"lr": 1, "epochs": 2}, "seed": 5}
    assert json.loads((tmp_path / "out.json").read_text()) == settings
    assert json.loads((tmp_path / "r.json").read_text())["settings"] == settings


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("{lr: 1}", "--settings: not JSON ("),
        ("[1]", "--settings: not a JSON object."),
        ("nowhere.json", "--settings: nowhere.json: no such file."),
        (".", "--settings: .: cannot be read ("),
        ("bad.json", "--settings: bad.json: not JSON ("),
        ("list.json", "--settings: list.json: not a JSON object."),
        ("binary.json", "--settings: binary.json: cannot be read ("),
    ],
)
def test_settings_that_are_none_are_refused(tmp_path, given, words):
    (tmp_path / "bad.json").write_text("{lr: 1}")
    (tmp_path / "list.json").write_text("[1]")
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe\x00")
    done = run(tmp_path, "--settings", given)
    assert done.returncode == 2
    assert done.stderr.startswith(f"ERROR: {words}")
    assert done.stderr.count("\n") == 1
    # It is no task yet, but its log says why.
    assert words in (tmp_path / "a.log").read_text()
    assert not (tmp_path / "out.json").exists()
