"""Merged predictions: each event by the fold that did not see it, or the mean over seeds, on real jets."""

import json

import awkward as ak
import numpy as np
import pytest
import torch
import uproot

import result_run
from weaver_tasks import merge_predictions, predict
from weaver_tasks.results.predictions.tables import open_table, read_table, table_metadata, table_names

# Shared with the tests of the results, which lie beside it.
FOLDS = {"variable": "number", "folds": 3}
# Jets do not number themselves; how many particles a jet has does as well.
NUMBER = result_run.DATA.replace("new_variables:\n", "new_variables:\n  number: jet_nparticles\n")
CLASSES = "labels: {type: simple, value: [label_QCD, label_Hbb, label_Tbqq]}\nobservers: [jet_pt, part_energy]\n"


class MembersRun(result_run.ResultRun):
    """Members with weights of their own, which predict in this process."""

    def __init__(self, folder, *, members, folds=None, **options):
        super().__init__(folder, **options)
        self.members, self.folds = members, folds
        document = result_run.manifest() | {"options": {"fold_variable": folds and folds["variable"]}}
        self.inputs.write_text(json.dumps(document))
        self.settings["cross_validation"] = folds

    def predict_all(self, suffix: str, group: str = "TTBar") -> dict:
        """The prediction file of each member."""
        made = {}
        for number, member in enumerate(self.members):
            torch.manual_seed(number)
            state = self.folder / f"{member}.pt"
            torch.save(self.model().state_dict(), state)
            made[member] = self.folder / member / f"{group}{suffix}"
            settings = {**self.settings, **({"fold": {**self.folds, "index": number}} if self.folds else {})}
            own = ["--group", group, "--model", state, "--output", made[member], "--settings", json.dumps(settings)]
            predict.main(self.arguments("predict", *own))
        return made

    def merge(self, made: dict, group: str = "TTBar", **options) -> tuple[dict, dict]:
        """Columns and metadata of what is merged."""
        output = self.folder / "predictions" / next(iter(made.values())).name
        own = ["--predictions", *(f"{member}={path}" for member, path in made.items()), "--group", group, "--output", output]
        own += ["--inputs", self.inputs, "--data-config", self.data_config]
        merge_predictions.main(self.arguments("merge_predictions", *own))
        return columns(output), table_metadata(output)


def columns(path):
    """All columns of a table, whole."""
    chunks = list(read_table(path, table_names(path)))
    return {name: ak.concatenate([chunk[name] for chunk in chunks]) for name in table_names(path)}


def source(name):
    with uproot.open(result_run.JETS / "TTBar.root") as file:
        jets = file["tree"].arrays(["jet_pt", "jet_nparticles"], library="np")
    chosen = (jets["jet_pt"] > 520) & (jets["jet_nparticles"] > 10)
    return np.tile(jets[name][chosen], 2)


@pytest.mark.parametrize("suffix", [".root", ".parquet"])
def test_each_event_is_scored_by_its_fold_in_the_order_of_the_source_files(tmp_path, suffix):
    run = MembersRun(tmp_path, members=["fold-0", "fold-1", "fold-2"], folds=FOLDS, data=NUMBER + CLASSES)
    made = run.predict_all(suffix)
    merged, metadata = run.merge(made)
    assert merged["jet_pt"].tolist() == source("jet_pt").tolist()
    fold = source("jet_nparticles") % 3
    name = "score_label_QCD" if suffix == ".root" else "scores"
    assert set(fold) == {0, 1, 2}
    for number, path in enumerate(made.values()):
        own = columns(path)
        assert own["jet_pt"].tolist() == source("jet_pt")[fold == number].tolist()
        for column in (name, "part_energy", "_label_"):
            assert own[column].tolist() == merged[column][fold == number].tolist()
    assert metadata["combination"] == "each event by fold number % 3"
    assert metadata["classes"] == ["label_QCD", "label_Hbb", "label_Tbqq"]
    assert len(set(metadata["members"].values())) == 3


