"""Test files without labels, as of recorded data, beside files that have them."""

import json

import awkward as ak
import numpy as np
import pytest
import uproot

from weaver_tasks.base.errors import DataConfigError, InputFileError
from weaver_tasks.data.configuration import load_data_configuration
from weaver_tasks.data.events.block import StagingOptions
from weaver_tasks.data.staging.sources import open_source
from weaver_tasks.stage_inputs import main

CONFIGURATION = """
selection: pt > 200
new_variables: {mask: ak.ones_like(part_pt)}
preprocess: {method: manual}
inputs:
  features: {length: 4, vars: [part_pt]}
  mask: {length: 4, vars: [mask]}
labels: {type: simple, value: [is_a, is_b]}
observers: [pt]
weights: {use_precomputed_weights: true, weight_branches: [w]}
"""
REGRESSION = CONFIGURATION.replace("{type: simple, value: [is_a, is_b]}", "{type: custom, value: {target: mass / pt}}")


def write(path, **more):
    counts = [2, 0, 3, 1]
    part = ak.unflatten(np.arange(1, 7, dtype=np.float32), counts)
    with uproot.recreate(path) as file:
        file["tree"] = {
            "pt": np.array([100.0, 300, 400, 500]),
            "part_pt": part,
            **{name: np.array(values) for name, values in more.items()},
        }


@pytest.fixture
def files(tmp_path):
    write(tmp_path / "simulation.root", is_a=[1, 0, 1, 0], is_b=[0, 1, 0, 1], mass=[1.0, 2, 3, 4])
    write(tmp_path / "data.root")
    write(tmp_path / "half.root", is_a=[1, 0, 1, 0])
    (tmp_path / "data.yaml").write_text(CONFIGURATION)
    return tmp_path


def stage(folder, *names, mode="columnar", split="test", group="a"):
    """The records of files."""
    records = [folder / f"{name}.json" for name in names]
    command = ["--data-config", folder / "data.yaml", "--split", split, "--group", group]
    command += ["--sources", *(folder / f"{name}.root" for name in names), "--records", *records]
    if mode != "none":
        command += ["--staged", *(folder / f"{name}.staged.{'arrow' if mode == 'columnar' else 'root'}" for name in names)]
    main([*map(str, command), "--settings", json.dumps({"staging": {"mode": mode}})])
    return [json.loads(path.read_text()) for path in records]


@pytest.mark.parametrize("mode", ["columnar", "copy", "none"])
@pytest.mark.parametrize("text", [CONFIGURATION, REGRESSION])
def test_a_test_file_without_labels_is_staged_without(files, mode, text):
    (files / "data.yaml").write_text(text)
    labeled, bare = stage(files, "simulation", "data", mode=mode)
    assert (labeled["labeled"], bare["labeled"]) == (True, False)
    assert (labeled["bad"], bare["bad"]) == (None, None)
    assert bare["kept"] == 3
    assert labeled["staging_digest"] == bare["staging_digest"]
    configuration = load_data_configuration(files / "data.yaml")
    blocks = [open_source(record, configuration, StagingOptions()).read(0, 4) for record in (labeled, bare)]
    label = configuration.label_names[0]
    assert label in blocks[0].plain
    assert label not in blocks[1].plain
    assert blocks[1].plain["pt"].tolist() == [300, 400, 500]


def test_only_labels_may_be_absent_and_all_of_them(files):
    (half,) = stage(files, "half")
    assert "no branch 'is_b'" in half["bad"]
    (files / "data.yaml").write_text(CONFIGURATION.replace("observers: [pt]", "observers: [pt, is_a]"))
    (bare,) = stage(files, "data")
    assert "is_a" in bare["bad"]


def test_training_files_need_their_labels(files):
    (bare,) = stage(files, "data", split="train")
    assert "no branch 'is_a'" in bare["bad"]


def test_a_group_has_labels_or_has_none(files):
    stage(files, "simulation", "data")
    gather = ["--output", str(files / "inputs.json"), "--gather"]
    with pytest.raises(DataConfigError, match=r"data\.root: has no labels, but .*simulation\.root of the same test group 'a' has"):
        main([*gather, *(str(files / f"{name}.json") for name in ("simulation", "data"))])
    stage(files, "data", group="b")
    main([*gather, *(str(files / f"{name}.json") for name in ("simulation", "data"))])
    groups = {file["group"]: file["labeled"] for file in json.loads((files / "inputs.json").read_text())["files"]}
    assert groups == {"a": True, "b": False}


def test_a_damaged_file_is_told_as_ever(files):
    (files / "data.root").write_bytes((files / "data.root").read_bytes()[:200])
    (bare,) = stage(files, "data")
    assert "data.root" in bare["bad"]
    with pytest.raises(InputFileError):
        open_source(bare, load_data_configuration(files / "data.yaml"))
