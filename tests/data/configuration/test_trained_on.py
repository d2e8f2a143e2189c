"""What a model was trained on, against a configuration that it is to predict with."""

import dataclasses
import json

import pytest

import result_run
from weaver_tasks.data.configuration import load_data_configuration
from weaver_tasks.data.configuration.trained_on import assumed, difference, trained_on

TEXT = result_run.DATA + result_run.CLASSES


@pytest.fixture
def then(tmp_path):
    return json.loads(json.dumps(trained_on(configuration(tmp_path, TEXT))))


def configuration(folder, text):
    (folder / "data.yaml").write_text(text)
    return load_data_configuration(folder / "data.yaml")


def test_the_same_fits(tmp_path, then):
    assert difference(then, configuration(tmp_path, TEXT + result_run.OBSERVERS)) is None
    assert difference({}, configuration(tmp_path, TEXT)) is None


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("label_Hbb, label_Tbqq", "label_Tbqq, label_Hbb", "the classes label_QCD, label_Hbb, label_Tbqq, in this order, and not"),
        ("label_Hbb, label_Tbqq]", "label_Hbb]", "the classes"),
        ("pf_features:", "features:", "the input groups pf_features, pf_mask, in this order, and not features, pf_mask"),
        ("part_charge, null], [", "part_charge, null], [", None),
        ("[part_charge, null]", "[part_d0val, null]", "input group 'pf_features' of part_pt_log, part_e_log"),
        ("length: 128\n    pad_mode: wrap", "length: 100\n    pad_mode: wrap", "input group 'pf_features' with length 128, and not 100"),
        ("pad_mode: wrap", "pad_mode: constant", "input group 'pf_features' with pad_mode wrap, and not constant"),
        ("[part_pt_log, 1.7, 0.7]", "[part_pt_log, 1.8, 0.7]", "variable 'part_pt_log' with (center, scale, min, max, pad_value) 1.7, 0.7"),
        ("[part_d0, null]", "[part_d0, 0, 1]", "variable 'part_d0' with (center, scale, min, max, pad_value) null"),
    ],
)
def test_what_differs_is_told(tmp_path, then, old, new, told):
    text = TEXT.replace("      - [part_charge, null]", "      - [part_charge, null]")
    found = difference(then, configuration(tmp_path, text.replace(old, new)))
    assert (found is None) if told is None else (told in found)


def test_the_order_of_variables_counts(tmp_path, then):
    lines = TEXT.splitlines()
    first = next(number for number, line in enumerate(lines) if "part_deta, 0" in line)
    lines[first], lines[first + 1] = lines[first + 1], lines[first]
    assert "in this order, and not of" in difference(then, configuration(tmp_path, "\n".join(lines)))


def test_data_without_labels_fit(tmp_path, then):
    assert difference(then, dataclasses.replace(configuration(tmp_path, TEXT), labels=None)) is None


def test_infinite_limits_are_plain_json(tmp_path):
    made = configuration(tmp_path, TEXT.replace("[part_pt_log, 1.7, 0.7]", "[part_pt_log, 1.7, 0.7, -.inf, .inf]"))
    then = json.loads(json.dumps(trained_on(made), allow_nan=False))
    assert difference(then, made) is None


def test_what_is_assumed_names_it_all(tmp_path):
    told = assumed(configuration(tmp_path, TEXT))
    assert "the classes label_QCD, label_Hbb, label_Tbqq" in told
    assert "pf_mask (part_mask)" in told
