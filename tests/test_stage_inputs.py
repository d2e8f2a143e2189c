"""The stage as its rule calls it: records, modes, bad files, the list of inputs."""

import hashlib
import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import uproot
from numpy.testing import assert_array_equal

from weaver_tasks import stage_inputs
from weaver_tasks.base.digests import file_checksum
from weaver_tasks.base.errors import ConfigError, DataConfigError, InputFileError
from weaver_tasks.base.files import read_json
from weaver_tasks.data.configuration import load_data_configuration
from weaver_tasks.data.events.block import StagingOptions
from weaver_tasks.data.staging.arrow_file import StagedFile
from weaver_tasks.data.staging.sources import open_source

CONFIGURATION = """
selection: jet_pt > 600
new_variables:
  part_pt: np.hypot(part_px, part_py)
  bad: np.where(jet_pt > 900, np.inf, 1.0)
inputs:
  particles: {length: 32, vars: [part_pt]}
  jets: {length: null, vars: [jet_pt, [bad, 0, 1]]}
labels: {type: simple, value: [label_Hbb, label_Tbqq]}
observers: [jet_eta]
weights: {use_precomputed_weights: true, weight_branches: [jet_tau1]}
"""


@pytest.fixture
def data_config(tmp_path):
    path = tmp_path / "data.yaml"
    path.write_text(CONFIGURATION)
    return path


@pytest.fixture
def stage(tmp_path, data_config):
    """A function that stages files and returns their records."""

    def run(*files, split="train", mode="columnar", suffix=".arrow", config=None, **settings):
        names = [f"{split}/{number}-{file.stem}" for number, file in enumerate(files)]
        records = [tmp_path / f"{name}.json" for name in names]
        options = ["--data-config", config or data_config, "--split", split, "--group", "jets", "--sources", *files, "--records", *records]
        if mode != "none":
            options += ["--staged", *(tmp_path / f"{name}{suffix}" for name in names)]
        options += ["--settings", json.dumps({"staging": {"mode": mode}, **settings}), "--record", tmp_path / "task.json"]
        stage_inputs.main([str(option) for option in options])
        return [read_json(record) for record in records]

    return run


@pytest.fixture
def gather(tmp_path):
    def run(*records, **staging):
        paths = []
        for number, record in enumerate(records):
            paths.append(tmp_path / f"record-{number}.json")
            paths[-1].write_text(json.dumps(record))
        output = tmp_path / "inputs.json"
        stage_inputs.main(["--gather", *map(str, paths), "--output", str(output), "--settings", json.dumps({"staging": staging})])
        return read_json(output)

    return run


@pytest.fixture
def hbb(jets):
    return jets / "train" / "HToBB.root"


@pytest.fixture
def top(jets):
    return jets / "train" / "TTBar.root"


def test_a_record_says_what_the_file_holds(stage, tmp_path, hbb):
    (record,) = stage(hbb)
    with uproot.open(hbb) as file:
        pt = file["tree"]["jet_pt"].array(library="np")
    assert record["checksum"] == hashlib.sha256(hbb.read_bytes()).hexdigest()
    assert record["bytes"] == hbb.stat().st_size
    assert (record["tree"], record["entries"], record["kept"], record["bad"]) == ("tree", 250, (pt > 600).sum(), None)
    assert record["classes"] == {"label_Hbb": record["kept"], "label_Tbqq": 0}
    assert record["not_finite"] == {"bad": (pt > 900).sum()}
    staged = StagedFile(record["staged"])
    assert_array_equal(staged.entries, np.flatnonzero(pt > 600))
    assert staged.metadata["checksum"] == record["checksum"]
    task = read_json(tmp_path / "task.json")
    assert task["inputs"][str(hbb)] == record["checksum"]
    assert record["staged"] in task["outputs"]


def test_records_of_versions_that_did_not_name_the_events_give_the_same_digest(stage, gather, hbb, top):
    """Their digest of the staging was that of the events: so epochs trained with it are found in the journal."""
    records = stage(hbb, top)
    old = [{key: value for key, value in record.items() if key != "events_digest"} for record in records]
    for record, now in zip(old, records, strict=True):
        record["staging_digest"] = now["events_digest"]
    assert gather(*old)["digest"] == gather(*records)["digest"]


def test_several_files_to_a_job(stage, hbb, top):
    records = stage(hbb, top)
    assert [record["classes"]["label_Tbqq"] > 0 for record in records] == [False, True]


