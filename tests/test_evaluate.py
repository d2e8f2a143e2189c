"""Evaluation as the workflow runs it: from prediction files and JSON, without the model."""

import json

import numpy as np
import pytest
import sklearn.metrics
import uproot
from PIL import Image

import result_run
from weaver_tasks import summary
from weaver_tasks.base.errors import ConfigError, ResultError
from weaver_tasks.results.metrics.evaluation import evaluate_classification
from weaver_tasks.results.plots import classification, training
from weaver_tasks.results.predictions.columns import read_predictions
from weaver_tasks.results.predictions.tables import open_table, table_metadata
from weaver_tasks.settings.model import EvaluationSettings

CLASSES = ("label_QCD", "label_Hbb", "label_Tbqq")


@pytest.fixture
def run(tmp_path):
    return predictions(tmp_path / "run")


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory):
    """A run whose evaluation has been done as the workflow does it."""
    run = predictions(tmp_path_factory.mktemp("evaluated") / "run")
    run.settings["evaluation"] = {"signal_efficiencies": {"label_Tbqq": 0.8}, "metrics": ["log_loss", "f1_score", "top_k_accuracy_score"]}
    run.evaluate("--best-epoch", run.folder / "best_epoch.json", "--metrics", run.folder / "metrics")
    return run


def figures_of(run, **settings):
    """The figures alone: nothing is drawn."""
    files = [(file.stem, file) for file in sorted((run.folder / "predictions").iterdir())]
    found = read_predictions(files, task="classification", weight=settings.get("weight"))
    return evaluate_classification(found, EvaluationSettings(**settings))


def predictions(folder):
    """Predictions of three classes on real jets: their scores are made of the soft-drop mass."""
    run = result_run.ResultRun(folder)
    run.state.unlink()
    for label, (group, name) in enumerate({"ZJetsToNuNu": "label_QCD", "HToBB": "label_Hbb", "TTBar": "label_Tbqq"}.items()):
        jets = uproot.open(result_run.JETS / f"{group}.root")["tree"].arrays(["jet_pt", "jet_sdmass"], library="np")
        distance = np.abs(jets["jet_sdmass"][:, None] - np.array([20, 120, 173])) / 30
        scores = (1 / (1 + distance**2)).astype(np.float32)
        scores /= scores.sum(axis=1, keepdims=True)
        columns = {}
        for index, other in enumerate(CLASSES):
            columns[other] = np.full(len(scores), name == other)
            columns[f"score_{other}"] = scores[:, index]
        with open_table(run.folder / "predictions" / f"{group}.root", {"classes": CLASSES, "labels": ["_label_"]}) as table:
            table.write({**columns, "_label_": np.full(len(scores), label), **jets})
    for epoch in range(3):
        for part in ("train", "val"):
            figures = {"epoch": epoch, "loss": 1 / (epoch + 1), "accuracy": 0.3 + 0.1 * epoch, "lr": 0.001}
            run.folder.joinpath("metrics").mkdir(exist_ok=True)
            run.write(f"metrics/{part}_epoch-{epoch}.json", json.dumps(figures))
    run.write("best_epoch.json", json.dumps({"epoch": 2, "metric": "accuracy", "value": 0.5, "mode": "max"}))
    return run


def cells(text):
    """The rows of the Markdown tables of a page."""
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]


def everything(run):
    chunks = [uproot.open(run.folder / "predictions" / f"{group}.root")["Events"].arrays() for group in ("HToBB", "TTBar", "ZJetsToNuNu")]
    scores = np.concatenate([np.stack([np.asarray(chunk[f"score_{name}"]) for name in CLASSES], axis=1) for chunk in chunks])
    return scores.astype(np.float64), np.concatenate([np.asarray(chunk["_label_"]) for chunk in chunks])


