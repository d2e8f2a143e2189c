"""The data configuration: what it means, compared with weaver-core's reading of the same file."""

import copy
import logging
import pickle
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from weaver_tasks.base.errors import DataConfigError
from weaver_tasks.data.configuration import Bucketing, dump_auto, fingerprints, load_data_configuration

MINIMAL = """
selection:
new_variables:
   part_pt: np.hypot(part_px, part_py)
inputs:
   points: {length: 16, vars: [part_pt, [part_deta, null]]}
labels: {type: simple, value: [label_QCD, label_Hbb]}
weights:
"""

FULL = """
treename: tree
file_magic:
   is_test: {"/test/": 1, "/train/": 2}
branch_magic: {jet_: fatjet_}
selection: (jet_pt > 500) & (abs(jet_eta) < 2) & (part_n > 3)
test_time_selection: jet_pt > 450
new_variables:
   late: np.log(part_pt)
   part_pt: np.hypot(part_px, part_py)
   part_n: ak.num(part_pt)
   part_energy: part_energy
   part_mask: ak.ones_like(part_energy)
   unused: jet_phi + jet_tau1
   watched: jet_tau2 / jet_tau1
preprocess: {method: auto, data_fraction: 0.5}
inputs:
   pf_features:
      length: 32
      pad_mode: wrap
      vars: [late, [part_deta, null], [part_dphi, 0.1, 2, -1, 1, 0.5]]
   pf_mask: {length: 32, vars: [part_mask]}
   jet: {length: null, vars: [jet_pt, [jet_sdmass, 80, 1e-2]]}
labels: {type: simple, value: [label_QCD, label_Hbb]}
observers: [watched, jet_eta]
weights:
   reweight_method: flat
   reweight_vars: {jet_pt: [500, 700, 1000], jet_sdmass: [0, 100, 200, 300]}
   reweight_classes: [label_QCD, label_Hbb]
   class_weights: [1, 2]
   reweight_basewgt: gen_weight * 2
bucketing: {var: jet_nparticles, bins: [0, 32, 64, 128]}
"""


@pytest.fixture
def load(tmp_path):
    """Load the text of a data configuration."""

    def load(text, *, functions=None, name="data.yaml"):
        (tmp_path / name).write_text(text)
        if functions is not None:
            (tmp_path / "functions.py").write_text(functions)
        return load_data_configuration(tmp_path / name, custom_functions=tmp_path / "functions.py" if functions is not None else None)

    return load


@pytest.fixture(scope="session")
def weaver_config():
    pytest.importorskip("weaver")
    from weaver.utils.data.config import DataConfig

    return DataConfig


VIEW = (
    "input_names",
    "input_dicts",
    "input_shapes",
    "label_names",
    "label_value",
    "label_type",
    "observer_names",
    "preprocess_params",
    "selection",
    "test_time_selection",
    "inputs",
    "labels",
    "observers",
    "monitor_variables",
    "treename",
    "branch_magic",
    "file_magic",
    "new_variables",
    "bucketing",
    "z_variables",
)
SHIPPED = ["ak4_flavor", "jetclass_full", "jetclass_kin", "jetclass_kinpid", "quark_gluon", "top_landscape"]


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_configurations_show_what_weaver_shows(name, repository, weaver_config):
    path = repository / "config" / "data" / f"{name}.yaml"
    ours, theirs = load_data_configuration(path).weaver, weaver_config.load(path)
    for attribute in VIEW:
        assert getattr(ours, attribute) == getattr(theirs, attribute), attribute
    assert ours.preprocess["method"] == theirs.preprocess["method"]


def test_an_automatic_configuration_shows_what_weaver_shows(load, tmp_path, weaver_config):
    ours, theirs = load(FULL).weaver, weaver_config.load(_weaver_ready(tmp_path, FULL.replace("1e-2", "0.01")))
    for attribute in VIEW:
        assert getattr(ours, attribute) == getattr(theirs, attribute), attribute
    assert ours.preprocess == theirs.preprocess
    assert ours.weights["reweight_vars"] == theirs.weights["reweight_vars"]
    assert copy.deepcopy(ours).input_names == pickle.loads(pickle.dumps(ours)).input_names == theirs.input_names


def test_an_attribute_that_weaver_has_not_is_missing_here_too(load):
    with pytest.raises(AttributeError):
        _ = load(MINIMAL).weaver.no_such_key


