"""Reweighting, against weaver's own and against its purpose: flat spectra, equal classes."""

from functools import partial

import numpy as np
import pytest
import yaml
from numpy.testing import assert_allclose, assert_array_equal

from weaver_tasks.base.errors import DataConfigError
from weaver_tasks.data.configuration import load_data_configuration
from weaver_tasks.data.statistics.passes import Passes, TrainingFile
from weaver_tasks.data.statistics.reweighting import finish_reweighting, next_pass
from weaver_tasks.data.statistics.weights import event_weights, fill, weight_columns

PROCESSES = {"label_QCD": "ZJetsToNuNu", "label_Hbb": "HToBB", "label_Tbl": "TTBarLep", "label_Tbqq": "TTBar"}


def write_configuration(path, **weights):
    document = {
        "selection": "jet_sdmass > 20",
        "new_variables": {"tau21": "jet_tau2 / np.maximum(jet_tau1, 1e-6)", "generated": "np.exp(-jet_pt / 900) * (1 + (jet_eta > 0))"},
        "inputs": {"jets": {"length": None, "vars": ["jet_pt"]}},
        "labels": {"type": "simple", "value": list(PROCESSES)},
        "weights": {"use_precomputed_weights": False, "reweight_classes": list(PROCESSES), **weights},
    }
    path.write_text(yaml.safe_dump(document, sort_keys=False))
    return path


PT_AND_MASS = {"jet_pt": [500, 560, 640, 800], "jet_sdmass": [30, 80, 130, 200]}
CASES = {
    "flat": {"reweight_method": "flat", "reweight_vars": PT_AND_MASS},
    "ref": {"reweight_method": "ref", "reweight_vars": PT_AND_MASS},
    "class weights": {"reweight_method": "flat", "reweight_vars": PT_AND_MASS, "class_weights": [1, 0.5, 2, 3], "reweight_threshold": 25},
    "a class that weighs nothing": {"reweight_method": "flat", "reweight_vars": PT_AND_MASS, "class_weights": [1, 0, 2, 1]},
    "overflow": {"reweight_method": "flat", "reweight_vars": PT_AND_MASS, "reweight_discard_under_overflow": False},
    "base weights": {"reweight_method": "flat", "reweight_vars": PT_AND_MASS, "reweight_basewgt": "generated"},
    "base weights, ref": {"reweight_method": "ref", "reweight_vars": PT_AND_MASS, "reweight_basewgt": "generated"},
    "empty bins": {"reweight_method": "flat", "reweight_vars": {"jet_pt": [500, 700, 1000, 2000], "jet_eta": [-3, -2, 0, 2]}},
    "some events in no class": {"reweight_method": "flat", "reweight_vars": PT_AND_MASS, "reweight_classes": ["label_QCD", "label_Tbl"]},
}


@pytest.fixture
def files(jets):
    return [jets / "train" / f"{process}.root" for process in PROCESSES.values()]


def reweighted(path, sources):
    """Our reweighting, and the columns of all events."""
    configuration = load_data_configuration(path)
    parts = [source.read(0, source.entries, weight_columns(configuration)).plain for source in sources]
    files = [TrainingFile(entries=source.entries, read=lambda _, part=part: [part]) for source, part in zip(sources, parts, strict=True)]
    made = finish_reweighting(configuration, Passes(partial(next_pass, configuration), files, digest="", after=[]).all())
    return made, {name: np.concatenate([p[name] for p in parts]) for name in parts[0]}


@pytest.mark.parametrize("weights", CASES.values(), ids=CASES.keys())
def test_histograms_and_event_weights_are_weavers(tmp_path, files, staged, monkeypatch, weights):
    preprocess = pytest.importorskip("weaver.utils.data.preprocess")
    from weaver.utils.data.config import DataConfig

    monkeypatch.setattr("time.sleep", lambda _: None)
    path = write_configuration(tmp_path / "data.yaml", **weights)
    maker = preprocess.WeightMaker([str(file) for file in files], DataConfig.load(str(path)))
    with np.errstate(all="ignore"):
        table = maker.read_file([str(file) for file in files])
        theirs = maker.make_weights(maker.read_file([str(file) for file in files]))
    their_weights = preprocess._build_weights(table, maker._data_config, reweight_hists=theirs)

    made, columns = reweighted(path, staged(path, files))
    for name in weights.get("reweight_classes", PROCESSES):
        assert_allclose(made.weights[name], theirs[name], rtol=1e-6, atol=1e-9, err_msg=name)
    assert made.events == len(table)

    auto = write_configuration(tmp_path / "auto.yaml", **weights, reweight_hists={k: v.tolist() for k, v in made.weights.items()})
    assert_allclose(event_weights(load_data_configuration(auto), columns), their_weights, rtol=1e-6, atol=1e-9)
    assert (their_weights > 0).any()


def test_merged_histograms_are_those_of_all(tmp_path, files, staged):
    path = write_configuration(tmp_path / "data.yaml", **CASES["base weights"])
    configuration = load_data_configuration(path)
    made, columns = reweighted(path, staged(path, files))
    whole = fill(configuration.weights, columns)
    for name, content in made.content.items():
        assert_allclose(content, whole[name], rtol=1e-12)
    assert sum(counts.sum() for counts in made.counts.values()) < made.events


