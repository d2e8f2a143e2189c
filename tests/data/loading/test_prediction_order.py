"""Prediction order: every event of a group once, file after file, with its observers."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import awkward as ak
import numpy as np
import pytest
import uproot
import yaml

from weaver_tasks.base.errors import DataConfigError
from weaver_tasks.data.configuration import DataConfiguration, load_data_configuration
from weaver_tasks.data.events.block import StagingOptions
from weaver_tasks.data.loading.batch import Batch
from weaver_tasks.data.loading.prediction_order import prediction_batches, prediction_entries
from weaver_tasks.data.staging.manifest import make_manifest
from weaver_tasks.data.staging.stage import Staging, stage_file
from weaver_tasks.settings.stage import StageSettings, stage_settings

DOCUMENT: dict[str, Any] = {
    "selection": "jet_pt > 500",
    "test_time_selection": "jet_pt > 550",
    "inputs": {"points": {"length": 20, "pad_mode": "constant", "vars": ["part_deta", "part_dphi"]}},
    "labels": {"type": "simple", "value": ["label_QCD", "label_Hbb", "label_Tbqq"]},
    "observers": ["jet_pt", "jet_nparticles", "part_energy"],
}
GROUPS = {"background": ["ZJetsToNuNu", "HToBB"], "signal": ["TTBar"]}


@pytest.fixture(scope="module")
def configuration(tmp_path_factory: pytest.TempPathFactory) -> DataConfiguration:
    path = tmp_path_factory.mktemp("prediction") / "data.yaml"
    path.write_text(yaml.safe_dump(DOCUMENT, sort_keys=False))
    return load_data_configuration(path)


@pytest.fixture(scope="module", params=["columnar", "none"])
def manifest(request: pytest.FixtureRequest, configuration: DataConfiguration, jets: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("staged")
    staging = Staging(configuration=configuration, split="test", mode=request.param, options=StagingOptions())
    records = [
        stage_file(
            str(jets / "test" / f"{process}.root"),
            folder / f"{process}.arrow" if request.param == "columnar" else None,
            staging,
            group=group,
        )
        for group, processes in GROUPS.items()
        for process in processes
    ]
    return make_manifest(records, on_bad_file="fail", max_bad_fraction=0)


def joined(batches: list[Batch], name: str) -> Any:
    return ak.concatenate([batch.observers[name] for batch in batches])


@pytest.mark.parametrize("most", [7, 200_000])
@pytest.mark.parametrize("threads", [0, 2])
def test_every_event_once_in_file_order_with_its_observers(
    manifest: Any, configuration: DataConfiguration, jets: Path, most: int, threads: int
) -> None:
    settings = stage_settings({"training": {"batch_size_test": 33}, "loading": {"max_window_events": most}})
    batches = list(prediction_batches(manifest, configuration, settings, group="background", threads=threads))
    trees = [uproot.open(jets / "test" / f"{process}.root")["tree"] for process in GROUPS["background"]]
    tables = [tree.arrays(["jet_pt", "jet_nparticles", "part_energy", "part_deta", "label_Hbb"]) for tree in trees]
    expected = ak.concatenate([table[table.jet_pt > 550] for table in tables])
    assert [len(batch) for batch in batches[:-1]] == [33] * (len(expected) // 33)
    assert sum(map(len, batches)) == len(expected)
    for name in ("jet_pt", "jet_nparticles"):
        np.testing.assert_array_equal(joined(batches, name), expected[name])
    assert joined(batches, "part_energy").to_list() == expected.part_energy.to_list()
    labels = np.concatenate([batch.labels["_label_"] for batch in batches])
    np.testing.assert_array_equal(labels, expected.label_Hbb)
    deta = np.concatenate([batch.inputs["points"][:, 0] for batch in batches])
    np.testing.assert_array_equal(deta, ak.fill_none(ak.pad_none(expected.part_deta, 20, clip=True), 0).to_numpy())
    where = np.concatenate([batch.file for batch in batches]), np.concatenate([batch.entry for batch in batches])
    passing = [np.flatnonzero(table.jet_pt > 550) for table in tables]
    np.testing.assert_array_equal(where[0], np.repeat([0, 1], [len(entries) for entries in passing]))
    np.testing.assert_array_equal(where[1], np.concatenate(passing))


@pytest.mark.parametrize("world_size", [2, 3])
def test_ranks_take_stretches_in_a_row(manifest: Any, configuration: DataConfiguration, world_size: int) -> None:
    settings = stage_settings({"training": {"batch_size_test": 10}})

    def served(**options: int) -> list[tuple[int, int]]:
        batches = prediction_batches(manifest, configuration, settings, group="background", threads=0, **options)
        return [pair for batch in batches for pair in zip(batch.file.tolist(), batch.entry.tolist(), strict=True)]

    parts = [served(rank=rank, world_size=world_size) for rank in range(world_size)]
    assert list(itertools.chain(*parts)) == served()
    assert all(parts)
    entries = [prediction_entries(manifest, settings, group="background", rank=rank, world_size=world_size) for rank in range(world_size)]
    assert sum(entries) == prediction_entries(manifest, settings, group="background") == 200


def test_a_data_fraction_is_the_leading_part_of_each_file(manifest: Any, configuration: DataConfiguration) -> None:
    settings = stage_settings({"data": {"data_fraction_test": 0.3}})
    batches = list(prediction_batches(manifest, configuration, settings, group="background", threads=0))
    assert set(np.concatenate([batch.file for batch in batches])) == {0, 1}
    assert max(batch.entry.max() for batch in batches) < 30


def test_a_fold_serves_its_own_events(manifest: Any, configuration: DataConfiguration) -> None:
    seen = []
    for index in range(2):
        settings = stage_settings({"fold": {"variable": "jet_nparticles", "folds": 2, "index": index}})
        for batch in prediction_batches(manifest, configuration, settings, group="signal", threads=0):
            assert (batch.observers["jet_nparticles"] % 2 == index).all()
            seen += batch.entry.tolist()
    everything = [
        entry for batch in prediction_batches(manifest, configuration, StageSettings(), group="signal", threads=0) for entry in batch.entry
    ]
    assert sorted(seen) == everything


def test_a_fold_variable_that_is_not_in_the_files_is_named(manifest: Any, configuration: DataConfiguration) -> None:
    settings = stage_settings({"fold": {"variable": "event_no", "folds": 2, "index": 0}})
    with pytest.raises(DataConfigError, match="event_no"):
        list(prediction_batches(manifest, configuration, settings, group="signal", threads=0))