def test_branches_read_are_those_that_weaver_reads(load, weaver_config, tmp_path):
    # Weaver wants definitions in order, and knows no bare abs.
    text = FULL.replace("abs(jet_eta)", "np.abs(jet_eta)")
    configuration, theirs = load(text), weaver_config.load(_weaver_ready(tmp_path, text))
    assert set(fingerprints.staging(configuration, "train")["branches"]) == theirs.train_load_branches - {"_label_"}
    assert set(fingerprints.staging(configuration, "test")["branches"]) == theirs.test_load_branches


def _weaver_ready(folder: Path, text: str) -> Path:
    document = yaml.safe_load(text)
    document["weights"]["use_precomputed_weights"] = False
    (folder / "weaver.yaml").write_text(yaml.safe_dump(document, sort_keys=False))
    return folder / "weaver.yaml"


def test_defaults(load):
    configuration = load(MINIMAL)
    (group,) = configuration.inputs
    assert (group.length, group.pad_mode) == (16, "constant")
    variable = group.variables[0]
    assert (variable.center, variable.scale, variable.low, variable.high, variable.pad_value) == (None, 1, -5, 5, 0)
    assert configuration.preprocess_method == "manual"
    assert configuration.preprocess_fraction == 0.1
    assert configuration.selection is None
    assert configuration.test_time_selection is None
    assert configuration.weights is None
    assert configuration.observers == configuration.monitor_variables == ()
    assert configuration.branch_magic == configuration.file_magic == {}


def test_everything_given(load):
    configuration = load(FULL)
    features, mask, jet = configuration.inputs
    assert features.variables[0].center == "auto"
    assert features.variables[1].center is None
    phi = features.variables[2]
    assert (phi.center, phi.scale, phi.low, phi.high, phi.pad_value) == (0.1, 2, -1, 1, 0.5)
    assert (mask.pad_mode, jet.length) == ("constant", None)
    assert jet.variables[1].scale == 0.01, "1e-2 is text in YAML 1.1, and meant as a number"
    assert "part_energy" not in configuration.definitions
    weights = configuration.weights
    assert not weights.precomputed
    assert weights.variables == {"jet_pt": (500, 700, 1000), "jet_sdmass": (0, 100, 200, 300)}
    assert weights.class_weights == (1, 2)
    assert (weights.threshold, weights.discard_under_overflow, weights.base_weight) == (10, True, "gen_weight * 2")
    assert configuration.bucketing == Bucketing(variable="jet_nparticles", edges=(0, 32, 64, 128))
    assert configuration.file_magic == {"is_test": {"/test/": 1, "/train/": 2}}


def test_test_time_selection_falls_back(load):
    configuration = load(MINIMAL.replace("selection:", "selection: jet_pt > 500"))
    assert configuration.test_time_selection == "jet_pt > 500"


def test_comments_and_empty_sections_are_valid(load):
    text = MINIMAL + "observers:\n   # - jet_pt\nmonitor_variables:\npreprocess:\n   method:\n   data_fraction:\ntreename:\nbucketing:\n"
    assert load(text).observers == ()
    selection = "selection:\n   ### why\n   |\n   (jet_pt > 500)  # high\n   & (jet_eta < 2)  # central\n"
    configuration = load(MINIMAL.replace("selection:\n", selection))
    assert fingerprints.staging(configuration, "train")["selection"] == "( jet_pt > 500 ) & ( jet_eta < 2 )"


def test_custom_labels_with_masks_and_particle_classes(load):
    labels = (
        "labels: {type: custom, value: {part_label: part_origin, part_label_mask: part_origin >= 0, m: jet_sdmass}, names: [b, c, other]}"
    )
    configuration = load(MINIMAL.replace("labels: {type: simple, value: [label_QCD, label_Hbb]}", labels))
    assert configuration.labels.names == ("part_label", "part_label_mask", "m")
    assert configuration.labels.masks == {"part_label": "part_label_mask"}
    assert configuration.labels.classes == ("b", "c", "other")
    assert configuration.definitions["m"] == "jet_sdmass"
    assert {"part_origin", "jet_sdmass"} <= set(fingerprints.staging(configuration, "test")["branches"])


def test_no_labels_at_all(load):
    configuration = load(MINIMAL.replace("labels: {type: simple, value: [label_QCD, label_Hbb]}", "labels:"))
    assert configuration.labels is None
    assert configuration.label_names == ()


