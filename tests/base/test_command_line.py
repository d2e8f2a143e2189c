import json
import subprocess
import sys
from pathlib import Path

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


def test_settings_that_are_no_json_are_refused(tmp_path):
    done = run(tmp_path, "--settings", "{lr: 1}")
    assert done.returncode == 2
    assert "not JSON" in done.stderr
