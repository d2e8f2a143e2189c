"""The stage as its rule calls it: the resolved configuration gives weaver-core the same inputs and weights."""

import json

import numpy as np
import pytest
import yaml
from numpy.testing import assert_allclose, assert_array_equal

from weaver_tasks import reweight, stage_inputs, standardize
from weaver_tasks.base.files import read_json
from weaver_tasks.data.configuration import load_data_configuration
from weaver_tasks.data.events.block import StagingOptions
from weaver_tasks.data.staging.sources import open_source
from weaver_tasks.data.statistics.weights import event_weights, weight_columns

PROCESSES = {"label_QCD": "ZJetsToNuNu", "label_Hbb": "HToBB", "label_Tbl": "TTBarLep"}
DOCUMENT = {
    "selection": "jet_sdmass > 20",
    # Out of order on purpose: the resolved configuration brings them into weaver's.
    "new_variables": {"part_logpt": "np.log(part_pt)", "part_pt": "np.hypot(part_px, part_py)", "part_mask": "ak.ones_like(part_px)"},
    "preprocess": {"method": "auto", "data_fraction": 0.5},
    "inputs": {
        "features": {"length": 40, "pad_mode": "wrap", "vars": ["part_logpt", "part_deta", ["part_charge", None]]},
        "mask": {"length": 40, "pad_mode": "constant", "vars": ["part_mask"]},
    },
    "labels": {"type": "simple", "value": list(PROCESSES)},
    "weights": {
        "use_precomputed_weights": False,
        "reweight_method": "flat",
        "reweight_vars": {"jet_pt": [500, 560, 640, 800], "jet_sdmass": [30, 80, 130, 200]},
        "reweight_classes": list(PROCESSES),
        "class_weights": [1, 1, 2],
    },
}


@pytest.fixture
def chain(tmp_path, jets):
    """A function that runs the three stages: -> (auto configuration, reweighting.json, inputs.json)."""

    def run(settings=None, options=None, plot=False, **sections):
        data_config = tmp_path / "data.yaml"
        data_config.write_text(yaml.safe_dump({**DOCUMENT, **sections}, sort_keys=False))
        names = list(PROCESSES.values())
        staging = {"staging": {"mode": "columnar"}, **(options or {})}
        stage = ["--data-config", data_config, "--split", "train", "--group", "all", "--settings", json.dumps(staging)]
        stage += ["--sources", *(jets / "train" / f"{name}.root" for name in names)]
        stage += ["--records", *(tmp_path / f"{name}.json" for name in names), "--staged", *(tmp_path / f"{name}.arrow" for name in names)]
        inputs, standardization = tmp_path / "inputs.json", tmp_path / "standardization.json"
        common = ["--data-config", data_config, "--inputs", inputs]
        made = ["--output", tmp_path / "r.json", "--auto-config", tmp_path / "auto.yaml"]
        made += ["--plot", tmp_path / "r.png"] if plot else []
        for module, arguments in (
            (stage_inputs, stage),
            (stage_inputs, ["--gather", *(tmp_path / f"{name}.json" for name in names), "--output", inputs]),
            (standardize, [*common, "--output", standardization]),
            (reweight, [*common, "--standardization", standardization, *made, "--settings", json.dumps(settings or {})]),
        ):
            module.main([str(argument) for argument in arguments])
        return tmp_path / "auto.yaml", read_json(tmp_path / "r.json"), read_json(inputs)

    return run


def events_of(manifest, configuration):
    """The plain columns of all training events."""
    options = StagingOptions.from_manifest(manifest)
    blocks = [open_source(file, configuration, options).read(0, file["entries"]) for file in manifest["files"]]
    return {name: np.concatenate([block.plain[name] for block in blocks]) for name in blocks[0].plain}


