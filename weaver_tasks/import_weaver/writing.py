"""Write config.yaml as text: keys that differ from their defaults, in the order of the models, with comments."""

from __future__ import annotations

import shlex
import textwrap
from collections.abc import Iterator
from typing import Any

import yaml

from weaver_tasks.base.errors import ConfigError
from weaver_tasks.import_weaver.result import TODO, Conversion, Setting
from weaver_tasks.settings.fields import Section, default_of, is_optional, plain_options, section_of
from weaver_tasks.settings.model import Configuration
from weaver_tasks.settings.reading import quoted_as_text, resolve_config

_WIDTH = 130
_LONGEST_COMMAND = 4000

VALIDATION = """\
# Here every validation jet counts once. As weaver validates, on jets drawn by their weights:
# validation: {reweight: true}
"""


def config_text(made: Conversion, words: list[str]) -> str:
    """The text of config.yaml. words: the command that it comes from.

    What cannot be converted is written as TODO, with what to do. Settings that make the configuration invalid are also added to the TODOs
    of `made` here.
    """
    settings = {setting.key: setting for setting in made.settings}
    body = "".join(_lines(_nested(settings), settings, ""))
    made.todos += _problems(body, settings)
    return _head(words) + _todos(made) + body + "\n" + VALIDATION + _notes(made)


def _problems(body: str, settings: dict[str, Setting]) -> list[tuple[str, str]]:
    """Errors in the settings that have a value, as TODOs."""
    document = quoted_as_text(yaml.safe_load(body), body)
    _take_out_todos(document)
    try:
        resolved = resolve_config(document, where=_COMMAND)
    except ConfigError as error:
        return [("these settings", str(error).removeprefix(f"{_COMMAND}: "))]
    problems, defaults = [], dict(_entries(Configuration))
    for setting in settings.values():
        if setting.is_todo or (isinstance(setting.value, dict) and TODO in setting.value.values()):
            continue
        read = _at(resolved, setting.key)
        if read != setting.value and not (setting.value is None and read == defaults[setting.key]):
            problems.append((setting.key, f"{setting.value!r} would be read as {read!r} from YAML. Give another value"))
    return problems


def _take_out_todos(document: dict[str, Any], prefix: str = "") -> None:
    """Remove TODO values, except where any text is valid and the key is required."""
    for name, value in list(document.items()):
        if isinstance(value, dict):
            _take_out_todos(value, f"{prefix}{name}.")
        elif value == TODO and f"{prefix}{name}" not in _NEEDED:
            del document[name]


_COMMAND = "the weaver command"
_NEEDED = {"run", "data.config", "data.train", "network.config", "prediction.model"}


def _head(words: list[str]) -> str:
    command = shlex.join(words)
    if len(command) > _LONGEST_COMMAND:
        command = command[:_LONGEST_COMMAND] + " …"
    return f"# The equivalent of\n{''.join(_comment(command))}# Paths are relative to the folder that Snakemake runs in.\n\n"


def _nested(settings: dict[str, Setting]) -> dict[str, Any]:
    """The settings that differ from the defaults, nested, in the order of the models."""
    document: dict[str, Any] = {}
    for key, default in _entries(Configuration):
        setting = settings.get(key)
        if setting is None or setting.value is None or (setting.value == default and key not in _ALWAYS):
            continue
        *sections, name = key.split(".")
        section = document
        for part in sections:
            section = section.setdefault(part, {})
        section[name] = setting.value
    return document


# Always written, even with default values, because users want to see them.
_ALWAYS = {"training.epochs", "training.batch_size", "training.lr", "training.optimizer.name", "training.scheduler.name"}


def _entries(model: type[Section], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (dotted name, default) of what a command can set: keys, and sections that are null by default."""
    for name, field in model.model_fields.items():
        inner = section_of(field)
        if inner is None or is_optional(field):
            yield f"{prefix}{name}", default_of(field)
        else:
            yield from _entries(inner, f"{prefix}{name}.")


def _at(document: dict[str, Any], key: str) -> Any:
    value: Any = document
    for part in key.split("."):
        value = value[part]
    return value


def _lines(document: dict[str, Any], settings: dict[str, Setting], prefix: str) -> list[str]:
    lines = []
    depth = prefix.count(".")
    indent = "  " * depth
    for name, value in document.items():
        key = f"{prefix}{name}"
        if key not in settings:
            lines += [f"\n{indent}{name}:\n" if depth == 0 else f"{indent}{name}:\n", *_lines(value, settings, f"{key}.")]
            continue
        comment = f"  # {settings[key].comment}" if settings[key].comment else ""
        if settings[key].is_todo:
            lines += [indent + line for line in _comment(f"TODO {settings[key].comment}.", start="# ")]
            comment = ""
        if key in ("data.train", "data.val", "data.test") and not isinstance(value, str):
            lines += [f"{indent}{name}:{comment}\n", *_files(value, indent + "  ")]
        else:
            lines.append(f"{indent}{name}: {_flow(value)}{comment}\n")
    return lines


def _files(value: Any, indent: str) -> list[str]:
    """Groups or a list of paths, one per line."""
    if isinstance(value, list):
        return [f"{indent}- {_flow(path)}\n" for path in value]
    lines = []
    for group, entry in value.items():
        if isinstance(entry, list):
            lines += [f"{indent}{_flow(group)}:\n", *_files(entry, indent + "  ")]
        else:
            lines.append(f"{indent}{_flow(group)}: {_flow(entry)}\n")
    return lines


class _Dumper(yaml.SafeDumper):
    """Writes text in quotes if it would be read as another type."""


def _quoted_where_needed(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=None if plain_options(text) == text else "'")


_Dumper.add_representer(str, _quoted_where_needed)


def _flow(value: Any) -> str:
    text = yaml.dump(value, Dumper=_Dumper, default_flow_style=True, width=float("inf"), allow_unicode=True, sort_keys=False)
    return text.removesuffix("\n").removesuffix("\n...")


def _todos(made: Conversion) -> str:
    """The TODOs without a key. A TODO with a key is written at that key."""
    keys = {setting.key for setting in made.settings if setting.is_todo}
    comments = [f"TODO {option}: {text.rstrip('.')}." for option, text in made.todos if option not in keys]
    return "".join(line for text in comments for line in _comment(text, start="# ")) + ("\n" if comments else "")


def _notes(made: Conversion) -> str:
    if not made.notes:
        return ""
    lines = (line for option, text in made.notes for line in _comment(f"{option}: {text}."))
    return "\n# Without a key of their own:\n" + "".join(lines)


def _comment(text: str, start: str = "#   ") -> list[str]:
    """Lines of comment. Line ends in the text (in a quoted argument, say) also continue as comment lines."""
    shown = " ".join("".join(character if character.isprintable() else " " for character in text).split())
    lines = textwrap.wrap(shown, _WIDTH, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
    return [f"{start}{line}\n" for line in lines]
