"""Score the test events of one group, in the order of the source files, and write scores, labels and observers.

Memory is bounded whatever the number of events. The columns are those of weaver-core: in a ROOT file (tree `Events`) the flag of each
class and score_<label>, then the labels and the observers; in Parquet `scores`, the labels and the observers.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import logging
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from weaver_tasks import __version__
from weaver_tasks.base.command_line import run_command, task
from weaver_tasks.base.digests import digest, file_checksum
from weaver_tasks.base.errors import ConfigError, NetworkError, ResultError, did_you_mean
from weaver_tasks.base.files import read_json
from weaver_tasks.base.progress import Progress
from weaver_tasks.base.record import TaskRecord
from weaver_tasks.data.configuration import DataConfiguration, load_data_configuration
from weaver_tasks.data.configuration.prediction import prediction_configuration
from weaver_tasks.data.events.block import StagingOptions
from weaver_tasks.data.staging.unlabeled import is_labeled, without_labels
from weaver_tasks.jobs.memory import HeapTrimmer, use_one_malloc_arena
from weaver_tasks.jobs.options import add_data_configuration, add_inputs, add_network
from weaver_tasks.jobs.scoring import load_scoring
from weaver_tasks.settings.model import PredictionSettings, TrainingSettings
from weaver_tasks.settings.stage import stage_parser
from weaver_tasks.training.launch import is_first_rank, launch_ranks

if TYPE_CHECKING:
    import torch

    from weaver_tasks.data.loading.batch import Batch
    from weaver_tasks.results.predictions.tables import Columns

Scored: TypeAlias = "tuple[Any, dict[str, Any], dict[str, Any], Any]"
"""Scores, labels and observers of the same events, and where these lie: something with `file` and `entry`, (N,) each."""

logger = logging.getLogger("weaver_tasks")

_CPU_BATCH = 128  # a larger batch leaves the cache: measured with 128 particles, 512 jets go at less than a third of the speed
_CPU_FULLNESS = 1 / 8  # of a batch of similar length: layers of one or two MB are as fast, and fragment the heap less
_EXAMPLES = 3  # number of small batches used to test properties that a network does not declare
_EXAMPLE_SIZE = 8
_LARGEST_CHANGE = {False: 1e-4, True: 5e-2}  # of a score that does not depend on the padding, in full and in mixed precision
_NAMED = 5  # files, and entries of each, with scores that are not finite
_MOST_HOLES = 16 << 20  # bytes of free memory within the heap, which batches of varying lengths fragment
_NETWORK_CHUNK = 100  # batches that a network's own evaluate function gets at a time


def main(argv: list[str] | None = None) -> None:
    parser = stage_parser("predict", __doc__)
    add_data_configuration(parser)
    parser.add_argument("--data-config-test", type=Path, help="that of the test files: their selection, labels, observers")
    add_inputs(parser)
    parser.add_argument("--group", required=True, help="the test group to predict")
    add_network(parser, "the network configuration (Python); an ONNX model needs none", required=False)
    parser.add_argument("--model", type=Path, required=True, help="the weights (.pt) or an ONNX model (.onnx)")
    parser.add_argument("--output", type=Path, required=True, help="the prediction file, .root or .parquet")
    arguments = parser.parse_args(argv)
    training = arguments.settings.training.model_copy(update={"ranks": arguments.settings.prediction.ranks, "nodes": 1})
    launch_ranks("predict", argv, training)
    use_one_malloc_arena()
    with task(arguments, first_rank=is_first_rank()) as record:
        predict(arguments, training, record)


def predict(arguments: argparse.Namespace, training: TrainingSettings, record: TaskRecord) -> None:
    """Predict this rank's events of one group. Raises a WeaverTasksError if configuration, network and model do not match."""
    from weaver_tasks.training.device import choose_device, device_name, prepare_process
    from weaver_tasks.training.distributed import joined_ranks, leave_to_first_rank, rank

    configurations = predicted_configuration(arguments, record)
    manifest = read_json(record.read(arguments.inputs))
    groups = dict.fromkeys(file["group"] for file in manifest["files"] if file["split"] == "test")
    if arguments.group not in groups:
        raise ConfigError(f"{arguments.inputs}: no test group '{arguments.group}'.{did_you_mean(arguments.group, groups)}")
    device = choose_device(training.device)
    record.note(device=device_name(device))
    prepare_process(training, device)
    with joined_ranks(device):
        prediction = Prediction(arguments, training, configurations, manifest, device)
        if prediction.by_network and not leave_to_first_rank():
            return
        checksum = file_checksum(arguments.model)
        record.read(arguments.model, checksum=checksum)
        if arguments.network is not None and arguments.model.suffix != ".onnx":
            record.read_code(arguments.network)
        metadata = {**prediction.metadata(checksum=checksum), "provenance": record.stamp()}
        entries, written = write_share(prediction, metadata)
        if rank() == 0:
            for path in written:
                record.wrote(path)
            record.note(entries=entries, not_finite=prediction.bad.events, padding_trimmed=prediction.by_length)
            logger.info("%s: %d events", arguments.output, entries)


