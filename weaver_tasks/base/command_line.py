"""The common command-line interface of all stages: options, log, provenance record, and errors reported in one line."""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

from weaver_tasks.base.addresses import without_credentials
from weaver_tasks.base.errors import ConfigError, WeaverTasksError
from weaver_tasks.base.lifetime import end_with_workflow
from weaver_tasks.base.maps import merge
from weaver_tasks.base.record import TaskRecord

logger = logging.getLogger("weaver_tasks")


class _Parser(argparse.ArgumentParser):
    """Converts the merged --settings options to typed `settings`."""

    make_settings: Callable[[dict[str, Any], str], Any] | None = None

    def parse_args(self, *arguments: Any, **options: Any) -> Any:
        parsed = super().parse_args(*arguments, **options)
        parsed.settings = self.make_settings(parsed.given, parsed.stage) if self.make_settings else parsed.given
        return parsed


def stage_parser(
    stage: str, description: str | None, *, settings: Callable[[dict[str, Any], str], Any] | None = None
) -> argparse.ArgumentParser:
    """A parser with the options that all stages share: --settings, --log, --record.

    settings: makes `arguments.settings` from `arguments.given` (plain data) and the name of the stage; None: no conversion.
    """
    parser = _Parser(
        prog=f"python -m weaver_tasks.{stage}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.make_settings = settings
    parser.set_defaults(stage=stage)
    parser.add_argument(
        "--settings",
        dest="given",
        type=_settings,
        action=_Merge,
        default={},
        metavar="FILE",
        help="this stage's slice of config.yaml: a JSON file, or the JSON itself; may be repeated, a later one counts",
    )
    parser.add_argument("--log-file", type=Path, metavar="FILE", help="write the log here as well")
    parser.add_argument("--record", type=Path, metavar="FILE", help="write the provenance record of this task here")
    return parser


class _Merge(argparse.Action):
    """Merge each further --settings into the earlier ones, key by key."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option: Any = None) -> None:
        setattr(namespace, self.dest, merge(getattr(namespace, self.dest), values))


def _settings(given: str) -> dict[str, Any]:
    """The settings from a file, or from JSON text, which starts with a brace. Raises ConfigError."""
    where, text = "--settings", given
    if not given.lstrip().startswith(("{", "[")):
        where = f"--settings: {given}"
        try:
            text = Path(given).read_text()
        except FileNotFoundError:
            raise ConfigError(
                f"{where}: no such file. The workflow writes it when it starts the task (a dry run does not). "
                "Run the workflow to this task, or give the settings as JSON, '{…}'."
            ) from None
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{where}: cannot be read ({error}). Give a JSON file.") from error
    try:
        settings = json.loads(text)
    except json.JSONDecodeError as error:
        raise ConfigError(f"{where}: not JSON ({error}). Correct it.") from error
    if not isinstance(settings, dict):
        raise ConfigError(f"{where}: not a JSON object. Give {{…}}.")
    return settings


@contextlib.contextmanager
def task(arguments: argparse.Namespace, *, first_rank: bool = True) -> Iterator[TaskRecord]:
    """Run the work of a stage: open the log, watch the workflow process, and write the record when the work has succeeded.

    first_rank: whether this is the first process of a distributed task; only that one logs to the file and writes the record.
    """
    open_log(arguments.stage, arguments.log_file if first_rank else None)
    end_with_workflow()
    record = TaskRecord(arguments.stage, arguments.given, arguments.record)
    try:
        yield record
    except WeaverTasksError as error:
        if error.__cause__ is not None:
            logger.debug("what led to the error", exc_info=True)
        raise
    except Exception:
        # The exception is only logged here, because the terminal may be closed; it is raised again.
        logger.debug("the task failed", exc_info=True)
        raise
    if first_rank and arguments.record:
        record.write(arguments.record)


class _WithoutCredentials(logging.Formatter):
    """Takes the credentials out of addresses, also in tracebacks, where libraries write them."""

    def format(self, record: logging.LogRecord) -> str:
        return without_credentials(super().format(record))


def open_log(stage: str, path: Path | None) -> None:
    """Send the log to the terminal, with the stage at the start of each line, and to `path`, with times."""
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
        handler.close()
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    terminal = logging.StreamHandler(sys.stderr)
    terminal.setLevel(logging.INFO)
    terminal.setFormatter(_WithoutCredentials(f"[{stage}] %(message)s"))
    logger.addHandler(terminal)
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        logger.addHandler(_log_handler(path, mode="w"))


def _log_handler(path: Path, mode: str) -> logging.FileHandler:
    handler = logging.FileHandler(path, mode=mode)
    handler.setLevel(logging.DEBUG)
    # `base.failures` parses this format.
    handler.setFormatter(_WithoutCredentials("%(asctime)s %(levelname)s %(message)s"))
    return handler


def run_command(main: Callable[[], None]) -> None:
    """Call `main`. A user's mistake gives one line on the terminal and in the log, and exit code 2."""
    sys.excepthook = _print_without_credentials
    try:
        main()
    except WeaverTasksError as error:
        line = " ".join(str(error).split())
        _open_log_to_add()
        for handler in logger.handlers:
            if isinstance(handler, logging.FileHandler):
                handler.emit(logging.makeLogRecord({"levelname": "ERROR", "levelno": logging.ERROR, "msg": "%s", "args": (line,)}))
        # The progress bar of the first rank may occupy the current line.
        start = "" if os.environ.get("RANK", "0") == "0" else "\n"
        print(f"{start}ERROR: {line}", file=sys.stderr, flush=True)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None


def _print_without_credentials(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Print the traceback of a bug as Python does, but for the credentials in it."""
    print(without_credentials("".join(traceback.format_exception(kind, error, trace))), file=sys.stderr, end="", flush=True)


def _open_log_to_add() -> None:
    """Open the log file, if one is given, for an error that occurs before the log is open or on another rank than the first."""
    if "--log-file" not in sys.argv[:-1] or any(isinstance(handler, logging.FileHandler) for handler in logger.handlers):
        return
    path = Path(sys.argv[sys.argv.index("--log-file") + 1])
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        logger.addHandler(_log_handler(path, mode="a"))