def test_figures_equal_scikit_learn(evaluated):
    run, folder = evaluated, evaluated.folder / "evaluation"
    figures = json.loads((folder / "metrics.json").read_text())
    scores, labels = everything(run)
    normalized = scores / scores.sum(axis=1, keepdims=True)
    decided = scores.argmax(axis=1)
    assert figures["entries"] == 300
    assert figures["accuracy"] == pytest.approx(sklearn.metrics.accuracy_score(labels, decided), abs=1e-12)
    assert figures["auc"] == pytest.approx(sklearn.metrics.roc_auc_score(labels, normalized, multi_class="ovo"), abs=1e-6)
    np.testing.assert_allclose(figures["confusion_matrix"], sklearn.metrics.confusion_matrix(labels, decided, normalize="true"))
    assert figures["metrics"]["log_loss"] == pytest.approx(sklearn.metrics.log_loss(labels, normalized), rel=1e-6)
    assert figures["metrics"]["f1_score"] == pytest.approx(sklearn.metrics.f1_score(labels, decided, average="macro"))
    assert figures["metrics"]["top_k_accuracy_score"] == pytest.approx(sklearn.metrics.top_k_accuracy_score(labels, scores))
    for i, j in ((0, 1), (0, 2), (1, 2)):
        pair = np.isin(labels, (i, j))
        ratio = scores[pair][:, j] / scores[pair][:, [i, j]].sum(axis=1)
        expected = sklearn.metrics.roc_auc_score(labels[pair] == j, ratio)
        assert figures["auc_matrix"][i][j] == pytest.approx(expected, abs=1e-6)
    top = next(row for row in figures["rejections"] if row["signal"] == "label_Tbqq")
    assert top["signal_efficiency"] == 0.8
    pair = np.isin(labels, (0, 2))
    ratio = scores[pair][:, 2] / scores[pair][:, [0, 2]].sum(axis=1)
    false, true, _ = sklearn.metrics.roc_curve(labels[pair] == 2, ratio, drop_intermediate=False)
    assert top["rejection"] == pytest.approx(1 / false[np.flatnonzero(true >= 0.8)[0]], rel=1e-6)
    assert figures["groups"]["TTBar"]["entries"] == 100
    assert figures["groups"]["TTBar"]["auc"] is None
    assert figures["best_epoch"]["epoch"] == 2
    table = (folder / "metrics.md").read_text()
    assert f"accuracy {figures['accuracy']:.4f}" in table
    assert ["label_Tbqq", "label_QCD", "0.8"] in [row[:3] for row in cells(table)]
    assert "The background is label_QCD, the first class (evaluation.background chooses another)." in table
    assert figures["background"] == "label_QCD"
    assert "the background is label_QCD" in (run.folder / "logs" / "evaluate.log").read_text()


def test_plots_are_drawn_in_both_formats(evaluated):
    folder = evaluated.folder / "evaluation"
    for name in ("roc", "scores", "confusion", "efficiency_pt", "efficiency_mass", "training"):
        assert (folder / f"{name}.pdf").read_bytes().startswith(b"%PDF")
        pixels = np.asarray(Image.open(folder / f"{name}.png").convert("RGB"))
        assert min(pixels.shape[:2]) >= 400
        assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 50, f"{name} is nearly empty"


@pytest.mark.slow
def test_rerun_gives_the_same_files(run):
    first = {path.name: path.read_bytes() for path in run.evaluate().iterdir()}
    second = {path.name: path.read_bytes() for path in run.evaluate().iterdir()}
    assert first == second


def test_weights_count(run):
    figures = figures_of(run, weight="jet_pt")
    scores, labels = everything(run)
    groups = ("HToBB", "TTBar", "ZJetsToNuNu")
    weights = np.concatenate(
        [np.asarray(uproot.open(run.folder / "predictions" / f"{g}.root")["Events"]["jet_pt"].array()) for g in groups]
    )
    expected = sklearn.metrics.accuracy_score(labels, scores.argmax(axis=1), sample_weight=weights)
    assert figures["accuracy"] == pytest.approx(expected, abs=1e-6)
    assert figures["accuracy"] != pytest.approx(sklearn.metrics.accuracy_score(labels, scores.argmax(axis=1)), abs=1e-6)


def test_events_of_no_class_and_files_without_labels(run):
    path = run.folder / "predictions" / "other.root"
    columns = {f"score_{name}": np.full(7, 1 / 3, np.float32) for name in CLASSES}
    with open_table(path, {"classes": CLASSES, "labels": ["_label_"]}) as table:
        table.write({**columns, "_label_": np.full(7, -1), "jet_pt": np.ones(7, np.float32), "jet_sdmass": np.ones(7, np.float32)})
    figures = figures_of(run)
    assert (figures["entries"], figures["entries_without_class"]) == (307, 7)
    scores, labels = everything(run)
    assert figures["accuracy"] == pytest.approx(sklearn.metrics.accuracy_score(labels, scores.argmax(axis=1)))

    for file in path.parent.iterdir():
        file.unlink()
    with open_table(path, {"classes": CLASSES, "labels": []}) as table:
        table.write(columns)
    figures = json.loads((run.evaluate() / "metrics.json").read_text())
    assert figures["entries"] == 7
    assert figures["accuracy"] is None
    assert (run.folder / "evaluation" / "scores.png").exists()
    text = (run.folder / "evaluation" / "metrics.md").read_text()
    assert "7 jets, none of a known class" in text
    assert ["other", "7"] in cells(text)
    assert "rejection" not in text