def predicted_configuration(arguments: argparse.Namespace, record: TaskRecord) -> tuple[DataConfiguration, DataConfiguration]:
    """The data configurations of the training and of the test files; they are the same unless there is a separate one for the test."""
    record.read_configuration(data=arguments.data_config, functions=arguments.custom_functions)
    fitted = load_data_configuration(arguments.data_config, custom_functions=arguments.custom_functions)
    if arguments.data_config_test is None:
        return fitted, fitted
    test = load_data_configuration(record.read(arguments.data_config_test), custom_functions=arguments.custom_functions)
    return fitted, prediction_configuration(fitted, test)


class NotFinite:
    """Counts the events whose scores are NaN or infinite, and remembers files and entries of the first ones."""

    def __init__(self) -> None:
        self.events = 0
        self.where: dict[int, list[int]] = {}

    def count(self, scores: Any, place: Any) -> None:
        from weaver_tasks.results.predictions.scoring import not_finite

        bad = not_finite(scores)
        if not bad.any():
            return
        self.events += int(bad.sum())
        for file, entry in zip(place.file[bad].tolist(), place.entry[bad].tolist(), strict=True):
            entries = self.where.setdefault(file, []) if len(self.where) <= _NAMED or file in self.where else []
            if len(entries) <= _NAMED:
                entries.append(entry)

    @classmethod
    def together(cls, ranks: Iterable[NotFinite]) -> NotFinite:
        """The sum of the counts of all ranks."""
        whole = cls()
        for one in ranks:
            whole.events += one.events
            for file, entries in one.where.items():
                whole.where[file] = [*whole.where.get(file, []), *entries]
        return whole

    def described(self, manifest: Mapping[str, Any]) -> str:
        """A text with the first files and entries."""
        places = [_first(f"{manifest['files'][file]['source']}: entries", entries) for file, entries in list(self.where.items())[:_NAMED]]
        return "; ".join(places) + (" and in more files" if len(self.where) > _NAMED else "")


def _first(what: str, numbers: list[int]) -> str:
    return f"{what} {', '.join(map(str, numbers[:_NAMED]))}{' …' if len(numbers) > _NAMED else ''}"