@pytest.mark.parametrize(("mode", "suffix"), [("columnar", ".arrow"), ("copy", ".root"), ("none", None)])
@pytest.mark.parametrize("split", ["train", "test"])
def test_modes_give_the_same_events(stage, gather, data_config, hbb, top, mode, suffix, split):
    columnar = stage(hbb, top, split=split)
    records = stage(hbb, top, split=split, mode=mode, suffix=suffix)
    assert [record["kept"] for record in records] == [record["kept"] for record in columnar]
    assert [record["classes"] for record in records] == [record["classes"] for record in columnar]
    manifest = gather(*records)
    assert manifest["mode"] == mode
    configuration, options = load_data_configuration(data_config), StagingOptions.from_manifest(manifest)
    for record, reference in zip(manifest["files"], columnar, strict=True):
        source, expected = open_source(record, configuration, options), StagedFile(reference["staged"])
        for first, last in ((0, 250), (17, 90), (40, 40)):
            block, other = source.read(first, last), expected.block(*expected.rows(first, last))
            assert_array_equal(block.entries, other.entries)
            for name, packed in other.packed.items():
                assert_array_equal(block.packed[name].own_values(), packed.own_values())
            assert block.plain.keys() == other.plain.keys()
            for name, values in other.plain.items():
                assert_array_equal(block.plain[name], values)
        assert sum(len(block) for block in source.blocks(0, 250)) == record["kept"]
    if mode == "copy":
        assert file_checksum(records[0]["staged"]) == records[0]["checksum"] == columnar[0]["checksum"]
    if mode == "none":
        assert records[0]["staged"] is None


@pytest.mark.parametrize(("mode", "suffix"), [("columnar", ".arrow"), ("copy", ".root"), ("none", None)])
def test_only_the_leading_entries_are_used(stage, gather, tmp_path, data_config, hbb, top, mode, suffix):
    (short,) = stage(hbb, mode=mode, suffix=suffix, staging={"mode": mode, "max_entries": 40})
    (more,) = stage(hbb, mode=mode, suffix=suffix, staging={"mode": mode, "max_entries": 10**6})
    with uproot.open(hbb) as file:
        pt = file["tree"]["jet_pt"].array(library="np")
    assert (short["entries"], short["kept"]) == (40, np.count_nonzero(pt[:40] > 600))
    assert (more["entries"], more["kept"]) == (len(pt), np.count_nonzero(pt > 600))
    assert short["staging_digest"] != more["staging_digest"]
    manifest = gather(*stage(hbb, top, mode=mode, suffix=suffix, staging={"mode": mode, "max_entries": 40}))
    configuration = load_data_configuration(data_config)
    source = open_source(manifest["files"][0], configuration, options=StagingOptions.from_manifest(manifest))
    assert source.read(0, source.entries).entries.tolist() == np.flatnonzero(pt[:40] > 600).tolist()


def test_a_bad_file_is_told_in_its_record(stage, tmp_path, hbb):
    cut = tmp_path / "cut.root"
    cut.write_bytes(hbb.read_bytes()[:200_000])
    good, bad = stage(hbb, cut)
    assert good["bad"] is None
    assert bad["bad"].startswith(f"{cut}: is truncated: it has 200000 of 482011 bytes")
    assert (bad["staged"], bad["kept"]) == (None, 0)
    # What the rule declared is there, and empty.
    assert (tmp_path / "train" / "1-cut.arrow").read_bytes() == b""


@pytest.mark.parametrize(("mode", "suffix"), [("columnar", ".arrow"), ("copy", ".root"), ("none", None)])
def test_a_source_that_has_changed_since_it_was_first_staged_is_refused(stage, tmp_path, hbb, top, mode, suffix):
    source, known = tmp_path / "jets.root", tmp_path / "train" / "0-jets.sha256"
    shutil.copy(hbb, source)
    assert stage(source, mode=mode, suffix=suffix)[0]["bad"] is None
    assert known.read_text() == f"{file_checksum(hbb)}  {source}\n"
    assert stage(source, mode=mode, suffix=suffix)[0]["bad"] is None
    shutil.copy(top, source)
    for _ in range(2):
        (record,) = stage(source, mode=mode, suffix=suffix)
        assert record["bad"].startswith(f"{source}: its SHA-256 is {file_checksum(top)[:16]}…, but {file_checksum(hbb)[:16]}… was recorded")
        assert f"delete {known} and run again" in record["bad"]
        assert record["staged"] is None
    known.unlink()
    assert stage(source, mode=mode, suffix=suffix)[0]["bad"] is None
    # Another file in its place.
    known.write_text(f"{'0' * 64}  elsewhere/jets.root\n")
    assert stage(source, mode=mode, suffix=suffix)[0]["bad"] is None