def test_predictions_of_weaver_are_read(run):
    """Its files have no metadata: classes come from the names of the branches."""
    for file in (run.folder / "predictions").iterdir():
        arrays = uproot.open(file)["Events"].arrays(library="np")
        with uproot.recreate(file) as out:
            out.mktree("Events", {name: column.dtype for name, column in arrays.items()}).extend(arrays)
    figures = figures_of(run)
    assert figures["classes"] == list(CLASSES)
    scores, labels = everything(run)
    assert figures["accuracy"] == pytest.approx(sklearn.metrics.accuracy_score(labels, scores.argmax(axis=1)))


def test_regression(tmp_path):
    run = result_run.ResultRun(tmp_path / "run", data=result_run.DATA + result_run.MASS)
    run.settings["training"]["task"] = "regression"
    run.settings["evaluation"] = {"metrics": ["r2_score"]}
    for group in ("HToBB", "TTBar"):
        run.predict(group)
    figures = json.loads((run.evaluate() / "metrics.json").read_text())
    found = [uproot.open(run.folder / "predictions" / f"{g}.root")["Events"].arrays(library="np") for g in ("HToBB", "TTBar")]
    predicted, mass = np.concatenate([f["output"] for f in found])[:, 0], np.concatenate([f["mass"] for f in found])
    target = figures["targets"]["mass"]
    assert target["bias"] == pytest.approx(np.mean(predicted.astype(np.float64) - mass), rel=1e-5)
    low, high = np.percentile(predicted.astype(np.float64) - mass, [15.8655, 84.1345])
    assert target["resolution"] == pytest.approx((high - low) / 2, rel=1e-5)
    assert target["metrics"]["r2_score"] == pytest.approx(sklearn.metrics.r2_score(mass, predicted), rel=1e-5)
    assert sum(row["entries"] for row in target["bins"]) == len(mass)
    assert set(target["groups"]) == {"HToBB", "TTBar"}
    assert (run.folder / "evaluation" / "regression.png").exists()
    assert "## mass" in (run.folder / "evaluation" / "metrics.md").read_text()


@pytest.mark.parametrize(
    ("settings", "kind", "told"),
    [
        ({"background": "label_Qcd"}, ConfigError, r"evaluation\.background: 'label_Qcd' is not a class.*Did you mean: label_QCD"),
        ({"signal_efficiencies": {"Hbb": 0.5}}, ConfigError, r"evaluation\.signal_efficiencies: 'Hbb'"),
        ({"metrics": ["f1_scor"]}, ConfigError, "'f1_scor' is not a metric.*f1_score"),
        ({"metrics": ["ndcg_score"]}, ResultError, "'ndcg_score' cannot be computed"),
        ({"weight": "jet_Pt"}, ResultError, r"evaluation\.weight: 'jet_Pt' is not in .*Did you mean: jet_pt"),
    ],
)
def test_mistakes_are_told(run, settings, kind, told):
    run.settings["evaluation"] = settings
    with pytest.raises(kind, match=told):
        run.evaluate()
    assert not (run.folder / "evaluation" / "metrics.json").exists()


def test_missing_predictions_are_one_line(run):
    done = run.run("evaluate", "--predictions", f"TTBar={run.folder}/absent.root", "--output-dir", run.folder / "evaluation")
    assert done.returncode == 2
    assert done.stderr.startswith("ERROR: ")
    assert "absent.root: no such file. Run the rule 'predict' again." in done.stderr


def changed(run, group, change):
    """Write a group's prediction file again, after `change` has had its columns."""
    path = run.folder / "predictions" / f"{group}.root"
    columns = uproot.open(path)["Events"].arrays(library="np")
    labels = change(columns)
    path.unlink()
    with open_table(path, {"classes": CLASSES, "labels": ["_label_"] if labels is None else labels}) as table:
        table.write(columns)


