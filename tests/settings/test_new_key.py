"""A key is added in one place, its model: it is then in the schema, the tables, the slices of rules and the settings of stages."""

import json
import runpy
from pathlib import Path
from typing import Any

import pytest

from weaver_tasks.base.maps import merge
from weaver_tasks.plan import Plan, make_plan
from weaver_tasks.settings import model, reading, schema, slices
from weaver_tasks.settings.fields import NOTHING, key, section
from weaver_tasks.settings.model import TRAINING, Configuration, LoadingSettings
from weaver_tasks.settings.stage import stage_settings

EXAMPLE = {
    "run": "r",
    "data": {"config": "data.yaml", "train": ["a.root"], "test": ["a.root"]},
    "network": {"config": "net.py"},
}


class MoreLoading(LoadingSettings):
    example: int = key(3, "An example of a key.", affects=TRAINING, unit="jets", added_later=True, ge=1)
    watching: int = key(5, "An example that changes nothing.", affects=NOTHING)


class MoreConfiguration(Configuration):
    loading: MoreLoading = section(MoreLoading, "How training reads staged events.")


@pytest.fixture
def with_new_keys(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for module in (reading, schema, slices):
        monkeypatch.setattr(module, "Configuration", MoreConfiguration)
    monkeypatch.chdir(tmp_path)
    Path("data.yaml").write_text("inputs: {a: {length: 4, vars: [x]}}\nlabels: {type: simple, value: [b, c]}\n")
    Path("net.py").write_text("def get_model(data_config, **options):\n    return None, {}\n")
    Path("a.root").write_text("")


def plan(**over: Any) -> Plan:
    return make_plan(merge(EXAMPLE, over), where="c.yaml")


@pytest.mark.usefixtures("with_new_keys")
def test_it_is_in_the_schema_and_the_tables(repository: Path) -> None:
    found = schema.json_schema()["properties"]["loading"]["properties"]["example"]
    assert found == {
        "type": "integer", "minimum": 1, "default": 3, "unit": "jets", "description": "An example of a key.",
        "affects": ["find_lr", "profile_training", "train_epoch"],
    }  # fmt: skip
    assert "| `loading.example` | integer (jets) | `3` | An example of a key. |\n" in schema.readme()
    page = runpy.run_path(str(repository / "docs" / "reference_pages.py"))["pages"]()["reference/configuration.md"]
    assert "| `loading.example` | integer (jets) | `3` | An example of a key. (at least 1) *Runs again: `train_epoch`.* |\n" in page
    assert "*Runs again: nothing.* |\n" in page.partition("`loading.watching`")[2].partition("|\n")[0] + "|\n"


@pytest.mark.usefixtures("with_new_keys")
def test_slices_follow_and_those_of_before_stay() -> None:
    assert plan().config["loading"]["example"] == 3
    at_default, changed = plan().settings("train_epoch"), plan(loading={"example": "4"}).settings("train_epoch")
    assert "example" not in at_default["loading"]
    assert changed == merge(at_default, {"loading": {"example": 4}})
    for stage in ("validate_epoch", "init_model", "predict"):
        assert plan().settings(stage) == plan(loading={"example": 4}).settings(stage)
    assert plan(loading={"watching": 6}).settings("train_epoch") == at_default
    assert plan(loading={"watching": 6}).untracked()["loading"]["watching"] == 6
    assert "example" not in plan().untracked()["loading"]


def test_a_field_that_does_not_say_what_it_affects_is_a_mistake() -> None:
    with pytest.raises(TypeError, match="affects"):
        key(3, "A text.")  # type: ignore[call-arg]


@pytest.mark.parametrize("stage", ["train_epoch", "validate_epoch", "predict", "export_onnx", "stage_inputs", "reweight"])
@pytest.mark.usefixtures("with_new_keys")
def test_every_slice_makes_the_settings_of_its_stage(stage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "Configuration", Configuration)
    monkeypatch.setattr(slices, "Configuration", Configuration)
    made = plan(cross_validation={"variable": "x", "folds": 2})
    given = merge(made.settings(stage, member="fold-1/", epochs=range(2)), made.untracked())
    settings = stage_settings(json.loads(json.dumps(given)), stage)
    assert settings.training.batch_size == 128
    assert settings.fold is None or (settings.fold.index, settings.fold.folds) == (1, 2)
    assert model.Configuration.model_validate(made.config).training.lr == 5e-3
