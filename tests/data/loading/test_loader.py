"""The batches of an epoch: every event where it belongs, whatever the ranks, the threads and the history."""

from __future__ import annotations

import copy
import itertools
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from scipy import stats

from weaver_tasks.base.errors import DataConfigError, InputFileError
from weaver_tasks.data.configuration import DataConfiguration, load_data_configuration
from weaver_tasks.data.events.block import StagingOptions, join
from weaver_tasks.data.events.reading import transformed_blocks
from weaver_tasks.data.events.transform import plan_transformation
from weaver_tasks.data.loading.batch import Batch
from weaver_tasks.data.loading.loader import EpochLoader
from weaver_tasks.data.loading.parts import OpenFiles
from weaver_tasks.data.readers import open_reader
from weaver_tasks.data.staging.manifest import make_manifest
from weaver_tasks.data.staging.stage import Staging, stage_file
from weaver_tasks.data.statistics.weights import fill, make_histograms
from weaver_tasks.settings.stage import StageSettings, stage_settings

CLASSES = {"ZJetsToNuNu": "label_QCD", "HToBB": "label_Hbb", "TTBar": "label_Tbqq"}
DOCUMENT: dict[str, Any] = {
    "selection": "jet_pt > 520",
    "new_variables": {"part_mask": "ak.ones_like(part_energy)", "part_pt_log": "np.log(np.hypot(part_px, part_py))"},
    "preprocess": {"method": "manual"},
    "inputs": {
        "features": {"length": 40, "pad_mode": "wrap", "vars": [["part_pt_log", 1.7, 0.7], ["part_deta", None]]},
        "mask": {"length": 40, "pad_mode": "constant", "vars": [["part_mask", None]]},
        "jet": {"length": None, "vars": [["jet_pt", 500, 0.01], ["jet_eta", None]]},
    },
    "monitor_variables": ["jet_pt"],
}
WEIGHTS = {
    "use_precomputed_weights": False,
    "reweight_method": "flat",
    "reweight_vars": {"jet_pt": [500, 600, 700, 1000], "jet_sdmass": [0, 70, 140, 500]},
    "reweight_classes": list(CLASSES.values()),
    "reweight_threshold": 30,
}


class Sample:
    """Some files with a configuration: the manifest as the rule stage_inputs makes it, staged or not."""

    def __init__(self, folder: Path, files: dict[str, list[Path]], options: StagingOptions, **sections: Any) -> None:
        self.folder, self.files, self.options = folder, files, options
        labels = {"type": "simple", "value": [CLASSES[process] for process in files]}
        self.document = {**DOCUMENT, "labels": labels, **sections}
        self.records: dict[tuple[str, str, str], dict[str, Any]] = {}
        self.configuration = self._configuration()
        transformation = plan_transformation(self.configuration, "train", options)
        self.blocks = {
            path: join(list(transformed_blocks(str(path), transformation, 0, None))) for paths in files.values() for path in paths
        }
        if self.configuration.weights is not None:
            self._make_weights()

    def _configuration(self) -> DataConfiguration:
        path = self.folder / "data.yaml"
        path.write_text(yaml.safe_dump(self.document, sort_keys=False))
        return load_data_configuration(path)

    def _make_weights(self) -> None:
        made = [fill(self.configuration.weights, block.plain) for block in self.blocks.values()]
        content = {name: np.sum([histograms[name] for histograms in made], axis=0) for name in made[0]}
        histograms = {name: array.tolist() for name, array in make_histograms(self.configuration, content).items()}
        self.document = {**self.document, "weights": {**self.document["weights"], "reweight_hists": histograms}}
        self.configuration = self._configuration()

    def manifest(self, mode: str = "columnar", *, validation: Path | None = None) -> dict[str, Any]:
        """inputs.json, with the file `validation` as the only one of that split."""
        records = [self._record("train", group, path, mode) for group, paths in self.files.items() for path in paths]
        records += [self._record("val", "other", validation, mode)] if validation else []
        return make_manifest(records, on_bad_file="fail", max_bad_fraction=0)

    def _record(self, split: str, group: str, path: Path, mode: str) -> dict[str, Any]:
        key = (split, str(path), mode)
        if key not in self.records:
            target = self.folder / f"{split}_{path.stem}.arrow" if mode == "columnar" else None
            staging = Staging(configuration=self.configuration, split=split, mode=mode, options=self.options)
            self.records[key] = stage_file(str(path), target, staging, group=group)
        return self.records[key]

    def selected(self) -> list[tuple[int, int]]:
        """(file, entry) of all selected events."""
        paths = [path for paths in self.files.values() for path in paths]
        return [(file, int(entry)) for file, path in enumerate(paths) for entry in self.blocks[path].entries]


