"""What a key affects: changed alone, it changes the `params` of exactly the stages that its field names."""

import copy
import json
import types
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from weaver_tasks.base.maps import merge
from weaver_tasks.plan import make_plan
from weaver_tasks.settings import model
from weaver_tasks.settings.fields import Effect, Leaf, default_of, key_of, keys_of, section_of
from weaver_tasks.settings.model import Configuration

STAGES = (
    "stage_inputs", "gather_inputs", "gather_fitting_inputs", "standardize", "reweight", "init_model", "train_epoch",
    "validate_epoch", "select_best_epoch",
    "predict", "merge_predictions", "evaluate", "export_onnx", "model_summary", "find_lr", "profile_training",
)  # fmt: skip
KEYS = {leaf.name: leaf for leaf in keys_of(Configuration)}

DATA = """\
new_variables: {is_b: label == 5, is_light: label == 0}
preprocess: {method: auto}
inputs: {features: {length: 16, vars: [part_eta, part_pt]}}
labels: {type: simple, value: [is_b, is_light]}
observers: [jet_pt]
weights: {reweight_method: flat, reweight_vars: {jet_pt: [500, 600, 700]}, reweight_classes: [is_b, is_light]}
"""
OTHER_DATA = DATA.replace("[part_eta, part_pt]", "[part_eta, part_mass]")
FUNCTIONS = "def double(x):\n    return 2 * x\n"

# Every optional section is there, so that each of their keys can be changed.
BASE = {
    "run": "r",
    "data": {"config": "data.yaml", "custom_functions": "functions.py", "train": {"a": ["a.root"]}, "test": {"a": ["a.root"]}},
    "network": {"config": "net.py"},
    "training": {"early_stopping": {"patience": 3}, "scheduler": {"name": "flat+cos"}},
    # Otherwise training.task would choose the metric.
    "validation": {"metric": "accuracy", "mode": "max", "reweight": True},
    "cross_validation": {"variable": "jet_pt", "folds": 3},
}

# What cannot be told from a key's type and limits.
OTHER = {
    "data.config": "other.yaml",
    "data.config_val": "other.yaml",
    "data.config_test": "test.yaml",
    "data.custom_functions": "other.py",
    "data.train": {"a": ["a.root", "b.root"]},
    "data.val": {"a": ["b.root"]},
    "data.test": {"a": ["b.root"]},
    # Of variables that are read anyway: what is staged changes, not how.
    "data.extra_selection.train": "jet_pt > 1",
    "data.extra_selection.val": "jet_pt > 2",
    "data.extra_selection.test": "jet_pt > 3",
    "cross_validation.variable": "event",
    "network.config": "other_net.py",
    "training.scheduler.name": "one-cycle",
    "training.optimizer.options": {"weight_decay": 0.1},
    "training.compile": True,
    "training.samples_per_epoch": 1000,
    "training.tensorboard": True,
}
# For these a configuration that has no more than they need.
WITHOUT_FOLDS = {
    "seed": {"seed": 2},
    "seeds": {"seeds": [1, 2]},
    "training.continue_from.prefix": {"training": {"continue_from": {"prefix": "b", "epoch": 3}}},
    "training.continue_from.epoch": {"training": {"continue_from": {"prefix": "a", "epoch": 4}}},
}
CONTINUED = {"training": {"continue_from": {"prefix": "a", "epoch": 3}}}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    network = "def get_model(data_config, **options):\n    return None, {}\n"
    files = {"data.yaml": DATA, "other.yaml": OTHER_DATA, "test.yaml": DATA.replace("observers: [jet_pt]", "observers: [jet_eta]")}
    files |= {
        "net.py": network,
        "other_net.py": network.replace("None", "1"),
        "functions.py": FUNCTIONS,
        "other.py": FUNCTIONS + "two = 2\n",
    }
    for name, text in {**files, "a.root": "", "b.root": ""}.items():
        Path(name).write_text(text)


def params(document: dict[str, Any]) -> dict[str, str]:
    """The `params` of every stage: of each split, of the last member, of all epochs."""
    plan = make_plan(document, where="c.yaml")
    member = plan.members()[-1]
    made: dict[str, Any] = {}
    for stage in STAGES:
        splits = ("train", "val", "test") if stage == "stage_inputs" else ("train",)
        epochs = range(20) if stage == "train_epoch" else range(0)
        made[stage] = [plan.settings(stage, split=split, member=member, epochs=epochs) for split in splits]
    return {stage: json.dumps(value, sort_keys=True) for stage, value in made.items()}