def test_a_source_read_in_place_is_looked_at_again_when_it_is_touched(stage, gather, tmp_path, data_config, hbb, top):
    sources = tmp_path / "hbb.root", tmp_path / "top.root"
    for original, source in zip((hbb, top), sources, strict=True):
        shutil.copy(original, source)
    record = gather(*stage(*sources, mode="none"))["files"][0]
    configuration = load_data_configuration(data_config)
    sources[0].touch()
    expected = open_source(record, configuration).read(0, 50)
    content = bytearray(hbb.read_bytes())
    content[200_000] ^= 1
    sources[0].write_bytes(content)
    with pytest.raises(InputFileError, match=r"hbb\.root: its SHA-256 is .* the file has changed or is damaged"):
        open_source(record, configuration)
    shutil.copy(hbb, sources[0])
    assert_array_equal(open_source(record, configuration).read(0, 50).entries, expected.entries)


def test_a_file_without_entries_counts_as_zero_and_one_without_branches_is_bad(stage, tmp_path, data_config):
    empty, other = tmp_path / "empty.root", tmp_path / "other.root"
    for path, count in ((empty, 0), (other, 3)):
        with uproot.recreate(path) as file:
            file.mktree("tree", {"jet_pt": "f4"})
            file["tree"].extend({"jet_pt": np.ones(count, dtype=np.float32)})
    records = stage(empty, other)
    assert (records[0]["bad"], records[0]["entries"], records[0]["kept"]) == (None, 0, 0)
    assert records[0]["classes"] == {"label_Hbb": 0, "label_Tbqq": 0}
    assert f"{other}: tree 'tree' has no branch 'jet_eta'" in stage(other, split="test")[0]["bad"]
    assert "has no branch 'jet_tau1' (and 4 more: label_Hbb, label_Tbqq, part_px, part_py)." in records[1]["bad"]


def test_gathering_names_all_bad_files_and_forgets_their_records(stage, gather, tmp_path, hbb, top):
    records = [*stage(hbb, top), *stage(tmp_path / "one.root", tmp_path / "two.root")]
    with pytest.raises(InputFileError, match=r"2 of 4 input files cannot be used: .*one\.root: no such file.*; .*two\.root: no such file"):
        gather(*records)
    assert [(tmp_path / f"record-{number}.json").exists() for number in range(4)] == [True, True, False, False]


def test_the_records_of_a_run_are_those_of_its_files(stage, gather, tmp_path, hbb, top):
    train, test = stage(hbb, top), stage(hbb, split="test")
    files = []
    for record, name in zip((*train, *test), ("a", "b", "c"), strict=True):
        path = tmp_path / "run" / "staged" / record["split"] / "jets" / f"{name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(record))
        files.append({"split": record["split"], "group": "jets", "name": name, "source": record["source"]})
    (tmp_path / "run" / "files.json").write_text(json.dumps({"files": files}))
    output = tmp_path / "listed.json"
    for splits, records in ((["train", "val"], train), (["test"], test), (["train", "val", "test"], [*train, *test])):
        stage_inputs.main(["--gather-run", str(tmp_path / "run"), "--splits", *splits, "--output", str(output)])
        assert read_json(output) == gather(*records)


def test_a_task_takes_what_was_staged_before_and_stages_what_has_changed(stage, tmp_path, hbb, top, data_config):
    sources = [tmp_path / f"{name}.root" for name in ("same", "touched", "other", "gone", "cut")]
    for source, content in zip(sources, (hbb, hbb, hbb, hbb, top), strict=True):
        shutil.copy(content, source)
    sources[4].write_bytes(top.read_bytes()[:1000])
    first = stage(*sources)
    assert [bool(record["bad"]) for record in first] == [False, False, False, False, True]
    staged = [tmp_path / "train" / f"{number}-{source.stem}.arrow" for number, source in enumerate(sources)]
    before = [path.stat().st_ino for path in staged]
    os.utime(sources[1])
    shutil.copy(top, sources[2])
    (tmp_path / "train" / "2-other.sha256").unlink()
    staged[3].unlink()
    shutil.copy(top, sources[4])
    again = stage(*sources)
    assert read_json(tmp_path / "task.json")["staged_before"] == [str(source) for source in sources[:2]]
    assert [path.stat().st_ino == inode for path, inode in zip(staged[:2], before[:2], strict=True)] == [True, True]
    assert again[0] == first[0]
    assert again[1] == first[1] | {"modified_ns": sources[1].stat().st_mtime_ns}
    assert [record["checksum"] for record in again[2:]] == [file_checksum(path) for path in sources[2:]]
    assert [len(StagedFile(path).entries) for path in staged] == [record["kept"] for record in again]
    # Another selection is another result.
    data_config.write_text(data_config.read_text().replace("jet_pt > 600", "jet_pt > 650"))
    assert stage(*sources)[0]["kept"] < first[0]["kept"]
    assert read_json(tmp_path / "task.json")["staged_before"] == []


