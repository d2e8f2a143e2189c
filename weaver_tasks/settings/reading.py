"""Read and check config.yaml: convert types as the models define, fill in defaults, and refuse keys that contradict each other.

Both the workflow and the tools (`check`, `import_weaver`) read configurations through `resolve_config`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from weaver_tasks.base.errors import ConfigError
from weaver_tasks.base.maps import merge
from weaver_tasks.base.yaml_files import read_yaml
from weaver_tasks.settings.errors import checked
from weaver_tasks.settings.fields import Quoted
from weaver_tasks.settings.model import Configuration


def read_config(paths: list[Path]) -> dict[str, Any]:
    """Read and merge configuration files; later files override earlier ones key by key. Raises ConfigError."""
    merged: dict[str, Any] = {}
    for path in paths:
        document = read_yaml(path, names=("run",), keys_as_text=True)
        if not isinstance(document, dict):
            raise ConfigError(f"{path}: holds no keys. See config/README.md for those there are.")
        merged = merge(merged, document)
    return names_as_written(merged, files=paths, arguments=())


def resolve_config(document: Mapping[str, Any], *, where: str = "config.yaml") -> dict[str, Any]:
    """The complete configuration as plain data, with converted types and every key present.

    where: what error messages call the configuration (its file names).
    Raises ConfigError naming the key, the value and the remedy.
    """
    config = checked(Configuration, document, where=where)
    _check_keys_together(config, where)
    plain = config.plain()
    return {**plain, "validation": {**plain["validation"], **config.best_epoch_by()}}


def names_as_written(config: Mapping[str, Any], *, files: Iterable[str | Path], arguments: Sequence[str]) -> dict[str, Any]:
    """Restore names that Snakemake's YAML reader took for numbers, and quoted options that must stay text, in a configuration.

    YAML 1.1 reads `run: 2024_05` and `train: {2016_05: …}` as numbers, without the underscore, and both values of
    `options: {a: '1e-3', b: 1e-3}` as text.
    files: the files that Snakemake has read. arguments: `key=value` of --config. Values that are found in neither stay unchanged.
    """
    texts: list[dict[str, Any]] = []
    for file in files:
        with contextlib.suppress(OSError, UnicodeDecodeError):
            texts += _as_text(Path(file).read_text(encoding="utf-8"), run=str(config.get("run")))
    texts += [{name: value} for name, _, value in (argument.partition("=") for argument in arguments)]
    made = _names_as_written(config, texts, top=True)
    assert isinstance(made, dict)
    return made


def quoted_as_text(config: Mapping[str, Any], text: str) -> dict[str, Any]:
    """As `names_as_written`, for a configuration that was read from `text`."""
    made = _names_as_written(config, _as_text(text, run=str(config.get("run"))), top=True)
    assert isinstance(made, dict)
    return made


def resolved_before(config: Mapping[str, Any]) -> dict[str, Any]:
    """Prepare a result of `resolve_config`, or a part of it, for another call: text in its options stays text."""
    return {name: _all_quoted(value) if name == "options" else _resolved_before(value) for name, value in config.items()}


def _resolved_before(value: Any) -> Any:
    return resolved_before(value) if isinstance(value, dict) else value


def _all_quoted(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _all_quoted(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_all_quoted(item) for item in value]
    return Quoted(value) if isinstance(value, str) else value


class _TextLoader(yaml.BaseLoader):
    """Reads every scalar as text, and marks quoted scalars."""

    def construct_scalar(self, node: yaml.ScalarNode) -> str:
        return str(node.value) if node.style is None else Quoted(node.value)


def _as_text(text: str, *, run: str) -> list[dict[str, Any]]:
    """The parts of a file that may be the configuration: the whole file, and sections that a host workflow keeps for this run."""
    try:
        document = yaml.load(text, Loader=_TextLoader)
    except yaml.YAMLError:
        return []
    if not isinstance(document, dict):
        return []
    return [document, *(part for part in document.values() if isinstance(part, dict) and part.get("run") == run)]


def _names_as_written(value: Any, texts: Sequence[Any], *, top: bool = False, options: bool = False) -> Any:
    """Restore names recursively. texts: the corresponding parts of the source documents, with each scalar as text."""
    if isinstance(value, list) and options:
        items = [text for text in texts if isinstance(text, list) and len(text) == len(value)]
        return [_names_as_written(item, [text[place] for text in items], options=True) for place, item in enumerate(value)]
    if not isinstance(value, dict):
        return next((text for text in reversed(texts) if text == value and isinstance(text, Quoted)), value) if options else value
    made: dict[Any, Any] = {}
    for name, item in value.items():
        written = _written(name, [key for text in texts if isinstance(text, dict) for key in text])
        below = [text[written] for text in texts if isinstance(text, dict) and written in text]
        inside = options or name == "options"
        made[str(written) if isinstance(written, str) else written] = (
            _written(item, below) if top and name == "run" else _names_as_written(item, below, options=inside)
        )
    return made


def _written(value: Any, texts: Sequence[Any]) -> Any:
    """The last of `texts` that represents the number or boolean `value`."""
    if not isinstance(value, (bool, int, float)):
        return value
    for text in reversed(texts):
        for read in (yaml.safe_load, type(value)):
            with contextlib.suppress(yaml.YAMLError, ValueError):
                if isinstance(text, str) and type(found := read(text)) is type(value) and found == value:
                    return str(text)
    return value


def _check_keys_together(config: Configuration, where: str) -> None:
    training = config.training
    for suffix in ("", "_val"):
        samples, steps = f"samples_per_epoch{suffix}", f"steps_per_epoch{suffix}"
        if getattr(training, samples) is not None and getattr(training, steps) is not None:
            raise ConfigError(f"{where}: training.{samples} and training.{steps} are both set. Keep one of them.")
    batch, jets = training.batch_size * training.ranks * training.nodes, training.samples_per_epoch
    if jets is not None and jets < batch:
        raise ConfigError(f"{where}: training.samples_per_epoch: {jets} are less than one batch of {batch} over all ranks. Give more.")
    if config.seeds and config.cross_validation:
        raise ConfigError(f"{where}: seeds and cross_validation are both set. Keep one of them.")
    _check_places(config, where)
    _check_continuation(config, where)
    if training.amp == "fp16" and training.device == "cpu":
        raise ConfigError(f"{where}: training.amp: fp16 needs a GPU. On training.device: cpu use bf16.")
    if not config.data.train and not config.prediction.model:
        raise ConfigError(f"{where}: data.train is empty. Give the training files, or a prediction.model that is already trained.")


def _check_places(config: Configuration, where: str) -> None:
    """Check that paths use {fold} and {seed} only if there are several folds or seeds."""
    weights = config.network.load_weights
    given = [("prediction.model", config.prediction.model)]
    given += [("network.load_weights", path) for path in ([weights] if isinstance(weights, str) else weights or [])]
    for key, path in given:
        for place, needed, there in (("{fold}", "cross_validation", config.cross_validation), ("{seed}", "seeds", config.seeds)):
            if path and place in path and not there:
                raise ConfigError(f"{where}: {key}: '{path}' has {place}, but there is no {needed}. Set {needed}, or give one path.")


def _check_continuation(config: Configuration, where: str) -> None:
    start = config.training.continue_from
    if not start:
        return
    for key, value in (("seeds", config.seeds), ("cross_validation", config.cross_validation)):
        if value:
            raise ConfigError(f"{where}: training.continue_from and {key} are both set: one training is continued. Take out one of them.")
    if config.network.load_weights:
        raise ConfigError(f"{where}: training.continue_from and network.load_weights are both set. Keep one of them.")
    if start.epoch + 1 >= config.training.epochs:
        raise ConfigError(
            f"{where}: training.epochs: {config.training.epochs} leaves nothing to train after epoch {start.epoch} of "
            "training.continue_from. Epochs count from the first of that training, 0: give more."
        )
