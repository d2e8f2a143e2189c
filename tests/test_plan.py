"""The plan of a run: which files, which jobs, and what each job's result depends on."""

import json
import re
import subprocess

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from weaver_tasks.base.errors import ConfigError, DataConfigError
from weaver_tasks.base.maps import merge
from weaver_tasks.base.record import changed_files
from weaver_tasks.plan import (
    InputFile,
    Plan,
    check_clean_code,
    check_configuration_files,
    check_run_folder,
    make_plan,
    numbers_pattern,
    preflight,
)
from weaver_tasks.plan.files import staging_jobs, unique_names
from weaver_tasks.settings.stage import stage_settings
from weaver_tasks.training.journal import validation_key


@pytest.fixture
def folder(tmp_path, monkeypatch, repository):
    """A working folder with files of two groups, and a data and a network configuration."""
    monkeypatch.chdir(tmp_path)
    for name in ("a_1", "a_2", "a_3", "b_1"):
        (tmp_path / f"{name}.root").write_bytes(b"")
    (tmp_path / "data.yaml").write_text((repository / "config/data/demo.yaml").read_text())
    (tmp_path / "net.py").write_text("def get_model(data_config, **options):\n    return None, {}\n")
    return tmp_path


def plan(**over):
    document = {
        "run": "r",
        "data": {"config": "data.yaml", "train": {"a": ["a_*.root"], "b": "b_1.root"}, "test": {"a": ["a_*.root"]}},
        "network": {"config": "net.py"},
    }
    return make_plan(merge(document, over), where="c.yaml")


def test_files_are_listed_by_split_and_group_in_order(folder):
    listed = [(file.split, file.group, file.source, file.name) for file in plan().files]
    assert listed == [
        *(("train", "a", f"a_{i}.root", f"a_{i}") for i in (1, 2, 3)),
        ("train", "b", "b_1.root", "b_1"),
        *(("test", "a", f"a_{i}.root", f"a_{i}") for i in (1, 2, 3)),
    ]


def test_names_with_brackets_and_braces(folder):
    """A bracket is a pattern only where no file has that name; braces are wildcards to Snakemake, so what is made has none."""
    from weaver_tasks.plan.files import expand

    names = ["a[2].root", "b{1}.root", "b_1_.root"]
    for name in names:
        (folder / name).write_bytes(b"")
    files = list(expand({"a": {"patterns": names, "split": 0}}, "train", "config.yaml"))
    assert [file.source for file in files] == names
    assert len({file.name for file in files}) == 3
    assert not any("{" in file.name or "}" in file.name for file in files)


def test_files_that_appear_later_do_not_change_a_run_that_has_begun(folder):
    plan().freeze_files()
    (folder / "a_4.root").write_bytes(b"")
    assert len(plan().files_of("train")) == 4
    (folder / "results/r/files.json").unlink()
    assert len(plan().files_of("train")) == 5


def test_other_patterns_make_the_list_anew(folder):
    plan().freeze_files()
    assert [file.source for file in plan(data={"train": {"a": ["a_2.root"]}}).files_of("train")] == ["a_2.root", "b_1.root"]


def test_a_test_group_is_split_every_n_files(folder):
    split = plan(data={"test": {"a": {"files": ["a_*.root"], "split": 2}}})
    assert split.test_groups() == ["a_0", "a_1"]
    assert [file.group for file in split.files_of("test")] == ["a_0", "a_0", "a_1"]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"train": {"a": ["c_*.root"]}}, ["data.train.a", "c_*.root", "matches no file", "a_1.root"]),
        ({"train": {"a": ["none/*.root"]}}, ["none/*.root", "no folder 'none'"]),
        ({"train": {"a": ["a_1.root", "a_*.root"]}}, ["a_1.root", "listed twice"]),
        ({"train": {"a": ["./a_1.root", "a_1.root"]}}, ["'a_1.root'", "listed twice"]),
        ({"test": {"a": "c.root"}}, ["data.test.a", "no such file 'c.root'"]),
    ],
)
def test_missing_and_doubled_files_are_named(folder, data, words):
    with pytest.raises(ConfigError) as error:
        _ = plan(data=data).files
    for word in ("c.yaml", *words):
        assert word in str(error.value)


def test_a_key_given_twice_in_config_yaml_is_told(folder):
    (folder / "c.yaml").write_text("run: a\ntraining: {epochs: 2}\nrun: b\n")
    with pytest.raises(ConfigError, match=r"c\.yaml: line 3: the key 'run' is given twice, first in line 1"):
        check_configuration_files(["c.yaml"])


def test_the_configuration_of_a_workflow_that_uses_this_one_is_its_own(folder):
    (folder / "c.yaml").write_text("samples: {2016: .nan}\n")
    (folder / "c.json").write_text('{\n\t"a": 1\n}')
    check_configuration_files(["c.yaml", "c.json", "absent.yaml"])


