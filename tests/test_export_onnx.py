"""The exported models as their users run them: ONNX Runtime alone, fed by preprocess.json or with raw variables."""

import json
import subprocess
import sys
from importlib.metadata import version

import numpy as np
import onnx
import onnxruntime
import pytest
import uproot

import result_run
from weaver_tasks.base.errors import ResultError


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    run = result_run.ResultRun(tmp_path_factory.mktemp("export") / "run")
    run.export()
    return run


@pytest.fixture(scope="module")
def jets():
    """Variables of the selected test jets, jet by jet."""
    jets = uproot.open(result_run.JETS / "TTBar.root")["tree"].arrays()
    jets = jets[(jets.jet_pt > 520) & (jets.jet_nparticles > 10)]
    jets["part_pt_log"] = np.log(np.hypot(jets.part_px, jets.part_py))
    jets["part_e_log"] = np.log(jets.part_energy)
    jets["part_d0"] = np.tanh(jets.part_d0val)
    jets["part_mask"] = np.ones_like(jets.part_energy)
    return jets


@pytest.fixture(scope="module")
def predicted(run):
    found = uproot.open(run.predict("TTBar"))["Events"].arrays()
    names = ("label_QCD", "label_Hbb", "label_Tbqq")
    return np.stack([np.asarray(found[f"score_{name}"]) for name in names], axis=1)


def test_a_loop_over_preprocess_json_gives_the_same_scores(run, jets, predicted, monkeypatch):
    """The loop of the documentation, one jet at a time: what CMS software does."""
    page = (result_run.REPOSITORY / "docs" / "results.md").read_text()
    monkeypatch.chdir(run.folder)
    code = {}
    exec(page.partition("```python\n")[2].partition("```")[0], code)
    for number, jet in enumerate(jets):
        np.testing.assert_allclose(code["scores"](jet), predicted[number], atol=1e-5)


@pytest.mark.parametrize("length", [128, 150])
def test_raw_variables_give_the_same_scores(run, jets, predicted, length):
    session = onnxruntime.InferenceSession(run.folder / "export" / "model_raw.onnx", providers=["CPUExecutionProvider"])
    names = json.loads(session.get_modelmeta().custom_metadata_map["inputs"])
    inputs = {}
    for group, variables in names.items():
        inputs[group] = np.full((len(jets), len(variables), length), np.nan, np.float32)
        for place, name in enumerate(variables):
            for number, values in enumerate(jets[name]):
                inputs[group][number, place, : len(values)] = values[:length]
    np.testing.assert_allclose(session.run(None, inputs)[0], predicted[: len(jets)], atol=1e-5)


@pytest.mark.slow
def test_preprocess_json_equals_that_of_weaver(run, tmp_path):
    pytest.importorskip("weaver")
    # Another process: in this one, `weaver` may already mean this project's own networks.
    script = "import sys; from weaver.utils.data.config import DataConfig; c = DataConfig.load(sys.argv[1], load_observers=False, "
    script += "load_reweight_info=False); c.export_json(sys.argv[2])"
    theirs = tmp_path / "preprocess.json"
    subprocess.run([sys.executable, "-c", script, run.data_config, theirs], check=True, capture_output=True)
    assert json.loads((run.folder / "export" / "preprocess.json").read_text()) == json.loads(theirs.read_text())


def test_models_tell_what_they_are(run):
    for name, inputs_are in (("model.onnx", "standardized"), ("model_raw.onnx", "raw")):
        model = onnx.load(run.folder / "export" / name)
        properties = {entry.key: entry.value for entry in model.metadata_props}
        assert properties["inputs_are"] == inputs_are
        assert json.loads(properties["classes"]) == ["label_QCD", "label_Hbb", "label_Tbqq"]
        assert json.loads(properties["inputs"])["pf_mask"] == ["part_mask"]
        assert len(properties["weights_sha256"]) == 64
        assert json.loads(properties["versions"])["torch"] == version("torch")
        assert model.opset_import[0].version == 15
        assert [entry.name for entry in model.graph.output] == ["softmax"]


def test_parity_lists_its_cases(run):
    parity = json.loads((run.folder / "export" / "parity.json").read_text())
    assert 0 < parity["max_abs_difference"] < 1e-6
    assert parity["softmax"] == "network"
    for found in parity["models"].values():
        cases = {(case["batch"], case["length"]): case["events"] for case in found["cases"]}
        assert cases == {(batch, length): 3 * batch for batch in (1, 2, 17) for length in (20, 60, 128)}


