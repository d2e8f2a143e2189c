"""A run made by an older version goes on with this one: slices and digests of the same configuration stay what they were.

The digests below were made by commit c1cc993, whose slices were written by hand. A key that is added later must not change them: see
`added_later` of `settings.fields.key`.
"""

from pathlib import Path
from typing import Any

import pytest

from weaver_tasks.base.digests import digest
from weaver_tasks.base.maps import merge
from weaver_tasks.plan import make_plan
from weaver_tasks.settings.stage import stage_settings
from weaver_tasks.training.journal import epoch_uses, validation_key

DATA = """\
treename: tree
selection: jet_pt > 500
test_time_selection: jet_pt > 450
new_variables: {log_pt: log(part_pt), is_b: label == 5}
preprocess: {method: auto, data_fraction: 0.5}
inputs:
  points: {length: 16, vars: [part_x, part_y]}
  features: {length: 16, pad_mode: wrap, vars: [[log_pt, 1.7, 0.7], part_eta, [part_phi, null]]}
labels: {type: simple, value: [is_b, is_light]}
observers: [jet_pt, jet_mass]
weights:
  use_precomputed_weights: false
  reweight_method: flat
  reweight_vars: {jet_pt: [500, 600, 700], jet_eta: [-2, 0, 2]}
  reweight_classes: [is_b, is_light]
"""
TEST_DATA = DATA.replace("jet_pt > 450", "jet_pt > 400").replace("observers: [jet_pt, jet_mass]", "observers: [jet_pt]")
NETWORK = "def get_model(data_config, **options):\n    return None, {}\n"
FUNCTIONS = "def double(x):\n    return 2 * x\n"
SMALLEST = {
    "run": "r",
    "data": {"config": "data.yaml", "train": {"a": ["a_1.root"]}, "test": {"a": "a_1.root"}},
    "network": {"config": "net.py"},
}
CASES: dict[str, dict[str, Any]] = {
    "defaults": {},
    "numbers as they are written": {
        "training": {"lr": 1, "scheduler": {"name": "flat+cos", "warmup": 1}},
        "loading": {"fetch_by_files": True, "fetch_step": 1},
        "data": {"data_fraction": 1, "train_val_split": 0.75},
    },
    "everything of training": {
        "seed": 7,
        "training": {
            "task": "regression",
            "epochs": 9,
            "epochs_per_job": 3,
            "batch_size": 64,
            "batch_size_val": 32,
            "batch_size_test": 16,
            "steps_per_epoch": 5,
            "samples_per_epoch_val": 99,
            "lr": 0.01,
            "optimizer": {"name": "adamW", "options": {"weight_decay": 0.1, "lr_mult": ["a.*", 3]}},
            "scheduler": {"name": "one-cycle", "horizon": 12},
            "amp": "bf16",
            "compile": {"fullgraph": False},
            "compile_optimizer": True,
            "device": "cpu",
            "ranks": 2,
            "threads": 3,
            "keep_checkpoints": "best_and_last",
            "snapshot_minutes": 5,
            "tensorboard": True,
            "early_stopping": {"patience": 2},
        },
        "network": {"options": {"width": 3}, "exclude_weights": ["a"], "freeze_weights": ["b"], "weaver_imports": "weaver-core"},
        "loading": {
            "fetch_step": 0.2,
            "fetch_step_val": 0.5,
            "split_num": 2,
            "max_window_events": 1000,
            "in_memory": True,
            "num_workers": 4,
            "prefetch": 2,
            "pad_on_device": True,
        },
        "sampling": {"up_sample": False, "max_resample": 3, "weight_scale": 2.0, "remake_weights": False},
        "validation": {"metric": "rmse", "mode": "min", "reweight": True},
    },
    "everything of data": {
        "data": {
            "config_test": "test.yaml",
            "config_val": "data.yaml",
            "custom_functions": "functions.py",
            "val": ["a_1.root"],
            "extra_selection": {"train": "jet_pt > 550", "test": "jet_pt > 470"},
            "data_fraction": 0.5,
            "data_fraction_val": 0.25,
            "data_fraction_test": 0.125,
            "file_fraction": 0.5,
        },
        "staging": {"mode": "copy", "directory": "/scratch", "max_entries": 100, "on_bad_file": "skip", "files_per_job": 3},
        "statistics": {"files_per_job": 2},
        "prediction": {"format": "parquet", "ranks": 2},
        "evaluation": {
            "signal_efficiencies": {"is_b": 0.7},
            "background": "is_light",
            "metrics": ["brier_score_loss"],
            "weight": "jet_pt",
        },
        "export": {"opset": 17, "tolerance": 0.001},
        "tools": {"find_lr": {"start": 0.001, "end": 0.1, "steps": 50}, "profile_training": {"steps": 4}},
    },
    "folds": {"cross_validation": {"variable": "event", "folds": 3}, "network": {"load_weights": ["w_{fold}.pt"]}},
    "seeds": {"seeds": [4, 7], "network": {"load_weights": "w_{seed}.pt"}, "prediction": {"model": "m_{seed}.pt"}},
    "continued": {"training": {"continue_from": {"prefix": "old/net", "epoch": 3}}},
}
STAGES = (
    "stage_inputs",
    "standardize",
    "reweight",
    "init_model",
    "train_epoch",
    "validate_epoch",
    "select_best_epoch",
    "predict",
    "merge_predictions",
    "evaluate",
    "export_onnx",
    "model_summary",
    "find_lr",
    "profile_training",
)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    files = {"data.yaml": DATA, "test.yaml": TEST_DATA, "net.py": NETWORK, "functions.py": FUNCTIONS, "a_1.root": ""}
    for name, text in files.items():
        Path(name).write_text(text)