def test_a_run_folder_that_cannot_be_made_is_told(folder, monkeypatch):
    check_run_folder(plan(), writes=True)
    monkeypatch.setattr("os.access", lambda path, mode: False)  # root may write anywhere
    check_run_folder(plan(), writes=False)
    with pytest.raises(ConfigError, match=r"results go to results/r, but \. cannot be written to"):
        check_run_folder(plan(), writes=True)
    (folder / "results").write_text("")
    with pytest.raises(ConfigError, match=r"results go to results/r, but results is a file"):
        check_run_folder(plan(), writes=False)


def test_missing_configurations_are_named(folder):
    with pytest.raises(DataConfigError, match=r"data\.config_val: no such file 'no\.yaml'"):
        plan(data={"config_val": "no.yaml"})
    with pytest.raises(DataConfigError, match=r"data\.config: no such file 'no\.yaml'"):
        plan(data={"config": "no.yaml"})
    with pytest.raises(ConfigError, match=r"network\.config: no such file 'no\.py'"):
        plan(network={"config": "no.py"})


def test_urls_are_taken_as_they_are(folder):
    files = plan(data={"train": {"a": ["root://host//x/a.root", "https://host/b.root?token=1"]}}).files_of("train")
    assert [(file.name, file.is_local) for file in files] == [("a", False), ("b", False), ("b_1", True)]


@given(st.integers(1, 60), st.integers(1, 60))
def test_blocks_cover_each_epoch_once(epochs, size):
    import types

    config = types.MappingProxyType({"training": {"epochs": epochs, "epochs_per_job": size, "early_stopping": None}})
    blocks = Plan(config=config, where="").blocks()
    assert [epoch for block in blocks for epoch in block] == list(range(epochs))
    assert max(map(len, blocks)) <= size


@pytest.mark.parametrize(
    ("epochs", "early_stopping", "jobs"), [(200, None, 200), (201, None, 101), (1000, None, 200), (1000, {"patience": 5}, 1000)]
)
def test_many_epochs_are_trained_several_a_job_unless_told_otherwise(epochs, early_stopping, jobs):
    training = {"epochs": epochs, "epochs_per_job": None, "early_stopping": early_stopping}
    assert len(Plan(config={"training": training}, where="").blocks()) == jobs


@given(st.integers(0, 1200), st.integers(0, 1200))
def test_a_pattern_of_numbers_matches_these_alone(first, stop):
    pattern = re.compile(numbers_pattern(range(first, stop)) or "none")
    assert [number for number in range(1300) if pattern.fullmatch(str(number))] == list(range(first, stop))
    assert not any(pattern.fullmatch(text) for text in ("", "05", "x"))
    assert len(pattern.pattern) < 250


@given(st.lists(st.tuples(st.sampled_from("xyz"), st.sampled_from(["f", "g", "f.g"])), unique=True))
def test_names_are_unique(paths):
    sources = [f"{folder}/{stem}.root" for folder, stem in paths]
    names = unique_names(sources)
    assert len(set(names)) == len(names)


@given(st.lists(st.sampled_from(["a", "a-b", "b"]), max_size=30), st.integers(1, 7))
def test_staging_jobs_take_each_file_once_and_have_names_of_their_own(groups, size):
    files = [InputFile(split="train", group=group, source=f"{n}.root", name=f"b-{n}") for n, group in enumerate(sorted(groups))]
    jobs = staging_jobs(files, size)
    assert [file for taken in jobs.values() for file in taken] == files
    assert all({(file.split, file.group) for file in taken} == {job[:2]} for job, taken in jobs.items())
    assert max(map(len, jobs.values()), default=0) <= size


@pytest.mark.parametrize(
    ("files", "asked", "size"), [(200, None, 1), (201, None, 2), (10_000, None, 50), (10**6, None, 200), (10_000, 1, 1)]
)
def test_many_files_are_staged_several_a_job_unless_told_otherwise(files, asked, size):
    made = Plan(config={"staging": {"files_per_job": asked}}, where="")
    made.__dict__["files"] = range(files)
    assert made.files_per_job == size


def train_settings(made, epoch):
    return made.settings("train_epoch", epochs=range(epoch, epoch + 1))


def test_more_epochs_keep_those_whose_rates_stay(folder):
    few, more = plan(training={"epochs": 20}), plan(training={"epochs": 30})
    kept = [epoch for epoch in range(20) if train_settings(few, epoch) == train_settings(more, epoch)]
    # flat+decay: constant up to 20 - int(0.3 * 20) = 14
    assert kept == list(range(14))
    pinned = plan(training={"epochs": 30, "scheduler": {"horizon": 20}})
    assert all(train_settings(few, epoch) == train_settings(pinned, epoch) for epoch in range(20))


