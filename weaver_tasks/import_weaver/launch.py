"""Parse the launcher before weaver's options: torchrun, python -m torch.distributed.launch, python train.py, or weaver."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from pathlib import PurePath

from weaver_tasks.base.errors import ConfigError

_WRAPPERS = {"env", "nohup", "time", "exec"}
_JOB_STEPS = {"srun", "mpirun", "mpiexec"}
_LAUNCHERS = {"torch.distributed.run", "torch.distributed.launch"}
_WEAVER_MODULES = {"weaver", "weaver.train"}
# Options of torchrun and of python without a value; all other options take one.
_TORCHRUN_FLAGS = {"standalone", "no-python", "run-path", "use-env", "use_env", "no_python", "run_path"}
_PYTHON_VALUES = {"-W", "-X"}
_RANKS = {"nproc-per-node", "nproc_per_node"}


@dataclass(frozen=True, kw_only=True)
class Launch:
    """How weaver was started.

    ranks: processes per node, None if the command does not give it. unknown: why the given numbers cannot be used, or "".
    before: the job starter, such as `srun -n 4`. options: the options of weaver.
    """

    ranks: int | None = None
    nodes: int = 1
    unknown: str = ""
    before: str = ""
    environment: dict[str, str] = field(default_factory=dict)
    options: list[str]


def read_launch(words: list[str]) -> Launch:
    """Parse the launcher of a command. Raises ConfigError if it does not start weaver."""
    if len(words) == 1 and " " in words[0].strip():
        raise ConfigError("the weaver command is one quoted word. Give it unquoted after `--`.")
    rest, environment = list(words), {}
    while rest and (rest[0] in _WRAPPERS or re.match(r"[A-Za-z_]\w*=", rest[0])):
        word = rest.pop(0)
        if "=" in word:
            name, _, environment[name] = word.partition("=")
    before = _job_starter(rest)
    rest = rest[len(before) :]
    launched: dict[str, str] | None = None
    if rest and PurePath(rest[0]).name == "torchrun":
        launched, rest = _torchrun(rest[1:])
    elif rest and re.fullmatch(r"python[\d.]*", PurePath(rest[0]).name):
        rest = _python(rest[1:])
        if rest[:1] == ["-m"] and rest[1:2] and rest[1] in _LAUNCHERS:
            launched, rest = _torchrun(rest[2:])
    options = _after_weaver(rest)
    launch = Launch(environment=environment, before=" ".join(before), options=options)
    if launched is None:
        several = before and before[0] in _JOB_STEPS
        return replace(launch, unknown=f"{before[0]} starts an unknown number of processes. Give the number of ranks" if several else "")
    asked = {"--nproc_per_node": _given(launched, _RANKS), "--nnodes": _given(launched, {"nnodes"})}
    wrong = [f"{shown}={value}" for shown, value in asked.items() if not re.fullmatch(r"[1-9]\d*", value)]
    if wrong:
        return replace(launch, unknown=f"{' and '.join(wrong)}: not a number. Give the number of ranks, and training.nodes")
    return replace(launch, ranks=int(asked["--nproc_per_node"]), nodes=int(asked["--nnodes"]))


def _job_starter(words: list[str]) -> list[str]:
    """The words before the one that starts weaver, if the command starts with another program (srun, singularity exec …)."""
    if not words or _starts(words[0]) or words[0].startswith("-"):
        return []
    first = next((index for index, word in enumerate(words) if _starts(word)), 0)
    return words[:first]


def _starts(word: str) -> bool:
    name = PurePath(word).name
    return name in ("weaver", "train.py", "torchrun") or re.fullmatch(r"python[\d.]*", name) is not None


def _torchrun(words: list[str]) -> tuple[dict[str, str], list[str]]:
    """The options of the launcher, and the command that it starts (-m before a module)."""
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
    """The words after `weaver`, `…/train.py` or `-m weaver.train`. A list of options alone is returned unchanged."""
    if words[:1] == ["-m"] and words[1:2] and words[1] in _WEAVER_MODULES:
        return words[2:]
    if words and words[0] != "-m" and words[0].startswith("-"):
        return words
    if words and PurePath(words[0]).name in ("weaver", "train.py"):
        return words[1:]
    started = " ".join(words[:2]) or "nothing"
    raise ConfigError(
        f"the weaver command starts '{started}', not weaver. Give `weaver …`, `python train.py …`, `torchrun … weaver …`, "
        "or its options alone."
    )


def _given(options: dict[str, str], names: set[str]) -> str:
    return next((value for name, value in options.items() if name in names), "1")