def test_tasks_of_bad_or_missing_files_are_run_again(stage, tmp_path, hbb, top):
    run = tmp_path / "run"
    tasks = run / "provenance" / "tasks" / "stage_inputs"
    tasks.mkdir(parents=True)
    stage(hbb, top)
    records = [run / "staged" / "train" / "jets" / f"{name}.json" for name in ("a", "b")]
    for number, (record, source) in enumerate(zip(records, (hbb, top), strict=True)):
        record.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(tmp_path / "train" / f"{number}-{source.stem}.json", record)
        (tasks / f"{record.name}").write_text(json.dumps({"outputs": {str(record): {}}}))
    files = [{"split": "train", "group": "jets", "name": path.stem} for path in records]
    (run / "files.json").write_text(json.dumps({"files": files}))
    gather = ["--gather-run", str(run), "--output", str(tmp_path / "inputs.json")]
    records[0].write_text(json.dumps(read_json(records[0]) | {"bad": "a: cut"}))
    with pytest.raises(InputFileError, match="1 of 2 input files cannot be used: a: cut"):
        stage_inputs.main(gather)
    assert sorted(path.name for path in tasks.iterdir()) == ["b.json"]
    records[1].unlink()
    with pytest.raises(InputFileError, match=r"staged/train/jets/b\.json: is missing, though its file was staged \(1 of 2\)"):
        stage_inputs.main(gather)
    assert not list(tasks.iterdir())


def test_bad_files_are_skipped_up_to_a_fraction(stage, gather, tmp_path, hbb, top, caplog):
    records = [*stage(hbb, top), *stage(tmp_path / "one.root")]
    with pytest.raises(InputFileError, match=r"1 of 3 input files cannot be used, more than staging\.max_bad_fraction 0\.3"):
        gather(*records, on_bad_file="skip", max_bad_fraction=0.3)
    manifest = gather(*records, on_bad_file="skip", max_bad_fraction=0.4)
    assert [bool(file["bad"]) for file in manifest["files"]] == [False, False, True]
    with pytest.raises(InputFileError, match="is a bad file"):
        open_source(manifest["files"][2], load_data_configuration(manifest["files"][2]["data_config"]))


def test_the_manifest_lists_training_first_and_its_digest_is_of_the_data(stage, gather, tmp_path, hbb, top):
    train, test = stage(hbb, top), stage(hbb, split="test")
    manifest = gather(*test, *train)
    assert [file["split"] for file in manifest["files"]] == ["train", "train", "test"]
    moved = tmp_path / "elsewhere.root"
    shutil.copy(hbb, moved)
    assert gather(*test, *stage(moved, top))["digest"] == manifest["digest"]
    assert gather(*test, train[0])["digest"] != manifest["digest"] if train[0]["classes"]["label_Tbqq"] else True
    assert gather(*train)["digest"] != manifest["digest"]


def test_a_class_without_events_is_named(stage, gather, hbb, capsys):
    (warning,) = gather(*stage(hbb))["warnings"]
    assert "NO TRAINING EVENT of class label_Tbqq" in warning
    assert warning in capsys.readouterr().err
    # In a test there need not be all of them.
    assert len(gather(*stage(hbb, split="test"))["files"]) == 1


def test_a_selection_that_nothing_passes_is_told(stage, gather, data_config, hbb):
    data_config.write_text(data_config.read_text().replace("jet_pt > 600", "jet_pt > 6000"))
    with pytest.raises(DataConfigError, match="selection: none of the 250 entries of 1 training files passes"):
        gather(*stage(hbb))


def test_a_label_mistake_is_no_bad_file(stage, hbb, data_config):
    data_config.write_text(data_config.read_text().replace("label_Hbb,", "label_Hcc,"))
    with pytest.raises(DataConfigError, match=r"HToBB\.root: entry \d+ belongs to no class"):
        stage(hbb)


