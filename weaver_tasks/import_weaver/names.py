"""Derive the name of the run from a weaver command. Commands with separate results in weaver get different names."""

from __future__ import annotations

import re

from weaver_tasks.base.digests import digest
from weaver_tasks.import_weaver.command import Command

# Uninformative names, which many trainings use for folders and files.
_SAY_NOTHING = {"", ".", "..", "training", "trainings", "train", "models", "model", "output", "net", "network"}
_MOST_PARTS = 5
_LONGEST = 70
# Options that do not change the training.
_OF_NO_TRAINING = {
    *("model_prefix", "log_file", "tensorboard", "predict_output", "gpus", "predict_gpus", "num_workers", "prefetch_factor"),
    *("data_test", "data_config_test", "extra_selection_test", "batch_size_test", "run_mode"),
    *("lr_finder", "print", "profile", "io_test", "onnx_opset", "copy_inputs", "auto_clean"),
}


def run_name(command: Command) -> str:
    """The name of the run: the name of the training, with a suffix for what is done with it."""
    name = training_name(command)
    if command.exports_only:
        return f"{name}-export"
    if command.predicts_only:
        o = command.options
        of_file, output = o.model_prefix.partition(":")[2], o.predict_output or ""
        parts = [part for part in _parts(output, "") if part not in ("pred", "predict", "predict_output")]
        parts = parts or [digest(o.data_test, o.extra_selection_test, o.data_config, o.data_config_test)[:6]]
        return "-".join(filter(None, [name, _plain(of_file), "predict", *parts]))
    return name


def training_name(command: Command) -> str:
    """The informative parts of --model-prefix. For `{auto}`, which differs each time in weaver, a digest of the command."""
    o = command.options
    prefix = o.model_prefix.partition(":")[0]
    name = "-".join(_parts(prefix, o.network_config or "run"))
    if "{auto}" in prefix:
        name += (
            "-"
            + digest({key: value for key, value in vars(o).items() if key not in _OF_NO_TRAINING}, command.forks, command.launch.ranks)[:6]
        )
    if o.cross_validation:
        name += f"-{_plain(o.cross_validation.rpartition('%')[2])}-folds"
    return name


def _parts(path: str, otherwise: str) -> list[str]:
    *folders, file = path.split("/")
    # Remove the suffix that weaver adds for the best epoch.
    file = re.sub(r"(_best_epoch_state)?\.(pt|onnx|root|parquet)$", "", file)
    file = re.sub(r"_state$", "", file)
    parts = [_plain(part) for part in (*folders, file)]
    parts = [re.sub(r"^net(work)?_(?=epoch-)", "", part) for part in parts if part.lower() not in _SAY_NOTHING]
    if not parts and otherwise:
        parts = [_plain(re.sub(r"\.py$", "", otherwise.rpartition("/")[2])) or "run"]
    if len(parts) > _MOST_PARTS or len("-".join(parts)) > _LONGEST:
        parts = [*parts[-3:], digest(parts)[:6]]
        while len("-".join(parts)) > _LONGEST and len(parts) > 1:
            parts = parts[1:]
    return parts


def _plain(part: str) -> str:
    """A part of a path without placeholders, with only the characters that the name of a run may have."""
    part = re.sub(r"[-_.]?(fold[-_]?)?\{(auto|fold)\}", "", part)
    return re.sub(r"[^A-Za-z0-9._-]+", "-", part).strip("-._")
