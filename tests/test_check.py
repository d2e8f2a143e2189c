"""The preflight: what it finds in real files, and what it refuses."""

import re

import pytest
import yaml

from weaver_tasks import check
from weaver_tasks.base.errors import WeaverTasksError


@pytest.fixture
def prepared(tmp_path, repository, jets, monkeypatch):
    """Write a configuration over two classes with some changes; return its path."""
    monkeypatch.chdir(tmp_path)

    def prepare(*, data=None, **sections):
        document = yaml.safe_load((repository / "config/data/demo.yaml").read_text())
        document["labels"]["value"] = ["label_QCD", "label_Hbb"]
        del document["weights"]
        document.update(data or {})
        (tmp_path / "data.yaml").write_text(yaml.safe_dump(document, sort_keys=False))
        config = {
            "run": "r",
            "data": {
                "config": "data.yaml",
                "train": {"QCD": str(jets / "train/ZJetsToNuNu.root"), "Hbb": str(jets / "train/HToBB.root")},
                "test": {"Hbb": str(jets / "test/HToBB.root")},
            },
            "network": {"config": str(repository / "config/networks/pfn.py")},
        }
        (tmp_path / "config.yaml").write_text(yaml.safe_dump({**config, **sections}))
        return ["--config", str(tmp_path / "config.yaml")]

    return prepare


def test_a_good_configuration_is_described(prepared, capsys):
    check.main(prepared())
    shown = capsys.readouterr().out
    assert "The run can work." in shown
    for word in ("pf_features", "(N, 17, 128)", "label_Hbb", "250", "100.0%", "disk for staged files"):
        assert word in shown


def test_selected_events_are_counted(prepared, capsys):
    check.main(prepared(data={"selection": "jet_pt > 600"}))
    assert "100.0%" not in capsys.readouterr().out.split("test")[0]


def test_non_finite_values_are_counted(prepared, capsys):
    variables = {"part_mask": "ak.ones_like(part_energy)", "odd": "part_d0val / 0"}
    inputs = {
        "pf_features": {"length": 8, "vars": ["odd"]},
        "pf_mask": {"length": 8, "pad_mode": "constant", "vars": [["part_mask", None]]},
    }
    check.main(prepared(data={"new_variables": variables, "inputs": inputs, "preprocess": {"method": "manual"}}))
    assert "odd: " in capsys.readouterr().out


def test_a_missing_branch_is_named_with_the_nearest(prepared, capsys):
    told = r"HToBB\.root: tree 'tree' has no branch 'jet_ptt'.*jet_pt.* data\.yaml: selection uses it\. \(And so of 2 more\.\)$"
    with pytest.raises(WeaverTasksError, match=told):
        check.main(prepared(data={"selection": "jet_ptt > 500"}))
    assert "ZJetsToNuNu.root" in re.sub(r"[\s│]", "", capsys.readouterr().out)


def test_a_selection_that_nothing_passes_is_told(prepared):
    with pytest.raises(WeaverTasksError, match=r"data\.yaml: selection: none of \d+ entries of the first training files passes"):
        check.main(prepared(data={"selection": "jet_pt > 50000"}))


def test_a_class_without_events_is_named(prepared):
    labels = {"type": "simple", "value": ["label_QCD", "label_Hbb", "label_Tbl"]}
    with pytest.raises(WeaverTasksError, match="no event of class 'label_Tbl'"):
        check.main(prepared(data={"labels": labels}))


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"training": {"optimizer": {"name": "rangr"}}}, r"rangr.*ranger"),
        ({"validation": {"metric": "acuracy"}}, r"validation\.metric: 'acuracy' is not what validation gives.*Did you mean: accuracy"),
        (
            {"training": {"task": "regression"}, "validation": {"metric": "accuracy"}},
            r"'accuracy' is not what validation gives: loss, mae, mse",
        ),
    ],
)
def test_what_would_fail_after_the_data_are_read_is_told_before(prepared, sections, message):
    with pytest.raises(WeaverTasksError, match=message):
        check.main(prepared(**sections))


def test_network_options_that_the_network_does_not_take_are_told(prepared, repository):
    network = {"config": str(repository / "config/networks/pfn.py"), "options": {"Phi_size": [8]}}
    with pytest.raises(WeaverTasksError, match="Phi_size"):
        check.main(prepared(network=network))
