"""Prediction as the workflow runs it, against the network called by hand and against weaver-core."""

import json
import os
import subprocess
import sys

import awkward as ak
import numpy as np
import onnx
import pytest
import torch
import uproot

import result_run
from weaver_tasks.base.errors import CheckpointError, ConfigError, DataConfigError, NetworkError, ResultError, WeaverTasksError
from weaver_tasks.data.configuration import load_data_configuration
from weaver_tasks.data.configuration.trained_on import trained_on
from weaver_tasks.results.predictions.tables import table_metadata
from weaver_tasks.training import padding

SCALES = {"part_pt_log": (1.7, 0.7, -5, 5), "part_e_log": (2.0, 0.7, -5, 5), "part_deta": (0, 3, -2, 2), "part_dphi": (0, 3, -2, 2)}


@pytest.fixture
def run(tmp_path):
    return result_run.ResultRun(tmp_path / "run")


def selected(process):
    """The test jets that pass the selection, with the input variables, by awkward alone."""
    jets = uproot.open(result_run.JETS / f"{process}.root")["tree"].arrays()
    jets = jets[(jets.jet_pt > 520) & (jets.jet_nparticles > 10)]
    jets["part_pt_log"] = np.log(np.hypot(jets.part_px, jets.part_py))
    jets["part_e_log"] = np.log(jets.part_energy)
    jets["part_d0"] = np.tanh(jets.part_d0val)
    return jets


def features(jets):
    """(N, 6, 128) wrapped, (N, 1, 128) mask."""
    names = [*SCALES, "part_charge", "part_d0"]
    values, mask = np.zeros((len(jets), 6, 128), np.float32), np.zeros((len(jets), 1, 128), np.float32)
    for event in range(len(jets)):
        for i, name in enumerate(names):
            x = np.asarray(jets[name][event], np.float32)
            if name in SCALES:
                center, scale, low, high = SCALES[name]
                x = np.clip((x - np.float32(center)) * np.float32(scale), low, high)
            values[event, i] = np.resize(x, 128)
        mask[event, 0, : len(jets.part_charge[event])] = 1
    return torch.from_numpy(values), torch.from_numpy(mask)


def expected_scores(run, process, **options):
    model = run.model(**options)
    model.load_state_dict(torch.load(run.state))
    with torch.no_grad():
        return model(*features(selected(process)))


def read(path):
    return uproot.open(path)["Events"].arrays()


def test_scores_labels_and_observers_are_those_of_the_jets(run):
    found = read(run.predict("TTBar"))
    jets = selected("TTBar")
    assert len(jets) < 100
    twice = np.concatenate([np.arange(len(jets))] * 2)
    assert len(found) == 2 * len(jets)
    scores = np.stack([ak.to_numpy(found[f"score_{name}"]) for name in ("label_QCD", "label_Hbb", "label_Tbqq")], axis=1)
    expected = torch.softmax(expected_scores(run, "TTBar"), dim=1).numpy()[twice]
    np.testing.assert_allclose(scores, expected, atol=2e-6)
    assert np.ptp(scores, axis=0).max() > 0.1
    assert ak.all(found["label_Tbqq"])
    assert not ak.any(found["label_Hbb"])
    assert ak.all(found["_label_"] == 2)
    for name in ("jet_pt", "jet_sdmass", "jet_nparticles", "label_Wqq", "part_energy", "part_isMuon"):
        assert ak.all(ak.flatten(found[name] == jets[name][twice], axis=None)), name
    assert ak.all(found["is_heavy"] == (jets.jet_sdmass[twice] > 100))


def test_branches_are_named_ordered_and_typed_as_weaver_does(run):
    types = uproot.open(run.predict("HToBB"))["Events"].typenames()
    names = ["label_QCD", "score_label_QCD", "label_Hbb", "score_label_Hbb", "label_Tbqq", "score_label_Tbqq", "_label_"]
    assert list(types)[:7] == names
    assert [types[name] for name in names] == ["bool", "float"] * 3 + ["int64_t"]
    assert types["part_energy"] == "float[]"
    assert types["part_isMuon"] == "int32_t[]"
    assert types["is_heavy"] == "bool"


