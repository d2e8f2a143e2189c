"""The options of weaver-core 0.5.3, and their equivalents in this project.

Both the parser of weaver command lines (with argparse's abbreviations, as in weaver) and the table in
docs/for_weaver_users.md are made from one table here.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, NoReturn

from weaver_tasks.base.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Option:
    """One option. kind: text, number, integer, switch (also --no-…), flag, files, pairs (repeatable) or names (a,b,c).

    here: Markdown, its key in config.yaml or its replacement.
    """

    names: tuple[str, ...]
    kind: str
    default: Any
    choices: tuple[str, ...] | None
    here: str

    @property
    def long(self) -> str:
        """The long name, such as --data-train."""
        return self.names[-1]

    @property
    def key(self) -> str:
        """The attribute of the parsed command line, such as data_train."""
        return self.long.removeprefix("--").replace("-", "_")


def _option(names: str, kind: str, here: str, default: Any = None, choices: tuple[str, ...] | None = None) -> Option:
    return Option(names=tuple(names.split()), kind=kind, default=default, choices=choices, here=here)


SCHEDULES = ("none", "steps", "flat+decay", "flat+linear", "flat+cos", "warmup+cos", "one-cycle")

OPTIONS = (
    _option(
        "--run-mode",
        "names",
        "`test` alone: `prediction.model`. Training always validates; without `test`, no test files are carried over",
        ("train", "val", "test"),
    ),
    _option("--regression-mode", "switch", "`training.task: regression`", False),
    _option("-c --data-config", "text", "`data.config`, unchanged"),
    _option("--data-config-val", "text", "`data.config_val`"),
    _option("--data-config-test", "text", "`data.config_test`"),
    _option("--extra-selection-train", "text", "`data.extra_selection.train`"),
    _option("--extra-selection-val", "text", "`data.extra_selection.val`"),
    _option("--extra-selection-test", "text", "`data.extra_selection.test`"),
    _option("-i --data-train", "files", "`data.train`: `a:/path/*` is `{a: /path/*}`; URLs may be given", ()),
    _option("-l --data-val", "files", "`data.val`", ()),
    _option("-t --data-test", "files", "`data.test`: `a%10:/path/*` is `{a: {files: /path/*, split: 10}}`", ()),
    _option("--data-fraction", "number", "`data.data_fraction`, and `data.data_fraction_test`, since weaver cuts the test files too", 1.0),
    _option("--data-fraction-val", "number", "`data.data_fraction_val`"),
    _option("--file-fraction", "number", "`data.file_fraction`", 1.0),
    _option("--fetch-by-files", "switch", "`loading.fetch_by_files`", False),
    _option("--fetch-step", "number", "`loading.fetch_step`", 0.01),
    _option("--fetch-step-val", "number", "`loading.fetch_step_val`"),
    _option("--data-split-num", "integer", "`loading.split_num`", 1),
    _option("--data-split-val", "integer", "not needed: validation's memory is bounded by `loading.max_window_events`"),
    _option("--in-memory", "switch", "`loading.in_memory`", False),
    _option("--in-memory-val", "switch", "not needed: validation reads the staged files through memory maps"),
    _option("--train-val-split", "number", "`data.train_val_split`", 0.8),
    _option("--no-remake-weights", "flag", "`sampling.remake_weights: false`", False),
    _option(
        "--demo",
        "switch",
        "`data.data_fraction: 0.1`, `loading.fetch_step: 0.002`; or the target `quick_check`: all stages on a few entries",
        False,
    ),
    _option("--lr-finder", "text", "`tools.find_lr`, and the target `find_lr`: a plot, and the rate where the loss falls most steeply"),
    _option("--tensorboard", "text", "`training.tensorboard: true`; the files lie in the run's folder, so its comment is not needed"),
    _option("--tensorboard-custom-fn", "text", "`training.tensorboard: file.py`"),
    _option("--custom-functions", "text", "`data.custom_functions`"),
    _option("-n --network-config", "text", "`network.config`, unchanged"),
    _option("-o --network-option", "pairs", "`network.options`", ()),
    _option(
        "-m --model-prefix",
        "text",
        "`run` is named after it; for `{auto}`, a digest of the command. When predicting: `prediction.model`",
        "models/{auto}/network",
    ),
    _option("--load-model-weights", "text", "`network.load_weights`, also as `file.pt:prefix`; `{fold}` becomes `fold{fold}`"),
    _option("--exclude-model-weights", "text", "`network.exclude_weights`, a list"),
    _option("--freeze-model-weights", "text", "`network.freeze_weights`, a list"),
    _option("--num-epochs", "integer", "`training.epochs`", 20),
    _option("--steps-per-epoch", "integer", "`training.steps_per_epoch`"),
    _option("--steps-per-epoch-val", "integer", "`training.steps_per_epoch_val`, over all ranks"),
    _option("--samples-per-epoch", "integer", "`training.samples_per_epoch`: weaver counts per rank, here over all ranks"),
    _option("--samples-per-epoch-val", "integer", "`training.samples_per_epoch_val`: likewise"),
    _option("--optimizer", "text", "`training.optimizer.name`", "ranger"),
    _option("-p --optimizer-option", "pairs", "`training.optimizer.options`", ()),
    _option("--lr-scheduler", "text", "`training.scheduler.name`", "flat+decay", SCHEDULES),
    _option("--warmup-steps", "number", "`training.scheduler.warmup`, in epochs: converted", 0.25),
    _option("--load-epoch", "integer", "`training.continue_from`: weaver's epochs go on here. A run begun here continues by itself"),
    _option("--start-lr", "number", "`training.lr`", 5e-3),
    _option(
        "--batch-size", "integer", "`training.batch_size`, per rank: with DataParallel (`--gpus 0,1` without `--backend`) a share", 128
    ),
    _option("--batch-size-val", "integer", "`training.batch_size_val`, likewise"),
    _option("--batch-size-test", "integer", "`training.batch_size_test`"),
    _option("--use-amp", "switch", "`training.amp`", False),
    _option("--amp-dtype", "text", "`training.amp: bf16` or `fp16`", "bf16", ("fp16", "bf16")),
    _option("--compile", "switch", "`training.compile: true`", False),
    _option("--compiler-option", "pairs", "`training.compile`, as a map", ()),
    _option("--compile-optimizer", "switch", "`training.compile_optimizer`", False),
    _option("--gpus", "text", "`training.device` and `training.ranks`; which GPUs: `CUDA_VISIBLE_DEVICES` of the Snakemake command", "0"),
    _option("--predict-gpus", "text", "`prediction.ranks`, on `training.device`, in jobs of its own"),
    _option("--num-workers", "integer", "`loading.num_workers`; it never changes results here", 1),
    _option("--prefetch-factor", "integer", "`loading.prefetch`, of all workers together"),
    _option("--predict", "switch", "`prediction.model`: then nothing is trained", False),
    _option("--predict-output", "text", "`prediction.format`, by its suffix; the files are `results/<run>/predictions/<group>.root`"),
    _option(
        "--export-onnx",
        "text",
        "`prediction.model`, and the target `export`: weaver exports and stops. A training ends with `results/<run>/export/model.onnx`",
    ),
    _option("--onnx-opset", "integer", "`export.opset`", 15),
    _option("--io-test", "switch", "`python -m weaver_tasks.io_test`", False),
    _option("--copy-inputs", "switch", "not needed: events are staged as columns; `staging.mode: copy` copies the raw files", False),
    _option("--log-file", "text", "not needed: every job has its log, `results/<run>/logs/<stage>/`", ""),
    _option("--print", "switch", "the target `model_summary`: parameters and FLOPs of each layer; data: `weaver_tasks.check`", False),
    _option(
        "--profile",
        "switch",
        "the target `profile_training`: real training steps; of whole jobs: `results/<run>/benchmarks/`",
        False,
    ),
    _option(
        "--backend",
        "text",
        "chosen by the device: `nccl` or `gloo`; the ranks of torchrun: `training.ranks`, `training.nodes`",
        None,
        ("gloo", "nccl", "mpi"),
    ),
    _option("--cross-validation", "text", "`cross_validation: {variable, folds}`, for `variable%folds`"),
    _option("--auto-clean", "switch", "`training.keep_checkpoints: best_and_last`, also while training goes on", False),
)

_BY_KEY = {option.key: option for option in OPTIONS}
_TYPES: dict[str, Callable[[str], Any]] = {
    "number": float,
    "integer": int,
    "text": str,
    "names": lambda text: tuple(text.split(",")),
}


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"the weaver command: {message}. See `weaver --help` of weaver-core 0.5.3.")


def weaver_parser() -> argparse.ArgumentParser:
    """A parser that accepts the same options as weaver. Options that are not given are missing from its result."""
    parser = _Parser(prog="weaver", add_help=False, argument_default=argparse.SUPPRESS)
    for option in OPTIONS:
        match option.kind:
            case "switch":
                parser.add_argument(*option.names, dest=option.key, action=argparse.BooleanOptionalAction)
            case "flag":
                parser.add_argument(*option.names, dest=option.key, action="store_true")
            case "files":
                parser.add_argument(*option.names, dest=option.key, nargs="*")
            case "pairs":
                parser.add_argument(*option.names, dest=option.key, nargs=2, action="append")
            case kind:
                parser.add_argument(*option.names, dest=option.key, type=_TYPES[kind], choices=option.choices)
    return parser


def parse_options(arguments: list[str]) -> tuple[SimpleNamespace, set[str], list[tuple[str, list[str]]]]:
    """The values of all options, the keys of those that were given, and (option, arguments) of those that weaver-core does not have.

    Raises ConfigError for values that weaver would also refuse.
    """
    given, unknown = weaver_parser().parse_known_args(arguments)
    forks: list[tuple[str, list[str]]] = []
    for word in unknown:
        if word.startswith("--") or not forks:
            name, equals, value = word.partition("=")
            forks.append((name, [value] if equals else []))
        else:
            forks[-1][1].append(word)
    values = {key: option.default for key, option in _BY_KEY.items()}
    return SimpleNamespace(**{**values, **vars(given)}), set(vars(given)), forks


def option_table() -> str:
    """The Markdown table in docs/for_weaver_users.md, with the equivalent of every option."""
    rows = (f"| {', '.join(f'`{name}`' for name in reversed(option.names))} | {option.here} |" for option in OPTIONS)
    return "\n".join(["| weaver | here |", "|---|---|", *rows]) + "\n"
