"""Write the config.yaml that is equivalent to a weaver command line.

    python -m weaver_tasks.import_weaver --output config.yaml -- weaver --data-train 'a:/path/*.root' --data-config data.yaml …

The command may begin with torchrun, python -m torch.distributed.launch, python train.py, or variables (CUDA_VISIBLE_DEVICES=0,1).
What every option becomes is listed by --table, and in docs/for_weaver_users.md. Keep globs in quotes, as for weaver: they
are carried over unexpanded.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

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
    text, notes = import_command(words, run=arguments.run)
    if arguments.output == "-":
        print(text, end="")
    else:
        _write(Path(arguments.output), text, replace=arguments.force)
    for option, note in notes:
        print(f"{option}: {note}.", file=sys.stderr)
    if arguments.output != "-":
        print(f"Wrote {arguments.output}. Now: python -m weaver_tasks.check --config {arguments.output}", file=sys.stderr)


def import_command(words: list[str], *, run: str | None = None) -> tuple[str, list[tuple[str, str]]]:
    """The text of config.yaml for a weaver command, and (option, what became of it) for the options that are not keys of it.

    words: the command, as a shell splits it. run: the name of the run; None: after --model-prefix.
    Raises ConfigError naming the option that has no counterpart, and the remedy.
    """
    made = convert(read_command(words), run=run)
    return config_text(made, words), made.notes


def _write(path: Path, text: str, *, replace: bool) -> None:
    if path.exists() and not replace:
        raise ConfigError(f"{path}: exists already. Give another --output, or --force to replace it.")
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