def test_file_tells_its_origin(run):
    metadata = table_metadata(run.predict("HToBB"))
    assert metadata["classes"] == ["label_QCD", "label_Hbb", "label_Tbqq"]
    assert metadata["group"] == "HToBB"
    record = json.loads((run.folder / "provenance" / "tasks" / "predict-HToBB.root.json").read_text())
    assert metadata["model_sha256"] == record["inputs"][str(run.state)]
    assert str(run.folder / "predictions" / "HToBB.root") in record["outputs"]


def test_parquet_holds_the_same(run):
    root = read(run.predict("TTBar"))
    parquet = ak.from_parquet(run.predict("TTBar", name="TTBar.parquet"))
    assert parquet.fields[:2] == ["scores", "_label_"]
    np.testing.assert_array_equal(ak.to_numpy(parquet["scores"])[:, 2], ak.to_numpy(root["score_label_Tbqq"]))
    assert ak.all(ak.flatten(parquet["part_energy"] == root["part_energy"], axis=None))


def test_batch_size_and_threads_change_nothing(run):
    first = read(run.predict("TTBar"))
    run.settings["training"] |= {"batch_size_test": 7}
    run.settings["loading"] = {"num_workers": 3, "prefetch": 2}
    second = read(run.predict("TTBar"))
    assert first.fields == second.fields
    for name in first.fields:
        difference = ak.flatten(abs(first[name] * 1.0 - second[name] * 1.0), axis=None)
        assert ak.max(difference) < 1e-6, name


@pytest.mark.parametrize("minds", [False, True])
def test_padding_on_the_device_changes_no_bit(tmp_path, minds, monkeypatch):
    """Of a network whose batches are padded to their longest event, and of one whose batches are not."""
    calls = []
    padded = padding._padded
    monkeypatch.setattr(padding, "_padded", lambda *arguments: calls.append(None) or padded(*arguments))
    run = result_run.ResultRun(tmp_path / "run", network=NETWORK_THAT_MINDS if minds else DECLARED)
    expected = read(run.predict("TTBar"))
    assert not calls
    run.settings["loading"] = {"pad_on_device": True}
    found = read(run.predict("TTBar"))
    assert calls
    assert found.fields == expected.fields
    for name in expected.fields:
        assert ak.all(ak.flatten(found[name] == expected[name], axis=None)), name


def test_ranks_share_the_events_and_keep_their_order(run):
    alone = read(run.predict("TTBar"))
    run.settings["prediction"] = {"ranks": 3}
    output = run.folder / "predictions" / "ranks.root"
    done = run.run("predict", "--group", "TTBar", "--model", run.state, "--output", output)
    assert done.returncode == 0, done.stderr
    together = read(output)
    assert [path.name for path in output.parent.iterdir() if path.name.startswith(".")] == []
    assert together.fields == alone.fields
    for name in alone.fields:
        assert ak.max(ak.flatten(abs(alone[name] * 1.0 - together[name] * 1.0), axis=None)) < 1e-6, name


def test_group_without_a_selected_event_gives_an_empty_table(run):
    run.write("data_config.auto.yaml", run.data_config.read_text().replace("(jet_pt > 520)", "(jet_pt > 5200)"))
    path = run.predict("TTBar")
    tree = uproot.open(path)["Events"]
    assert tree.num_entries == 0
    assert tree.typenames()["part_energy"] == "float[]"


def test_test_configuration_has_its_own_selection_and_observers(run):
    text = run.data_config.read_text().replace("(jet_pt > 520)", "(jet_pt > 700)").replace("[jet_pt, jet_sdmass,", "[jet_eta,")
    test = run.write("test.yaml", text.replace("[part_pt_log, 1.7, 0.7]", "part_pt_log").replace("method: manual", "method: auto"))
    found = read(run.predict("TTBar", "--data-config-test", test))
    assert "jet_eta" in found.fields
    assert "jet_pt" not in found.fields
    assert len(found) == 2 * ak.sum(selected("TTBar").jet_pt > 700)


def test_files_without_labels(run):
    text = run.data_config.read_text().replace(result_run.CLASSES, "")
    found = read(run.predict("TTBar", "--data-config-test", run.write("test.yaml", text)))
    assert "_label_" not in found.fields
    assert "label_Tbqq" not in found.fields
    assert len(found["score_label_Tbqq"]) == 2 * len(selected("TTBar"))


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("part_d0, null", "part_d0val, null", "input group 'pf_features'"),
        ("pad_mode: wrap", "pad_mode: constant", "pad_mode constant"),
        ("[part_pt_log, 1.7, 0.7]", "[part_pt_log, 1.8, 0.7]", "variable 'part_pt_log'"),
        ("label_Hbb, label_Tbqq", "label_Tbqq, label_Hbb", "other labels"),
    ],
)
def test_test_configuration_with_other_inputs_is_refused(run, old, new, told):
    test = run.write("test.yaml", run.data_config.read_text().replace(old, new))
    with pytest.raises(DataConfigError, match=told):
        run.predict("TTBar", "--data-config-test", test)
    assert not (run.folder / "predictions").exists()


