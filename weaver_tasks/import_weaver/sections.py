"""Make each section of config.yaml from the weaver options that correspond to it."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from weaver_tasks.base.errors import did_you_mean
from weaver_tasks.import_weaver.amounts import amounts
from weaver_tasks.import_weaver.command import Command
from weaver_tasks.import_weaver.files import groups_of, test_groups_of
from weaver_tasks.import_weaver.literals import literals
from weaver_tasks.import_weaver.names import training_name
from weaver_tasks.import_weaver.options import OPTIONS
from weaver_tasks.import_weaver.result import TODO, Conversion


def forks(command: Command, made: Conversion) -> None:
    """Convert options of forks of weaver: two have keys here, the others become TODOs."""
    known = [name for option in OPTIONS for name in option.names]
    for option, words in command.forks:
        value = words[0] if len(words) == 1 else None
        if option == "--seed" and value is not None and re.fullmatch(r"\d+", value):
            made.set("seed", int(value))
        elif option == "--train-mode" and value in _TRAIN_MODES:
            command.options.regression_mode = command.options.regression_mode or _TRAIN_MODES[value]
        else:
            hint = did_you_mean(option, known)
            made.todo(" ".join([option, *words]), f"weaver-core 0.5.3 has no such option.{hint} Give its meaning by the keys here")


_TRAIN_MODES = {"cls": False, "classification": False, "regression": True, "reg": True}


def data(command: Command, made: Conversion) -> None:
    o = command.options
    made.set("data.config", o.data_config or TODO, "" if o.data_config else "--data-config is missing. Give the data configuration")
    for key in ("config_val", "config_test"):
        made.set(f"data.{key}", getattr(o, f"data_{key}"))
    made.set("data.custom_functions", o.custom_functions)
    if command.trains:
        given = groups_of(o.data_train, "--data-train", made)
        made.set("data.train", given or TODO, "" if given else "--data-train is missing. Give the training files")
        made.set("data.val", groups_of(o.data_val, "--data-val", made))
    else:
        _not_read(("train", "val"), "this command only predicts" if command.predicts_only else "this command only exports", o, made)
    if command.exports_only:
        _not_read(("test",), "this command only exports; given in data.test, the models are compared on their events", o, made)
    elif command.predicts_only or "test" in o.run_mode:
        made.set("data.test", test_groups_of(o.data_test, made))
    elif o.data_test:
        made.note("--data-test", f"--run-mode {','.join(o.run_mode)} predicts nothing")
    if not o.data_test and command.predicts_only:
        made.set("data.test", TODO, "--data-test is missing. Give the files to predict")
    elif not o.data_test and command.trains:
        made.note("no --data-test", "nothing is predicted or evaluated; the ONNX model is compared with PyTorch on validation events")
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


def _not_read(splits: Sequence[str], why: str, o: SimpleNamespace, made: Conversion) -> None:
    for split in splits:
        if getattr(o, f"data_{split}"):
            made.note(f"--data-{split}", f"not used: {why}")


def loading(command: Command, made: Conversion) -> None:
    o = command.options
    made.set("loading.fetch_by_files", o.fetch_by_files)
    made.set("loading.fetch_step", 0.002 if o.demo else o.fetch_step)
    made.set("loading.fetch_step_val", o.fetch_step_val)
    made.set("loading.split_num", 1 if o.demo else o.data_split_num)
    made.set("loading.in_memory", o.in_memory)
    step = 0.002 if o.demo else o.fetch_step
    if o.in_memory and (o.fetch_by_files or step < 1):
        part = f"{step:g} files" if o.fetch_by_files else f"{step:.3g} of each file"
        made.note("--in-memory", f"with --fetch-step {step:g} weaver trains on its first window, {part}, for ever; here on everything")
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
    missing = "" if o.network_config else "--network-config is missing. Give the network configuration"
    made.set("network.config", o.network_config or TODO, missing)
    made.set("network.options", literals(o.network_option, "--network-option", made))
    weights, comment = o.load_model_weights or None, ""
    if weights and "{fold}" in weights:
        if o.cross_validation:
            weights = weights.replace("{fold}", "fold{fold}")
        else:
            weights, comment = TODO, f"--load-model-weights {weights} has {{fold}}, but there is no --cross-validation. Give one file"
    if weights and command.trains:
        made.set("network.load_weights", weights, comment)
        made.set("network.exclude_weights", _list(o.exclude_model_weights))
    elif o.exclude_model_weights:
        made.note("--exclude-model-weights", "nothing is loaded that it could be excluded from")
    if command.trains:
        made.set("network.freeze_weights", _list(o.freeze_model_weights))


def _list(text: str | None) -> list[str]:
    return text.split(",") if text else []


def training(command: Command, made: Conversion) -> None:
    o, processes = command.options, command.processes
    made.set("training.task", "regression" if o.regression_mode else "classification")
    if command.predicts_only:
        made.set("training.batch_size", o.batch_size_test or o.batch_size)
    if command.trains:
        made.set("training.epochs", o.num_epochs)
        if o.load_epoch is not None:
            made.set("training.continue_from", *_continuation(o))
        for key, value, comment in amounts(o, processes):
            made.set(key, value, comment)
        made.set("training.lr", o.start_lr)
        made.set("training.optimizer.name", o.optimizer)
        made.set("training.optimizer.options", literals(o.optimizer_option, "--optimizer-option", made))
        made.set("training.scheduler.name", o.lr_scheduler)
        if "warmup_steps" in command.given and o.lr_scheduler not in ("flat+linear", "flat+cos", "warmup+cos"):
            made.note("--warmup-steps", f"the schedule {o.lr_scheduler} has no warm-up")
        made.set("training.ranks", processes.ranks, processes.comment)
        made.set("training.nodes", processes.nodes)
        if command.launch.before:
            made.note(command.launch.before, "Snakemake starts the jobs, by its profile: docs/clusters.md")
        made.set("training.compile_optimizer", o.compile_optimizer)
        made.set("training.keep_checkpoints", "best_and_last" if o.auto_clean else "all")
        _tensorboard(o, made)
    made.set("training.amp", o.amp_dtype if o.use_amp else None)
    made.set("training.device", processes.device if command.trains or processes.device == "cpu" else "auto")
    options = literals(o.compiler_option, "--compiler-option", made)
    made.set("training.compile", (options or True) if o.compile else False)
    if options and not o.compile:
        made.note("--compiler-option", "only --compile takes options here")
    if command.trains:
        made.notes += processes.notes
    if "predict_gpus" in command.given:
        gpus = [gpu for gpu in o.predict_gpus.split(",") if gpu.strip()]
        made.set("prediction.ranks", max(1, len(gpus)))
        made.note("--predict-gpus", "prediction runs on training.device, each group as a job of its own; which GPUs: CUDA_VISIBLE_DEVICES")


def _continuation(o: SimpleNamespace) -> tuple[Any, str]:
    if "{auto}" not in o.model_prefix:
        return {"prefix": o.model_prefix, "epoch": o.load_epoch}, ""
    wanted = f"{{prefix: …, epoch: {o.load_epoch}}}"
    return TODO, f"--load-epoch {o.load_epoch}: --model-prefix {o.model_prefix}: {{auto}} cannot be filled in. Give {wanted}"


def _tensorboard(o: SimpleNamespace, made: Conversion) -> None:
    if o.tensorboard:
        made.set("training.tensorboard", o.tensorboard_custom_fn or True)
        made.note("--tensorboard", f"the comment '{o.tensorboard}' is not needed: the files lie in the run's folder")
    elif o.tensorboard_custom_fn:
        made.note("--tensorboard-custom-fn", "without --tensorboard weaver does not use it")


def results(command: Command, made: Conversion) -> None:
    o = command.options
    _run_mode(command, made)
    if o.cross_validation:
        variable, percent, folds = o.cross_validation.rpartition("%")
        if variable and percent and re.fullmatch(r"\d+", folds):
            made.set("cross_validation", {"variable": variable, "folds": int(folds)})
        else:
            made.set("cross_validation", TODO, f"--cross-validation {o.cross_validation}: give {{variable: event_no, folds: 5}}")
    if o.predict_output:
        made.set("prediction.format", "root" if o.predict_output.endswith(".root") else "parquet")
        made.note("--predict-output", "the path is always results/<run>/predictions/<group>, one file per group")
    if command.trains:
        if "{auto}" in o.model_prefix or "model_prefix" in command.given:
            made.note("--model-prefix", "checkpoints are results/<run>/checkpoints/net_epoch-<n>_state.pt; one run has one name, `run`")
    else:
        _trained(command, made)
    made.set("export.opset", o.onnx_opset)


def _run_mode(command: Command, made: Conversion) -> None:
    modes = set(command.options.run_mode)
    unknown = modes - {"train", "val", "test"}
    if unknown or (modes and not modes & {"train", "test"}) or (modes & {"train", "val"} == {"val"} and not command.options.predict):
        made.todo(
            f"--run-mode {','.join(command.options.run_mode)}",
            "has no counterpart. Use train,val,test (each epoch is validated by a job of its own), or test with --model-prefix FILE.pt",
        )


def _trained(command: Command, made: Conversion) -> None:
    """Set the trained model and the resolved data configuration of its training: those of weaver, or those of a run here."""
    model, comment = _model(command)
    name = training_name(command)
    own = Path("results") / name
    if model != TODO and not Path(model).exists() and (own / "checkpoints/net_best_epoch_state.pt").exists():
        comment = f"there is no {model}: the best epoch of the run {name}"
        made.set("prediction.model", str(own / "checkpoints/net_best_epoch_state.pt"), comment)
        made.set("data.config", str(own / "data_config.auto.yaml"), "the resolved form of --data-config of that run")
        if not command.options.data_config_test and command.options.data_config:
            made.set("data.config_test", command.options.data_config, "for its selection and observers")
        return
    made.set("prediction.model", model, comment)
    _resolved_configuration(command.options, made)


def _model(command: Command) -> tuple[str, str]:
    o = command.options
    prefix = o.model_prefix
    if "{auto}" in prefix or ":" in prefix:
        wanted = " (a state_dict whose names have no prefix)" if ":" in prefix else ""
        return TODO, f"--model-prefix {prefix}: prediction.model is one file. Give FILE.pt or FILE.onnx{wanted}"
    if o.cross_validation:
        folder, _, name = prefix.rpartition("/")
        prefix = f"{folder}_fold{{fold}}/{name}"
    if command.exports_only and prefix.endswith(".onnx"):
        return TODO, f"--model-prefix {prefix} is exported already. Give FILE.pt"
    return prefix if prefix.endswith((".pt", ".onnx")) else f"{prefix}_best_epoch_state.pt", ""


def _resolved_configuration(o: SimpleNamespace, made: Conversion) -> None:
    """Set the data configuration of a trained model: the file that weaver resolved from the present --data-config, found by checksum."""
    path = Path(o.data_config or "")
    if not o.data_config or path.name.endswith(".auto.yaml"):
        return
    there = sorted(path.parent.glob(f"{path.stem}.????????????????????????????????.auto.yaml"))
    checksum = hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest() if path.is_file() else ""
    own = path.with_name(f"{path.stem}.{checksum}.auto.yaml")
    if own in there:
        made.set("data.config", str(own), "weaver's resolved form of --data-config, by its checksum")
    elif there and path.is_file():
        listed = ", ".join(map(str, there[:3]))
        made.note("--data-config", f"{listed}: of another version of {path}, by the checksum, so not used. {_RESOLVED}")
    else:
        made.note("--data-config", _RESOLVED)


_RESOLVED = "If it leaves centers to `auto`, give the .auto.yaml file that training wrote"


def tools(command: Command, made: Conversion) -> None:
    """Convert the options that make weaver do something other than training."""
    o = command.options
    if o.lr_finder:
        _lr_finder(o.lr_finder, made)
    for option, text in _tool_notes(o):
        made.note(option, text)
    if command.launch.environment:
        given = " ".join(f"{name}={value}" for name, value in command.launch.environment.items())
        made.note(given, "set it for Snakemake in the same way")


def _lr_finder(text: str, made: Conversion) -> None:
    """Convert the value of --lr-finder: start, end, steps."""
    try:
        start, end, steps = text.split(",")
        given = {"start": float(start), "end": float(end), "steps": int(steps)}
    except ValueError:
        made.todo(f"--lr-finder '{text}'", "not three numbers. Give tools.find_lr its start, end and steps")
        return
    for key, value in given.items():
        made.set(f"tools.find_lr.{key}", value)


def _tool_notes(o: SimpleNamespace) -> Iterator[tuple[str, str]]:
    if o.log_file:
        yield "--log-file", "every job has its log: results/<run>/logs/<stage>/"
    if o.lr_finder:
        yield "--lr-finder", "ask Snakemake for the target find_lr, which trains nothing else; weaver stops after it too"
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
        yield "--export-onnx", "ask Snakemake for the target export, which makes results/<run>/export/model.onnx of prediction.model"