def test_events_whose_scores_are_not_finite_are_left_out_and_told(run):
    def damage(columns):
        columns["score_label_QCD"][:20] = np.nan
        columns["score_label_Hbb"][20:23] = np.inf

    changed(run, "ZJetsToNuNu", damage)
    figures = json.loads((run.evaluate() / "metrics.json").read_text())
    scores, labels = everything(run)
    kept = np.isfinite(scores).all(axis=1)
    assert kept.sum() == 277
    assert (figures["entries"], figures["entries_not_finite"]) == (277, 23)
    assert (figures["groups"]["ZJetsToNuNu"]["entries"], figures["groups"]["ZJetsToNuNu"]["entries_not_finite"]) == (77, 23)
    assert figures["accuracy"] == pytest.approx(sklearn.metrics.accuracy_score(labels[kept], scores[kept].argmax(axis=1)))
    normalized = scores[kept] / scores[kept].sum(axis=1, keepdims=True)
    assert figures["auc"] == pytest.approx(sklearn.metrics.roc_auc_score(labels[kept], normalized, multi_class="ovo"), abs=1e-6)
    told = "group ZJetsToNuNu: 23 of 100 jets have scores that are NaN or infinite: left out"
    assert told in figures["warnings"]
    assert told in (run.folder / "evaluation" / "metrics.md").read_text()
    assert told in (run.folder / "logs" / "evaluate.log").read_text()


def test_plots_say_what_they_leave_out(run, monkeypatch):
    changed(run, "TTBar", lambda columns: columns["score_label_QCD"].__setitem__(slice(4), np.nan))
    told = []
    for module in (classification, training):
        monkeypatch.setattr(module, "say_left_out", lambda _, text: told.append(text))
    run.evaluate()
    assert told == ["4 of 300 jets left out: their scores are NaN or infinite"] * 5  # roc, scores, confusion, two efficiencies


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_refused_by_group_and_event(run, value):
    changed(run, "TTBar", lambda columns: columns["jet_pt"].__setitem__([17, 40], value))
    run.settings["evaluation"] = {"weight": "jet_pt"}
    with pytest.raises(ResultError, match=rf"evaluation\.weight: 'jet_pt' is {value} for event 17 of .*TTBar\.root \(group 'TTBar'\)"):
        run.evaluate()


@pytest.mark.parametrize("kind", ["negative", "a class without", "all without"])
def test_any_finite_weights_are_drawn(run, kind):
    def weigh(columns):
        sign = np.where(np.arange(len(columns["jet_pt"])) % 4 == 0, -1.0, 1.0)
        columns["w"] = {"negative": sign, "a class without": (columns["_label_"] != 0) * 1.0, "all without": np.zeros(len(sign))}[kind]

    for group in ("HToBB", "TTBar", "ZJetsToNuNu"):
        changed(run, group, weigh)
    run.settings["evaluation"] = {"weight": "w", "metrics": ["log_loss"]}
    figures = json.loads((run.evaluate() / "metrics.json").read_text())
    if kind == "negative":
        assert 0 < figures["accuracy_error"] < 0.1
        assert figures["groups"]["TTBar"]["accuracy"] is not None
        assert "75 of 300 jets have negative weights" in figures["warnings"]
    else:
        assert figures["rejections"][0]["rejection"] is None
        assert (figures["accuracy"] is None) == (kind == "all without")
        assert any("do not add up to more than zero" in warning for warning in figures["warnings"])
    for name in ("roc", "scores", "confusion", "efficiency_pt", "efficiency_mass"):
        assert (run.folder / "evaluation" / f"{name}.png").exists()


def without_labels(columns):
    for name in (*CLASSES, "_label_"):
        del columns[name]
    return []


def test_groups_without_labels_are_in_no_figure(run):
    before = json.loads((run.evaluate() / "metrics.json").read_text())
    path = run.folder / "predictions" / "data.root"
    path.write_bytes((run.folder / "predictions" / "TTBar.root").read_bytes())
    changed(run, "data", without_labels)
    figures = json.loads((run.evaluate() / "metrics.json").read_text())
    assert figures.pop("groups_without_labels") == ["data"]
    assert figures["groups"].pop("data") == {"labeled": False, "entries": 100, "entries_not_finite": 0}
    assert figures.pop("warnings") == ["without labels, and so in no figure: data"]
    before.pop("groups_without_labels")
    assert before.pop("warnings") == []
    assert figures == before
    assert ["data", "100", "no labels", "-"] in cells((run.folder / "evaluation" / "metrics.md").read_text())


def test_files_of_one_group_with_and_without_labels_are_refused(run):
    first = run.folder / "predictions" / "TTBar.root"
    second = run.folder / "predictions" / "other.root"
    second.write_bytes(first.read_bytes())
    changed(run, "other", without_labels)
    with pytest.raises(ResultError, match=r"TTBar\.root: has labels, and other files of the group 'a' have none"):
        read_predictions([("a", first), ("a", second)], task="classification")