def test_regression_writes_output_beside_its_targets(tmp_path):
    run = result_run.ResultRun(tmp_path / "run", data=result_run.DATA + result_run.MASS)
    run.settings["training"]["task"] = "regression"
    found = read(run.predict("TTBar"))
    assert found.fields == ["output", "mass", "pt", "jet_pt"]
    jets = selected("TTBar")
    np.testing.assert_allclose(found["mass"][: len(jets)], jets.jet_sdmass / 100, rtol=1e-6)
    np.testing.assert_allclose(found["output"][: len(jets)], expected_scores(run, "TTBar").numpy(), atol=2e-5)


def test_regression_of_one_target_writes_one_number(tmp_path):
    run = result_run.ResultRun(tmp_path / "run", data=result_run.DATA + result_run.MASS, options={"outputs": 1})
    run.settings["training"]["task"] = "regression"
    assert read(run.predict("TTBar"))["output"].ndim == 1


def test_per_particle_scores_are_jagged(tmp_path):
    data = result_run.DATA + result_run.ELECTRON
    run = result_run.ResultRun(tmp_path / "run", data=data, options={"per_particle": True, "outputs": 3})
    found = read(run.predict("TTBar"))
    jets = selected("TTBar")
    kept = np.minimum(ak.num(jets.part_energy), 128)
    assert ak.all(ak.num(found["score_muon"])[: len(jets)] == kept)
    assert ak.all(ak.num(found["muon"])[: len(jets)] == kept)
    expected = torch.softmax(expected_scores(run, "TTBar", per_particle=True), dim=1).numpy()
    first = ak.to_numpy(found["score_electron"][0])
    np.testing.assert_allclose(first, expected[0, 1, : len(first)], atol=1e-6)
    assert ak.sum(found["electron"]) == 2 * ak.sum(jets.part_isElectron[ak.local_index(jets.part_isElectron) < 128] == 1)


OWN_EVALUATION = """

def get_train_fn(data_config, **kwargs):
    return None

def get_evaluate_fn(data_config, **kwargs):
    import numpy as np
    def evaluate(model, test_loader, dev, epoch, for_training=True, loss_func=None, steps_per_epoch=None, tb_helper=None, extra_args=None):
        scores, labels, pt = [], [], []
        for X, y, Z in test_loader:
            scores.append(model(*(X[k].to(dev) for k in test_loader.dataset.config.input_names)).softmax(1).detach().numpy())
            labels.append(y["_label_"].numpy())
            pt.append(Z["jet_pt"])
        return 0.0, np.concatenate(scores), {"_label_": np.concatenate(labels)}, {"jet_pt": np.concatenate(pt)}
    return evaluate
"""


def test_networks_own_evaluate_function_is_used(tmp_path):
    run = result_run.ResultRun(tmp_path / "run", network=result_run.NETWORK + OWN_EVALUATION)
    run.settings["loading"] = {"pad_on_device": True}  # which such a network is spared
    found = read(run.predict("TTBar"))
    assert found.fields[-2:] == ["_label_", "jet_pt"]
    expected = torch.softmax(expected_scores(run, "TTBar"), dim=1).numpy()
    np.testing.assert_allclose(found["score_label_Tbqq"][: len(expected)], expected[:, 2], atol=2e-6)


def test_onnx_model_predicts_the_same(run):
    network = read(run.predict("TTBar"))
    run.settings["loading"] = {"pad_on_device": True}  # which an ONNX model is spared
    onnx = read(run.predict("TTBar", name="onnx.root", model=run.export() / "model.onnx"))
    for name in ("score_label_QCD", "score_label_Hbb", "score_label_Tbqq"):
        np.testing.assert_allclose(onnx[name], network[name], atol=2e-6)
    with pytest.raises(NetworkError, match="takes raw variables"):
        run.predict("TTBar", model=run.folder / "export" / "model_raw.onnx")


NETWORK_THAT_MINDS = result_run.NETWORK.replace("return self.pfn(features, mask)", "return self.pfn(features - features.mean(), mask)")