MakeSample = Callable[..., Sample]


@pytest.fixture(scope="module")
def make_sample(tmp_path_factory: pytest.TempPathFactory, jets: Path) -> MakeSample:
    def make(processes: tuple[str, ...] = tuple(CLASSES), *, options: StagingOptions | None = None, **sections: Any) -> Sample:
        files = {process: [jets / "train" / f"{process}.root"] for process in processes}
        return Sample(tmp_path_factory.mktemp("sample"), files, options or StagingOptions(), **sections)

    return make


@pytest.fixture(scope="module")
def plain(make_sample: MakeSample) -> Sample:
    """Three classes, no weights."""
    return make_sample()


@pytest.fixture(scope="module")
def weighted(make_sample: MakeSample) -> Sample:
    return make_sample(weights=WEIGHTS)


def typed(given: dict[str, Any]) -> StageSettings:
    """The settings that are given; without `data`, every event trains, which no configuration can ask for."""
    made = stage_settings(given)
    return made if "data" in given else made.model_copy(update={"data": made.data.model_copy(update={"train_val_split": 1.0})})


def settings(*, batch_size: int = 32, **sections: Any) -> dict[str, Any]:
    result: dict[str, Any] = {"loading": {"fetch_step": 0.2}, "training": {"batch_size": batch_size}}
    for section, values in sections.items():
        result[section] = {**result.get(section, {}), **values}
    return result


def load(sample: Sample, given: dict[str, Any], *, mode: str = "columnar", split: str = "train", **options: Any) -> list[Batch]:
    manifest = sample.manifest(mode)
    asked = {"seed": 1, "epoch": 0, "threads": 0, **options}
    return list(EpochLoader(manifest, sample.configuration, typed(given), split=split, **asked))


def events(batches: list[Batch]) -> list[tuple[int, int]]:
    return [pair for batch in batches for pair in zip(batch.file.tolist(), batch.entry.tolist(), strict=True)]


def assert_same(ours: list[Batch], theirs: list[Batch]) -> None:
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs, strict=True):
        assert one.end_position == other.end_position
        for name in one.inputs:
            np.testing.assert_array_equal(one.inputs[name], other.inputs[name])
        for name in one.labels:
            np.testing.assert_array_equal(one.labels[name], other.labels[name])
        np.testing.assert_array_equal(one.file, other.file)
        np.testing.assert_array_equal(one.entry, other.entry)


def test_a_batch_holds_what_the_files_hold(plain: Sample) -> None:
    batches = load(plain, settings())
    paths = [path for paths in plain.files.values() for path in paths]
    for batch in batches:
        assert batch.inputs["features"].shape == (32, 2, 40)
        assert batch.inputs["features"].dtype == np.float32
        assert batch.labels["_label_"].dtype == np.int64
        for event in range(0, 32, 5):
            block = plain.blocks[paths[batch.file[event]]]
            row = int(np.searchsorted(block.entries, batch.entry[event]))
            assert batch.observers["jet_pt"][event] == block.plain["jet_pt"][row]
            assert batch.labels["_label_"][event] == batch.file[event]
            packed = block.packed["features"]
            first, last = packed.offsets[row : row + 2]
            deta = np.resize(packed.values[first:last, 1], 40) if last - first < 40 else packed.values[first : first + 40, 1]
            np.testing.assert_array_equal(batch.inputs["features"][event, 1], deta)
            assert batch.inputs["mask"][event, 0].sum() == min(40, last - first)