@pytest.mark.parametrize(
    "over",
    [
        {"training": {"epochs_per_job": 3}},
        {"training": {"tensorboard": True}},
        {"training": {"snapshot_minutes": 5}},
        {"loading": {"num_workers": 7, "prefetch": 9, "pad_on_device": True}},
        {"validation": {"metric": "loss"}},
        {"training": {"batch_size_val": 77}},
        {"data": {"test": {"b": "b_1.root"}}},
    ],
)
def test_what_changes_no_result_is_not_in_the_settings_of_training(folder, over):
    assert train_settings(plan(), 3) == train_settings(plan(**over), 3)


def test_how_batches_are_made_reruns_neither_validation_nor_prediction(folder):
    plans = plan(), plan(loading={"num_workers": 7, "prefetch": 9, "pad_on_device": True})
    for stage in ("validate_epoch", "predict"):
        first, other = (made.settings(stage) for made in plans)
        assert first == other
    # What validation finds is kept in the journal under a key of what the task gets.
    assert (
        len({validation_key(stage_settings(merge(made.settings("validate_epoch"), made.untracked())), manifest="m") for made in plans}) == 1
    )


@pytest.mark.parametrize(
    "over",
    [
        {"seed": 2},
        {"training": {"lr": 0.1}},
        {"training": {"batch_size": 77}},
        {"training": {"ranks": 2}},
        {"training": {"threads": 4}},
        {"loading": {"fetch_step": 0.5}},
        {"sampling": {"up_sample": False}},
        {"data": {"train_val_split": 0.5}},
        {"network": {"options": {"width": 3}}},
    ],
)
def test_what_changes_the_result_is(folder, over):
    assert train_settings(plan(), 3) != train_settings(plan(**over), 3)


def test_parsed_meaning_counts_not_its_writing(folder):
    before = {stage: plan().settings(stage) for stage in ("stage_inputs", "standardize", "init_model", "train_epoch")}
    (folder / "data.yaml").write_text("# a comment\n\n" + (folder / "data.yaml").read_text())
    (folder / "net.py").write_text("# a comment\ndef get_model(data_config,   **options):\n    'Docs.'\n    return (None, {})\n")
    assert before == {stage: plan().settings(stage) for stage in before}
    document = yaml.safe_load((folder / "data.yaml").read_text())
    document["selection"] = "jet_pt > 600"
    (folder / "data.yaml").write_text(yaml.safe_dump(document))
    assert all(before[stage] != plan().settings(stage) for stage in before)


def test_observers_concern_only_the_test(folder):
    document = yaml.safe_load((folder / "data.yaml").read_text())
    before = plan()
    settings = {
        (stage, split): before.settings(stage, split=split) for stage in ("stage_inputs", "train_epoch") for split in ("train", "test")
    }
    document["observers"] = ["jet_pt"]
    (folder / "data.yaml").write_text(yaml.safe_dump(document, sort_keys=False))
    changed = {key for key, value in settings.items() if plan().settings(key[0], split=key[1]) != value}
    assert changed == {("stage_inputs", "test")}


def test_settings_are_plain_json(folder):
    made = plan()
    for stage in ("stage_inputs", "standardize", "reweight", "init_model", "validate_epoch", "select_best_epoch", "predict", "evaluate"):
        assert json.loads(json.dumps(made.settings(stage))) == made.settings(stage)
    assert json.loads(json.dumps(train_settings(made, 0))) == train_settings(made, 0)


def test_folds_and_seeds_are_members(folder):
    assert plan().members() == [""]
    assert plan(cross_validation={"variable": "n", "folds": 3}).members() == ["fold-0/", "fold-1/", "fold-2/"]
    seeds = plan(seeds=[4, 7])
    assert seeds.members() == ["seed-4/", "seed-7/"]
    assert seeds.settings("init_model", member="seed-7/")["seed"] == 7


def test_code_that_is_not_committed_is_refused_and_listed(folder, monkeypatch, repository):
    for command in (["init", "--quiet"], ["add", "."], ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "--quiet", "-m", "all"]):
        subprocess.run(["git", *command], check=True)
    # The code of this checkout may be in any state.
    own = preflight.changed_files
    monkeypatch.setattr(preflight, "changed_files", lambda path: [] if path.is_relative_to(repository) else own(path.absolute()))
    checked = plan(require_clean_code=True)
    check_clean_code(checked, repository / "workflow")
    (folder / "net.py").write_text("def get_model(data_config, **options):\n    return 1, {}\n")
    (folder / "notes.txt").write_text("not code")
    with pytest.raises(ConfigError, match=r"c\.yaml: require_clean_code: 1 files differ from what is committed: net\.py\. Commit"):
        check_clean_code(checked, repository / "workflow")
    check_clean_code(plan(), repository / "workflow")


def test_changed_files_of_a_checkout(folder, tmp_path_factory):
    assert changed_files(folder) is None
    subprocess.run(["git", "init", "--quiet"], check=True)
    (folder / "part").mkdir()
    (folder / "part" / "new.py").write_text("")
    assert changed_files(folder / "part") == ["part/new.py"]
    assert changed_files(folder / "net.py") == ["net.py"]
