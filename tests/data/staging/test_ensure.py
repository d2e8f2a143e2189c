"""Staged files on a node's own disk: found through environment variables, made again where they are missing."""

import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import yaml

from weaver_tasks.base.errors import ConfigError, InputFileError
from weaver_tasks.data.configuration import load_data_configuration
from weaver_tasks.data.events.block import StagingOptions
from weaver_tasks.data.staging import ensure
from weaver_tasks.data.staging.places import expand_path
from weaver_tasks.data.staging.sources import open_source
from weaver_tasks.stage_inputs import main

OPTIONS = StagingOptions()


@pytest.fixture(params=["columnar", "copy"])
def staged(request, tmp_path, monkeypatch, repository, jets):
    """The record of a file staged in a scratch folder that an environment variable names."""
    monkeypatch.setenv("NODE_SCRATCH", str(tmp_path / "node1"))
    source = tmp_path / "HToBB.root"
    source.write_bytes((jets / "train" / "HToBB.root").read_bytes())
    document = yaml.safe_load((repository / "config" / "data" / "demo.yaml").read_text())
    (tmp_path / "data.yaml").write_text(yaml.safe_dump(document, sort_keys=False))
    suffix = {"columnar": "arrow", "copy": "root"}[request.param]
    record = tmp_path / "record.json"
    main(
        [
            *("--data-config", str(tmp_path / "data.yaml"), "--split", "train", "--group", "Hbb", "--sources", str(source)),
            *("--records", str(record), "--staged", f"$NODE_SCRATCH/run/HToBB.{suffix}"),
            *("--settings", json.dumps({"staging": {"mode": request.param}})),
        ]
    )
    return json.loads(record.read_text())


def read(record, tmp_path):
    configuration = load_data_configuration(tmp_path / "data.yaml")
    block = open_source(record, configuration, OPTIONS).read(0, 250)
    return block.entries, {name: np.asarray(packed.own_values()) for name, packed in block.packed.items()}


def test_a_record_names_the_variable_and_the_file_lies_where_it_points(staged, tmp_path):
    assert staged["staged"].startswith("$NODE_SCRATCH/run/HToBB.")
    assert expand_path(staged["staged"]).is_relative_to(tmp_path / "node1")
    assert expand_path(staged["staged"]).exists()


def test_another_node_stages_the_same_again(staged, tmp_path, monkeypatch):
    entries, values = read(staged, tmp_path)
    monkeypatch.setenv("NODE_SCRATCH", str(tmp_path / "node2"))
    again_entries, again = read(staged, tmp_path)
    assert expand_path(staged["staged"]).is_relative_to(tmp_path / "node2")
    np.testing.assert_array_equal(again_entries, entries)
    assert again.keys() == values.keys()
    for name, expected in values.items():
        np.testing.assert_array_equal(again[name], expected)


def test_ranks_that_miss_it_at_the_same_time_stage_it_once(staged, tmp_path, monkeypatch):
    monkeypatch.setenv("NODE_SCRATCH", str(tmp_path / "node2"))
    stage_file, staged_files = ensure.stage_file, []
    monkeypatch.setattr(
        ensure, "stage_file", lambda source, *rest, **more: staged_files.append(source) or stage_file(source, *rest, **more)
    )
    with ThreadPoolExecutor(3) as pool:
        read_by = list(pool.map(lambda _: read(staged, tmp_path)[0].tolist(), range(3)))
    assert read_by[0] == read_by[1] == read_by[2]
    assert staged_files == [staged["source"]]


def test_a_source_that_has_changed_is_refused(staged, tmp_path, jets):
    expand_path(staged["staged"]).unlink()
    (tmp_path / "HToBB.root").write_bytes((jets / "train" / "HToCC.root").read_bytes())
    with pytest.raises(InputFileError, match=r"HToBB\.root: its SHA-256"):
        read(staged, tmp_path)
    assert not expand_path(staged["staged"]).exists()


def test_a_configuration_that_has_changed_is_refused(staged, tmp_path):
    expand_path(staged["staged"]).unlink()
    document = yaml.safe_load((tmp_path / "data.yaml").read_text())
    document["selection"] = "jet_pt > 550"
    (tmp_path / "data.yaml").write_text(yaml.safe_dump(document, sort_keys=False))
    with pytest.raises(ConfigError, match=r"data\.yaml: has changed since"):
        read(staged, tmp_path)


def test_a_variable_that_is_not_set_is_named(staged, tmp_path, monkeypatch):
    monkeypatch.delenv("NODE_SCRATCH")
    with pytest.raises(ConfigError, match=r"staging\.directory: the environment variable \$NODE_SCRATCH is not set"):
        read(staged, tmp_path)