@pytest.mark.parametrize("fetch_step", [1.0, 0.01])
@pytest.mark.parametrize("world_size", [1, 2, 3, 8])
def test_ranks_share_the_stream(weighted: Sample, world_size: int, fetch_step: float) -> None:
    given = settings(batch_size=24 // world_size, loading={"fetch_step": fetch_step})
    alone = load(weighted, settings(batch_size=24, loading={"fetch_step": fetch_step}))
    ranks = [load(weighted, given, rank=rank, world_size=world_size) for rank in range(world_size)]
    assert {len(batches) for batches in ranks} == {len(alone)}
    for step, batch in enumerate(alone):
        union = [pair for batches in ranks for pair in events([batches[step]])]
        assert union == events([batch])
        assert {str(batches[step].end_position) for batches in ranks} == {str(batch.end_position)}


def test_an_epoch_serves_each_event_once_up_to_the_remainder(plain: Sample) -> None:
    for fetch_step, world_size in itertools.product((1.0, 0.3, 0.004), (1, 3)):
        given = settings(batch_size=25, loading={"fetch_step": fetch_step})
        seen = [pair for rank in range(world_size) for pair in events(load(plain, given, rank=rank, world_size=world_size))]
        assert len(seen) == len(set(seen))
        assert set(seen) <= set(plain.selected())
        assert len(plain.selected()) - len(seen) < 25 * world_size


@pytest.mark.parametrize("mode", ["columnar", "none"])
def test_batches_do_not_depend_on_threads(weighted: Sample, mode: str) -> None:
    reference = load(weighted, settings(), mode=mode)
    for threads in (1, 2, 4):
        assert_same(reference, load(weighted, settings(), mode=mode, threads=threads))
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("loader")]


def test_batches_do_not_depend_on_staging(weighted: Sample) -> None:
    assert_same(load(weighted, settings()), load(weighted, settings(), mode="none"))


def test_another_epoch_or_seed_gives_other_batches_of_the_same_events(plain: Sample) -> None:
    given = settings(batch_size=1)
    first = events(load(plain, given))
    for options in ({"epoch": 1}, {"seed": 2}):
        other = events(load(plain, given, **options))
        assert other != first
        assert sorted(other) == sorted(first)
    assert events(load(plain, given)) == first


def test_steps_and_samples_are_known_beforehand(weighted: Sample, plain: Sample) -> None:
    for sample in (weighted, plain):
        loader = EpochLoader(sample.manifest(), sample.configuration, typed(settings()), split="train", seed=1, epoch=2, threads=2)
        assert loader.steps == len(list(loader)) == loader.samples / 32


@pytest.mark.parametrize("per_epoch", [{"samples_per_epoch": 330}, {"steps_per_epoch": 10}])
def test_an_endless_stream_goes_on_over_epochs(weighted: Sample, per_epoch: dict[str, int]) -> None:
    given = settings(training={"batch_size": 32, **per_epoch})
    whole = load(weighted, settings(training={"batch_size": 32, "steps_per_epoch": 60}))
    position, epochs = None, []
    for epoch in range(6):
        alone = load(weighted, given, epoch=epoch)
        after = load(weighted, given, epoch=epoch, position=position)
        assert len(after) == 10
        assert events(alone) == events(after)
        epochs += after
        position = after[-1].end_position
    assert events(epochs) == events(whole)
    assert position["pass"] > 1, "the stream has begun anew"


@pytest.mark.parametrize("sections", [{}, {"training": {"batch_size": 32, "steps_per_epoch": 12}}, {"loading": {"fetch_step": 0.01}}])
def test_an_epoch_goes_on_from_any_batch(make_sample: MakeSample, weighted: Sample, sections: dict[str, Any]) -> None:
    bucketed = make_sample(bucketing={"var": "jet_nparticles", "bins": [0, 30, 50, 200]})
    for sample in (weighted, bucketed):
        given = settings(**sections)
        whole = load(sample, given, epoch=1)
        for done in (1, 4, len(whole) - 1, len(whole)):
            rest = load(sample, given, epoch=1, position=whole[done - 1].end_position)
            assert events(rest) == events(whole[done:])


def test_the_rest_of_an_epoch_does_not_change_its_steps(weighted: Sample) -> None:
    given = settings()
    whole = load(weighted, given)
    loader = EpochLoader(
        weighted.manifest(),
        weighted.configuration,
        typed(given),
        split="train",
        seed=1,
        epoch=0,
        position=whole[3].end_position,
        threads=0,
    )
    assert loader.steps == len(whole)
    assert len(list(loader)) == len(whole) - 4


def test_in_memory_draws_the_acceptance_once(weighted: Sample) -> None:
    for mode in ("columnar", "none"):
        given = settings(loading={"in_memory": True}, training={"batch_size": 20, "steps_per_epoch": 40})
        batches = load(weighted, given, mode=mode)
        passes = [sorted(events([batch for batch in batches if batch.end_position["pass"] == number])) for number in (0, 1)]
        one, other = set(passes[0]), set(passes[1])
        assert len(one & other) > 0.9 * min(len(one), len(other))
        redrawn = load(weighted, settings(training={"batch_size": 20, "steps_per_epoch": 40}, loading={"fetch_step": 1.0}), mode=mode)
        one, other = (set(events([batch for batch in redrawn if batch.end_position["pass"] == number])) for number in (0, 1))
        assert len(one & other) < 0.9 * min(len(one), len(other))


