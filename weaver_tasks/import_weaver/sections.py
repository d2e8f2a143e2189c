"""The sections of config.yaml, each from the options that it holds."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

from weaver_tasks.base.errors import ConfigError
from weaver_tasks.import_weaver.amounts import amounts
from weaver_tasks.import_weaver.command import Command
from weaver_tasks.import_weaver.files import groups_of, test_groups_of
from weaver_tasks.import_weaver.literals import literals
from weaver_tasks.import_weaver.result import Conversion


def data(command: Command, made: Conversion) -> None:
    o = command.options
    made.set("data.config", o.data_config)
    for key in ("config_val", "config_test"):
        made.set(f"data.{key}", getattr(o, f"data_{key}"))
    made.set("data.custom_functions", o.custom_functions)
    tested = command.predicts_only or "test" in o.run_mode
    if command.predicts_only:
        for key in ("train", "val"):
            if getattr(o, f"data_{key}"):
                made.note(f"--data-{key}", "not used: only predictions are asked for")
    else:
        made.set("data.train", groups_of(o.data_train, "--data-train"))
        made.set("data.val", groups_of(o.data_val, "--data-val"))
    if tested:
        made.set("data.test", test_groups_of(o.data_test))
    elif o.data_test:
        made.note("--data-test", f"--run-mode {','.join(o.run_mode)} predicts nothing")
    for split in ("train", "val", "test"):
        selection = getattr(o, f"extra_selection_{split}")
        if selection and o.cross_validation:
            made.note(
                f"--extra-selection-{split}", "weaver drops it with --cross-validation; put it into the data configuration's `selection`"
            )
        else:
            made.set(f"data.extra_selection.{split}", selection or None)
    fraction = 0.1 if o.demo else o.data_fraction
    made.set("data.data_fraction", fraction)
    made.set("data.data_fraction_val", o.data_fraction_val)
    made.set("data.data_fraction_test", o.data_fraction if command.predicts_only else fraction, "weaver's --data-fraction cuts these too")
    made.set("data.file_fraction", o.file_fraction)
    made.set("data.train_val_split", o.train_val_split)


def loading(command: Command, made: Conversion) -> None:
    o = command.options
    made.set("loading.fetch_by_files", o.fetch_by_files)
    made.set("loading.fetch_step", 0.002 if o.demo else o.fetch_step)
    made.set("loading.fetch_step_val", o.fetch_step_val)
    made.set("loading.split_num", 1 if o.demo else o.data_split_num)
    made.set("loading.in_memory", o.in_memory)
    made.set("loading.num_workers", o.num_workers)
    if o.prefetch_factor is not None:
        made.set("loading.prefetch", max(1, o.prefetch_factor * max(1, o.num_workers)))
    if o.demo:
        made.note("--demo", "it also takes at most 20 files: name fewer in data.train, or ask Snakemake for the target quick_check instead")
    if o.data_split_val is not None and o.data_split_val != o.data_split_num:
        made.note("--data-split-val", "not needed: loading.max_window_events bounds the memory of validation")
    if o.in_memory_val is not None and o.in_memory_val != o.in_memory:
        made.note("--in-memory-val", "not needed: staged files are memory-mapped")
    if o.no_remake_weights:
        made.set("sampling.remake_weights", False, "data.config must then hold weights.reweight_hists: weaver's .auto.yaml file")
    if o.copy_inputs:
        made.note("--copy-inputs", "not needed: the selected events are staged as columns; `staging: {mode: copy}` copies the raw files")


def network(command: Command, made: Conversion) -> None:
    o = command.options
    made.set("network.config", o.network_config)
    made.set("network.options", literals(o.network_option, "--network-option"))
    weights = o.load_model_weights or None
    if weights and "{fold}" in weights:
        if not o.cross_validation:
            raise ConfigError(
                f"the weaver command: --load-model-weights {weights}: has {{fold}}, but there is no --cross-validation. Give one file."
            )
        weights = weights.replace("{fold}", "fold{fold}")
    if weights and not command.predicts_only:
        made.set("network.load_weights", weights)
        made.set("network.exclude_weights", _list(o.exclude_model_weights))
    elif o.exclude_model_weights:
        made.note("--exclude-model-weights", "nothing is loaded that it could be excluded from")
    if not command.predicts_only:
        made.set("network.freeze_weights", _list(o.freeze_model_weights))


def _list(text: str | None) -> list[str]:
    return text.split(",") if text else []


def training(command: Command, made: Conversion) -> None:
    o, processes = command.options, command.processes
    made.set("training.task", "regression" if o.regression_mode else "classification")
    if command.predicts_only:
        made.set("training.batch_size", o.batch_size_test or o.batch_size)
    else:
        made.set("training.epochs", o.num_epochs)
        if o.load_epoch is not None:
            made.set("training.continue_from", {"prefix": o.model_prefix, "epoch": o.load_epoch})
        for key, value, comment in amounts(o, processes):
            made.set(key, value, comment)
        made.set("training.lr", o.start_lr)
        made.set("training.optimizer.name", o.optimizer)
        made.set("training.optimizer.options", literals(o.optimizer_option, "--optimizer-option"))
        made.set("training.scheduler.name", o.lr_scheduler)
        if "warmup_steps" in command.given and o.lr_scheduler not in ("flat+linear", "flat+cos", "warmup+cos"):
            made.note("--warmup-steps", f"the schedule {o.lr_scheduler} has no warm-up")
        made.set("training.ranks", processes.ranks, processes.comment)
        made.set("training.nodes", processes.nodes)
        made.set("training.compile_optimizer", o.compile_optimizer)
        made.set("training.keep_checkpoints", "best_and_last" if o.auto_clean else "all")
        _tensorboard(o, made)
    made.set("training.amp", o.amp_dtype if o.use_amp else None)
    made.set("training.device", processes.device if not command.predicts_only or processes.device == "cpu" else "auto")
    options = literals(o.compiler_option, "--compiler-option")
    made.set("training.compile", (options or True) if o.compile else False)
    if options and not o.compile:
        made.note("--compiler-option", "only --compile takes options here")
    if not command.predicts_only:
        made.notes += processes.notes
    if "predict_gpus" in command.given:
        gpus = [gpu for gpu in o.predict_gpus.split(",") if gpu.strip()]
        made.set("prediction.ranks", max(1, len(gpus)))
        made.note("--predict-gpus", "prediction runs on training.device, each group as a job of its own; which GPUs: CUDA_VISIBLE_DEVICES")


def _tensorboard(o: SimpleNamespace, made: Conversion) -> None:
    if o.tensorboard:
        made.set("training.tensorboard", o.tensorboard_custom_fn or True)
        made.note("--tensorboard", f"the comment '{o.tensorboard}' is not needed: the files lie in the run's folder")
    elif o.tensorboard_custom_fn:
        made.note("--tensorboard-custom-fn", "without --tensorboard weaver does not use it")


def results(command: Command, made: Conversion) -> None:
    o = command.options
    if o.cross_validation:
        variable, percent, folds = o.cross_validation.rpartition("%")
        if not (variable and percent and re.fullmatch(r"\d+", folds)):
            raise ConfigError(f"the weaver command: --cross-validation {o.cross_validation}: give variable%folds, as in event_no%5.")
        made.set("cross_validation", {"variable": variable, "folds": int(folds)})
    if o.predict_output:
        made.set("prediction.format", "root" if o.predict_output.endswith(".root") else "parquet")
        made.note("--predict-output", "the path is always results/<run>/predictions/<group>, one file per group")
    if command.predicts_only:
        made.set("prediction.model", _model(o))
        auto = _auto_file(o.data_config)
        if auto:
            made.set("data.config", auto, "weaver's resolved form of --data-config, which it predicts with")
        elif not o.data_config.endswith(".auto.yaml"):
            made.note("--data-config", "if it leaves centers to `auto`, give the .auto.yaml file that training wrote")
    elif "{auto}" in o.model_prefix or "model_prefix" in command.given:
        made.note("--model-prefix", "checkpoints are results/<run>/checkpoints/net_epoch-<n>_state.pt; one run has one name, `run`")
    made.set("export.opset", o.onnx_opset)


def _model(o: SimpleNamespace) -> str:
    prefix = o.model_prefix
    if "{auto}" in prefix or ":" in prefix:
        raise ConfigError(
            f"the weaver command: --model-prefix {prefix} cannot be predicted with: prediction.model is one file. "
            "Give --model-prefix FILE.pt or FILE.onnx" + (" (a state_dict whose names have no prefix)." if ":" in prefix else ".")
        )
    if o.cross_validation:
        folder, _, name = prefix.rpartition("/")
        prefix = f"{folder}_fold{{fold}}/{name}"
    return prefix if prefix.endswith((".pt", ".onnx")) else f"{prefix}_best_epoch_state.pt"


def _auto_file(data_config: str) -> str | None:
    """The one file `<name>.<md5>.auto.yaml` that weaver left beside a data configuration, if there is exactly one."""
    path = Path(data_config)
    found = sorted(path.parent.glob(f"{path.stem}.????????????????????????????????.auto.yaml"))
    return str(found[0]) if len(found) == 1 else None


def tools(command: Command, made: Conversion) -> None:
    """The options that make weaver do something else than train."""
    o = command.options
    for option, text in _tool_notes(o):
        made.note(option, text)
    if command.launch.environment:
        given = " ".join(f"{name}={value}" for name, value in command.launch.environment.items())
        made.note(given, "set it for Snakemake in the same way")


def _tool_notes(o: SimpleNamespace) -> Iterator[tuple[str, str]]:
    if o.log_file:
        yield "--log-file", "every job has its log: results/<run>/logs/<stage>/"
    if o.lr_finder:
        yield "--lr-finder", "ask Snakemake for the target find_lr, with the values of tools.find_lr"
    if o.print:
        yield "--print", "ask Snakemake for the target model_summary; python -m weaver_tasks.check looks at the data"
    if o.profile:
        yield "--profile", "ask Snakemake for the target profile_training"
    if o.io_test:
        yield (
            "--io-test",
            "run python -m weaver_tasks.io_test --data-config results/<run>/data_config.auto.yaml --inputs results/<run>/inputs.json",
        )
    if o.export_onnx:
        yield "--export-onnx", "every training ends with results/<run>/export/model.onnx"