def nested(name: str, value: Any) -> dict[str, Any]:
    for part in reversed(name.split(".")):
        value = {part: value}
    return value


def another(leaf: Leaf, now: Any) -> Any:
    """A valid value of a key other than `now`, by its type and limits."""
    if leaf.name in OTHER:
        return OTHER[leaf.name]
    for annotation in forms(leaf.field.annotation):
        if typing.get_origin(annotation) is typing.Literal:
            return next(value for value in typing.get_args(annotation) if value != now)
        if annotation in _OTHERS:
            return _OTHERS[annotation](now)
        if typing.get_origin(annotation) in (list, dict):
            return ["x"] if typing.get_origin(annotation) is list else {"x": 0.25}
    raise AssertionError(f"{leaf.name}: say in OTHER what another value is")


_OTHERS: dict[Any, Callable[[Any], Any]] = {
    bool: lambda now: not now,
    int: lambda now: (now or 14) + 1,
    float: lambda now: (now or 0.5) / 2,
    str: lambda now: f"{now}x",
}


def forms(annotation: Any) -> Iterator[Any]:
    """The types that a value may have."""
    if typing.get_origin(annotation) in (typing.Union, types.UnionType, typing.Annotated):
        for part in typing.get_args(annotation):
            yield from forms(part)
    else:
        yield annotation


def change(name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Two configurations that differ in one key."""
    if name in WITHOUT_FOLDS:
        before = merge({key: value for key, value in BASE.items() if key != "cross_validation"}, CONTINUED if "continue" in name else {})
        return before, merge(before, WITHOUT_FOLDS[name])
    now: Any = BASE
    for part in name.split("."):
        now = now.get(part) if isinstance(now, dict) else None
    if now is None:
        now = default_of(KEYS[name].field)
    return BASE, merge(copy.deepcopy(BASE), nested(name, another(KEYS[name], now)))


@pytest.mark.parametrize("name", KEYS)
@pytest.mark.usefixtures("folder")
def test_a_key_changed_alone_changes_the_params_of_exactly_the_stages_that_it_affects(name: str) -> None:
    before, after = (params(document) for document in change(name))
    changed = {stage for stage in STAGES if before[stage] != after[stage]}
    assert changed == {effect.stage for effect in KEYS[name].key.affects}


@pytest.mark.parametrize("needed", ["validation.reweight", "training.early_stopping"])
@pytest.mark.usefixtures("folder")
def test_a_key_that_needs_another_affects_nothing_without_it(needed: str) -> None:
    needing = [leaf for leaf in KEYS.values() if any(effect.if_set == needed for effect in leaf.key.affects)]
    needing = [leaf for leaf in needing if not leaf.name.startswith(needed)]
    assert needing
    base = merge(BASE, nested(needed, None if needed == "training.early_stopping" else False))
    for leaf in needing:
        section, _, name = leaf.name.rpartition(".")
        now = base.get(section, {}).get(name, default_of(leaf.field))
        before, after = params(base), params(merge(base, nested(leaf.name, another(leaf, now))))
        changed = {stage for stage in STAGES if before[stage] != after[stage]}
        assert changed == {effect.stage for effect in leaf.key.affects if effect.if_set != needed}


def test_every_key_says_what_it_means_and_affects() -> None:
    assert len(KEYS) > 80
    sections = [Configuration]
    for section in sections:
        for name, field in section.model_fields.items():
            inner, key = section_of(field), key_of(field)
            assert len(field.description or "") > 4, name
            assert (inner is None) == (key is not None), f"{section.__name__}.{name}: make it with key(…) or section(…)"
            sections += [inner] if inner else []
            assert key is None or all(effect.stage in STAGES for effect in key.affects)


def test_every_stage_is_affected_by_some_key() -> None:
    effects = {effect for leaf in KEYS.values() for effect in leaf.key.affects}
    assert {effect.stage for effect in effects} == set(STAGES)
    assert all(effect.if_set in KEYS or effect.if_set == "training.early_stopping" for effect in effects if effect.if_set)
    assert Effect("train_epoch") in model.TRAINING
