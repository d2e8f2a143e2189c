"""Convert a weaver command to the settings of config.yaml."""

from __future__ import annotations

from weaver_tasks.import_weaver import sections
from weaver_tasks.import_weaver.command import Command
from weaver_tasks.import_weaver.names import run_name
from weaver_tasks.import_weaver.result import Conversion


def convert(command: Command, *, run: str | None = None) -> Conversion:
    """The settings, notes and TODOs for a command. run: the name of the run; None: derived from --model-prefix."""
    made = Conversion()
    name = run or run_name(command)
    made.set("run", name)
    sections.forks(command, made)
    sections.data(command, made)
    sections.loading(command, made)
    sections.network(command, made)
    sections.training(command, made)
    sections.results(command, made)
    sections.tools(command, made)
    made.notes = [(option, text.replace("<run>", name)) for option, text in made.notes]
    return made
