"""Parse a weaver command line into its launcher and its options."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace

from weaver_tasks.import_weaver.launch import Launch, read_launch
from weaver_tasks.import_weaver.options import parse_options
from weaver_tasks.import_weaver.processes import Processes, processes_of


@dataclass(frozen=True, kw_only=True)
class Command:
    """A parsed weaver command.

    given: the keys of the options that it sets. forks: options that exist only in forks of weaver, with their arguments.
    """

    options: SimpleNamespace
    given: set[str]
    forks: list[tuple[str, list[str]]]
    launch: Launch
    processes: Processes

    @property
    def exports_only(self) -> bool:
        """Whether the command only exports: with --export-onnx weaver ignores all other tasks."""
        return bool(self.options.export_onnx)

    @property
    def predicts_only(self) -> bool:
        return not self.exports_only and (self.options.predict or "train" not in self.options.run_mode)

    @property
    def trains(self) -> bool:
        return not (self.exports_only or self.predicts_only)


def read_command(words: list[str]) -> Command:
    """Parse a command. Raises ConfigError if it is not a weaver command."""
    launch = read_launch(words)
    options, given, forks = parse_options(launch.options)
    return Command(options=options, given=given, forks=forks, launch=launch, processes=processes_of(options, launch))