def test_what_changes_each_epoch_is_read_each_epoch(stage, gather, data_config, hbb, top):
    data_config.write_text(data_config.read_text().replace("part_px, part_py)", "part_px, part_py) * np.random.rand(len(part_px))"))
    records = stage(hbb, top)
    assert records[0]["staged"] is None
    assert records[0]["on_the_fly"] == ["part_pt"]
    source = open_source(gather(*records)["files"][0], load_data_configuration(data_config))
    one, same, other = (source.read(0, 50, training=True, seed=seed).packed["particles"].values for seed in ((1,), (1,), (2,)))
    assert_array_equal(one, same)
    assert not np.array_equal(one, other)


def test_mode_columnar_wants_places(hbb, data_config, tmp_path):
    options = ["--data-config", data_config, "--split", "train", "--group", "g", "--sources", hbb, "--records", tmp_path / "r.json"]
    with pytest.raises(ConfigError, match="--staged is missing"):
        stage_inputs.main([str(option) for option in options])


def test_a_mistake_is_one_line_and_exit_code_2(tmp_path, data_config):
    missing, output = str(tmp_path / "no.json"), str(tmp_path / "inputs.json")
    command = [sys.executable, "-m", "weaver_tasks.stage_inputs", "--gather", missing, "--output", output]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("ERROR: ")
    assert "no.json: no such file" in done.stderr


@pytest.mark.parametrize("process", ["HToBB", "TTBar"])
def test_formats_give_the_same_staged_values(stage, samples, repository, process):
    config = repository / "config" / "data" / "demo.yaml"
    converted = samples / "small_converted"
    files = [samples / "small" / f"{process}_000.root", converted / f"{process}_000.parquet", converted / f"{process}_000.h5"]
    records = stage(*files, config=config)
    assert [record["kept"] for record in records] == [records[0]["kept"]] * 3
    root, parquet, hdf5 = (StagedFile(record["staged"]) for record in records)
    root, parquet, hdf5 = (file.block(0, len(file.entries)) for file in (root, parquet, hdf5))
    assert_array_equal(root.entries, parquet.entries)
    for name, packed in root.packed.items():
        assert_array_equal(packed.values, parquet.packed[name].values)
        assert_array_equal(packed.offsets, parquet.packed[name].offsets)
    for name, values in root.plain.items():
        assert_array_equal(values, parquet.plain[name])
        assert_array_equal(values, hdf5.plain[name])
    # HDF5 files hold 128 particles of each jet, the missing ones zero.
    vectors, padded = root.packed["pf_vectors"], hdf5.packed["pf_vectors"]
    assert_array_equal(np.diff(padded.offsets), np.full(len(root), 128))
    for event in range(len(root)):
        own = vectors.values[vectors.offsets[event] : vectors.offsets[event + 1]][:128]
        assert_array_equal(padded.values[128 * event :][: len(own)], own)
        assert not padded.values[128 * event + len(own) : 128 * (event + 1)].any()


@pytest.mark.parametrize("mode", ["columnar", "none"])
def test_lists_of_negative_length_are_refused_by_name(tmp_path, data_config, stage, mode):
    source, functions = tmp_path / "jets.root", tmp_path / "functions.py"
    with uproot.recreate(source) as file:
        file["tree"] = {
            "n": np.array([3, -1, 2]),
            "x": np.array([1.0, 2.0, 3.0]),
            "label_a": np.array([1, 0, 1]),
            "label_b": np.array([0, 1, 0]),
        }
    functions.write_text(
        "import awkward as ak\n"
        "import numpy as np\n\n"
        "def lists(n, x):\n"
        "    offsets = ak.index.Index64(np.append(0, np.cumsum(ak.to_numpy(n))))\n"
        "    return ak.Array(ak.contents.ListOffsetArray(offsets, ak.contents.NumpyArray(np.arange(4.0))))\n"
    )
    document = """
treename: tree
new_variables: {{p: "{0}"}}
preprocess: {{method: manual}}
inputs: {{particles: {{length: 4, vars: [[p, null]]}}}}
labels: {{type: simple, value: [label_a, label_b]}}
"""
    for text, options in (("ak.unflatten(np.arange(4), n)", {}), ("lists(n, x)", {"data": {"custom_functions": str(functions)}})):
        data_config.write_text(document.format(text))
        arguments = ["--data-config", str(data_config), "--split", "train", "--group", "a", "--sources", str(source)]
        arguments += ["--records", str(tmp_path / "r.json"), "--settings", json.dumps({"staging": {"mode": mode}})]
        arguments += ["--staged", str(tmp_path / "x.arrow")] if mode == "columnar" else []
        arguments += ["--custom-functions", str(functions)] if options else []
        with pytest.raises(DataConfigError, match=r"new_variables\.p.*(negative count|reach outside of their values)"):
            stage_inputs.main(arguments)
        assert not (tmp_path / "x.arrow").exists()
