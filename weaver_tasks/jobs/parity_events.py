"""Provide events for the comparison of an exported model with PyTorch, both standardized (network inputs) and raw."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from weaver_tasks.data.events.block import Block, StagingOptions, packed_columns
from weaver_tasks.data.loading.prediction_order import prediction_batches
from weaver_tasks.data.staging.sources import open_source
from weaver_tasks.results.onnx.export import Standardize
from weaver_tasks.settings.model import TrainingSettings
from weaver_tasks.settings.stage import StageSettings

if TYPE_CHECKING:
    from weaver_tasks.data.configuration import DataConfiguration

Inputs = dict[str, np.ndarray]

_GROUPS = 20
_LAST = 20  # if training files are also used for validation, read only the last 1/20 of the entries


class ParityEvents(NamedTuple):
    """Batches of events. taken_from: test files, validation files, training files, or none (random events).

    standardized: by group (B, k, length), or (B, k) or (B,) for flat groups. raw: the same events, padded with NaN.
    """

    taken_from: str
    standardized: list[Inputs]
    raw: list[Inputs]


def find_events(
    configuration: DataConfiguration, manifests: Sequence[Mapping[str, Any]], *, count: int, custom_functions: Path | None
) -> ParityEvents | None:
    """The first `count` events of each test group, else of validation files, else the last ones of training files. None without files.

    At least two events are needed, since an axis of size 1 would be treated as fixed.
    """
    # The files may have been staged without labels, or with other observers.
    configuration = dataclasses.replace(configuration, labels=None, observers=(), monitor_variables=())
    for split, taken_from in (("test", "test files"), ("val", "validation files"), ("train", "training files")):
        for last in (_LAST, 1) if split == "train" else (1,):
            found = [
                pair
                for manifest in manifests
                for record in _first_of_each_group(manifest, split)
                if (pair := _first_batch(manifest, record, configuration, count=count, last=last, custom_functions=custom_functions))
            ]
            if found and max(_size(standardized) for standardized, _ in found) >= 2:
                found.sort(key=lambda pair: -_size(pair[0]))
                return ParityEvents(taken_from, [standardized for standardized, _ in found], [raw for _, raw in found])
    return None


def _size(inputs: Inputs) -> int:
    return len(next(iter(inputs.values())))


def _first_of_each_group(manifest: Mapping[str, Any], split: str) -> list[Mapping[str, Any]]:
    records = [record for record in manifest["files"] if record["split"] == split and not record["bad"] and record["kept"]]
    return list({record["group"]: record for record in reversed(records)}.values())[::-1][:_GROUPS]


def _first_batch(
    manifest: Mapping[str, Any],
    record: Mapping[str, Any],
    configuration: DataConfiguration,
    *,
    count: int,
    last: int,
    custom_functions: Path | None,
) -> tuple[Inputs, Inputs] | None:
    """The first events of one file. last: read only the last 1/`last` of its entries."""
    if record["split"] != "test":
        configuration = dataclasses.replace(configuration, test_time_selection=configuration.selection)
    manifest = _of_one_test_file(manifest, record)
    (record,) = manifest["files"]
    settings = StageSettings(training=TrainingSettings(batch_size_test=count))
    # Use no threads, so that unread batches need no cleanup.
    batches: Iterator[Any] = prediction_batches(
        manifest,
        configuration,
        settings,
        group=record["group"],
        rank=last - 1,
        world_size=last,
        threads=0,
        custom_functions=custom_functions,
    )
    batch = next(batches, None)
    if batch is None:
        return None
    source = open_source(record, configuration, StagingOptions.from_manifest(manifest), custom_functions=custom_functions)
    columns = [column.name for column in packed_columns(configuration)]
    block = source.read(int(batch.entry[0]), int(batch.entry[-1]) + 1, columns)
    return {name: values.copy() for name, values in batch.inputs.items()}, raw_inputs(block, configuration)


def _of_one_test_file(manifest: Mapping[str, Any], record: Mapping[str, Any]) -> dict[str, Any]:
    """The record of a file of any split in the form of a test file, with the selection of its own split."""
    options = manifest.get("options", {})
    extra = (options.get("extra_selection") or {}).get(record["split"]) if record["split"] != "train" else None
    options = {**options, "extra_selection": {"test": extra} if extra else {}}
    return {**manifest, "files": [{**record, "split": "test"}], "options": options}


def raw_inputs(block: Block, configuration: DataConfiguration) -> Inputs:
    """The unstandardized inputs of a block: group -> (N, k, length) padded with NaN, or (N, k) or (N,) for flat groups."""
    columns = {column.name: column for column in packed_columns(configuration)}
    inputs: Inputs = {}
    for group in configuration.inputs:
        column = next(column for column in columns.values() if {variable.name for variable in group.variables} <= set(column.variables))
        packed = block.packed[column.name]
        places = [column.variables.index(variable.name) for variable in group.variables]
        if packed.offsets is None or group.length is None:
            values = packed.values[:, places]
            inputs[group.name] = values[:, 0].copy() if len(places) == 1 else values
            continue
        padded = np.full((len(block), len(places), group.length), np.nan, dtype=np.float32)
        for event, (first, last) in enumerate(itertools.pairwise(packed.offsets)):
            particles = packed.values[first:last][: group.length, places]
            padded[event, :, : len(particles)] = particles.T
        inputs[group.name] = padded
    return inputs


def made_up_events(configuration: DataConfiguration, *, count: int) -> ParityEvents:
    """Reproducible random events around the center of each variable, for use without files.

    Every event has some particles, at the same places in all groups; masks are 1 there. The four variables px, py, pz and energy
    form the four-vector of a massive particle.
    """
    generator = np.random.default_rng(1)
    longest = max((group.length for group in configuration.inputs if group.length is not None), default=1)
    particles = generator.integers(1, longest, count, endpoint=True)
    raw, standardized = {}, {}
    for group in configuration.inputs:
        values = [_made_up(variable, (count, group.length or 1), generator) for variable in group.variables]
        if [_kind(variable.name) for variable in group.variables] == ["px", "py", "pz", "energy"]:
            values[3] = np.sqrt(sum(value**2 for value in values[:3]) + 0.02)
        block = np.stack(values, axis=1).astype(np.float32)  # (count, k, length)
        if group.length is None:
            raw[group.name] = block[:, 0, 0].copy() if len(values) == 1 else block[:, :, 0].copy()
        else:
            padding = np.arange(group.length) >= np.minimum(particles, group.length)[:, None]
            raw[group.name] = np.where(padding[:, None], np.float32(np.nan), block)
        standardized[group.name] = Standardize(group)(torch.from_numpy(raw[group.name])).numpy()
    return ParityEvents("none: made up", [standardized], [raw])


def _made_up(variable: Any, shape: tuple[int, int], generator: np.random.Generator) -> np.ndarray:
    if variable.name.endswith("mask"):
        return np.ones(shape)
    center = variable.center or 0.0
    scale = variable.scale if variable.center is not None and variable.scale else 1.0
    return center + generator.standard_normal(shape) / scale


def _kind(name: str) -> str:
    last = name.lower().rpartition("_")[2]
    return "energy" if last in ("energy", "e") else last