def test_weaver_reads_the_resolved_configuration_and_gets_the_same(chain, jets):
    pytest.importorskip("weaver")
    from weaver.utils.data.config import DataConfig
    from weaver.utils.data.fileio import _read_files
    from weaver.utils.data.preprocess import _apply_selection, _build_new_variables, _build_weights
    from weaver.utils.dataset import _finalize_inputs

    auto, result, manifest = chain()
    theirs, ours = DataConfig.load(str(auto)), load_data_configuration(auto)
    assert not theirs._missing_standardization_info
    assert not any(variable.center == "auto" for group in ours.inputs for variable in group.variables)
    assert ours.preprocess_params == theirs.preprocess_params

    files = [str(jets / "train" / f"{name}.root") for name in PROCESSES.values()]
    table = _apply_selection(_read_files(files, theirs.train_load_branches), theirs.selection, funcs=theirs.var_funcs)
    _build_new_variables(table, theirs.train_var_funcs)
    weights = _build_weights(table, theirs)
    columns = events_of(manifest, ours)
    assert_allclose(event_weights(ours, columns), weights, rtol=1e-6, atol=1e-9)
    finalized = _finalize_inputs(table, theirs)
    assert_array_equal(columns["_label_"], finalized["_label_"])

    features = finalized["_features"]
    blocks = [open_source(file, ours).read(0, file["entries"]) for file in manifest["files"]]
    first = np.concatenate([block.packed["features"].values[block.packed["features"].offsets[:-1]] for block in blocks])
    for place, variable in enumerate(ours.inputs[0].variables):
        values = first[:, place]
        if variable.center is not None:
            values = np.clip((values - variable.center) * variable.scale, variable.low, variable.high)
        assert_allclose(features[:, place, 0], values, rtol=1e-5, atol=1e-6)
    assert sum(result["events_used"].values()) < result["events"] == len(weights)


def test_closure(chain, tmp_path):
    auto, result, manifest = chain(plot=True)
    configuration = load_data_configuration(auto)
    columns = events_of(manifest, configuration)
    weights = event_weights(configuration, columns)
    sums = [weights[columns[label] == 1].sum() for label in PROCESSES]
    assert_allclose(sums, np.array([1, 1, 2]) * sums[0], rtol=1e-5)
    assert_allclose(list(result["sum_of_weights"].values()), sums, rtol=1e-6)
    assert (tmp_path / "r.png").stat().st_size > 5000


def test_the_extra_selection_and_the_fold_left_out_do_not_count(chain, jets):
    extra = {"data": {"extra_selection": {"train": "jet_eta > 0"}}, "cross_validation": {"variable": "jet_nparticles", "folds": 3}}
    auto, result, manifest = chain({"fold": {"variable": "jet_nparticles", "folds": 3, "index": 1}}, extra)
    configuration = load_data_configuration(auto)
    columns = events_of(manifest, configuration)
    counted = columns["_extra_selection_train_"] & (columns["jet_nparticles"] % 3 != 1)
    assert 0 < counted.sum() < len(counted)
    assert result["events"] == counted.sum()
    weights = event_weights(configuration, {name: columns[name][counted] for name in weight_columns(configuration)})
    sums = [weights[columns[label][counted] == 1].sum() for label in PROCESSES]
    assert_allclose(sums, np.array([1, 1, 2]) * sums[0], rtol=1e-5)


def test_given_histograms_are_kept_or_made_anew(chain):
    given = {label: np.full((3, 3), 0.25).tolist() for label in PROCESSES}
    weights = {**DOCUMENT["weights"], "reweight_hists": given}
    auto, _, _ = chain({"sampling": {"remake_weights": False}}, weights=weights)
    assert load_data_configuration(auto).weights.histograms == given
    auto, _, _ = chain({"sampling": {"remake_weights": True}}, weights=weights)
    assert load_data_configuration(auto).weights.histograms != given


@pytest.mark.parametrize("weights", [None, {"use_precomputed_weights": True, "weight_branches": ["jet_tau1"]}], ids=["none", "precomputed"])
def test_without_reweighting_the_configuration_is_resolved_all_the_same(chain, weights, tmp_path):
    auto, result, manifest = chain(weights=weights, plot=True)
    assert (tmp_path / "r.png").exists()
    configuration = load_data_configuration(auto)
    assert result["method"] == ("precomputed" if weights else None)
    assert all(isinstance(variable.scale, (int, float)) for group in configuration.inputs for variable in group.variables)
    columns = events_of(manifest, configuration)
    assert_array_equal(event_weights(configuration, columns), columns["_weight_"] if weights else np.ones(len(columns["_label_"])))