def test_sums_of_base_weights_do_not_depend_on_the_parts(tmp_path):
    configuration = load_data_configuration(write_configuration(tmp_path / "data.yaml", **CASES["base weights"]))
    generator = np.random.default_rng(8)

    def file(events):
        flags = generator.integers(len(PROCESSES), size=events)
        columns = {"jet_pt": generator.uniform(500, 800, events), "jet_sdmass": generator.uniform(30, 200, events)}
        columns |= {name: flags == index for index, name in enumerate(PROCESSES)}
        return {**columns, "_basewgt_": generator.lognormal(0, 3, events)}

    files = [file(events) for events in (300, 1, 200, 500, 250)]

    def summed(part, *, by_file):
        sums = next_pass(configuration, [], by_file)
        for columns in files[part]:
            sums.add(columns)
            sums.end_file()
        return sums

    whole = summed(slice(None), by_file=False)
    gathered = next_pass(configuration, [], False)
    for part in (slice(0, 1), slice(1, 4), slice(4, 5)):
        gathered.add_arrays(summed(part, by_file=True).arrays())
    naive = next_pass(configuration, [], False)
    for part in (slice(0, 1), slice(1, 4), slice(4, 5)):
        naive.add_arrays(summed(part, by_file=False).arrays())
    assert gathered.events == whole.events == 1251
    for name in PROCESSES:
        assert_array_equal(gathered.content[name], whole.content[name])
        assert_array_equal(gathered.counts[name], whole.counts[name])
    # Else this test would show nothing.
    assert any((naive.content[name] != whole.content[name]).any() for name in PROCESSES)


@pytest.mark.parametrize(
    "variables",
    [{"jet_pt": [500, 560, 640, 800]}, {"jet_pt": [500, 600, 1000], "jet_eta": [-2, 0, 2], "tau21": [0, 0.45, 0.6, 1]}],
    ids=["one", "three"],
)
def test_any_number_of_variables_becomes_flat_and_classes_equal(tmp_path, files, staged, variables):
    path = write_configuration(tmp_path / "data.yaml", reweight_method="flat", reweight_vars=variables, reweight_threshold=0)
    sources = staged(path, files)
    made, columns = reweighted(path, sources)
    auto = write_configuration(
        tmp_path / "auto.yaml",
        reweight_method="flat",
        reweight_vars=variables,
        reweight_hists={name: weights.tolist() for name, weights in made.weights.items()},
    )
    found = event_weights(load_data_configuration(auto), columns)
    sample = np.stack([columns[name] for name in variables], axis=1)
    sums = []
    for label in PROCESSES:
        member = columns[label] == 1
        content, _ = np.histogramdd(sample[member], bins=list(variables.values()), weights=found[member])
        filled = content[content > 0]
        # At threshold 0 no bin is emptier than the reference: every filled bin comes to weigh the same.
        assert_allclose(filled, filled[0], rtol=1e-5)
        sums.append(content.sum())
    assert_allclose(sums, sums[0], rtol=1e-5)
    assert 0 < found.max() <= 0.9 + 1e-6


def test_precomputed_weights_are_multiplied(tmp_path, files, staged):
    document = yaml.safe_load(write_configuration(tmp_path / "data.yaml").read_text())
    document["weights"] = {"use_precomputed_weights": True, "weight_branches": ["generated", "jet_tau1 + 1"]}
    path = tmp_path / "precomputed.yaml"
    path.write_text(yaml.safe_dump(document))
    (source,) = staged(path, files[:1])
    configuration = load_data_configuration(path)
    block = source.read(0, source.entries, weight_columns(configuration))
    import uproot

    tree = uproot.open(files[0])["tree"].arrays(["jet_pt", "jet_eta", "jet_tau1"], library="np", entry_stop=source.entries)
    expected = np.exp(-tree["jet_pt"] / 900) * (1 + (tree["jet_eta"] > 0)) * (tree["jet_tau1"] + 1)
    assert_allclose(event_weights(configuration, block.plain), expected[block.entries], rtol=1e-6)


def test_without_weights_all_events_weigh_one(tmp_path, files):
    document = yaml.safe_load(write_configuration(tmp_path / "data.yaml").read_text())
    del document["weights"]
    path = tmp_path / "none.yaml"
    path.write_text(yaml.safe_dump(document))
    assert_array_equal(event_weights(load_data_configuration(path), {"_label_": np.zeros(3)}), [1, 1, 1])


def test_a_class_without_events_within_the_edges_is_named(tmp_path, files, staged):
    path = write_configuration(tmp_path / "data.yaml", **CASES["flat"])
    with pytest.raises(DataConfigError, match="no training event of class 'label_Tbl'"):
        reweighted(path, staged(path, [file for file in files if file.stem != "TTBarLep"]))


def test_histograms_still_to_be_made_are_missed(tmp_path):
    configuration = load_data_configuration(write_configuration(tmp_path / "data.yaml", **CASES["flat"]))
    with pytest.raises(DataConfigError, match="reweight_hists is missing"):
        event_weights(configuration, {})