@pytest.mark.parametrize("suffix", [".root", ".parquet"])
def test_seeds_are_averaged_and_their_spread_is_told(tmp_path, suffix):
    run = MembersRun(tmp_path, members=["seed-1", "seed-2", "seed-7"], data=NUMBER + CLASSES)
    made = run.predict_all(suffix)
    merged, metadata = run.merge(made)
    score, spread = ("score_label_Hbb", "spread_label_Hbb") if suffix == ".root" else ("scores", "spread")
    scores = np.stack([ak.to_numpy(columns(path)[score]) for path in made.values()]).astype(np.float64)
    assert np.abs(ak.to_numpy(merged[score]) - scores.mean(axis=0)).max() < 1e-7
    assert np.abs(ak.to_numpy(merged[spread]) - scores.std(axis=0, ddof=1)).max() < 1e-7
    assert ak.max(merged[spread]) > 1e-3
    one = columns(made["seed-2"])
    for name in ("jet_pt", "part_energy", "_label_"):
        assert merged[name].tolist() == one[name].tolist()
    assert metadata["combination"] == "mean over the members"


def test_scores_of_particles_are_averaged_particle_by_particle(tmp_path):
    run = MembersRun(
        tmp_path, members=["seed-1", "seed-2"], data=result_run.DATA + result_run.ELECTRON, options={"per_particle": True, "outputs": 3}
    )
    made = run.predict_all(".root")
    merged, _ = run.merge(made)
    one, other = (columns(path)["score_electron"] for path in made.values())
    assert merged["score_electron"].ndim == 2
    assert ak.max(abs(merged["score_electron"] - (one + other) / 2)) < 1e-6
    assert ak.max(abs(merged["spread_electron"] - abs(one - other) / 2**0.5)) < 1e-6


def test_outputs_of_a_regression_are_averaged(tmp_path):
    run = MembersRun(tmp_path, members=["seed-1", "seed-2"], data=result_run.DATA + result_run.MASS, options={"outputs": 2})
    run.settings["training"]["task"] = "regression"
    made = run.predict_all(".root")
    merged, _ = run.merge(made)
    outputs = np.stack([ak.to_numpy(columns(path)["output"]) for path in made.values()])
    assert np.abs(ak.to_numpy(merged["output"]) - outputs.mean(axis=0)).max() < 1e-6
    assert ak.to_numpy(merged["spread"]).shape == outputs.shape[1:]


def table(path, numbers, **metadata):
    with open_table(path, {"inputs": "a", **metadata}) as written:
        written.write({"score_a": np.asarray(numbers, np.float32), "n": np.asarray(numbers, np.int64)})
    return path


def test_tables_that_do_not_fit_are_refused(tmp_path, capsys):
    def merge(*paths):
        named = [f"m{number}={path}" for number, path in enumerate(paths)]
        merge_predictions.main(["--predictions", *named, "--group", "g", "--output", str(tmp_path / "out.parquet")])

    merge(table(tmp_path / "a.parquet", [1, 2]), table(tmp_path / "b.parquet", [3, 4]))
    assert columns(tmp_path / "out.parquet")["score_a"].tolist() == [2, 3]
    assert columns(tmp_path / "out.parquet")["n"].tolist() == [1, 2]
    for other, message in (
        (table(tmp_path / "c.parquet", [1]), "fewer events"),
        (table(tmp_path / "d.parquet", [1, 2, 3]), "more events"),
        (table(tmp_path / "e.parquet", [1, 2], inputs="b"), "other files"),
    ):
        (tmp_path / "out.parquet").unlink(missing_ok=True)
        with pytest.raises(Exception, match=message) as error:
            merge(tmp_path / "a.parquet", other)
        assert str(other) in str(error.value)
        assert not (tmp_path / "out.parquet").exists()


def test_a_group_without_events_is_merged_with_its_columns(tmp_path):
    empty = [table(tmp_path / f"{name}.root", []) for name in "ab"]
    named = [f"m{number}={path}" for number, path in enumerate(empty)]
    merge_predictions.main(["--predictions", *named, "--group", "g", "--output", str(tmp_path / "out.root")])
    assert table_names(tmp_path / "out.root") == ["score_a", "n", "spread_a"]


@pytest.mark.parametrize(
    ("definition", "words"),
    [
        ("jet_pt", ["cross_validation.variable 'number'", "TTBar.root", "is not a whole number"]),
        ("part_energy", ["cross_validation.variable 'number'", "TTBar.root", "whole number of each event"]),
        ("jet_number", ["jet_number", "TTBar.root"]),
    ],
)
def test_a_fold_variable_that_numbers_no_events_is_told(tmp_path, definition, words):
    data = NUMBER.replace("number: jet_nparticles", f"number: {definition}")
    run = MembersRun(tmp_path, members=["fold-0"], folds=FOLDS, data=data + CLASSES)
    with pytest.raises(Exception, match=words[0]) as error:
        run.predict_all(".root")
    assert all(word in str(error.value) for word in words)
