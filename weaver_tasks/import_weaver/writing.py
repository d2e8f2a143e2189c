"""config.yaml as text: in the schema's order, only what differs from the defaults, with comments."""

from __future__ import annotations

import shlex
import textwrap
from typing import Any

import yaml

from weaver_tasks.base.config import resolve_config
from weaver_tasks.base.errors import ConfigError
from weaver_tasks.base.schemas import load_schema
from weaver_tasks.import_weaver.result import Conversion, Setting

_WIDTH = 130
_LONGEST_COMMAND = 4000

VALIDATION = """\
# Here every validation jet counts once. As weaver validates, on jets drawn by their weights:
# validation: {reweight: true}
"""


def config_text(made: Conversion, words: list[str]) -> str:
    """The text of config.yaml. words: the command that it comes from.

    Raises ConfigError when the settings are no valid configuration, or a value does not come back as it went in.
    """
    settings = {setting.key: setting for setting in made.settings}
    document = _nested(settings)
    text = _head(words) + "".join(_lines(document, settings, "")) + "\n" + VALIDATION + _notes(made)
    resolved = resolve_config(yaml.safe_load(text), where="the weaver command")
    for setting in settings.values():
        read = _at(resolved, setting.key)
        if read != setting.value and not (setting.value is None and read == _default(setting.key)):
            raise ConfigError(
                f"the weaver command: {setting.key}: {setting.value!r} would be read as {read!r} from YAML. Give another value."
            )
    return text


def _head(words: list[str]) -> str:
    command = shlex.join(words)
    if len(command) > _LONGEST_COMMAND:
        command = command[:_LONGEST_COMMAND] + " …"
    return f"# The equivalent of\n{_comment(command)}# Paths are relative to the folder that Snakemake runs in.\n\n"


def _nested(settings: dict[str, Setting]) -> dict[str, Any]:
    """The settings that differ from the schema's defaults, nested, in the schema's order."""
    document: dict[str, Any] = {}
    for key in _keys(load_schema("config"), ""):
        setting = settings.get(key)
        if setting is None or setting.value is None or (setting.value == _default(key) and key not in _ALWAYS):
            continue
        *sections, name = key.split(".")
        section = document
        for part in sections:
            section = section.setdefault(part, {})
        section[name] = setting.value
    return document


# Written even where they are the defaults: one wants to see them.
_ALWAYS = {"training.epochs", "training.batch_size", "training.lr", "training.optimizer.name", "training.scheduler.name"}


def _keys(schema: dict[str, Any], prefix: str) -> list[str]:
    keys = []
    for name, child in schema["properties"].items():
        nested = "properties" in child and child.get("type") == "object"
        keys += _keys(child, f"{prefix}{name}.") if nested else [f"{prefix}{name}"]
    return keys


def _default(key: str) -> Any:
    schema = load_schema("config")
    for part in key.split("."):
        schema = schema["properties"][part]
    return schema.get("default")


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
        if key in ("data.train", "data.val", "data.test") and not isinstance(value, str):
            lines += [f"{indent}{name}:{comment}\n", *_files(value, indent + "  ")]
        else:
            lines.append(f"{indent}{name}: {_flow(value)}{comment}\n")
    return lines


def _files(value: Any, indent: str) -> list[str]:
    """Groups, or a list of paths, one to a line."""
    if isinstance(value, list):
        return [f"{indent}- {_flow(path)}\n" for path in value]
    lines = []
    for group, entry in value.items():
        if isinstance(entry, list):
            lines += [f"{indent}{_flow(group)}:\n", *_files(entry, indent + "  ")]
        else:
            lines.append(f"{indent}{_flow(group)}: {_flow(entry)}\n")
    return lines


def _flow(value: Any) -> str:
    text = yaml.safe_dump(value, default_flow_style=True, width=float("inf"), allow_unicode=True, sort_keys=False)
    return text.removesuffix("\n").removesuffix("\n...")


def _notes(made: Conversion) -> str:
    if not made.notes:
        return ""
    return "\n# Without a key of their own:\n" + "".join(_comment(f"{option}: {text}.") for option, text in made.notes)


def _comment(text: str) -> str:
    """Lines of comment. Whatever the text holds (line ends of a quoted argument …) stays in them."""
    shown = " ".join("".join(character if character.isprintable() else " " for character in text).split())
    lines = textwrap.wrap(shown, _WIDTH, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
    return "".join(f"#   {line}\n" for line in lines)