def test_mistakes_are_told(run):
    with pytest.raises(ConfigError, match=r"no test group 'TTbar'. Did you mean: TTBar\?"):
        run.predict("TTbar")
    torch.save({"other": torch.zeros(3)}, run.folder / "other.pt")
    with pytest.raises(CheckpointError, match="does not fit the network"):
        run.predict("TTBar", model=run.folder / "other.pt")
    assert not (run.folder / "predictions" / "TTBar.root").exists()


@pytest.mark.slow
def test_weaver_core_predicts_the_same(run):
    """weaver-core with our configuration, network and weights: scores to 1e-5, branches, types and entries the same."""
    pytest.importorskip("weaver")
    ours = uproot.open(run.predict("TTBar"))["Events"]
    source = result_run.JETS / "TTBar.root"
    output = run.folder / "weaver.root"
    command = [sys.executable, "-c", "from weaver.train import main; main()", "--predict", "--gpus", "", "--num-workers", "0"]
    command += ["--data-test", str(source), "--data-config", str(run.data_config), "--network-config", str(run.network)]
    command += ["--model-prefix", str(run.state), "--predict-output", str(output), "--batch-size", "64"]
    done = subprocess.run(command, capture_output=True, text=True, env=result_run.environment(), cwd=run.folder, check=False)
    assert output.exists(), done.stdout + done.stderr
    theirs = uproot.open(output)["Events"]
    assert ours.typenames() == theirs.typenames()
    assert ours.num_entries == 2 * theirs.num_entries  # the file is listed twice in our manifest
    found, expected = ours.arrays(entry_stop=theirs.num_entries), theirs.arrays()
    for name in expected.fields:
        difference = ak.flatten(abs(found[name] * 1.0 - expected[name] * 1.0), axis=None)
        assert ak.max(difference) < 1e-5, name


NETWORK_WITH_A_MEMORY = result_run.NETWORK.replace(
    "return self.pfn(features, mask)", "self.seen = features; time.sleep(0.002); return self.pfn(self.seen, mask)"
)


def test_threads_score_with_networks_of_their_own(tmp_path):
    run = result_run.ResultRun(tmp_path / "run", network="import time\n" + NETWORK_WITH_A_MEMORY)
    run.settings["training"] |= {"batch_size_test": 5}
    alone = read(run.predict("TTBar"))
    run.settings["training"]["threads"] = 4
    together = read(run.predict("TTBar"))
    assert "4 at a time" in (run.folder / "logs" / "predict.log").read_text()
    for name in alone.fields:
        assert ak.all(ak.flatten(alone[name] == together[name], axis=None)), name


DECLARED = result_run.NETWORK.replace("class Tagger(torch.nn.Module):", "class Tagger(torch.nn.Module):\n    ignores_padding = True\n")


def log_of(run):
    return (run.folder / "logs" / "predict.log").read_text()


def scores_of(found):
    return np.stack([ak.to_numpy(found[f"score_{name}"]) for name in ("label_QCD", "label_Hbb", "label_Tbqq")], axis=1)


@pytest.mark.parametrize(
    ("network", "wanted", "trims"),
    [(result_run.NETWORK, None, False), (DECLARED, None, True), (DECLARED, False, False), (result_run.NETWORK, True, True)],
)
def test_padding_is_cut_off_only_where_that_is_declared(tmp_path, network, wanted, trims):
    run = result_run.ResultRun(tmp_path / "run", network=network)
    run.settings["prediction"] = {"trim_padding": wanted}
    found = scores_of(read(run.predict("TTBar")))
    assert ("padded to the longest" in log_of(run)) == trims
    assert ("prediction.trim_padding: true is faster" in log_of(run)) == (network == result_run.NETWORK and wanted is None)
    expected = torch.softmax(expected_scores(run, "TTBar"), dim=1).numpy()
    np.testing.assert_allclose(found[: len(expected)], expected, atol=2e-6)


def test_a_mask_that_is_not_zero_in_padding_keeps_it(tmp_path):
    data = (result_run.DATA + result_run.CLASSES + result_run.OBSERVERS).replace("[part_mask, null]", "[part_mask, null, 1, -5, 5, 1]")
    run = result_run.ResultRun(tmp_path / "run", data=data, network=DECLARED)
    run.predict("TTBar")
    assert "padded to the longest" not in log_of(run)