@pytest.mark.parametrize("world_size", [1, 2, 3, 8])
def test_validation_serves_each_event_once_in_whole_batches(plain: Sample, world_size: int) -> None:
    given = settings(batch_size=64, data={"train_val_split": 0.6})
    alone = load(plain, given, split="val")
    ranks = [load(plain, given, split="val", rank=rank, world_size=world_size, epoch=5) for rank in range(world_size)]
    for number, batch in enumerate(alone):
        assert batch.number == number
        assert events([ranks[number % world_size][number // world_size]]) == events([batch])
    assert sum(map(len, ranks)) == len(alone)
    trained = load(plain, settings(batch_size=1, data={"train_val_split": 0.6}))
    assert sorted(events(alone) + events(trained)) == sorted(plain.selected())
    for rank, batches in enumerate(ranks):
        loader = EpochLoader(
            plain.manifest(),
            plain.configuration,
            typed(given),
            split="val",
            seed=1,
            epoch=0,
            rank=rank,
            world_size=world_size,
            threads=0,
        )
        assert loader.steps == len(batches)
        assert loader.samples == len(events(alone))


def test_a_part_of_the_validation_is_the_same_in_each_epoch_and_holds_all_classes(plain: Sample) -> None:
    given = settings(data={"train_val_split": 0.5}, training={"batch_size": 20, "steps_per_epoch_val": 4})
    batches = load(plain, given, split="val")
    assert len(batches) == 4
    assert events(batches) == events(load(plain, given, split="val", epoch=3))
    assert set(np.concatenate([batch.labels["_label_"] for batch in batches])) == {0, 1, 2}


def test_weavers_way_of_validating_draws_anew_in_each_epoch(weighted: Sample) -> None:
    given = settings(data={"train_val_split": 0.5}, validation={"reweight": True})
    first, second = (load(weighted, given, split="val", epoch=epoch) for epoch in (0, 1))
    assert {len(batch) for batch in first} == {32}
    assert events(first) != events(second)


def test_files_of_their_own_are_the_validation(make_sample: MakeSample, jets: Path) -> None:
    sample = make_sample()
    manifest = sample.manifest(validation=jets / "test" / "TTBar.root")
    given = settings(batch_size=10, data={"train_val_split": 0.5})
    train = list(EpochLoader(manifest, sample.configuration, typed(given), split="train", seed=1, epoch=0, threads=0))
    validation = list(EpochLoader(manifest, sample.configuration, typed(given), split="val", seed=1, epoch=0, threads=0))
    assert len(events(train)) == len(sample.selected()) // 10 * 10
    assert {file for file, _ in events(train)} == {0, 1, 2}
    assert {file for file, _ in events(validation)} == {3}
    assert len(events(validation)) == manifest["files"][3]["kept"]


def test_folds_part_the_events(make_sample: MakeSample) -> None:
    sample = make_sample(options=StagingOptions(fold_variable="jet_nparticles"))
    left_out = []
    for index in range(3):
        given = {**settings(batch_size=1), "fold": {"variable": "jet_nparticles", "folds": 3, "index": index}}
        left_out += sorted(set(sample.selected()) - set(events(load(sample, given))))
    assert sorted(left_out) == sorted(sample.selected())


def test_an_extra_selection_holds_for_its_split_alone(make_sample: MakeSample) -> None:
    options = StagingOptions(extra_selection={"train": "jet_pt < 700", "val": "jet_pt < 600"}, validation_from_training=True)
    sample = make_sample(options=options)
    given = settings(batch_size=8, data={"train_val_split": 0.5})
    for mode in ("columnar", "none"):
        highest = {
            split: max(batch.observers["jet_pt"].max() for batch in load(sample, given, split=split, mode=mode))
            for split in ("train", "val")
        }
        assert 600 < highest["train"] < 700
        assert highest["val"] < 600


@pytest.mark.parametrize("bins", [[0, 30, 45, 60, 200], 4])
def test_bucketing_gives_batches_of_similar_length(make_sample: MakeSample, bins: list[int] | int) -> None:
    sample = make_sample(bucketing={"var": "jet_nparticles", "bins": bins}, monitor_variables=["jet_nparticles"])
    spread = [np.ptp(batch.observers["jet_nparticles"]) for batch in load(sample, settings(batch_size=16, loading={"fetch_step": 0.5}))]
    plain_spread = [
        np.ptp(batch.observers["jet_nparticles"])
        for batch in load(make_sample(monitor_variables=["jet_nparticles"]), settings(batch_size=16, loading={"fetch_step": 0.5}))
    ]
    assert np.median(spread) < 0.6 * np.median(plain_spread)


def test_class_shares_of_each_rank_are_even(make_sample: MakeSample) -> None:
    for processes in (tuple(CLASSES), ("HToBB",)):
        sample = make_sample(processes)
        given = settings(batch_size=8, loading={"fetch_step": 0.5})
        counts = []
        for rank in range(4):
            batches = load(sample, given, rank=rank, world_size=4)
            # With one file, the shares of its light and heavy jets.
            kinds = [batch.labels["_label_"] if len(processes) > 1 else batch.observers["jet_pt"] > 650 for batch in batches]
            counts.append(np.bincount(np.concatenate(kinds)))
        assert np.min(counts) > 5
        assert stats.chi2_contingency(counts).pvalue > 1e-3


def test_sampled_spectra_follow_the_weights(weighted: Sample) -> None:
    """Over many epochs each class fills the bins of (pt, mass) as content times weight says: flat where that is flat."""
    given = settings(batch_size=16, sampling={"up_sample": False})
    configuration = weighted.configuration
    drawn = np.zeros((3, 3, 3))
    expected = np.zeros((3, 3, 3))
    edges = [np.array(edge) for edge in configuration.weights.variables.values()]
    for path in (path for paths in weighted.files.values() for path in paths):
        plain = weighted.blocks[path].plain
        filled = fill(configuration.weights, plain)
        for place, name in enumerate(CLASSES.values()):
            expected[place] += filled[name] * np.array(configuration.weights.histograms[name])
    paths = [path for paths in weighted.files.values() for path in paths]
    for epoch in range(30):
        for batch in load(weighted, given, epoch=epoch):
            for file in range(3):
                block = weighted.blocks[paths[file]]
                rows = np.searchsorted(block.entries, batch.entry[batch.file == file])
                drawn[file] += np.histogram2d(block.plain["jet_pt"][rows], block.plain["jet_sdmass"][rows], bins=edges)[0]
    expected *= drawn.sum() / expected.sum()
    filled_bins = expected > 5
    chi2 = ((drawn - expected)[filled_bins] ** 2 / expected[filled_bins]).sum()
    assert stats.chi2.sf(chi2, filled_bins.sum()) > 1e-3
    assert chi2 > 0


def test_up_sampling_serves_more_events(weighted: Sample) -> None:
    few = events(load(weighted, settings(sampling={"up_sample": False})))
    many = events(load(weighted, settings(sampling={"up_sample": True, "max_resample": 3})))
    assert len(few) == len(set(few))
    assert len(many) > 1.5 * len(few)
    assert len(many) > len(set(many))


def test_a_window_without_events_is_no_error(make_sample: MakeSample) -> None:
    sample = make_sample(selection="(jet_pt > 520) & (jet_pt < 540)")
    seen = events(load(sample, settings(batch_size=1, loading={"fetch_step": 0.002})))
    assert sorted(seen) == sorted(sample.selected())


def test_too_few_events_are_refused_by_name(plain: Sample) -> None:
    for given in (settings(batch_size=5000), settings(batch_size=5000, sampling={"up_sample": False})):
        with pytest.raises(DataConfigError, match=r"events are selected.*too few for a batch of 5000"):
            load(plain, given)
    nothing = settings(batch_size=4, data={"train_val_split": 0.00001}, training={"steps_per_epoch": 3, "batch_size": 4})
    with pytest.raises(DataConfigError, match="0 events"):
        load(plain, nothing)


@pytest.mark.parametrize("threads", [0, 2])
def test_an_error_in_a_file_reaches_the_caller(plain: Sample, threads: int) -> None:
    manifest = copy.deepcopy(plain.manifest("none"))
    manifest["files"][2]["source"] = "gone.root"
    loader = EpochLoader(manifest, plain.configuration, typed(settings()), split="train", seed=1, epoch=0, threads=threads)
    with pytest.raises(InputFileError, match=r"gone\.root"):
        list(loader)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("loader")]


def test_leaving_early_ends_the_threads(weighted: Sample) -> None:
    loader = EpochLoader(weighted.manifest(), weighted.configuration, typed(settings()), split="train", seed=1, epoch=0, threads=3)
    for batch in loader:
        assert len(batch) == 32
        break
    batches = iter(loader)
    next(batches)
    batches.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("loader")]


def test_batches_that_are_held_keep_their_values(weighted: Sample) -> None:
    loader = EpochLoader(weighted.manifest(), weighted.configuration, typed(settings()), split="train", seed=1, epoch=0, threads=2)
    expected = [batch.inputs["features"].copy() for batch in loader]
    for batch, values in zip(list(loader), expected, strict=True):
        np.testing.assert_array_equal(batch.inputs["features"], values)


_LOOP = """
import json, re, sys
from pathlib import Path
from weaver_tasks.data.configuration import load_data_configuration
from weaver_tasks.data.loading.loader import EpochLoader
from weaver_tasks.settings.stage import stage_settings

manifest, given = json.loads(Path(sys.argv[1]).read_text()), json.loads(sys.argv[3])
settings = stage_settings(given)
settings = settings.model_copy(update={"data": settings.data.model_copy(update={"train_val_split": 1.0})})
manifest["files"] = manifest["files"] * int(sys.argv[4])
highest = events = 0
for batch in EpochLoader(manifest, load_data_configuration(sys.argv[2]), settings, split="train", seed=1, epoch=0, threads=2):
    events += len(batch)
    highest = max(highest, int(re.search(r"RssAnon:\\s+(\\d+)", Path("/proc/self/status").read_text()).group(1)))
print(events, highest)
"""


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["columnar", "none"])
def test_anonymous_memory_does_not_grow_with_the_data(weighted: Sample, mode: str, tmp_path: Path) -> None:
    """64 times the files instead of 4 times: at most a tenth more memory that is not the system's own cache."""
    (tmp_path / "inputs.json").write_text(json.dumps(weighted.manifest(mode)))
    given = settings(loading={"fetch_by_files": True, "fetch_step": 1, "max_window_events": 500})

    def loop(times: int) -> tuple[int, int]:
        arguments = [str(tmp_path / "inputs.json"), str(weighted.configuration.path), json.dumps(given), str(times)]
        # Of the C library's pools of memory, one for each thread that ever ran, few are enough.
        environment = {**os.environ, "MALLOC_ARENA_MAX": "2"}
        done = subprocess.run([sys.executable, "-c", _LOOP, *arguments], capture_output=True, text=True, check=True, env=environment)
        return tuple(map(int, done.stdout.split()))

    few_events, few = loop(4)
    many_events, many = loop(64)
    assert many_events > 14 * few_events
    assert many < 1.1 * few