class Prediction:
    """What one rank predicts, with what. bad: the events of this rank whose scores are not finite, counted as they are scored.

    by_length: whether batches are of similar length and padded to their longest event, not as in training.
    """

    def __init__(
        self,
        arguments: argparse.Namespace,
        training: TrainingSettings,
        configurations: tuple[DataConfiguration, DataConfiguration],
        manifest: Mapping[str, Any],
        device: torch.device,
    ) -> None:
        self.arguments, self.training, self.manifest, self.device = arguments, training, manifest, device
        self._fitted, self.configuration = configurations
        if not is_labeled(manifest, arguments.group):
            logger.info("the files of '%s' have no labels: predicted without truth", arguments.group)
            self.configuration = without_labels(self.configuration)
        self.label_names = self.configuration.label_names
        self.settings: PredictionSettings = arguments.settings.prediction
        self.bad = NotFinite()
        # The network is made with the configuration of the training, because that of the test may have no labels.
        options = arguments.settings.network
        self._scoring = load_scoring(arguments.model, arguments.network, self._fitted, training, options, device, self._examples)
        self.by_length = self._trims()
        batching = f"batches of {self._batch_size()} events{', of similar length and padded to the longest' if self.by_length else ''}"
        logger.info("%s%s", batching, f", {self._scoring.in_threads} at a time" if self._scoring.in_threads > 1 else "")

    @property
    def by_network(self) -> bool:
        """Whether the network's own evaluate function is used. It cannot handle unequal numbers of events on several ranks."""
        return self._scoring.network is not None

    def _batch_size(self) -> int:
        chosen = self.training.batch_size_test
        return chosen or (min(self.training.batch_size, _CPU_BATCH) if self.device.type == "cpu" else self.training.batch_size)

    def _options(self) -> dict[str, Any]:
        """The loader options that do not depend on how the events are scored."""
        from weaver_tasks.data.loading.buffers import BufferPool
        from weaver_tasks.training.device import batch_memory
        from weaver_tasks.training.distributed import rank, world_size

        workers = max(1, self.arguments.settings.loading.num_workers)
        return {
            "group": self.arguments.group,
            "custom_functions": self.arguments.custom_functions,
            "rank": rank(),
            "world_size": world_size(),
            "threads": workers,
            "buffers": BufferPool(batch_memory(self.device)),
        }

    def _batches(self, *, batch_size: int, **options: Any) -> Iterator[Batch]:
        from weaver_tasks.data.loading.prediction_order import prediction_batches

        settings = self.arguments.settings
        settings = settings.model_copy(update={"training": settings.training.model_copy(update={"batch_size_test": batch_size})})
        return prediction_batches(self.manifest, self.configuration, settings, **{**self._options(), **options})

    def _pads_on_device(self) -> bool:
        """Whether inputs are padded on the device. A network's own evaluate function and ONNX models need inputs that are padded before."""
        wanted = self.arguments.settings.loading.pad_on_device
        return wanted and self._scoring.network is None and self.arguments.model.suffix != ".onnx"

    def _examples(self, *, trim: bool = False) -> Iterator[dict[str, Any]]:
        """The inputs of the first events of the group, the same on every rank."""
        options = {"batch_size": _EXAMPLE_SIZE, "trim": trim, "threads": 0, "rank": 0, "world_size": 1}
        return (batch.inputs for batch in itertools.islice(self._batches(**options), _EXAMPLES))

    def _trims(self) -> bool:
        """Whether batches are padded only to their longest event, according to `prediction.trim_padding` or the network's declaration."""
        scoring, wanted = self._scoring, self.settings.trim_padding
        padded = any(group.length is not None for group in self._fitted.inputs)
        if scoring.scorers is None or wanted is False or not padded:
            return False
        if wanted is None:
            if scoring.any_length and not scoring.ignores_padding:
                logger.info(
                    "inputs are padded as in training: the network does not declare that padding changes none of its scores. "
                    "If you know it, prediction.trim_padding: true is faster"
                )
            return scoring.any_length and scoring.ignores_padding and self._masks_tell_padding()
        self._check_trimming()
        return True

    def _masks_tell_padding(self) -> bool:
        """Whether there is a mask input that is zero for padding."""
        masks = [group for group in self._fitted.inputs if group.name.endswith("_mask")]
        return bool(masks) and all(variable.pad_value == 0 for group in masks for variable in group.variables)

    def _check_trimming(self) -> None:
        """Raise ConfigError if the first events show that prediction.trim_padding: true changes scores."""
        from weaver_tasks.results.predictions.scoring import change_without_padding

        assert self._scoring.scorers is not None
        padded, trimmed = ([*self._examples(trim=trim)] for trim in (False, True))
        change = change_without_padding(self._scoring.scorers, padded, trimmed)
        if change > _LARGEST_CHANGE[self.training.amp is not None and self.device.type == "cuda"]:
            how = (
                "does not take inputs of other lengths" if change == float("inf") else f"changes scores of the first events by {change:.2g}"
            )
            raise ConfigError(
                f"config.yaml: prediction.trim_padding: true, but {self.arguments.model} {how} without their padding. Set it to null."
            )

    def columns(self) -> Iterator[Columns]:
        """Yield the columns of the prediction table in chunks of events; at least one chunk, which may be empty."""
        from weaver_tasks.results.predictions.columns import output_columns
        from weaver_tasks.results.predictions.scoring import score_names

        labels = self._fitted.labels
        suffix = self.arguments.output.suffix
        scored = self._scored()
        first = next(scored, None)
        simple = labels is not None and labels.kind == "simple"
        for scores, truth, observers, place in itertools.chain([first or self._nothing()], scored):
            classes = score_names(scores, classes=labels.classes if labels else (), simple=simple)
            if simple and scores.ndim > 1 and scores.shape[-1] != len(classes):
                raise NetworkError(
                    f"{self.arguments.model}: gives {scores.shape[-1]} scores for the {len(classes)} classes of {self._fitted.path} "
                    f"(labels.value). Give the data configuration of its training."
                )
            if place is not None:
                self.bad.count(scores, place)
            served = {name: observers[name] for name in self.configuration.z_variables if name in observers}
            yield output_columns(scores, truth, served, classes=classes, table_format=suffix.removeprefix("."))

    def _scored(self) -> Iterator[Scored]:
        """Yield (scores, labels, observers) in chunks of events."""
        if (scorers := self._scoring.scorers) is None:
            yield from self._by_network(self._batches(batch_size=self._batch_size()))
            return
        from weaver_tasks.data.loading.prediction_windows import WindowBatch, window_batches
        from weaver_tasks.data.loading.prefetch import ordered_map
        from weaver_tasks.results.predictions.scoring import scored_windows
        from weaver_tasks.training.padding import on_device

        unpadded = self._pads_on_device()

        def score(batch: WindowBatch) -> tuple[Any, Any, Any, Any]:
            inputs = on_device(batch.inputs, self.device) if unpadded else batch.inputs
            return *scorers(inputs), batch.places, batch.window

        fullness = _CPU_FULLNESS if self.device.type == "cpu" and not self.training.batch_size_test else 1.0
        options = {**self._options(), "pad": not unpadded, "by_length": self.by_length, "fullness": fullness}
        batches = window_batches(self.manifest, self.configuration, self.arguments.settings, batch_size=self._batch_size(), **options)
        in_threads = self._scoring.in_threads
        scored = ordered_map(score, batches, threads=in_threads, ahead=2 * in_threads, name="scorer")
        yield from scored_windows(scored, task=self.training.task)

    def _nothing(self) -> Scored:
        """Scores, labels and observers without events, so that the columns of an empty table have the right types."""
        import numpy as np

        from weaver_tasks.data.staging.sources import open_source
        from weaver_tasks.results.predictions.scoring import as_columns

        files = [file for file in self.manifest["files"] if file["split"] == "test" and file["group"] == self.arguments.group]
        good = [file for file in files if not file["bad"] and (file["entries"] or file["staged"])]
        if not good or self._scoring.scorers is None:
            raise ResultError(f"{self.arguments.inputs}: no event of the group '{self.arguments.group}' to predict. Leave the group out.")
        options = StagingOptions.from_manifest(self.manifest)
        plain = open_source(good[0], self.configuration, options, custom_functions=self.arguments.custom_functions).read(0, 0).plain
        shapes = {name: shape[1:] if shape[2] is not None else shape[1:2] for name, shape in self.configuration.input_shapes.items()}
        scores, _ = self._scoring.scorers({name: np.zeros((1, *shape), np.float32) for name, shape in shapes.items()})
        labels = {name: plain[name] for name in self.label_names if name in plain}
        return *as_columns(scores[:0], labels, task=self.training.task), plain, None

    def _by_network(self, batches: Iterator[Batch]) -> Iterator[Scored]:
        """Score with the network's own evaluate function, some batches at a time."""
        import numpy as np

        from weaver_tasks.weaver_compat.adapter import WeaverLoader, weaver_arguments

        for chunk in iter(lambda: list(itertools.islice(batches, _NETWORK_CHUNK)), []):
            options = weaver_arguments(self.training, self._scoring.network.options, steps=None)
            # Such a function reads labels, so files without labels get placeholders, which are not written.
            bare = self.configuration.labels is None and self._fitted.labels is not None
            configuration = dataclasses.replace(self.configuration, labels=self._fitted.labels) if bare else self.configuration
            if bare:
                for batch in chunk:
                    batch.labels.update({name: np.zeros(len(batch), np.int64) for name in self._fitted.label_names})
            loader = WeaverLoader(chunk, configuration.weaver, steps=len(chunk))
            extra = {"args": options}
            _, scores, labels, observers = self._scoring.network.evaluate_fn(
                self._scoring.network.model, loader, self.device, epoch=None, for_training=False, tb_helper=None, extra_args=extra
            )
            yield scores, {} if bare else labels, observers, Places(chunk)

    def check_scores(self, events: int) -> None:
        """Raise ResultError when more of all `events` than prediction.max_bad_fraction have scores that are not finite; tell any."""
        if not self.bad.events:
            return
        allowed = self.settings.max_bad_fraction
        where = self.bad.described(self.manifest)
        message = f"{self.arguments.group}: {self.bad.events:,} of {events:,} events have scores that are NaN or infinite ({where})"
        if self.bad.events > allowed * events:
            raise ResultError(
                f"{message}, more than prediction.max_bad_fraction {allowed:g} allows. Look for such values in the weights of "
                f"{self.arguments.model} and in the inputs of these events; if you allow a fraction, evaluation leaves them out."
            )
        logger.warning("%s: evaluation leaves them out", message)

    def metadata(self, *, checksum: str) -> dict[str, Any]:
        """The metadata of the prediction file about its origin."""
        labels = self._fitted.labels
        return {
            "made_by": f"weaver_tasks {__version__}",
            "task": self.training.task,
            "group": self.arguments.group,
            "classes": list(labels.classes) if labels else [],
            "labeled": bool(self.label_names),
            "labels": [name for name in self.label_names if not name.endswith("_mask")],
            "model": self.arguments.model.name,
            "model_sha256": checksum,
            "data_configuration": digest(self._fitted.raw),
            "inputs": self.manifest["digest"],
            "settings": digest(self.arguments.given),
        }


