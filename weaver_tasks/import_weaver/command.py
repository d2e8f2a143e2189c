"""A weaver command taken apart, as far as it can be carried over at all."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace

from weaver_tasks.import_weaver.launch import Launch, read_launch
from weaver_tasks.import_weaver.options import parse_options
from weaver_tasks.import_weaver.processes import Processes, processes_of


@dataclass(frozen=True, kw_only=True)
class Command:
    """A weaver command taken apart.

    given: the keys of the options that it names. forks: options that only forks of weaver have, and their words.
    """

    options: SimpleNamespace
    given: set[str]
    forks: list[tuple[str, list[str]]]
    launch: Launch
    processes: Processes

    @property
    def exports_only(self) -> bool:
        """With --export-onnx weaver exports and stops, whatever else is given."""
        return bool(self.options.export_onnx)

    @property
    def predicts_only(self) -> bool:
        return not self.exports_only and (self.options.predict or "train" not in self.options.run_mode)

    @property
    def trains(self) -> bool:
        return not (self.exports_only or self.predicts_only)


def read_command(words: list[str]) -> Command:
    """Take a command apart. Raises ConfigError when it is not one of weaver's."""
    launch = read_launch(words)
    options, given, forks = parse_options(launch.options)
    return Command(options=options, given=given, forks=forks, launch=launch, processes=processes_of(options, launch))
