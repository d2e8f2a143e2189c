"""Slices for digests: a change reruns what it changes, and nothing else."""

import json

import pytest
import yaml

from weaver_tasks.base.digests import digest
from weaver_tasks.data.configuration import fingerprints, load_data_configuration

DOCUMENT = """
treename: tree
file_magic: {sample: {HToBB: 1}, other_sample: {x: 1}}
branch_magic: {part_: cand_, sv_: vertex_}
selection: (jet_pt > 500) & (part_n > 3)
new_variables:
   part_n: ak.num(part_pt)
   part_pt: np.hypot(part_px, part_py)
   seen: jet_tau2 / jet_tau1
   unused: sv_mass + seen
   flag: label_QCD == 1
   scaled: 2 * gen_weight
preprocess: {method: auto, data_fraction: 0.5}
inputs:
   pf: {length: 32, vars: [part_pt, [part_deta, null]]}
   jet: {length: null, vars: [[jet_sdmass, 80, 0.01]]}
labels: {type: simple, value: [flag, label_Hbb]}
observers: [seen, jet_eta]
weights:
   reweight_method: flat
   reweight_vars: {jet_pt: [500, 700, 1000]}
   reweight_classes: [flag, label_Hbb]
   reweight_basewgt: scaled * sample
"""

STAGES = ("train", "val", "test", "standardization", "weights", "inputs")


@pytest.fixture
def digests(tmp_path):
    def digests(text):
        (tmp_path / "data.yaml").write_text(text)
        configuration = load_data_configuration(tmp_path / "data.yaml")
        slices = {split: fingerprints.staging(configuration, split) for split in ("train", "val", "test")}
        slices["standardization"] = fingerprints.standardization(configuration)
        slices["weights"] = fingerprints.weighting(configuration)
        slices["inputs"] = fingerprints.batches(configuration)
        json.dumps(slices)
        return {stage: digest(part) for stage, part in slices.items()}

    return digests


FITTING = {"train", "val"}
CHANGES = [
    ("treename: tree", "treename: tree  # a comment", set()),
    ("jet_pt > 500) & (", "jet_pt>500)&(", set()),
    ("   unused: sv_mass + seen\n", "", set()),
    ("sv_: vertex_", "sv_: secondary_", set()),
    ("other_sample: {x: 1}", "other_sample: {y: 2}", set()),
    ("observers: [seen, jet_eta]", "observers: [seen]", {"test"}),
    ("jet_tau2 / jet_tau1", "jet_tau3 / jet_tau1", {"test"}),
    ("jet_pt > 500) & (", "jet_pt > 510) & (", {"train", "val", "test", "standardization", "weights"}),
    ("ak.num(part_pt)", "ak.num(part_pt, 1)", {"train", "val", "test", "standardization", "weights"}),
    ("part_: cand_", "part_: pf_", {"train", "val", "test", "standardization", "weights"}),
    ("treename: tree", "treename: events", {"train", "val", "test", "standardization", "weights"}),
    ("selection: (", "test_time_selection: jet_pt > 400\nselection: (", {"test"}),
    ("data_fraction: 0.5", "data_fraction: 0.4", {"standardization"}),
    ("length: 32", "length: 16", {"inputs"}),
    ("vars: [part_pt,", "pad_mode: wrap, vars: [part_pt,", {"inputs"}),
    ("0.01]", "0.02]", {"standardization", "inputs"}),
    ("0.01]", "0.01, -5, 5, 1]", {"inputs"}),
    ("[part_deta, null]]", "[part_deta, null], part_dphi]", {"train", "val", "test", "standardization", "inputs"}),
    ("label_QCD == 1", "label_QCD > 0", {"train", "val", "test", "weights"}),
    ("value: [flag, label_Hbb]", "value: [label_Hbb, flag]", {"train", "val", "test", "inputs"}),
    ("[500, 700, 1000]", "[500, 800, 1000]", {"weights"}),
    ("reweight_method: flat", "reweight_method: ref", {"weights"}),
    ("reweight_method: flat", "reweight_method: flat\n   reweight_threshold: 20", {"weights"}),
    ("reweight_method: flat", "reweight_method: flat\n   class_weights: [1, 2]", {"weights"}),
    ("reweight_method: flat", "reweight_method: flat\n   class_weights: [1, 1]", set()),
    ("reweight_method: flat", "reweight_method: flat\n   reweight_threshold: 10", set()),
    ("2 * gen_weight", "3 * gen_weight", {*FITTING, "weights"}),
    ("{HToBB: 1}", "{HToBB: 2}", {*FITTING, "weights"}),
    ("observers:", "bucketing: {var: jet_nparticles, bins: 4}\nobservers:", {*FITTING, "inputs"}),
    ("observers: [seen, jet_eta]", "monitor_variables: [seen, jet_eta]", {"train", "val", "test", "inputs"}),
]


@pytest.mark.parametrize(("old", "new", "changed"), CHANGES)
def test_a_change_reaches_exactly_the_stages_that_use_it(old, new, changed, digests):
    assert old in DOCUMENT
    before, after = digests(DOCUMENT), digests(DOCUMENT.replace(old, new, 1))
    assert {stage for stage in STAGES if before[stage] != after[stage]} == changed


def test_the_order_of_keys_changes_nothing(digests):
    document = yaml.safe_load(DOCUMENT)
    document["new_variables"] = dict(reversed(document["new_variables"].items()))
    shuffled = yaml.safe_dump(dict(reversed(document.items())), sort_keys=False)
    assert digests(shuffled) == digests(DOCUMENT)


def test_training_and_validation_are_staged_alike(digests):
    assert digests(DOCUMENT)["train"] == digests(DOCUMENT)["val"]