class Places:
    """The positions of the events of some batches: file and entry, (N,) each."""

    def __init__(self, batches: list[Batch]) -> None:
        import numpy as np

        self.file, self.entry = (np.concatenate([getattr(batch, name) for batch in batches]) for name in ("file", "entry"))


def write_share(prediction: Prediction, metadata: Mapping[str, Any]) -> tuple[int, list[Path]]:
    """Write the predictions of this rank; the first rank then joins those of all.

    Returns (on rank 0) how many events there are, and in which files.
    """
    import pyarrow

    from weaver_tasks.results.predictions.tables import open_table, read_table, table_names
    from weaver_tasks.training.distributed import from_all_ranks, rank, world_size

    pyarrow.set_memory_pool(pyarrow.system_memory_pool())  # pyarrow's own pool would keep a second heap
    output = prediction.arguments.output
    shares = [output.with_name(f".{output.stem}.rank-{number}.parquet") for number in range(world_size())]
    mine = output if world_size() == 1 else shares[rank()]
    try:
        with open_table(mine, metadata) as table, Progress(f"predicting {prediction.arguments.group}", total=None, quiet=rank() > 0) as bar:
            holes = HeapTrimmer(_MOST_HOLES)
            for columns in prediction.columns():
                holes.limit()
                before = table.entries
                table.write(columns)
                bar.advance((table.entries - before) * world_size())
            if world_size() == 1:
                prediction.check_scores(table.entries)  # before the table is published
        entries, written = table.entries, table.paths
        if world_size() > 1:
            entries = sum(from_all_ranks(entries))
            prediction.bad = NotFinite.together(from_all_ranks(prediction.bad))
            prediction.check_scores(entries)
            if rank() == 0:
                with open_table(output, metadata) as whole:
                    for share in shares:
                        for columns in read_table(share, table_names(share)):
                            whole.write(columns)
                written = whole.paths
            from_all_ranks(None)
    finally:
        if world_size() > 1:
            mine.unlink(missing_ok=True)
    return entries, written


if __name__ == "__main__":
    run_command(main)