def test_precomputed_weights(load):
    text = MINIMAL.replace("weights:", "weights: {use_precomputed_weights: true, weight_branches: [weight, class_weight]}")
    assert load(text).weights.branches == ("weight", "class_weight")


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("selection:\n", "selectoin: jet_pt > 1\n", "unknown key 'selectoin'. Did you mean: selection?"),
        ("length: 16", "lenght: 16", "unknown key 'inputs.points.lenght'. Did you mean: length?"),
        ("length: 16, ", "", "key 'inputs.points.length' is missing"),
        ("length: 16", "length: 1.5", "key 'inputs.points.length': 1.5 does not fit; expected a whole number or nothing"),
        ("length: 16", "length: 16.0", "key 'inputs.points.length': 16.0 does not fit; expected a whole number or nothing"),
        ("length: 16", "length: 0", "key 'inputs.points.length': 0 does not fit; expected at least 1"),
        (
            "length: 16",
            "length: 16, pad_mode: mirror",
            "key 'inputs.points.pad_mode': 'mirror' does not fit; expected one of constant, wrap",
        ),
        (
            "part_deta, null",
            "part_deta, high",
            "key 'inputs.points.vars[1][1]': 'high' does not fit; expected a number or nothing or auto. (center;",
        ),
        ("part_deta, null", "part_deta, 0, 1, 5, -5", "inputs.points.vars: part_deta: min 5"),
        ("part_deta, null", "part_deta, 0, .inf", "inputs.points.vars: part_deta: scale is inf"),
        ("part_deta, null", "part_deta, .nan", "not a number"),
        ("weights:", "   other: {length: 16, vars: [[part_pt, 1]]}\nweights:", "not valid YAML"),
        (
            "labels:",
            "   other: {length: 16, vars: [[part_pt, 1]]}\nlabels:",
            "inputs.other.vars: part_pt: center is 1, but None in inputs.points",
        ),
        ("labels:", "   other: {length: 8, vars: [part_pt]}\nlabels:", "inputs.other.vars: part_pt: length is 8, but 16 in inputs.points"),
        ("labels:", "   pf_mask: {length: 8, pad_mode: wrap, vars: [x]}\nlabels:", "inputs.pf_mask.pad_mode: 'wrap'"),
        (
            "type: simple",
            "type: simpel",
            "key 'labels.type': 'simpel' does not fit; expected one of simple, custom. Did you mean: simple?",
        ),
        ("type: simple", "type: custom", "labels.value is a list"),
        ("value: [label_QCD, label_Hbb]", "value: {a: b}", "labels.value is a map"),
        (", value: [label_QCD, label_Hbb]", "", "key 'labels.value' is missing"),
        ("[label_QCD, label_Hbb]", "[label_QCD, label_QCD]", "no item twice"),
        ("weights:", "weights: {use_precomputed_weights: true}", "key 'weights.weight_branches' is missing"),
        ("weights:", "weights: {reweight_method: flat}", "key 'weights.reweight_vars' is missing"),
        ("weights:", "weights: {reweight_method: flatt}", "Did you mean: flat?"),
        ("weights:", "observers: [a]\nmonitor_variables: [b]", "observers and monitor_variables are both set"),
        ("weights:", "bucketing: {var: n, bins: [1, 1]}", "bucketing.bins: the bin edges do not increase"),
        ("weights:", "file_magic: {x: {'(': 1}}", "file_magic.x: '(' is not a regular expression"),
        ("weights:", "file_magic: {part_pt: {a: 1}}", "file_magic.part_pt: also defined in new_variables"),
        ("np.hypot(part_px, part_py)", "np.hypott(part_px, part_py)", "new_variables.part_pt: 'np.hypott(part_px, part_py)': np.hypott"),
        ("np.hypot(part_px, part_py)", "part_px +", "new_variables.part_pt: 'part_px +' is not an expression"),
        ("np.hypot(part_px, part_py)", "part_pt * 2", "needs itself (part_pt → part_pt)"),
        ("np.hypot(part_px, part_py)", "other\n   other: -part_pt", "needs itself (other → part_pt → other)"),
        (
            "selection:",
            "selection: jet_pt > 500 and jet_eta < 2",
            "selection: 'jet_pt > 500 and jet_eta < 2': `and` and `or` do not work on arrays",
        ),
        ("selection:", "selection: [jet_pt]", "key 'selection': ['jet_pt'] does not fit; expected text or nothing"),
        ("selection:", "1: x\nselection:", "key 1 of 'the document' is not text"),
        ("selection:", "selection: &a [*a]", "nested too deep"),
        ("np.hypot(part_px, part_py)", "12345678901234567890123", "too large"),
    ],
)
def test_a_mistake_is_told_in_one_line_with_file_and_key(load, old, new, expected):
    assert old in MINIMAL
    with pytest.raises(DataConfigError) as caught:
        load(MINIMAL.replace(old, new, 1))
    message = str(caught.value)
    assert expected in message
    assert "data.yaml: " in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("[500, 700, 1000]", "[500, 500, 1000]", "weights.reweight_vars.jet_pt: the bin edges do not increase"),
        ("[500, 700, 1000]", "[500, 700, .inf]", "weights.reweight_vars.jet_pt: inf is not finite"),
        ("class_weights: [1, 2]", "class_weights: [1]", "weights.class_weights: 1 numbers for 2 reweight_classes"),
        ("class_weights: [1, 2]", "class_weights: [1, -2]", "key 'weights.class_weights[1]': -2 does not fit; expected at least 0"),
        ("class_weights: [1, 2]", "reweight_hists: {label_QCD: [[1, 1, 1], [1, 1, 1]]}", "weights.reweight_hists: 'label_Hbb' is missing"),
        (
            "class_weights: [1, 2]",
            "reweight_hists: {label_QCD: [[1, 1]], label_Hbb: [[1, 1]]}",
            "its shape is not that of reweight_vars, [2, 3]",
        ),
        ("gen_weight * 2", "gen_weight **", "weights.reweight_basewgt"),
        ("data_fraction: 0.5", "data_fraction: 2", "key 'preprocess.data_fraction': 2 does not fit; expected at most 1"),
    ],
)
def test_a_mistake_in_weights_is_told(load, old, new, expected):
    assert old in FULL
    with pytest.raises(DataConfigError, match=r"data\.yaml: ") as caught:
        load(FULL.replace(old, new, 1))
    assert expected in str(caught.value)


