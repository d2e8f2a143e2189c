"""The preflight: what it finds in real files, and what it refuses."""

import re
import shutil
from collections import namedtuple

import pytest
import yaml

from weaver_tasks.base.errors import WeaverTasksError
from weaver_tasks.check import command as check


@pytest.fixture
def prepared(tmp_path, repository, jets, monkeypatch):
    """Write a configuration over two classes with some changes; return its path."""
    monkeypatch.chdir(tmp_path)

    def prepare(*, data=None, train=None, **sections):
        document = yaml.safe_load((repository / "config/data/demo.yaml").read_text())
        document["labels"]["value"] = ["label_QCD", "label_Hbb"]
        del document["weights"]
        document.update(data or {})
        (tmp_path / "data.yaml").write_text(yaml.safe_dump(document, sort_keys=False))
        config = {
            "run": "r",
            "data": {
                "config": "data.yaml",
                "train": {"QCD": str(jets / "train/ZJetsToNuNu.root"), "Hbb": str(jets / "train/HToBB.root"), **(train or {})},
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


def test_non_finite_values_are_counted(prepared, repository, capsys):
    data = yaml.safe_load((repository / "config/data/demo.yaml").read_text())
    data["new_variables"]["odd"] = "part_d0val / 0"
    data["inputs"]["pf_features"]["vars"].append("odd")
    check.main(prepared(data={key: data[key] for key in ("new_variables", "inputs")}))
    assert "odd: " in capsys.readouterr().out


def test_a_missing_branch_is_named_with_the_nearest(prepared, capsys):
    told = r"HToBB\.root: tree 'tree' has no branch 'jet_ptt'.*jet_pt.* data\.yaml: selection uses it\. \(And so of 2 more\.\)$"
    with pytest.raises(WeaverTasksError, match=told):
        check.main(prepared(data={"selection": "jet_ptt > 500"}))
    assert "ZJetsToNuNu.root" in re.sub(r"[\s│]", "", capsys.readouterr().out)


def test_a_missing_branch_of_config_yaml_is_named_with_its_key(prepared):
    with pytest.raises(WeaverTasksError, match=r"no branch 'event'\. config\.yaml: cross_validation\.variable uses it\."):
        check.main(prepared(cross_validation={"variable": "event", "folds": 3}))


def test_a_selection_that_nothing_passes_is_told(prepared):
    with pytest.raises(WeaverTasksError, match=r"data\.yaml: selection: none of \d+ entries of the first training files passes"):
        check.main(prepared(data={"selection": "jet_pt > 50000"}))


def test_a_class_without_events_is_named(prepared, capsys):
    labels = {"type": "simple", "value": ["label_QCD", "label_Hbb", "label_Tbl"]}
    check.main(prepared(data={"labels": labels}))
    assert "WARNING" in (out := capsys.readouterr().out)
    assert "no event of class 'label_Tbl'" in out


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


def test_classes_that_the_evaluation_would_miss_are_told(prepared):
    with pytest.raises(WeaverTasksError, match=r"evaluation\.signal_efficiencies: 'label_Hb' is not a class.*Did you mean: label_Hbb"):
        check.main(prepared(evaluation={"signal_efficiencies": {"label_Hb": 0.5}}))


def test_network_options_that_the_network_does_not_take_are_told(prepared, repository):
    network = {"config": str(repository / "config/networks/pfn.py"), "options": {"Phi_size": [8]}}
    with pytest.raises(WeaverTasksError, match="Phi_size"):
        check.main(prepared(network=network))


def shown(capsys) -> str:
    """What was printed, without the lines of the tables."""
    return " ".join(re.sub("[│┃]", " ", capsys.readouterr().out).split())


def test_the_disk_that_copies_need_is_told(prepared, capsys, jets):
    size = sum((jets / name).stat().st_size for name in ("train/ZJetsToNuNu.root", "train/HToBB.root", "test/HToBB.root"))
    check.main(prepared(staging={"mode": "copy"}))
    assert f"disk for copies of the input files {size / 1e6:.3g} MB" in shown(capsys)
    check.main(prepared(staging={"mode": "none"}))
    assert "disk for staged files none" in shown(capsys)


def test_a_disk_that_is_too_small_is_told(prepared, monkeypatch, tmp_path):
    usage = namedtuple("usage", "free")
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage(100_000))
    with pytest.raises(WeaverTasksError, match=r"staging\.directory: [\d.]+ MB are staged in results/r/staged, and 100 kB are free there"):
        check.main(prepared())
    (tmp_path / "results/r/staged").mkdir(parents=True)
    (tmp_path / "results/r/staged/a.arrow").write_bytes(bytes(10_000_000))
    check.main(prepared())


@pytest.fixture
def with_bad_files(tmp_path, jets):
    """A group of a file that is no ROOT file and ten good ones."""
    (tmp_path / "00.root").write_bytes(b"no ROOT file")
    for index in range(1, 11):
        shutil.copy(jets / "train/HToBB.root", tmp_path / f"{index:02d}.root")
    return {"Hbb": ["[0-9]*.root"]}


def test_a_bad_file_fails(prepared, with_bad_files):
    with pytest.raises(WeaverTasksError, match=r"00\.root.*The file is damaged"):
        check.main(prepared(train=with_bad_files))


def test_bad_files_that_the_run_skips_are_told_and_the_next_is_looked_at(prepared, with_bad_files, capsys):
    check.main(prepared(train=with_bad_files, staging={"on_bad_file": "skip", "max_bad_fraction": 0.1}))
    said = shown(capsys)
    assert "The run can work." in said
    assert re.search(r"skipped: .*00\.root", said)


def test_more_bad_files_than_the_run_skips_fail(prepared, with_bad_files):
    told = r"00\.root.*more bad files than staging\.max_bad_fraction 0\.01 lets the run skip"
    with pytest.raises(WeaverTasksError, match=told):
        check.main(prepared(train=with_bad_files, staging={"on_bad_file": "skip"}))


def test_a_group_without_a_good_file_leaves_its_class_empty(prepared, tmp_path, jets, capsys):
    (tmp_path / "a.root").write_bytes(b"no ROOT file")
    train = {"Hbb": "a.root", "QCD": [str(jets / f"train/{name}.root") for name in ("ZJetsToNuNu", "TTBar", "WToQQ")]}
    check.main(prepared(train=train, staging={"on_bad_file": "skip", "max_bad_fraction": 0.5}))
    assert "no event of class 'label_Hbb'" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("num_classes=len(data_config.label_value)", "num_classes=3", r"the model gives 3 outputs for the 2 classes of labels\.value"),
        ("self.mod(features, mask)", "self.mod(points, mask)", r"network\.py, line \d+, in forward: its model failed \(RuntimeError"),
        ("torch.nn.CrossEntropyLoss()", "lambda logits, truth: None", r"its loss function gives NoneType"),
    ],
)
def test_a_network_that_could_not_take_a_step_is_told(prepared, repository, tmp_path, old, new, message):
    text = (repository / "config/networks/pfn.py").read_text()
    assert old in text
    (tmp_path / "network.py").write_text(text.replace(old, new))
    with pytest.raises(WeaverTasksError, match=message):
        check.main(prepared(network={"config": "network.py"}))
