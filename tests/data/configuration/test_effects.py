"""What a key of a data configuration affects: changed alone, it changes the `params` of exactly the stages that its field names."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from weaver_tasks.data.configuration.document import DataDocument, Group, Parameters, Transformation
from weaver_tasks.plan import make_plan
from weaver_tasks.settings.fields import keys_of

STAGES = (
    "stage_inputs", "standardize", "reweight", "init_model", "train_epoch", "validate_epoch", "select_best_epoch", "predict",
    "merge_predictions", "evaluate", "export_onnx", "model_summary", "find_lr", "profile_training",
)  # fmt: skip
KEYS = {
    **{leaf.name: leaf for leaf in keys_of(DataDocument) if leaf.name != "inputs"},
    **{f"inputs.pf.{leaf.name}": leaf for leaf in keys_of(Group)},
    **{f"inputs.pf.vars.0.{leaf.name}": leaf for leaf in keys_of(Transformation)},
}
BASE: dict[str, Any] = {
    "treename": "tree",
    "branch_magic": {"part_": "cand_"},
    "file_magic": {"sample": {"HToBB": 1}},
    "selection": "jet_pt > 500",
    "test_time_selection": "jet_pt > 450",
    "new_variables": {"part_pt": "np.hypot(part_px, part_py)", "flag": "label == 5"},
    "preprocess": {"method": "auto", "data_fraction": 0.5},
    "inputs": {
        "pf": {"length": 32, "vars": [["part_eta", 0.1, 2, -4, 4, 0.5], "part_pt"]},
        "jet": {"length": None, "vars": ["jet_mass"]},
    },
    "labels": {"type": "simple", "value": ["flag", "other"]},
    "observers": ["jet_eta"],
    "weights": {
        "reweight_method": "flat",
        "reweight_vars": {"jet_pt": [500, 700, 1000]},
        "reweight_classes": ["flag", "other"],
        "class_weights": [1, 2],
        "reweight_basewgt": "gen_weight * sample",
    },
    "bucketing": {"var": "jet_n", "bins": 4},
}
CUSTOM = {"labels": {"type": "custom", "value": {"particle": "part_origin"}, "names": ["a", "b"]}}
PRECOMPUTED = {"weights": {"use_precomputed_weights": True, "weight_branches": ["gen_weight"]}}
# Key -> (what else is otherwise in both configurations, another value).
OTHER: dict[str, tuple[dict[str, Any], Any]] = {
    "treename": ({}, "events"),
    "branch_magic": ({}, {"part_": "pf_"}),
    "file_magic": ({"test_time_selection": "sample > 0", "selection": "sample > 0"}, {"sample": {"HToBB": 2}}),
    "selection": ({}, "jet_pt > 510"),
    "test_time_selection": ({}, "jet_pt > 460"),
    "new_variables": ({}, {"part_pt": "np.hypot(part_px, part_pz)", "flag": "label == 5"}),
    "preprocess.method": ({}, "manual"),
    "preprocess.data_fraction": ({}, 0.25),
    "labels.type": ({}, None),
    "labels.value": ({}, ["other", "flag"]),
    "labels.names": (CUSTOM, ["a", "c"]),
    "observers": ({}, ["jet_phi"]),
    "monitor_variables": ({"observers": []}, ["jet_phi"]),
    "weights.use_precomputed_weights": ({}, None),
    "weights.weight_branches": (PRECOMPUTED, ["gen_weight", "pileup"]),
    "weights.reweight_method": ({}, "ref"),
    "weights.reweight_vars": ({}, {"jet_eta": [-2, 0, 2]}),
    "weights.reweight_classes": ({}, ["other", "flag"]),
    "weights.class_weights": ({}, [1, 3]),
    "weights.reweight_threshold": ({}, 20),
    "weights.reweight_discard_under_overflow": ({}, False),
    "weights.reweight_basewgt": ({}, "gen_weight"),
    "weights.reweight_hists": ({}, {"flag": [1, 2], "other": [3, 4]}),
    "bucketing.var": ({}, "jet_m"),
    "bucketing.bins": ({}, 5),
    "inputs.pf.length": ({}, 16),
    "inputs.pf.pad_mode": ({}, "wrap"),
    "inputs.pf.vars": ({}, [["part_eta", 0.1, 2, -4, 4, 0.5], "part_phi"]),
    "inputs.pf.vars.0.center": ({}, 0.2),
    "inputs.pf.vars.0.scale": ({}, 3),
    "inputs.pf.vars.0.min": ({}, -3),
    "inputs.pf.vars.0.max": ({}, 3),
    "inputs.pf.vars.0.pad_value": ({}, 0.25),
}
# Two keys that say the same thing, and so change together.
TOGETHER = {"labels.type": CUSTOM, "weights.use_precomputed_weights": PRECOMPUTED}


def params(document: dict[str, Any]) -> dict[str, str]:
    Path("data.yaml").write_text(yaml.safe_dump(document, sort_keys=False))
    config = {"data": {"config": "data.yaml", "train": ["a.root"], "test": ["a.root"]}, "network": {"config": "net.py"}}
    plan = make_plan({"run": "r", **config}, where="c.yaml")
    splits = {"stage_inputs": ("train", "val", "test")}
    made = {stage: [plan.settings(stage, split=split) for split in splits.get(stage, ("train",))] for stage in STAGES}
    return {stage: json.dumps(value, sort_keys=True) for stage, value in made.items()}


def changed(name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Two documents that differ in one key."""
    base, value = OTHER[name]
    before = {**copy.deepcopy(BASE), **copy.deepcopy(base)}
    if name in TOGETHER:
        return before, {**before, **TOGETHER[name]}
    after = copy.deepcopy(before)
    place: Any = after
    *path, last = name.split(".")
    for part in path:
        place = place[int(part)] if isinstance(place, list) else place.setdefault(part, {})
    if isinstance(place, list):
        place[1 + list(Transformation.model_fields).index(last)] = value
    else:
        place[last] = value
    return before, after


@pytest.mark.parametrize("name", [name for name in KEYS if name != "preprocess.params"])
def test_a_key_changed_alone_changes_the_params_of_exactly_the_stages_that_it_affects(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text("def get_model(data_config, **options):\n    return None, {}\n")
    (tmp_path / "a.root").write_text("")
    before, after = map(params, changed(name))
    assert {stage for stage in STAGES if before[stage] != after[stage]} == {effect.stage for effect in KEYS[name].key.affects}


def test_parameters_that_are_filled_in_affect_what_they_do_where_they_are_given():
    filled, given = ({name: field.json_schema_extra.meaning.affects for name, field in model.model_fields.items()}
                     for model in (Parameters, Transformation))  # fmt: skip
    assert {name: filled[name] for name in given} == given
