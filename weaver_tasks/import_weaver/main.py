"""Write the config.yaml that is equivalent to a weaver command line.

    python -m weaver_tasks.import_weaver --output config.yaml -- weaver --data-train 'a:/path/*.root' --data-config data.yaml …

The command may begin with torchrun, python -m torch.distributed.launch, python train.py, or variables (CUDA_VISIBLE_DEVICES=0,1).
What every option becomes is listed by --table, and in docs/for_weaver_users.md. Keep globs in quotes, as for weaver: they
are carried over unexpanded. What cannot be carried over is written as TODO, with what to do; the exit code is then 2.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from weaver_tasks.base.errors import ConfigError
from weaver_tasks.base.files import atomic_path
from weaver_tasks.import_weaver.command import read_command
from weaver_tasks.import_weaver.conversion import convert
from weaver_tasks.import_weaver.options import option_table
from weaver_tasks.import_weaver.writing import config_text


def main(argv: list[str] | None = None) -> None:
    given = sys.argv[1:] if argv is None else argv
    cut = given.index("--") if "--" in given else len(given)
    words = given[cut + 1 :]
    parser = argparse.ArgumentParser(
        prog="python -m weaver_tasks.import_weaver",
        usage="%(prog)s [--output config.yaml] [--run NAME] [--force] -- weaver …",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--output", default="config.yaml", metavar="FILE", help="write here (default: config.yaml; -: the terminal)")
    parser.add_argument("--run", metavar="NAME", help="the name of the run (default: after --model-prefix)")
    parser.add_argument("--force", action="store_true", help="replace FILE if there is one")
    parser.add_argument("--table", action="store_true", help="print what every option of weaver is here, and stop")
    arguments = parser.parse_args(given[:cut])
    if arguments.table:
        print(option_table(), end="")
        return
    if not words:
        parser.error("no weaver command: give it after --")
    if "--help" in words or "-h" in words:
        print("The options of weaver-core 0.5.3, and what each of them is here:\n\n" + option_table(), end="")
        return
    imported = import_command(words, run=arguments.run)
    if arguments.output == "-":
        print(imported.text, end="")
    else:
        _write(Path(arguments.output), imported.text, replace=arguments.force)
    for option, note in imported.notes:
        print(f"{option}: {note}.", file=sys.stderr)
    for option, todo in imported.todos:
        print(f"TODO {option}: {todo.rstrip('.')}.", file=sys.stderr)
    if imported.todos:
        raise ConfigError(f"{_shown(arguments.output)}: written, with {len(imported.todos)} TODO in it. Do these before the run.")
    if arguments.output != "-":
        print(f"Wrote {arguments.output}. Now: python -m weaver_tasks.check --config {arguments.output}", file=sys.stderr)


class Imported(NamedTuple):
    """The text of config.yaml; (option, what became of it) for the options that are not keys of it; and (option, what is to be done)."""

    text: str
    notes: list[tuple[str, str]]
    todos: list[tuple[str, str]]


def import_command(words: list[str], *, run: str | None = None) -> Imported:
    """A weaver command as config.yaml.

    words: the command, as a shell splits it. run: the name of the run; None: after --model-prefix.
    Raises ConfigError if the text is not a command of weaver.
    """
    made = convert(read_command(words), run=run)
    return Imported(config_text(made, words), made.notes, made.todos)


def _shown(output: str) -> str:
    return "the configuration" if output == "-" else output


def _write(path: Path, text: str, *, replace: bool) -> None:
    if path.exists() and path.read_text(encoding="utf-8", errors="replace") == text:
        return
    if path.exists() and not replace:
        raise ConfigError(f"{path}: exists already, and is of something else. Give another --output, or --force to replace it.")
    _check_run_is_new(path, yaml.safe_load(text))
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _check_run_is_new(path: Path, document: dict[str, Any]) -> None:
    """Raise ConfigError when another configuration beside `path` has the same run and other settings."""
    for other in sorted((*path.parent.glob("*.yaml"), *path.parent.glob("*.yml"))):
        if other == path or other.stat().st_size > _LARGEST:
            continue
        try:
            found = yaml.safe_load(other.read_text(encoding="utf-8"))
        except (yaml.YAMLError, ValueError, OSError):
            continue  # something else of the folder
        if isinstance(found, dict) and found.get("run") == document["run"] and {**found, "tools": None} != {**document, "tools": None}:
            raise ConfigError(
                f"{other}: has run: {document['run']} too, with other settings: one would train over the other. Give --run another name."
            )


_LARGEST = 1_000_000  # bytes
