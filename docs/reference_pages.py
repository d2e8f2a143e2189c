"""The reference pages of the documentation, made from the schemas and the code each time that it is built."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from weaver_tasks.data.configuration.document import DataDocument, Group, Parameters
from weaver_tasks.settings.schema import json_schema, kind

REPOSITORY = Path(__file__).parent.parent
PACKAGE = REPOSITORY / "weaver_tasks"
# Functions that word an error for the one that raises it.
_MAKE_TEXTS = ("_message", "_bad_files", "_why_not")

CONFIGURATION = """# config.yaml

One file says which files, how to train, and on what. Several `--configfile`s are merged key by key, and
`--config training='{epochs: 30}'` is laid over them. Unknown keys are refused, with the nearest known one.

Each key says which stages run again when it is changed; so do all stages after them, as far as their inputs come out otherwise.
For completion in an editor, name the schema in the first line:
`# yaml-language-server: $schema=<clone>/workflow/schemas/config.schema.json`.

"""

DATA_CONFIGURATION = """# Data configuration

The YAML file named by `data.config`, in weaver's format: which events, which variables, which classes. A file written for weaver works
unchanged; what is special here: `new_variables` may stand in any order, and expressions can call only the functions listed in
[Your own data](../own_data.md#expressions).

"""

ERRORS = """# Errors

A mistake in a configuration or a file ends a command with one line, `ERROR: …`, and exit code 2; nothing is left half-written. It names
the file, the key, the value and the remedy. For an exception of your network configuration's own code it names the file and the line; the
log of the task, in `results/<run>/logs/`, has the traceback. A traceback on the terminal is a fault of this project: please report it.

Two mistakes on the command line are reported by Snakemake, before it reads this workflow, with a traceback of its own that ends in
`FileNotFoundError: [Errno 2] No such file or directory: '<name>'`. Either `<name>` is a misspelt file after `--configfile`, or it is a
target: all that follows `--configfile config.yaml` up to the next option is taken for configuration files. So put targets first:
`snakemake results/demo/best_epoch.json --configfile config.yaml`.

Below are all messages, by kind and by the module that gives them; `<…>` is filled in. Search this page for words of yours.

"""

# They look at a run: what they show follows a change, but is nothing to wait for.
_TOOLS = ("find_lr", "model_summary", "profile_training")

REMEDIES = {
    "ConfigError": "Correct the named key of `config.yaml` (or of `--config`). [All keys](configuration.md).",
    "DataConfigError": "Correct the named key, or name files that have the branches. [All keys](data_configuration.md).",
    "InputFileError": "Look at the named file. With `staging.on_bad_file: skip` a run goes on without it.",
    "NetworkError": "Correct the network configuration, its options, or the weights; `python -m weaver_tasks.check` tests them in seconds.",
    "CheckpointError": "Delete the named file and run the same command again: what is missing is made anew.",
    "TrainingError": "Read the log of the task, in `results/<run>/logs/`; a smaller `training.lr` helps against a loss that is not finite.",
    "ResultError": "The numbers did not pass a check, or a result cannot be made from these files; the message says which.",
    "WeaverTasksError": "Do what the message says.",
}

COMMANDS = """# Commands

Every stage and every tool is a module: `python -m weaver_tasks.<name> --help` prints its options. Stages are run by Snakemake, which prints
the command with `--printshellcmds`; tools are yours to call.

"""


def pages() -> dict[str, str]:
    """The text of each generated page, by its path below docs/."""
    return {
        "reference/configuration.md": configuration(),
        "reference/data_configuration.md": data_configuration(),
        "reference/errors.md": errors(),
        "reference/commands.md": commands(),
    }


# Keys


def configuration() -> str:
    return CONFIGURATION + "".join(_sections(json_schema()))


def data_configuration() -> str:
    schema = json_schema(DataDocument)
    definitions = [
        ("inputs.&lt;group>", "One input of the network.", json_schema(Group)),
        ("preprocess.params.&lt;variable>", "The parameters of one variable, filled in.", json_schema(Parameters)),
    ]
    extra = "".join(f"## {name}\n\n{text}\n\n{_table(list(_rows(definition, f'{name}.')))}" for name, text, definition in definitions)
    return DATA_CONFIGURATION + "".join(_sections(schema)) + extra


def _sections(schema: dict[str, Any]) -> Iterator[str]:
    """A table of the keys at the top, then one per section."""
    required = set(schema.get("required", ()))
    top = {key: child for key, child in schema["properties"].items() if "properties" not in child}
    yield "## At the top\n\n" + _table([_row(key, child, required=key in required) for key, child in top.items()])
    for key, child in schema["properties"].items():
        if "properties" in child:
            optional = "" if "null" not in kind(child) else " May be left out (null)."
            yield f"## {key}\n\n{child['description']}{optional}\n\n{_table(list(_rows(child, f'{key}.')))}"


def _rows(section: dict[str, Any], prefix: str) -> Iterator[str]:
    required = section.get("required", ())
    for key, child in section["properties"].items():
        yield _row(f"{prefix}{key}", child, required=key in required)
        if "properties" in child:
            yield from _rows(child, f"{prefix}{key}.")


def _table(rows: list[str]) -> str:
    return "| key | type | default | meaning |\n|---|---|---|---|\n" + "".join(rows) + "\n"


def _row(key: str, schema: dict[str, Any], *, required: bool) -> str:
    if required:
        default = "*required*"
    elif "default" in schema and "properties" not in schema:
        default = f"`{json.dumps(schema['default'])}`"
    elif "default" in schema and schema["default"] is None:
        default = "`null`"
    else:
        default = ""
    return f"| `{key}` | {kind(schema)} | {default} | {_meaning(schema)} |\n"


def _meaning(schema: dict[str, Any]) -> str:
    return _cell(schema.get("description", "")) + _limits(schema) + _effect(schema)


def _effect(schema: dict[str, Any]) -> str:
    """What runs again when the key changes."""
    if "affects" not in schema:
        return ""
    stages = ", ".join(f"`{stage}`" for stage in schema["affects"] if stage not in _TOOLS)
    return f" *Runs again: {stages or 'nothing'}.*"


def _limits(schema: dict[str, Any]) -> str:
    words = {"minimum": "at least", "exclusiveMinimum": "more than", "maximum": "at most", "exclusiveMaximum": "less than"}
    limits = [f"{word} {schema[name]}" for name, word in words.items() if name in schema]
    return f" ({', '.join(limits)})" if limits else ""


def _cell(text: str) -> str:
    # Within backticks nothing is markup.
    parts = text.replace("|", "\\|").split("`")
    return "`".join(part if index % 2 else part.replace("<", "&lt;") for index, part in enumerate(parts))


# Errors


def errors() -> str:
    meanings = _error_classes()
    found: dict[str, dict[str, list[str]]] = {name: {} for name in meanings}
    for path in sorted(PACKAGE.rglob("*.py")):
        module = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
        for name, message in _messages(path, set(meanings)):
            found[name].setdefault(module, []).append(message)
    return ERRORS + "".join(_errors_of(name, meaning, found[name]) for name, meaning in meanings.items() if found[name])


def _errors_of(name: str, meaning: str, messages: dict[str, list[str]]) -> str:
    rows = "".join(f"| `{module}` | {_cell(message)} |\n" for module, listed in messages.items() for message in dict.fromkeys(listed))
    return f"## {name}\n\n{meaning} **Remedy:** {REMEDIES[name]}\n\n| module | message |\n|---|---|\n{rows}\n"


def _error_classes() -> dict[str, str]:
    tree = ast.parse((PACKAGE / "base" / "errors.py").read_text())
    classes = {node.name: ast.get_docstring(node) or "" for node in tree.body if isinstance(node, ast.ClassDef)}
    base = classes.pop("WeaverTasksError")
    return {**classes, "WeaverTasksError": base}


def _messages(path: Path, names: set[str]) -> Iterator[tuple[str, str]]:
    """(class, message) of every error made in a module whose text is written there, or in a function of it that makes the text."""
    tree = ast.parse(path.read_text())
    functions = {node.name: node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    # Of any class, where the caller chooses it.
    chosen = {argument.arg for function in functions.values() for argument in _arguments(function) if _is_error_class(argument)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in names | chosen and node.args:
            kind = node.func.id if node.func.id in names else "WeaverTasksError"
            yield from ((kind, message) for message in _worded(node.args[0], functions))
    # What `check` finds wrong it tells together, in one error.
    for name, function in functions.items():
        if name.endswith(("_problems", "_warnings")):
            texts = [node.value for node in ast.walk(function) if isinstance(node, ast.Yield) and node.value is not None]
            yield from (("WeaverTasksError", message) for text in texts for message in _worded(text, functions))


def _arguments(function: ast.FunctionDef) -> list[ast.arg]:
    return [*function.args.args, *function.args.kwonlyargs]


def _is_error_class(argument: ast.arg) -> bool:
    return argument.annotation is not None and ast.unparse(argument.annotation) == "type[WeaverTasksError]"


def _worded(node: ast.expr, functions: dict[str, ast.FunctionDef]) -> Iterator[str]:
    """The message in words; of one that a function of the module makes, each that it may return."""
    message = " ".join(_template(node).split())
    if any(character.isalpha() for character in re.sub("<[^>]*>", "", message)):
        yield message
    for part in ast.walk(node):
        if isinstance(part, ast.Call) and isinstance(part.func, ast.Name) and part.func.id in _MAKE_TEXTS and part.func.id in functions:
            returned = [each.value for each in ast.walk(functions[part.func.id]) if isinstance(each, ast.Return) and each.value]
            yield from (text for value in returned for text in _worded(value, {}))


def _template(node: ast.expr) -> str:
    """The text of a string expression, with `<…>` for what is filled in."""
    match node:
        case ast.Constant(value=str(text)):
            return text
        case ast.JoinedStr(values=parts):
            return "".join(_template(part) for part in parts)
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            return _template(left) + _template(right)
        case ast.FormattedValue(value=ast.Name(id=name)):
            return f"<{name}>"
        case _:
            return "<…>"


# Commands


def commands() -> str:
    stages = _rule_names()
    listed = {path.stem: ast.get_docstring(ast.parse(path.read_text())) or "" for path in sorted(PACKAGE.glob("*.py"))}
    runnable = {name: text for name, text in listed.items() if "run_command(main)" in (PACKAGE / f"{name}.py").read_text()}
    tools = {name: text for name, text in runnable.items() if name not in stages}
    return (
        COMMANDS
        + "## Tools\n\n"
        + "".join(f"### {name}\n\n{_documented(text)}\n\n" for name, text in tools.items())
        + "## Stages\n\n"
        + "".join(f"### {name}\n\n{_documented(runnable[name])}\n\n" for name in stages if name in runnable)
    )


def _rule_names() -> list[str]:
    """The rules in the order in which they run."""
    names = []
    for chapter in ("data", "train", "results"):
        lines = (REPOSITORY / "workflow" / "rules" / f"{chapter}.smk").read_text().splitlines()
        names += [line[5:-1] for line in lines if line.startswith("rule ") and line.endswith(":")]
    return names


def _documented(docstring: str) -> str:
    """A docstring as Markdown: its indented lines are commands already, its angle brackets are text."""
    return "\n".join(line if line.startswith("    ") else _text(line) for line in docstring.splitlines())


def _text(line: str) -> str:
    return line.replace("<", "&lt;").replace("*", "\\*")
