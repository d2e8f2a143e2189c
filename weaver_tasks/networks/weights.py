"""Load weights from files into a model, and freeze them: network.load_weights, exclude_weights, freeze_weights."""

from __future__ import annotations

import logging
import pickle
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from weaver_tasks.base.errors import NetworkError, did_you_mean
from weaver_tasks.base.files import check_regular
from weaver_tasks.base.unpickling import damage, why_refused

logger = logging.getLogger("weaver_tasks")

# Names of the weights in checkpoints of training frameworks, the most common first.
_STATE_KEYS = ("state_dict", "model_state_dict", "model_state", "model", "network", "net", "module", "weights")
# Errors that torch.load raises for files of other formats.
_NOT_BY_TORCH = (pickle.UnpicklingError, RuntimeError, EOFError, LookupError, ValueError, TypeError, AttributeError, IsADirectoryError)


@dataclass(frozen=True, kw_only=True)
class LoadedWeights:
    """The result of `load_weights`: names of tensors of the model. unexpected: names in the files that the model lacks."""

    loaded: tuple[str, ...]
    missing: tuple[str, ...]
    excluded: tuple[str, ...]
    unexpected: tuple[str, ...]
    frozen: tuple[str, ...]


def load_weights(
    model: nn.Module, paths: str | Path | Sequence[str | Path] | None, *, exclude: Iterable[str] = (), freeze: Iterable[str] = ()
) -> LoadedWeights:
    """Load weights into `model`, as weaver's --load-model-weights, --exclude-model-weights and --freeze-model-weights do.

    paths: one file or several (later ones take precedence). `file.pt:prefix` takes the tensors below `prefix.` and drops the prefix.
    exclude: regular expressions; tensors whose name matches one of them (from its start) keep the values of the model.
    freeze: regular expressions; parameters whose name matches one of them (from its start) are not trained (requires_grad False).
    Tensors that only one side has are reported, not refused. Raises NetworkError if a file is missing or is not a state_dict, shapes
    differ, nothing fits, or an expression is invalid or matches nothing.
    """
    state: dict[str, Tensor] = {}
    given = [paths] if isinstance(paths, (str, Path)) else list(paths or ())
    for path in given:
        state |= read_state(path)
    excluded = _matching("exclude_weights", _expressions("exclude_weights", exclude), state)
    wanted = {name: tensor for name, tensor in state.items() if name not in excluded}
    missing, unexpected = _load(model, wanted, ", ".join(map(str, given))) if given else ((), ())
    frozen = _matching("freeze_weights", _expressions("freeze_weights", freeze), dict(model.named_parameters()))
    for name in frozen:
        model.get_parameter(name).requires_grad_(False)
    report = LoadedWeights(
        loaded=tuple(name for name in model.state_dict() if name not in missing) if given else (),
        missing=tuple(missing),
        excluded=tuple(excluded),
        unexpected=tuple(unexpected),
        frozen=tuple(frozen),
    )
    _log(report)
    return report


def read_state(path: str | Path) -> dict[str, Tensor]:
    """The state_dict in `file.pt`, or below a prefix of it (`file.pt:prefix`).

    It may be inside the checkpoint of a training framework (`{"state_dict": …}`, as in Lightning). Raises NetworkError if there is none, or
    it cannot be read without running code.
    """
    file, prefix = Path(path), ""
    if not file.exists() and ":" in str(path):
        name, _, prefix = str(path).rpartition(":")
        file = Path(name)
    check_regular(file)
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise NetworkError(f"{file}: no such file. Give the path of a state_dict (.pt) in network.load_weights.") from None
    except _NOT_BY_TORCH as error:
        if refused := why_refused(error, file):
            raise NetworkError(
                f"{file}: not a state_dict of tensors: {refused}. Save model.state_dict(), or get it from its source."
            ) from error
        raise NetworkError(f"{file}: not a state_dict written by torch.save ({damage(error)}). Give the path of one.") from error
    state = _nested_state(file, state)
    if prefix:
        known = sorted({name.partition(".")[0] for name in state})
        state = {name.removeprefix(f"{prefix}."): tensor for name, tensor in state.items() if name.startswith(f"{prefix}.")}
        if not state:
            raise NetworkError(
                f"{file}: no tensor lies below the prefix '{prefix}'.{did_you_mean(prefix, known)} It has {', '.join(known)}."
            )
    return state