def test_a_selection_that_nothing_passes(run):
    for group in ("HToBB", "TTBar", "ZJetsToNuNu"):
        changed(run, group, lambda columns: columns.update({name: values[:0] for name, values in columns.items()}))
    run.settings["evaluation"] = {"metrics": ["log_loss"], "weight": "jet_pt"}
    figures = json.loads((run.evaluate() / "metrics.json").read_text())
    assert figures["entries"] == 0
    assert "no test events" in (run.folder / "evaluation" / "metrics.md").read_text()
    assert (run.folder / "evaluation" / "efficiency_pt.png").exists()


def test_a_regression_of_no_event(tmp_path):
    run = result_run.ResultRun(tmp_path / "run", data=result_run.DATA + result_run.MASS)
    run.settings["training"]["task"] = "regression"
    run.settings["evaluation"] = {"metrics": ["r2_score"]}
    run.write("data_config.auto.yaml", run.data_config.read_text().replace("(jet_pt > 520)", "(jet_pt > 5200)"))
    run.predict("TTBar")
    figures = json.loads((run.evaluate() / "metrics.json").read_text())
    assert figures["entries"] == 0
    assert (run.folder / "evaluation" / "regression.png").exists()


def test_regression_with_negative_weights(tmp_path):
    run = result_run.ResultRun(tmp_path / "run", data=result_run.DATA + result_run.MASS.replace("[jet_pt]", "[jet_pt, jet_sdmass]"))
    run.settings["training"]["task"] = "regression"
    path = run.predict("TTBar")
    columns = uproot.open(path)["Events"].arrays(library="np")
    columns["w"] = np.where(np.arange(len(columns["mass"])) % 5 == 0, -0.01, 0.01)
    metadata = table_metadata(path)
    path.unlink()
    with open_table(path, metadata) as table:
        table.write(columns)
    run.settings["evaluation"] = {"weight": "w", "metrics": ["mean_squared_error"]}
    figures = json.loads((run.evaluate() / "metrics.json").read_text())
    difference = columns["output"][:, 0].astype(np.float64) - columns["mass"]
    bias = (columns["w"] * difference).sum() / columns["w"].sum()
    assert figures["targets"]["mass"]["bias"] == pytest.approx(bias)
    assert figures["targets"]["mass"]["resolution"] > 0


def test_events_of_no_class_are_told(run):
    changed(run, "TTBar", lambda columns: columns["_label_"].__setitem__(slice(3), -1))
    run.evaluate()
    told = "group TTBar: 3 of 100 jets belong to no class: left out of all that needs one"
    assert told in (run.folder / "evaluation" / "metrics.md").read_text()
    assert told in (run.folder / "logs" / "evaluate.log").read_text()
    assert "300 jets (3 of no class)" in (run.folder / "evaluation" / "metrics.md").read_text()


def test_outputs_that_belong_to_no_target_are_told(tmp_path):
    """As of a network that learns classes and a mass together, with loops of its own."""
    run = result_run.ResultRun(tmp_path / "run", data=result_run.DATA + result_run.MASS, options={"outputs": 4})
    run.settings["training"]["task"] = "regression"
    run.predict("TTBar")
    figures = json.loads((run.evaluate() / "metrics.json").read_text())
    assert figures["targets"]["mass"]["bias"] is None
    assert figures["targets"]["mass"]["entries"] == figures["entries"] > 0
    told = "4 outputs for the targets mass, pt: which belongs to which is not known"
    assert told in figures["warnings"][0]
    assert told in (run.folder / "evaluation" / "metrics.md").read_text()
    assert (run.folder / "evaluation" / "regression.png").exists()
    assert dict(summary.headline(figures, None))["test resolution of mass"] == "not defined"


def test_scores_of_which_none_is_finite(run):
    for group in ("HToBB", "TTBar", "ZJetsToNuNu"):
        changed(run, group, lambda columns: columns["score_label_QCD"].fill(np.nan))
    run.settings["evaluation"] = {"metrics": ["log_loss"]}
    figures = json.loads((run.evaluate() / "metrics.json").read_text())
    assert (figures["entries"], figures["entries_not_finite"], figures["accuracy"], figures["metrics"]) == (
        0,
        300,
        None,
        {"log_loss": None},
    )
    assert "group TTBar: 100 of 100 jets have scores that are NaN or infinite" in (run.folder / "evaluation" / "metrics.md").read_text()
    assert (run.folder / "evaluation" / "efficiency_pt.png").exists()