def test_a_syntax_error_is_one_line_with_line_and_column(load):
    with pytest.raises(DataConfigError) as caught:
        load("inputs:\n   pf: {length: 1\n   vars: [\n")
    assert "data.yaml: line 3, column" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_cannot_be_read(tmp_path):
    with pytest.raises(DataConfigError, match="cannot be read"):
        load_data_configuration(tmp_path / "absent.yaml")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataConfigError, match="UTF-8"):
        load_data_configuration(tmp_path / "binary.yaml")


def test_own_functions_are_known_without_running_the_file(load):
    text = MINIMAL.replace("np.hypot(part_px, part_py)", "my_pt(part_px, part_py) + noise(part_px)")
    source = "import numpy as np\nraise RuntimeError('run')\ndef my_pt(x, y): return x\ndef noise(x): return np.random.rand(len(x))\n"
    configuration = load(text, functions=source)
    assert configuration.functions == {"my_pt": False, "noise": True}
    assert fingerprints.staging(configuration, "train")["branches"] == ("label_Hbb", "label_QCD", "part_deta", "part_px", "part_py")
    with pytest.raises(DataConfigError, match="there is no function 'my_pt'"):
        load(text)


def test_the_workflow_parses_configurations_without_numpy(repository):
    code = (
        "import sys; from weaver_tasks.data.configuration import fingerprints, load_data_configuration as load; "
        f"fingerprints.staging(load({str(repository / 'config/data/jetclass_full.yaml')!r}), 'train'); "
        "print([name for name in ('numpy', 'awkward', 'torch') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=repository)
    assert done.stdout.strip() == "[]"


STANDARDIZATION = {"late": {"center": 1.5, "scale": 0.25}, "jet_pt": {"center": 600.0, "scale": 1e-3, "entries": 10}}
HISTOGRAMS = {"label_QCD": [[0.5, 1.0, 0.25], [1e-5, 0, 1]], "label_Hbb": [[1.0, 1.0, 1.0], [0.0, 0.0, 0.125]]}


def test_the_auto_file_reads_back_equal_without_auto(load, tmp_path):
    configuration = load(FULL)
    again = load(dump_auto(configuration, STANDARDIZATION, HISTOGRAMS), name="auto.yaml")
    centers = {variable.name: variable.center for group in again.inputs for variable in group.variables}
    assert centers == {"late": 1.5, "part_deta": None, "part_dphi": 0.1, "part_mask": None, "jet_pt": 600.0, "jet_sdmass": 80}
    assert again.preprocess_params["late"]["scale"] == 0.25
    assert again.weights.histograms == HISTOGRAMS
    for attribute in ("definitions", "labels", "observers", "file_magic", "branch_magic", "treename", "bucketing", "preprocess_fraction"):
        assert getattr(again, attribute) == getattr(configuration, attribute)
    twice = load(dump_auto(again, {}, None), name="twice.yaml")
    assert (twice.inputs, twice.weights, twice.selection) == (again.inputs, again.weights, again.selection)


def test_the_auto_file_means_the_same_to_weaver(load, tmp_path, weaver_config):
    (tmp_path / "auto.yaml").write_text(dump_auto(load(FULL), STANDARDIZATION, HISTOGRAMS))
    ours, theirs = load_data_configuration(tmp_path / "auto.yaml"), weaver_config.load(tmp_path / "auto.yaml")
    assert theirs.preprocess_params == ours.preprocess_params
    for name, histogram in ours.weights.histograms.items():
        np.testing.assert_array_equal(theirs.reweight_hists[name], np.array(histogram, dtype="float32"))
    assert list(theirs.new_variables).index("part_pt") < list(theirs.new_variables).index("late")


def test_the_auto_file_of_custom_labels_and_precomputed_weights(load, tmp_path, weaver_config):
    text = MINIMAL.replace(
        "labels: {type: simple, value: [label_QCD, label_Hbb]}", "labels: {type: custom, value: {m: abs(mass), n: mass}}"
    )
    text = text.replace("weights:", "weights: {use_precomputed_weights: true, weight_branches: [abs(w), v]}")
    configuration = load(text)
    (tmp_path / "auto.yaml").write_text(dump_auto(configuration, {}, None))
    theirs = weaver_config.load(tmp_path / "auto.yaml")
    assert theirs.train_load_branches == {"part_px", "part_py", "part_deta", "mass", "w", "v"}
    assert theirs.label_value == {"m": "np.abs(mass)", "n": "mass"}
    assert theirs.label_names == load_data_configuration(tmp_path / "auto.yaml").label_names == configuration.label_names


def test_the_auto_file_needs_every_standardization(load):
    with pytest.raises(DataConfigError, match="the standardization of 'late' is missing"):
        dump_auto(load(FULL), {}, HISTOGRAMS)


@pytest.mark.parametrize("kind", ["hybrid", "simple"])
def test_hybrid_labels_of_forks_are_told_with_what_to_write(tmp_path, kind):
    path = tmp_path / "data.yaml"
    document = {
        "inputs": {"jet": {"length": None, "vars": ["jet_pt"]}},
        "labels": {"type": kind, "value": ["is_a", "is_b"], "value_custom": {"target_mass": "mass"}},
    }
    path.write_text(yaml.safe_dump(document, sort_keys=False))
    with pytest.raises(DataConfigError, match=r"data\.yaml: labels\.type: hybrid is of a fork of weaver\. Write type: custom") as told:
        load_data_configuration(path)
    # What it says is a configuration that loads.
    written = re.search(r"value: (\{.*?\}), set", str(told.value))[1]
    document["labels"] = {"type": "custom", "value": yaml.safe_load(written)}
    path.write_text(yaml.safe_dump(document, sort_keys=False))
    assert load_data_configuration(path).label_names == ("truth_label", "target_mass")


def test_what_weaver_passes_over_is_passed_over_with_a_word(load, caplog):
    text = """
inputs: {jets: {length: null, vars: [x]}}
labels: {type: simple, value: [a, b], label_list: [a, b]}
weights: {reweight_load_fraction: 0.5, reweight_method: flat, reweight_vars: {x: [0, 1]}, reweight_classes: [a, b], class_weights: [1, 0]}
observers: [x, y, x]
"""
    logging.getLogger("weaver_tasks").propagate = True
    configuration = load(text)
    assert configuration.observers == ("x", "y")
    assert configuration.weights.class_weights == (1.0, 0.0)
    for told in ("labels.label_list: a key of a fork", "weights.reweight_load_fraction: a key of a fork", "observers: x is named twice"):
        assert told in caplog.text
    for wrong, message in (("label_lists", "Known here: names"), ("names_", "unknown key 'labels.names_'. Did you mean: names")):
        with pytest.raises(DataConfigError, match=message):
            load(text.replace("label_list", wrong))
    with pytest.raises(DataConfigError, match=r"weights\.class_weights: all are 0"):
        load(text.replace("[1, 0]", "[0, 0]"))
