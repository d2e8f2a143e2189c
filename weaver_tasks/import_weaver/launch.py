"""What stands before weaver's options: torchrun, python -m torch.distributed.launch, python train.py, weaver."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import PurePath

from weaver_tasks.base.errors import ConfigError

_WRAPPERS = {"env", "nohup", "time", "exec"}
_LAUNCHERS = {"torch.distributed.run", "torch.distributed.launch"}
_WEAVER_MODULES = {"weaver", "weaver.train"}
# Options of torchrun and of python that take no value; every other one takes one.
_TORCHRUN_FLAGS = {"standalone", "no-python", "run-path", "use-env", "use_env", "no_python", "run_path"}
_PYTHON_VALUES = {"-W", "-X"}
_RANKS = {"nproc-per-node", "nproc_per_node"}


@dataclass(frozen=True, kw_only=True)
class Launch:
    """How weaver was started. ranks: processes per node, None when the command does not say. options: weaver's own."""

    ranks: int | None = None
    nodes: int = 1
    environment: dict[str, str] = field(default_factory=dict)
    options: list[str]


def read_launch(words: list[str]) -> Launch:
    """Take a command apart. Raises ConfigError when it does not start weaver, or the number of ranks is not a number."""
    if len(words) == 1 and " " in words[0].strip():
        raise ConfigError("the weaver command is one quoted word. Give it unquoted after `--`.")
    rest, environment = list(words), {}
    while rest and (rest[0] in _WRAPPERS or re.match(r"[A-Za-z_]\w*=", rest[0])):
        word = rest.pop(0)
        if "=" in word:
            name, _, environment[name] = word.partition("=")
    launched: dict[str, str] | None = None
    if rest and PurePath(rest[0]).name == "torchrun":
        launched, rest = _torchrun(rest[1:])
    elif rest and re.fullmatch(r"python[\d.]*", PurePath(rest[0]).name):
        rest = _python(rest[1:])
        if rest[:1] == ["-m"] and rest[1:2] and rest[1] in _LAUNCHERS:
            launched, rest = _torchrun(rest[2:])
    options = _after_weaver(rest)
    if launched is None:
        return Launch(environment=environment, options=options)
    return Launch(
        ranks=_count(launched, "--nproc_per_node", _RANKS),
        nodes=_count(launched, "--nnodes", {"nnodes"}),
        environment=environment,
        options=options,
    )


def _torchrun(words: list[str]) -> tuple[dict[str, str], list[str]]:
    """The launcher's options, and what it starts (-m in front of a module)."""
    options: dict[str, str] = {}
    rest = list(words)
    while rest and rest[0].startswith("-") and rest[0] not in ("-m", "--module"):
        name, equals, value = rest.pop(0).lstrip("-").partition("=")
        if name in _TORCHRUN_FLAGS:
            continue
        if not equals:
            value = rest.pop(0) if rest else ""
        options[name] = value
    return options, ["-m", *rest[1:]] if rest[:1] == ["--module"] else rest


def _python(words: list[str]) -> list[str]:
    rest = list(words)
    while rest and rest[0].startswith("-") and rest[0] != "-m":
        rest = rest[2:] if rest[0] in _PYTHON_VALUES else rest[1:]
    return rest


def _after_weaver(words: list[str]) -> list[str]:
    """What follows `weaver`, `…/train.py` or `-m weaver.train`. Options alone are taken as they are."""
    if words[:1] == ["-m"] and words[1:2] and words[1] in _WEAVER_MODULES:
        return words[2:]
    if words and words[0] != "-m" and words[0].startswith("-"):
        return words
    if words and PurePath(words[0]).name in ("weaver", "train.py"):
        return words[1:]
    started = " ".join(words[:2]) or "nothing"
    raise ConfigError(
        f"the weaver command starts '{started}', not weaver. Give `weaver …`, `python train.py …`, `torchrun … weaver …`, "
        "or its options alone; leave out what starts the job (srun, sbatch, containers)."
    )


def _count(options: dict[str, str], shown: str, names: set[str]) -> int:
    value = next((value for name, value in options.items() if name in names), "1")
    if not re.fullmatch(r"[1-9]\d*", value):
        raise ConfigError(f"the weaver command: {shown} is '{value}'. Give a number, as in `{shown}=4`.")
    return int(value)
