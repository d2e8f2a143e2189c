"""A weaver command taken apart, as far as it can be carried over at all."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace

from weaver_tasks.base.errors import ConfigError
from weaver_tasks.import_weaver.launch import Launch, read_launch
from weaver_tasks.import_weaver.options import parse_options
from weaver_tasks.import_weaver.processes import Processes, processes_of


@dataclass(frozen=True, kw_only=True)
class Command:
    """A weaver command taken apart. given: the keys of the options that it names."""

    options: SimpleNamespace
    given: set[str]
    launch: Launch
    processes: Processes

    @property
    def predicts_only(self) -> bool:
        return self.options.predict or "train" not in self.options.run_mode


def read_command(words: list[str]) -> Command:
    """Take a command apart. Raises ConfigError when it is not one of weaver's."""
    launch = read_launch(words)
    options, given = parse_options(launch.options)
    command = Command(options=options, given=given, launch=launch, processes=processes_of(options, launch))
    for key in ("data_config", "network_config"):
        if not getattr(options, key):
            raise ConfigError(f"the weaver command: --{key.replace('_', '-')} is missing. Give the complete command.")
    modes = set(options.run_mode)
    unknown = modes - {"train", "val", "test"}
    if unknown or (modes and not modes & {"train", "test"}) or (modes & {"train", "val"} == {"val"} and not options.predict):
        raise ConfigError(
            f"the weaver command: --run-mode {','.join(options.run_mode)} has no counterpart. "
            "Use train,val,test (each epoch is validated by a job of its own), or test with --model-prefix FILE.pt."
        )
    if options.load_epoch is not None and "{auto}" in options.model_prefix:
        raise ConfigError(
            f"the weaver command: --load-epoch {options.load_epoch}: --model-prefix {options.model_prefix}: {{auto}} cannot be filled in. "
            "Give the folder that weaver wrote its checkpoints to."
        )
    return command