def _nested_state(file: Path, content: Any) -> dict[str, Tensor]:
    """The state_dict in a file, either at the top level or as an entry of a checkpoint."""
    if _is_state(content):
        return content
    nested = [key for key, value in content.items() if _is_state(value) and value] if isinstance(content, dict) else []
    chosen = next((key for key in _STATE_KEYS if key in nested), None)
    if chosen is None:
        holds = f"the entries {', '.join(map(str, content))}" if isinstance(content, dict) else type(content).__name__
        raise NetworkError(f"{file}: holds {holds}, not a state_dict of tensors. Save model.state_dict().")
    logger.info("%s: the weights are its '%s', %s and so on", file, chosen, next(iter(content[chosen])))
    return content[chosen]


def _is_state(content: Any) -> bool:
    return isinstance(content, Mapping) and all(isinstance(key, str) and isinstance(value, Tensor) for key, value in content.items())


def _fitting_prefix(model: nn.Module, state: Mapping[str, Tensor]) -> str | None:
    """The prefix below which most names are those of the model. None if there is none."""
    names = model.state_dict().keys()
    prefixes = {name[: -len(own) - 1] for name in state for own in names if name.endswith(f".{own}")}
    return max(sorted(prefixes), key=lambda prefix: sum(f"{prefix}.{name}" in state for name in names), default=None)


def _load(model: nn.Module, state: dict[str, Tensor], source: str) -> tuple[Sequence[str], Sequence[str]]:
    try:
        missing, unexpected = model.load_state_dict(state, strict=False)
    except RuntimeError as error:
        misfit = next((line.strip() for line in str(error).splitlines() if "size mismatch" in line), None)
        if misfit is None:
            raise
        raise NetworkError(f"{source}: {misfit} Change the network's options, or exclude it (network.exclude_weights).") from error
    if len(missing) == len(model.state_dict()):
        example, theirs = next(iter(model.state_dict())), next(iter(state), "none")
        prefix = _fitting_prefix(model, state)
        raise NetworkError(
            f"{source}: none of its tensors fits the model (the model has '{example}', the file '{theirs}'). "
            + (f"Its weights have the prefix '{prefix}': write {source}:{prefix}." if prefix else "Give the prefix as file.pt:prefix.")
        )
    return missing, unexpected


def _expressions(key: str, given: Iterable[str]) -> list[re.Pattern[str]]:
    if isinstance(given, str):
        given = given.split(",")
    compiled = []
    for text in given:
        try:
            compiled.append(re.compile(text))
        except re.error as error:
            raise NetworkError(f"network.{key}: '{text}' is not a regular expression ({error}).") from None
    return compiled


def _matching(key: str, expressions: list[re.Pattern[str]], named: dict[str, Tensor]) -> list[str]:
    for expression in expressions:
        if not any(expression.match(name) for name in named):
            raise NetworkError(
                f"network.{key}: '{expression.pattern}' matches no tensor from the start of its name."
                f"{did_you_mean(expression.pattern, named)} Correct it or remove it."
            )
    return [name for name in named if any(expression.match(name) for expression in expressions)]


def _log(report: LoadedWeights) -> None:
    if report.loaded:
        logger.info("loaded %d tensors; %d of the model are not in the file", len(report.loaded), len(report.missing))
    for what in ("missing", "excluded", "unexpected", "frozen"):
        names = getattr(report, what)
        if names:
            logger.info("%s weights: %s", what, ", ".join(names))