# Tracing follows the branch that the traced batch takes, of two jets.
DIFFERS = result_run.NETWORK.replace("return self.pfn(features, mask)", "return self.pfn(features * (3 if len(features) > 2 else 1), mask)")


def test_a_model_that_differs_is_not_published(tmp_path):
    run = result_run.ResultRun(tmp_path / "run", network=DIFFERS)
    (tmp_path / "run" / "export").mkdir()
    with pytest.raises(ResultError, match=r"differs from PyTorch by .* \(batch 17, length \d+\), above export\.tolerance 1e-05"):
        run.export()
    assert list((tmp_path / "run" / "export").iterdir()) == []


def test_softmax_is_added_where_the_network_leaves_it_out(tmp_path):
    network = result_run.NETWORK.replace("for_inference=for_inference)", "for_inference=False)")
    run = result_run.ResultRun(tmp_path / "run", network=network)
    folder = run.export()
    assert json.loads((folder / "parity.json").read_text())["softmax"] == "export"
    session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    inputs = {"pf_features": np.random.default_rng(1).random((4, 6, 50), np.float32), "pf_mask": np.ones((4, 1, 50), np.float32)}
    np.testing.assert_allclose(session.run(None, inputs)[0].sum(axis=1), 1, atol=1e-5)


def test_regression_gives_values(tmp_path):
    run = result_run.ResultRun(tmp_path / "run", data=result_run.DATA + result_run.MASS)
    run.settings["training"]["task"] = "regression"
    parity = json.loads((run.export() / "parity.json").read_text())
    assert parity["softmax"] == "none"


def test_without_test_events_those_of_the_validation_are_compared(tmp_path):
    """Of data.val, else the last of the training files."""
    run = result_run.ResultRun(tmp_path / "run")
    manifest = result_run.manifest()
    for split, told in (("val", "validation files"), ("train", "training files")):
        files = [{**record, "split": split} for record in manifest["files"]]
        run.write("inputs.json", json.dumps({**manifest, "files": files}))
        parity = json.loads((run.export() / "parity.json").read_text())
        assert parity["events"] == told
        assert all(case["events"] for found in parity["models"].values() for case in found["cases"])
        assert 0 < parity["max_abs_difference"] < 1e-6


def test_files_without_an_event_that_passes_are_refused(tmp_path):
    run = result_run.ResultRun(tmp_path / "run")
    run.write("inputs.json", json.dumps({**result_run.manifest(), "files": []}))
    with pytest.raises(ResultError, match="fewer than two events"):
        run.export()


def test_without_files_events_are_made_up(tmp_path):
    run = result_run.ResultRun(tmp_path / "run")
    parity = json.loads((run.export("--inputs") / "parity.json").read_text())
    assert parity["events"] == "none: made up"
    assert 0 < parity["max_abs_difference"] < 1e-5
    assert {case["events"] for found in parity["models"].values() for case in found["cases"]} == {1, 2, 17}


def test_what_is_exported_already_or_not_resolved_is_refused(tmp_path):
    run = result_run.ResultRun(tmp_path / "run")
    with pytest.raises(ResultError, match=r"model.onnx is exported already"):
        run.export("--state", "model.onnx")
    run = result_run.ResultRun(
        tmp_path / "other",
        data=result_run.DATA.replace("{method: manual}", "{method: auto}").replace("_log, 1.7, 0.7", "_log") + result_run.CLASSES,
    )
    with pytest.raises(ResultError, match=r"center of part_pt_log is `auto`"):
        run.export()


FIXED = result_run.NETWORK.replace("self.pfn = Part", "self.last = torch.nn.Linear(6 * 128, outputs)\n        self.pfn = Part").replace(
    "return self.pfn(features, mask)", "return torch.softmax(self.last(features.flatten(1)), dim=1)"
)


def test_a_network_of_fixed_length_has_no_dynamic_length(tmp_path, capfd):
    """It declares one: a copied idiom."""
    run = result_run.ResultRun(tmp_path / "run", network=FIXED)
    folder = run.export()
    parity = json.loads((folder / "parity.json").read_text())
    assert {(case["batch"], case["length"]) for case in parity["models"]["model.onnx"]["cases"]} == {(1, None), (2, None), (17, None)}
    for name in ("model.onnx", "model_raw.onnx"):
        shapes = {entry.name: entry.shape for entry in onnxruntime.InferenceSession(folder / name).get_inputs()}
        assert isinstance(shapes["pf_features"][0], str)
        assert shapes["pf_features"][1:] == [6, 128]
    assert "declares axis 2 of pf_features dynamic, but does not take other sizes: it is fixed" in capfd.readouterr().err