def digests(over: dict[str, Any]) -> dict[str, str]:
    plan = make_plan(merge(SMALLEST, over), where="c.yaml")
    member = plan.members()[-1]
    made = {stage: digest(plan.settings(stage, member=member)) for stage in STAGES}
    made["stage_inputs of test"] = digest(plan.settings("stage_inputs", split="test"))
    training = plan.settings("train_epoch", member=member, epochs=range(4, 6))
    made["train_epoch 4, 5"] = digest(training)
    for name, whole in (("an epoch", False), ("an epoch of a network's own schedule", True)):
        given = stage_settings(merge(training, plan.untracked()))
        made[name] = digest(epoch_uses(given, data=["m", "d"], network="n", whole_schedule=whole))
    validation = stage_settings(merge(plan.settings("validate_epoch", member=member), plan.untracked()))
    made["validation"] = validation_key(validation, manifest="m") or ""
    return {name: text[:16] for name, text in made.items()}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.usefixtures("folder")
def test_slices_and_digests_are_those_of_the_version_before(case: str) -> None:
    assert digests(CASES[case]) == BEFORE[case]


BEFORE = {
    "defaults": {
        "stage_inputs": "705c559254b0d89d",
        "standardize": "2a2c5ad546695ee9",
        "reweight": "4b3e17ea8457ffb9",
        "init_model": "4c84cb221dd0c58d",
        "train_epoch": "874426f8ffd5585d",
        "validate_epoch": "4c93421ee1be8e02",
        "select_best_epoch": "5f84106196157bf5",
        "predict": "fbb54e8be4c1fe39",
        "merge_predictions": "bb1676d03e6ce436",
        "evaluate": "111b4d9e3c04766e",
        "export_onnx": "9321058d4add5848",
        "model_summary": "4c84cb221dd0c58d",
        "find_lr": "4ef1044984544f8a",
        "profile_training": "08ecf36f6b4fa831",
        "stage_inputs of test": "b3f260b6d2dee8c3",
        "train_epoch 4, 5": "68b263e56f6b0764",
        "an epoch": "534ff8f3c590184e",
        "an epoch of a network's own schedule": "a69af6d6decbbe89",
        "validation": "17357251a55baf9c",
    },
    "numbers as they are written": {
        "stage_inputs": "705c559254b0d89d",
        "standardize": "2a2c5ad546695ee9",
        "reweight": "4b3e17ea8457ffb9",
        "init_model": "5daa3aa4d3940596",
        "train_epoch": "234ef0462aeda4b7",
        "validate_epoch": "84daa77d45476ee8",
        "select_best_epoch": "5f84106196157bf5",
        "predict": "fbb54e8be4c1fe39",
        "merge_predictions": "bb1676d03e6ce436",
        "evaluate": "111b4d9e3c04766e",
        "export_onnx": "9321058d4add5848",
        "model_summary": "5daa3aa4d3940596",
        "find_lr": "fb9dd801ced3ffc0",
        "profile_training": "115a4f0583d4e010",
        "stage_inputs of test": "b3f260b6d2dee8c3",
        "train_epoch 4, 5": "2b7b2d4ebe67dea9",
        "an epoch": "208dc2f00399c272",
        "an epoch of a network's own schedule": "3465ea5e068486be",
        "validation": "6f1afc36ae42a773",
    },
    "everything of training": {
        "stage_inputs": "705c559254b0d89d",
        "standardize": "2a2c5ad546695ee9",
        "reweight": "dcb9e1556b5cc752",
        "init_model": "012f07e361a52b6e",
        "train_epoch": "79599800690ac9c4",
        "validate_epoch": "39e759a18f0322ed",
        "select_best_epoch": "9e2cf499a9d0efac",
        "predict": "40f5544e6b6254fb",
        "merge_predictions": "be1a47106e193a13",
        "evaluate": "4a977717aee25dff",
        "export_onnx": "96b3bae6cf1f173b",
        "model_summary": "012f07e361a52b6e",
        "find_lr": "03e29e59329d62d0",
        "profile_training": "4f4c48489985a340",
        "stage_inputs of test": "b3f260b6d2dee8c3",
        "train_epoch 4, 5": "2a78c24d8dabe210",
        "an epoch": "fe3ddc7b62e8366d",
        "an epoch of a network's own schedule": "029fa7e7b57a3de7",
        "validation": "3d2fd0ac0f0eede2",
    },
    "everything of data": {
        "stage_inputs": "1ad4b3448ad87da0",
        "standardize": "2a2c5ad546695ee9",
        "reweight": "4b3e17ea8457ffb9",
        "init_model": "bab014f267699e34",
        "train_epoch": "b549caed197f2a23",
        "validate_epoch": "959b52f5c3a28079",
        "select_best_epoch": "5f84106196157bf5",
        "predict": "d07c854cdee9a028",
        "merge_predictions": "a00da447e1f82574",
        "evaluate": "4c9adf9ea91e092e",
        "export_onnx": "ab3ab833cd029150",
        "model_summary": "bab014f267699e34",
        "find_lr": "8cd988bc255e7e2f",
        "profile_training": "def9ae978491612e",
        "stage_inputs of test": "35aca7bb6c9be8ce",
        "train_epoch 4, 5": "05e3cc64f7b9f931",
        "an epoch": "52d2f0869dc082c0",
        "an epoch of a network's own schedule": "f619b479783bc74b",
        "validation": "1024715b15391c82",
    },
    "folds": {
        "stage_inputs": "42190be56f5e9937",
        "standardize": "2a2c5ad546695ee9",
        "reweight": "ec1551a95e7ca122",
        "init_model": "a299e320cab1f14f",
        "train_epoch": "d90ed1403e97335b",
        "validate_epoch": "d699cc96575d7f44",
        "select_best_epoch": "5f84106196157bf5",
        "predict": "048bc26823770981",
        "merge_predictions": "317f82e198511367",
        "evaluate": "111b4d9e3c04766e",
        "export_onnx": "262fbe014e541ffe",
        "model_summary": "a299e320cab1f14f",
        "find_lr": "ebdc5662903bb9eb",
        "profile_training": "209a8199af7981f2",
        "stage_inputs of test": "af9794dd6da08ed8",
        "train_epoch 4, 5": "3898b874ae751d63",
        "an epoch": "01d0fbfe2e53bcd9",
        "an epoch of a network's own schedule": "1c26dcbf1d7ecd03",
        "validation": "9b855bc8e0767eb3",
    },
    "seeds": {
        "stage_inputs": "705c559254b0d89d",
        "standardize": "2a2c5ad546695ee9",
        "reweight": "4b3e17ea8457ffb9",
        "init_model": "576c8396aac8260b",
        "train_epoch": "9fc8232a949fce62",
        "validate_epoch": "8864760a448da4e5",
        "select_best_epoch": "5f84106196157bf5",
        "predict": "3221125c04046647",
        "merge_predictions": "bb1676d03e6ce436",
        "evaluate": "111b4d9e3c04766e",
        "export_onnx": "5544a6186204ffae",
        "model_summary": "576c8396aac8260b",
        "find_lr": "712d0c09d73269eb",
        "profile_training": "f52feefed3a952c8",
        "stage_inputs of test": "b3f260b6d2dee8c3",
        "train_epoch 4, 5": "498e4775547212d9",
        "an epoch": "ebf575195c1a6e41",
        "an epoch of a network's own schedule": "942d1e5760649476",
        "validation": "6f52e27cc20d8de6",
    },
    "continued": {
        "stage_inputs": "705c559254b0d89d",
        "standardize": "2a2c5ad546695ee9",
        "reweight": "4b3e17ea8457ffb9",
        "init_model": "8c479bf76843c683",
        "train_epoch": "874426f8ffd5585d",
        "validate_epoch": "4c93421ee1be8e02",
        "select_best_epoch": "5f84106196157bf5",
        "predict": "fbb54e8be4c1fe39",
        "merge_predictions": "bb1676d03e6ce436",
        "evaluate": "111b4d9e3c04766e",
        "export_onnx": "9321058d4add5848",
        "model_summary": "8c479bf76843c683",
        "find_lr": "4ef1044984544f8a",
        "profile_training": "08ecf36f6b4fa831",
        "stage_inputs of test": "b3f260b6d2dee8c3",
        "train_epoch 4, 5": "68b263e56f6b0764",
        "an epoch": "534ff8f3c590184e",
        "an epoch of a network's own schedule": "a69af6d6decbbe89",
        "validation": "8815e4a99e0c34c0",
    },
}
