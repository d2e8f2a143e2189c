"""config.yaml: checked against its schema, values brought to their types, defaults filled in.

Both the workflow and the tools (`check`, `import_weaver`) read configurations through `resolve_config`.
"""

from __future__ import annotations

import contextlib
import math
from pathlib import Path
from typing import Any

import yaml

from weaver_tasks.base.errors import ConfigError
from weaver_tasks.base.maps import merge
from weaver_tasks.base.schemas import load_schema, read_yaml, validate

Schema = dict[str, Any]


def read_config(paths: list[Path]) -> dict[str, Any]:
    """Read one or several configuration files, the later ones winning key by key. Raises ConfigError."""
    merged: dict[str, Any] = {}
    for path in paths:
        document = read_yaml(path)
        if not isinstance(document, dict):
            raise ConfigError(f"{path}: holds no keys. See config/README.md for those there are.")
        merged = merge(merged, document)
    return merged


def resolve_config(document: dict[str, Any], *, where: str = "config.yaml") -> dict[str, Any]:
    """The complete configuration: types as the schema says, every key present.

    where: what error messages call the configuration (its file names).
    Raises ConfigError naming the key, the value and the remedy.
    """
    schema = load_schema("config")
    typed = _coerce(document, schema, schema)
    validate(typed, schema, where=where, error=ConfigError)
    _check_finite(typed, where)
    config = _with_defaults(typed, schema, schema)
    _check_meaning(config, where)
    return config


def _check_finite(value: Any, where: str, key: str = "") -> None:
    """What YAML calls .inf and .nan is larger than any number, or not smaller. Options of a network or an optimizer may want them."""
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"{where}: key '{key}': {value} is not a finite number. Correct it.")
    if isinstance(value, dict):
        for name, item in value.items():
            if name != "options":
                _check_finite(item, where, f"{key}.{name}" if key else name)


def _coerce(value: Any, schema: Schema, root: Schema) -> Any:
    """`value` with strings turned into what the schema asks for.

    `--config` gives numbers as strings, and YAML 1.1 reads 5e-3 (no dot) as one.
    """
    schema = _dereference(schema, root)
    if isinstance(value, dict):
        properties = schema.get("properties", {})
        if not properties and "oneOf" not in schema and schema.get("type") == "object":
            return {key: _coerce_free(item) for key, item in value.items()}
        return {key: _coerce(item, properties[key], root) if key in properties else item for key, item in value.items()}
    if isinstance(value, str) and not _is_allowed(value, schema):
        for candidate in _readings(value):
            if _is_allowed(candidate, schema):
                return candidate
    return value


def _coerce_free(value: Any) -> Any:
    """Options without a schema: a string that reads as a number, a truth value or nothing is meant as one."""
    if isinstance(value, dict):
        return {key: _coerce_free(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_coerce_free(item) for item in value]
    if isinstance(value, str):
        for candidate in _readings(value):
            if candidate is None or isinstance(candidate, (bool, int, float)):
                return candidate
    return value


def _readings(text: str) -> list[Any]:
    readings: list[Any] = []
    with contextlib.suppress(yaml.YAMLError):
        readings.append(yaml.safe_load(text))
    with contextlib.suppress(ValueError):
        readings.append(float(text))
    return readings


_TYPES: dict[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "object": (dict,),
    "array": (list,),
    "null": (type(None),),
}


def _is_allowed(value: Any, schema: Schema) -> bool:
    if "enum" in schema:
        return value in schema["enum"]
    types = schema.get("type", [])
    types = [types] if isinstance(types, str) else types
    if not types:
        return True
    if value in ("null", "None", "true", "false") and isinstance(value, str) and len(types) > 1:
        return False
    if isinstance(value, bool):
        return "boolean" in types
    return any(isinstance(value, _TYPES[name]) for name in types)


def _with_defaults(value: Any, schema: Schema, root: Schema) -> Any:
    properties = _dereference(schema, root).get("properties")
    if not isinstance(value, dict) or not properties:
        return value
    filled = dict(value)
    for key, child in properties.items():
        if key not in filled and "default" in child:
            filled[key] = child["default"]
        if key in filled:
            filled[key] = _with_defaults(filled[key], child, root)
    return filled


def _dereference(schema: Schema, root: Schema) -> Schema:
    reference = schema.get("$ref")
    return root["$defs"][reference.rpartition("/")[2]] if reference else schema


def _check_places(config: dict[str, Any], where: str) -> None:
    """{fold} and {seed} in paths stand for the number of the fold or seed, where there are several."""
    weights = config["network"]["load_weights"]
    given = [("prediction.model", config["prediction"]["model"])]
    given += [("network.load_weights", path) for path in ([weights] if isinstance(weights, str) else weights or [])]
    for key, path in given:
        for place, needed in (("{fold}", "cross_validation"), ("{seed}", "seeds")):
            if path and place in path and not config[needed]:
                raise ConfigError(f"{where}: {key}: '{path}' has {place}, but there is no {needed}. Set {needed}, or give one path.")


def _check_continuation(config: dict[str, Any], where: str) -> None:
    start = config["training"]["continue_from"]
    if not start:
        return
    for key, value in (("seeds", config["seeds"]), ("cross_validation", config["cross_validation"])):
        if value:
            raise ConfigError(f"{where}: training.continue_from and {key} are both set: one training is continued. Take out one of them.")
    if config["network"]["load_weights"]:
        raise ConfigError(f"{where}: training.continue_from and network.load_weights are both set. Keep one of them.")
    if start["epoch"] + 1 >= config["training"]["epochs"]:
        raise ConfigError(
            f"{where}: training.epochs: {config['training']['epochs']} leaves nothing to train after epoch {start['epoch']} of "
            "training.continue_from. Epochs count from the first of that training, 0: give more."
        )


def _check_meaning(config: dict[str, Any], where: str) -> None:
    training = config["training"]
    for suffix in ("", "_val"):
        samples, steps = f"samples_per_epoch{suffix}", f"steps_per_epoch{suffix}"
        if training[samples] is not None and training[steps] is not None:
            raise ConfigError(f"{where}: training.{samples} and training.{steps} are both set. Keep one of them.")
    batch, samples = training["batch_size"] * training["ranks"] * training["nodes"], training["samples_per_epoch"]
    if samples is not None and samples < batch:
        raise ConfigError(f"{where}: training.samples_per_epoch: {samples} are less than one batch of {batch} over all ranks. Give more.")
    if config["seeds"] and config["cross_validation"]:
        raise ConfigError(f"{where}: seeds and cross_validation are both set. Keep one of them.")
    _check_places(config, where)
    _check_continuation(config, where)
    if training["amp"] == "fp16" and training["device"] == "cpu":
        raise ConfigError(f"{where}: training.amp: fp16 needs a GPU. On training.device: cpu use bf16.")
    if not config["data"]["train"] and not config["prediction"]["model"]:
        raise ConfigError(f"{where}: data.train is empty. Give the training files, or a prediction.model that is already trained.")
    validation = config["validation"]
    metric = validation["metric"] or ("accuracy" if training["task"] == "classification" else "loss")
    smaller_is_better = any(word in metric for word in ("loss", "error", "mae", "mse"))
    config["validation"] = {**validation, "metric": metric, "mode": validation["mode"] or ("min" if smaller_is_better else "max")}