@pytest.mark.parametrize(
    ("forward", "told"),
    [
        ("return self.pfn(features - features.mean(dim=(1, 2), keepdim=True), mask)", "changes scores of the first events by"),
        ("return self.pfn(features * torch.ones(128), mask)", "does not take inputs of other lengths"),
    ],
)
def test_trimming_that_changes_scores_is_refused(tmp_path, forward, told):
    run = result_run.ResultRun(tmp_path / "run", network=result_run.NETWORK.replace("return self.pfn(features, mask)", forward))
    run.settings["prediction"] = {"trim_padding": True}
    with pytest.raises(ConfigError, match=rf"prediction\.trim_padding: true, but .* {told}"):
        run.predict("TTBar")
    assert not (run.folder / "predictions" / "TTBar.root").exists()


# Of jets of more than 60 particles.
NAN = result_run.NETWORK.replace(
    "return self.pfn(features, mask)", "return torch.where(mask.sum(2) > 60, float('nan'), self.pfn(features, mask))"
)


def test_scores_that_are_not_finite_are_counted_and_named(tmp_path):
    run = result_run.ResultRun(tmp_path / "run", network=NAN)
    jets = selected("TTBar")
    bad = ak.to_numpy(ak.num(jets.part_energy)) > 60
    assert 0 < bad.sum() < len(bad)
    all_jets = uproot.open(result_run.JETS / "TTBar.root")["tree"].arrays(["jet_pt", "jet_nparticles"])
    entries = np.flatnonzero((all_jets.jet_pt > 520) & (all_jets.jet_nparticles > 10))[bad]
    first = f"TTBar.root: entries {', '.join(map(str, entries[:5]))} …;"
    with pytest.raises(ResultError, match=f"TTBar: {2 * bad.sum()} of {2 * len(bad)} events have scores that are NaN .*{first}"):
        run.predict("TTBar")
    assert not (run.folder / "predictions" / "TTBar.root").exists()

    run.settings["prediction"] = {"max_bad_fraction": 0.95}
    found = scores_of(read(run.predict("TTBar")))
    np.testing.assert_array_equal(np.isnan(found).any(axis=1), np.tile(bad, 2))
    assert "evaluation leaves them out" in log_of(run)

    run.settings["prediction"] = {"ranks": 2}
    done = run.run("predict", "--group", "TTBar", "--model", run.state, "--output", run.folder / "predictions" / "ranks.root")
    assert done.returncode == 2
    assert f"TTBar: {2 * bad.sum()} of {2 * len(bad)} events" in done.stderr
    assert not (run.folder / "predictions" / "ranks.root").exists()
    assert [path.name for path in (run.folder / "predictions").iterdir() if path.name.startswith(".")] == []


def test_nan_weights_and_a_networks_own_loop_are_counted_too(tmp_path):
    run = result_run.ResultRun(tmp_path / "run", network=result_run.NETWORK + OWN_EVALUATION)
    state = torch.load(run.state)
    next(iter(state.values()))[0] = float("nan")
    torch.save(state, run.state)
    count = 2 * len(selected("TTBar"))
    with pytest.raises(ResultError, match=f"TTBar: {count} of {count} events"):
        run.predict("TTBar")


def test_weights_of_another_training_are_refused(run):
    (run.state.parent / "trained_on.json").write_text(json.dumps(trained_on(load_data_configuration(run.data_config))))
    run.predict("TTBar")
    assert "Assumed" not in log_of(run)
    text = run.data_config.read_text().replace("label_Hbb, label_Tbqq", "label_Tbqq, label_Hbb")
    run.write("data_config.auto.yaml", text)
    with pytest.raises(NetworkError, match=r"was trained on the classes .*trained_on\.json"):
        run.predict("TTBar")
    (run.state.parent / "trained_on.json").unlink()
    run.predict("TTBar")
    assert "Assumed are the classes label_QCD, label_Tbqq, label_Hbb" in log_of(run)


def test_onnx_model_of_another_order_is_refused(run):
    model = run.export() / "model.onnx"
    text = run.data_config.read_text()
    for old, new, told in (
        ("label_Hbb, label_Tbqq", "label_Tbqq, label_Hbb", "the classes"),
        ("length: 128", "length: 100", "with length 128, and not 100"),
        ("[part_deta, 0, 3", "[part_deta, 0, 2", "variable 'part_deta'"),
    ):
        run.write("data_config.auto.yaml", text.replace(old, new))
        with pytest.raises(NetworkError, match=rf"model\.onnx: was trained on .*{told}"):
            run.predict("TTBar", model=model)