def test_random_expressions_are_drawn_anew_in_each_epoch_and_counted_right(make_sample: MakeSample) -> None:
    sample = make_sample(selection="_hash_free_draw > 0.3", new_variables={
        **DOCUMENT["new_variables"], "_hash_free_draw": "np.random.rand(len(jet_pt))",
    })  # fmt: skip
    given = settings(batch_size=4, loading={"fetch_step": 0.5})
    first = load(sample, given, mode="none")
    assert events(first) == events(load(sample, given, mode="none", threads=2))
    assert set(events(first)) != set(events(load(sample, given, mode="none", epoch=1)))
    loader = EpochLoader(sample.manifest("none"), sample.configuration, typed(given), split="train", seed=1, epoch=0, threads=0)
    assert loader.steps == len(first)


def test_files_read_on_the_fly_stay_open_and_can_be_closed(plain: Sample, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = []

    def counting(path: str, **options: Any) -> Any:
        opened.append(path)
        return open_reader(path, **options)

    monkeypatch.setattr("weaver_tasks.data.events.reading.open_reader", counting)
    files = OpenFiles(plain.manifest("none"), plain.configuration)
    first, second = (load(plain, settings(), mode="none", files=files) for _ in range(2))
    assert len(opened) == len(set(opened)) == len(CLASSES)
    assert_same(first, second)
    files.close()
    assert_same(first, load(plain, settings(), mode="none", files=files))
    assert len(opened) == 2 * len(CLASSES)


def test_of_many_files_only_the_first_stay_open(plain: Sample, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("weaver_tasks.data.loading.parts._MOST_ORIGINALS", 2)
    files = OpenFiles(plain.manifest("none"), plain.configuration)
    expected = load(plain, settings(), mode="none")
    for _ in range(2):
        assert events(load(plain, settings(), mode="none", files=files)) == events(expected)
    assert len(files._sources) == 2
