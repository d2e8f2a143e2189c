"""How one split (train, val, test) is read: the slice of config.yaml that the loader goes by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Fold:
    """Cross-validation by an integer variable: fold `index` never trains on events with variable % folds == index."""

    variable: str
    folds: int
    index: int


@dataclass(frozen=True, kw_only=True)
class SplitOptions:
    """What of the files is read, in which pieces, and how events are drawn from them.

    start, stop: the part of every file, as fractions of its entries before selection.
    sample: accept and up-sample events by their weights.
    shuffle: other windows, order and part of each file in each pass; `same_each_pass` draws them only once.
    drop_last, whole_batches: training drops the last incomplete global batch, of which every rank takes a slice;
        validation keeps it and deals whole batches, batch b to rank b mod world size.
    steps: batches of an epoch; then training goes on in one endless stream. None: an epoch is one pass.
    """

    start: float = 0.0
    stop: float = 1.0
    data_fraction: float = 1.0
    file_fraction: float = 1.0
    fetch_by_files: bool = False
    fetch_step: float = 0.01
    split_num: int = 1
    max_window_events: int = 200_000
    in_memory: bool = False
    sample: bool = False
    shuffle: bool = False
    same_each_pass: bool = False
    up_sample: bool = True
    max_resample: int = 10
    weight_scale: float = 1.0
    batch_size: int = 128
    drop_last: bool = False
    whole_batches: bool = False
    endless: bool = False
    steps: int | None = None
    fold: Fold | None = None


def split_options(settings: Mapping[str, Any], split: str, *, world_size: int = 1, own_files: bool = True) -> SplitOptions:
    """The options of `split` ("train", "val" or "test").

    settings: sections data, loading, sampling, training, validation of config.yaml (missing keys take their
    defaults) and perhaps fold: {variable, folds, index}.
    own_files: the validation has files of its own, so that neither split is a part of each training file.
    """
    data, training = settings.get("data", {}), settings.get("training", {})
    if split == "test":
        return SplitOptions(
            data_fraction=data.get("data_fraction_test", 1.0),
            **_loading(settings, split),
            batch_size=_batch_size(training, split),
            fold=_fold(settings),
        )
    boundary = 1.0 if own_files else float(data.get("train_val_split", 0.8))
    if split == "train":
        return SplitOptions(
            stop=boundary,
            data_fraction=data.get("data_fraction", 1.0),
            **_sampled(settings, split, world_size),
            fold=_fold(settings),
        )
    sampled = bool(settings.get("validation", {}).get("reweight", False))
    return SplitOptions(
        start=0.0 if own_files else boundary,
        data_fraction=_first_set(data.get("data_fraction_val"), data.get("data_fraction"), 1.0),
        **(_sampled if sampled else _every_event_once)(settings, split, world_size),
        fold=_fold(settings),
    )


def _sampled(settings: Mapping[str, Any], split: str, world_size: int) -> dict[str, Any]:
    sampling = settings.get("sampling", {})
    steps = _steps(settings, split, world_size)
    return {
        **_loading(settings, split),
        "file_fraction": settings.get("data", {}).get("file_fraction", 1.0),
        "batch_size": _batch_size(settings.get("training", {}), split),
        "sample": True,
        "shuffle": True,
        "up_sample": sampling.get("up_sample", True),
        "max_resample": sampling.get("max_resample", 10),
        "weight_scale": sampling.get("weight_scale", 1.0),
        "drop_last": True,
        "steps": steps,
        "endless": steps is not None,
    }


def _every_event_once(settings: Mapping[str, Any], split: str, world_size: int) -> dict[str, Any]:
    """A number of steps below all takes the same random part of the events in each epoch, so that epochs compare."""
    steps = _steps(settings, split, 1)
    return {
        **_loading(settings, split),
        "file_fraction": settings.get("data", {}).get("file_fraction", 1.0),
        "batch_size": _batch_size(settings.get("training", {}), split),
        # In the order of the files, each is best read at one go.
        **({"shuffle": True} if steps is not None else {"fetch_by_files": True, "fetch_step": 1}),
        "same_each_pass": True,
        "whole_batches": True,
        "steps": steps,
    }


def _loading(settings: Mapping[str, Any], split: str) -> dict[str, Any]:
    loading = settings.get("loading", {})
    fetch_step = loading.get("fetch_step", 0.01)
    return {
        "fetch_by_files": loading.get("fetch_by_files", False),
        "fetch_step": fetch_step if split == "train" else _first_set(loading.get("fetch_step_val"), fetch_step),
        "split_num": loading.get("split_num", 1),
        "max_window_events": loading.get("max_window_events", 200_000),
        "in_memory": loading.get("in_memory", False),
    }


def _batch_size(training: Mapping[str, Any], split: str) -> int:
    batch_size = training.get("batch_size", 128)
    return batch_size if split == "train" else _first_set(training.get(f"batch_size_{split}"), batch_size)


def _steps(settings: Mapping[str, Any], split: str, world_size: int) -> int | None:
    """Batches of an epoch, or None for all there are. Weaver's way of validating takes its own share of the training steps."""
    training = settings.get("training", {})
    suffix = "" if split == "train" else "_val"
    steps, samples = training.get(f"steps_per_epoch{suffix}"), training.get(f"samples_per_epoch{suffix}")
    if steps is None and samples is not None:
        steps = samples // (_batch_size(training, split) * world_size) if samples >= 0 else -1
    if steps is None and split == "val" and settings.get("validation", {}).get("reweight", False):
        trained = _steps(settings, "train", world_size)
        if trained is not None:
            share = settings.get("data", {}).get("train_val_split", 0.8)
            steps = round(trained * _batch_size(training, "train") * (1 - share) / share / _batch_size(training, "val"))
    return None if steps is None or steps < 0 else steps


def _fold(settings: Mapping[str, Any]) -> Fold | None:
    fold = settings.get("fold")
    return Fold(**fold) if fold else None


def _first_set(*values: Any) -> Any:
    return next(value for value in values if value is not None)