def stripped(path, target):
    """An ONNX model as another program exports it: it says nothing of itself."""
    model = onnx.load(path)
    del model.metadata_props[:]
    onnx.save(model, target)
    return target


def test_onnx_model_that_says_nothing_is_told_and_its_shapes_are_checked(run):
    expected = scores_of(read(run.predict("TTBar")))
    model = stripped(run.export() / "model.onnx", run.folder / "other.onnx")
    found = scores_of(read(run.predict("TTBar", name="onnx.root", model=model)))
    np.testing.assert_allclose(found, expected, atol=2e-6)
    assert "Assumed are the classes label_QCD" in log_of(run)
    run.write("data_config.auto.yaml", run.data_config.read_text().replace("      - [part_charge, null]\n", ""))
    with pytest.raises(NetworkError, match=r"takes input 'pf_features' of shape \(N, 6, "):
        run.predict("TTBar", model=model)


# Logits of most jets that look like probabilities, and of the others do not; the export does not know of a softmax.
ALIKE = result_run.NETWORK.replace(
    "return self.pfn(features, mask)",
    "return torch.tensor([0.0, 0.0, 1.0]) * torch.where(mask.sum(2) > 45, 2.0, 1.0) + 0 * self.pfn(features, mask)",
)


def test_what_the_outputs_of_an_onnx_model_are_is_decided_once(tmp_path):
    run = result_run.ResultRun(tmp_path / "run", network=ALIKE)
    run.settings["training"] |= {"task": "regression"}  # which exports what the network gives
    model = stripped(run.export() / "model.onnx", run.folder / "other.onnx")
    run.settings["training"] |= {"task": "classification", "batch_size_test": 1}
    found = scores_of(read(run.predict("TTBar", model=model)))
    count = ak.to_numpy(ak.num(selected("TTBar").part_energy))
    logits = np.where(count > 45, 2.0, 1.0)
    expected = np.exp(logits) / (2 + np.exp(logits))
    np.testing.assert_allclose(found[: len(expected), 2], expected, atol=1e-6)
    assert "does not say what its outputs are; by those of the first events they are logits" in log_of(run)


def test_exported_models_hand_on_what_their_networks_declare(tmp_path):
    run = result_run.ResultRun(tmp_path / "run", network=DECLARED)
    expected = scores_of(read(run.predict("TTBar")))
    found = scores_of(read(run.predict("TTBar", name="onnx.root", model=run.export() / "model.onnx")))
    assert "padded to the longest" in log_of(run)
    np.testing.assert_allclose(found, expected, atol=2e-6)


@pytest.mark.parametrize("own_loop", [False, True])
def test_a_group_without_labels(tmp_path, own_loop):
    run = result_run.ResultRun(tmp_path / "run", network=result_run.NETWORK + (OWN_EVALUATION if own_loop else ""))
    expected = scores_of(read(run.predict("TTBar")))
    manifest = result_run.manifest()
    for file in manifest["files"]:
        file["labeled"] = file["group"] != "TTBar"
    run.write("inputs.json", json.dumps(manifest))
    found = read(run.predict("TTBar"))
    assert "_label_" not in found.fields
    assert "label_Tbqq" not in found.fields
    np.testing.assert_array_equal(scores_of(found), expected)
    assert table_metadata(run.folder / "predictions" / "TTBar.root")["labels"] == []
    assert "_label_" in read(run.predict("HToBB")).fields


@pytest.mark.parametrize("suffix", [".pt", ".onnx"])
def test_a_pipe_as_model_is_not_waited_for(run, suffix):
    model = run.folder / f"pipe{suffix}"
    os.mkfifo(model)
    with pytest.raises(WeaverTasksError, match="is a named pipe, not a file"):
        run.predict("TTBar", model=model)


def test_a_model_of_other_classes_is_refused(run):
    """A network whose outputs do not follow the configuration."""
    run.options["outputs"] = 3
    run.write("data_config.auto.yaml", run.data_config.read_text().replace("[label_QCD, label_Hbb, label_Tbqq]", "[label_QCD, label_Hbb]"))
    run.settings["network"]["options"] = {"outputs": 3}
    with pytest.raises(NetworkError, match="gives 3 scores for the 2 classes"):
        run.predict("TTBar")
