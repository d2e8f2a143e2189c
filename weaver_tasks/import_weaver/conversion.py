"""From a weaver command to the settings of config.yaml."""

from __future__ import annotations

import re
from pathlib import PurePath
from types import SimpleNamespace

from weaver_tasks.import_weaver import sections
from weaver_tasks.import_weaver.command import Command
from weaver_tasks.import_weaver.result import Conversion


def convert(command: Command, *, run: str | None = None) -> Conversion:
    """The settings and notes of a command. run: the name of the run; None: after --model-prefix.

    Raises ConfigError when an option has no counterpart, or a number cannot be converted exactly.
    """
    made = Conversion()
    name = run or run_name(command.options)
    made.set("run", name)
    sections.data(command, made)
    sections.loading(command, made)
    sections.network(command, made)
    sections.training(command, made)
    sections.results(command, made)
    sections.tools(command, made)
    made.notes = [(option, text.replace("<run>", name)) for option, text in made.notes]
    return made


def run_name(options: SimpleNamespace) -> str:
    """A name for the run: the folders of --model-prefix, or the network's name where there are none but a time stamp."""
    prefix = options.model_prefix.partition(":")[0]
    folders = [re.sub(r"[^A-Za-z0-9._-]+", "-", part.replace("{auto}", "")).strip("-._") for part in PurePath(prefix).parts[:-1]]
    named = [part for part in folders if part and part.lower() not in ("training", "trainings", "train", "models", "model", "output")]
    return "-".join(named[-4:]) or re.sub(r"[^A-Za-z0-9._-]+", "-", PurePath(options.network_config).stem).strip("-._") or "run"
