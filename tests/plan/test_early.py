"""What would fail after the training is refused when planning, or in the first stage that can know."""

import copy
import hashlib
from pathlib import Path

import pytest

import workflow_run
from weaver_tasks import init_model, stage_inputs
from weaver_tasks.base.errors import ConfigError
from weaver_tasks.plan import check_early, make_plan
from weaver_tasks.settings.model import TrainingSettings, ValidationSettings
from weaver_tasks.settings.stage import StageSettings


@pytest.fixture
def run(tmp_path, repository, jets, monkeypatch):
    made = workflow_run.Run(tmp_path, repository, jets)
    made.write()
    monkeypatch.chdir(tmp_path)
    return made


def plan(run):
    made = make_plan(copy.deepcopy(run.config), where="config.yaml")
    check_early(made)
    return made


@pytest.mark.parametrize(
    ("training", "validation", "message"),
    [
        ({"steps_per_epoch_val": 0}, {}, "training.steps_per_epoch_val: 0 validates nothing"),
        ({"samples_per_epoch_val": 31}, {}, "31 are less than one batch of 32"),
        ({"samples_per_epoch_val": 0}, {}, "0 are less than one batch of 32"),
        ({"samples_per_epoch_val": 60, "batch_size_val": 64}, {}, "60 are less than one batch of 64"),
        ({"samples_per_epoch_val": 60, "ranks": 2}, {"reweight": True}, "60 are less than one batch of 64"),
        ({}, {"metric": "acuracy"}, "'acuracy' is not what validation gives: accuracy, auc, loss. Did you mean: accuracy"),
        ({}, {"metric": "threads"}, "'threads' is not what validation gives"),
        ({}, {"metric": "mse"}, "'mse' is not what validation gives"),
        ({"task": "regression"}, {"metric": "auc"}, "'auc' is not what validation gives: loss, mae, mse"),
    ],
)
def test_a_validation_that_chooses_nothing_is_refused(run, training, validation, message):
    run.config["training"] |= training
    run.config["validation"] = validation
    with pytest.raises(ConfigError) as refused:
        plan(run)
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("training", "validation"),
    [
        ({"samples_per_epoch_val": 32}, {}),
        ({"samples_per_epoch_val": -1}, {}),
        ({"steps_per_epoch_val": -1}, {"metric": "auc"}),
        ({"samples_per_epoch_val": 60, "ranks": 2}, {}),
    ],
)
def test_a_validation_that_can_choose_is_planned(run, training, validation):
    run.config["training"] |= training
    run.config["validation"] = validation
    plan(run)


def test_a_model_with_a_data_configuration_that_is_not_resolved_is_refused_with_the_one_that_is(run):
    run.config["prediction"] = {"model": "net.pt"}
    with pytest.raises(ConfigError, match=r"data.yaml: the center of part_pt_log is `auto`.*Give the data_config.auto.yaml"):
        plan(run)
    resolved = Path(f"data.{hashlib.md5(Path('data.yaml').read_bytes()).hexdigest()}.auto.yaml")
    resolved.touch()
    with pytest.raises(ConfigError, match=rf"Give {resolved}"):
        plan(run)


def test_an_onnx_model_and_nothing_to_predict_is_refused(run):
    run.data["preprocess"] = {"method": "manual"}
    run.write()
    run.config["prediction"] = {"model": "net.onnx"}
    del run.config["data"]["test"]
    with pytest.raises(ConfigError, match=r"data.test is empty, and prediction.model: net.onnx is exported"):
        plan(run)


def test_a_batch_larger_than_the_data_is_refused_where_the_files_are_gathered():
    kept = [("train", 100, None), ("train", 156, None), ("train", 50, "damaged"), ("val", 300, None)]
    files = [{"split": split, "kept": number, "bad": bad} for split, number, bad in kept]
    stage_inputs.check_batch(files, 256)
    stage_inputs.check_batch(files[3:], 1000)  # the list of the test files, say
    with pytest.raises(ConfigError, match=r"training.batch_size: a batch has 257 events over all ranks, but only 256"):
        stage_inputs.check_batch(files, 257)


def test_the_events_of_a_batch_are_needed_where_an_epoch_is_one_pass(run):
    run.config["training"] |= {"ranks": 2, "nodes": 3}
    assert plan(run).fewest_events() == 32 * 6
    run.config["training"]["steps_per_epoch"] = 4
    assert plan(run).fewest_events() == 0


def asked(*, metric: str, task: str) -> StageSettings:
    return StageSettings(validation=ValidationSettings(metric=metric), training=TrainingSettings(task=task))


def test_the_metric_of_a_network_with_its_own_evaluation(run):
    class Own:
        path = Path("net.py")
        evaluate_fn = print

    settings = asked(metric="auc", task="classification")
    with pytest.raises(ConfigError, match=r"'auc': net.py validates by its own evaluate function, whose number is called accuracy"):
        init_model._check_metric(settings, Own())
    init_model._check_metric(asked(metric="accuracy", task="classification"), Own())
    init_model._check_metric(asked(metric="loss", task="regression"), Own())
    Own.evaluate_fn = None
    init_model._check_metric(settings, Own())
