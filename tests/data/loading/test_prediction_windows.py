"""Windows of a prediction: batches of similar length, and what puts their events back in the order of the files."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import awkward as ak
import numpy as np
import pytest
import uproot
import yaml

from weaver_tasks.data.configuration import DataConfiguration, load_data_configuration
from weaver_tasks.data.events.block import StagingOptions
from weaver_tasks.data.loading.prediction_windows import WindowBatch, window_batches
from weaver_tasks.data.staging.manifest import make_manifest
from weaver_tasks.data.staging.stage import Staging, stage_file
from weaver_tasks.settings.stage import StageSettings, stage_settings

DOCUMENT: dict[str, Any] = {
    "selection": "jet_pt > 550",
    "inputs": {
        "points": {"length": 60, "pad_mode": "constant", "vars": ["part_deta", "part_dphi"]},
        "jet": {"length": None, "vars": ["jet_pt", "jet_eta"]},
    },
    "labels": {"type": "simple", "value": ["label_QCD", "label_Hbb", "label_Tbqq"]},
    "observers": ["jet_pt", "jet_nparticles", "part_energy"],
}
PROCESSES = ["TTBar", "HToBB", "ZJetsToNuNu"]


@pytest.fixture(scope="module")
def configuration(tmp_path_factory: pytest.TempPathFactory) -> DataConfiguration:
    path = tmp_path_factory.mktemp("windows") / "data.yaml"
    path.write_text(yaml.safe_dump(DOCUMENT, sort_keys=False))
    return load_data_configuration(path)


@pytest.fixture(scope="module", params=["columnar", "none"])
def manifest(request: pytest.FixtureRequest, configuration: DataConfiguration, jets: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("staged")
    staging = Staging(configuration=configuration, split="test", mode=request.param, options=StagingOptions())
    paths = {process: folder / f"{process}.arrow" if request.param == "columnar" else None for process in PROCESSES}
    records = [stage_file(str(jets / "test" / f"{process}.root"), path, staging, group="all") for process, path in paths.items()]
    return make_manifest(records, on_bad_file="fail", max_bad_fraction=0)


@pytest.fixture(scope="module")
def expected(jets: Path) -> ak.Array:
    """The selected jets of the files in a row, by uproot alone."""
    names = ["jet_pt", "jet_nparticles", "jet_eta", "part_energy", "part_deta", "label_Hbb", "label_Tbqq"]
    tables = [uproot.open(jets / "test" / f"{process}.root")["tree"].arrays(names) for process in PROCESSES]
    return ak.concatenate([table[table.jet_pt > 550] for table in tables])


def back_in_order(batches: list[WindowBatch], of: Any) -> np.ndarray:
    """What `of` gives of each batch, (B, …), as its events lie in the files."""
    windows, pieces = [], []
    for batch in batches:
        pieces.append((batch.places, of(batch)))
        if batch.window is not None:
            places, values = (np.concatenate(each) for each in zip(*pieces, strict=True))
            np.testing.assert_array_equal(np.sort(places), np.arange(len(batch.window.observers["jet_pt"])))
            windows.append(values[np.argsort(places)])
            pieces = []
    assert not pieces
    return np.concatenate(windows)


@pytest.mark.parametrize(
    "options",
    [{"by_length": True, "threads": 2}, {"by_length": True, "fullness": 0.2, "threads": 0}, {"threads": 2}],
    ids=["by length", "few values", "in order"],
)
@pytest.mark.parametrize("most", [37, 200_000])
def test_every_event_is_once_in_a_batch_and_beside_what_is_written_of_it(
    manifest: Any, configuration: DataConfiguration, expected: ak.Array, most: int, options: dict[str, Any]
) -> None:
    settings = stage_settings({"loading": {"max_window_events": most}})
    batches = list(window_batches(manifest, configuration, settings, group="all", batch_size=16, **options))
    assert max(len(batch.places) for batch in batches) <= (16 if options.get("fullness") is None else 9)
    windows = [batch.window for batch in batches if batch.window is not None]
    np.testing.assert_array_equal(np.concatenate([window.observers["jet_pt"] for window in windows]), expected.jet_pt)
    assert ak.concatenate([window.observers["part_energy"] for window in windows]).to_list() == expected.part_energy.to_list()
    labels = np.concatenate([window.labels["_label_"] for window in windows])
    np.testing.assert_array_equal(labels, ak.to_numpy(expected.label_Hbb) + 2 * ak.to_numpy(expected.label_Tbqq))
    np.testing.assert_array_equal(back_in_order(batches, lambda batch: batch.inputs["jet"][:, 1]), expected.jet_eta)
    sums = back_in_order(batches, lambda batch: batch.inputs["points"][:, 0].sum(axis=1))
    np.testing.assert_allclose(sums, ak.sum(expected.part_deta[:, :60], axis=1), atol=1e-4)


def test_batches_by_length_hold_similar_events_and_are_as_large_as_was_said(
    manifest: Any, configuration: DataConfiguration, expected: ak.Array
) -> None:
    batches = list(
        window_batches(manifest, configuration, StageSettings(), group="all", batch_size=64, by_length=True, fullness=0.25, threads=0)
    )
    lengths = np.minimum(ak.to_numpy(ak.num(expected.part_deta)), 60)
    slots = [batch.inputs["points"].shape[0] * batch.inputs["points"].shape[2] for batch in batches]
    assert max(slots) <= 0.25 * 64 * 60
    assert sum(slots) < 1.15 * lengths.sum()  # hardly any padding
    assert max(batches[0].inputs["points"].shape) == 60  # the longest first


def test_small_files_share_windows(manifest: Any, configuration: DataConfiguration) -> None:
    batches = list(window_batches(manifest, configuration, StageSettings(), group="all", batch_size=1000, threads=0))
    assert len(batches) == 1


def test_ranks_take_stretches_and_a_fold_its_events(manifest: Any, configuration: DataConfiguration, expected: ak.Array) -> None:
    def served(given: dict[str, Any], **options: int) -> list[float]:
        settings = stage_settings(given)
        batches = window_batches(manifest, configuration, settings, group="all", batch_size=9, by_length=True, threads=0, **options)
        return [pt for batch in batches if batch.window is not None for pt in batch.window.observers["jet_pt"].tolist()]

    parts = [served({}, rank=rank, world_size=3) for rank in range(3)]
    assert all(parts)
    assert list(itertools.chain(*parts)) == expected.jet_pt.to_list()
    folds = [served({"fold": {"variable": "jet_nparticles", "folds": 2, "index": index}}) for index in range(2)]
    for index, fold in enumerate(folds):
        assert fold == expected.jet_pt[expected.jet_nparticles % 2 == index].to_list()
