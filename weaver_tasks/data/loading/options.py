"""The options of config.yaml that determine how the loader reads one split (train, val, test)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from weaver_tasks.settings.model import TrainingSettings
from weaver_tasks.settings.stage import Fold, StageSettings

_DEFAULT = StageSettings()


@dataclass(frozen=True, kw_only=True)
class SplitOptions:
    """Which part of the files is read, how it is divided into windows, and how events are sampled.

    start, stop: the part of every file that is read, as fractions of its entries before selection.
    sample: accept and up-sample events according to their weights.
    shuffle: windows, order and part of each file differ in each pass; with `same_each_pass` they are drawn only once.
    drop_last, whole_batches: in training every rank takes a slice of each global batch, and the last incomplete one is dropped;
    in validation it is kept, and whole batches are distributed: batch b to rank b mod world size.
    steps: batches per epoch; epochs then continue one endless stream. None: an epoch is one pass.
    """

    start: float = 0.0
    stop: float = 1.0
    data_fraction: float = _DEFAULT.data.data_fraction
    file_fraction: float = _DEFAULT.data.file_fraction
    fetch_by_files: bool = _DEFAULT.loading.fetch_by_files
    fetch_step: float = _DEFAULT.loading.fetch_step
    split_num: int = _DEFAULT.loading.split_num
    max_window_events: int = _DEFAULT.loading.max_window_events
    in_memory: bool = _DEFAULT.loading.in_memory
    sample: bool = False
    shuffle: bool = False
    same_each_pass: bool = False
    up_sample: bool = _DEFAULT.sampling.up_sample
    max_resample: int = _DEFAULT.sampling.max_resample
    weight_scale: float = _DEFAULT.sampling.weight_scale
    batch_size: int = _DEFAULT.training.batch_size
    drop_last: bool = False
    whole_batches: bool = False
    endless: bool = False
    steps: int | None = None
    fold: Fold | None = None


def split_options(settings: StageSettings, split: str, *, world_size: int = 1, own_files: bool = True) -> SplitOptions:
    """Return the options of `split` ("train", "val" or "test").

    settings: of the task. own_files: whether validation has separate files. Otherwise training and validation share the training files.
    """
    data = settings.data
    if split == "test":
        return SplitOptions(
            data_fraction=data.data_fraction_test,
            **_loading(settings, split),
            batch_size=_batch_size(settings.training, split),
            fold=settings.fold,
        )
    boundary = 1.0 if own_files else float(data.train_val_split)
    if split == "train":
        return SplitOptions(
            stop=boundary,
            data_fraction=data.data_fraction,
            **_sampled(settings, split, world_size),
            fold=settings.fold,
        )
    return SplitOptions(
        start=0.0 if own_files else boundary,
        data_fraction=_first_set(data.data_fraction_val, data.data_fraction),
        **(_sampled if settings.validation.reweight else _every_event_once)(settings, split, world_size),
        fold=settings.fold,
    )


def _sampled(settings: StageSettings, split: str, world_size: int) -> dict[str, Any]:
    sampling = settings.sampling
    steps = _steps(settings, split, world_size)
    return {
        **_loading(settings, split),
        "file_fraction": settings.data.file_fraction,
        "batch_size": _batch_size(settings.training, split),
        "sample": True,
        "shuffle": True,
        "up_sample": sampling.up_sample,
        "max_resample": sampling.max_resample,
        "weight_scale": sampling.weight_scale,
        "drop_last": True,
        "steps": steps,
        "endless": steps is not None,
    }


def _every_event_once(settings: StageSettings, split: str, world_size: int) -> dict[str, Any]:
    """Options without sampling. If the number of steps does not cover all events, every epoch uses the same random subset."""
    steps = _steps(settings, split, 1)
    return {
        **_loading(settings, split),
        "file_fraction": settings.data.file_fraction,
        "batch_size": _batch_size(settings.training, split),
        # In the order of the files, it is fastest to read each file as a whole.
        **({"shuffle": True} if steps is not None else {"fetch_by_files": True, "fetch_step": 1}),
        "same_each_pass": True,
        "whole_batches": True,
        "steps": steps,
    }


def _loading(settings: StageSettings, split: str) -> dict[str, Any]:
    loading = settings.loading
    return {
        "fetch_by_files": loading.fetch_by_files,
        "fetch_step": loading.fetch_step if split == "train" else _first_set(loading.fetch_step_val, loading.fetch_step),
        "split_num": loading.split_num,
        "max_window_events": loading.max_window_events,
        "in_memory": loading.in_memory,
    }


def _batch_size(training: TrainingSettings, split: str) -> int:
    of_split = {"train": None, "val": training.batch_size_val, "test": training.batch_size_test}
    return _first_set(of_split[split], training.batch_size)


def _steps(settings: StageSettings, split: str, world_size: int) -> int | None:
    """Return the batches per epoch; None for all events. Validation in weaver's way takes its share of the training steps."""
    training = settings.training
    steps, samples = training.steps_per_epoch, training.samples_per_epoch
    if split == "val":
        steps, samples = training.steps_per_epoch_val, training.samples_per_epoch_val
    if steps is None and samples is not None:
        steps = samples // (_batch_size(training, split) * world_size) if samples >= 0 else -1
    if steps is None and split == "val" and settings.validation.reweight:
        trained = _steps(settings, "train", world_size)
        if trained is not None:
            share = settings.data.train_val_split
            steps = round(trained * training.batch_size * (1 - share) / share / _batch_size(training, "val"))
    return None if steps is None or steps < 0 else steps


def _first_set(*values: Any) -> Any:
    return next(value for value in values if value is not None)
