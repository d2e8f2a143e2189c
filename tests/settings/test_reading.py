import pytest
import yaml

from weaver_tasks.base.errors import ConfigError
from weaver_tasks.base.maps import merge
from weaver_tasks.settings.reading import read_config, resolve_config

SMALLEST = {"run": "a", "data": {"config": "d.yaml", "train": ["x.root"]}, "network": {"config": "n.py"}}


def resolve(**over):
    return resolve_config(merge(SMALLEST, over), where="a.yaml")


def test_defaults_are_filled_in_at_every_depth():
    config = resolve()
    assert config["training"]["scheduler"] == {"name": "flat+decay", "warmup": 0.25, "horizon": None}
    assert config["staging"]["mode"] == "columnar"
    assert config["validation"] == {"metric": "accuracy", "mode": "max", "reweight": False}


def test_a_regression_is_judged_by_its_loss():
    assert resolve(training={"task": "regression"})["validation"] == {"metric": "loss", "mode": "min", "reweight": False}


@pytest.mark.parametrize(
    ("section", "typed"),
    [
        ({"epochs": "4"}, {"epochs": 4}),
        ({"lr": "5e-3"}, {"lr": 5e-3}),
        ({"compile": "true"}, {"compile": True}),
        ({"amp": "null"}, {"amp": None}),
        ({"amp": "bf16"}, {"amp": "bf16"}),
        ({"early_stopping": {"patience": "5"}}, {"early_stopping": {"patience": 5}}),
        ({"samples_per_epoch": "null"}, {"samples_per_epoch": None}),
        ({"tensorboard": "false"}, {"tensorboard": False}),
        ({"tensorboard": "board.py"}, {"tensorboard": "board.py"}),
        ({"optimizer": {"options": {"weight_decay": "0.01", "betas": ["0.9", "0.99"]}}}, None),
    ],
)
def test_strings_of_the_command_line_take_the_types_of_the_schema(section, typed):
    training = resolve(training=section)["training"]
    if typed is None:
        assert training["optimizer"]["options"] == {"weight_decay": 0.01, "betas": [0.9, 0.99]}
    else:
        assert {key: training[key] for key in typed} == typed


@pytest.mark.parametrize(
    ("over", "message"),
    [
        ({"trainning": {}}, "a.yaml: unknown key 'trainning'. Did you mean: training"),
        ({"training": {"epoch": 3}}, "unknown key 'training.epoch'. Did you mean: epochs"),
        ({"training": {"epochs": "four"}}, "key 'training.epochs': 'four' does not fit"),
        ({"training": {"epochs": "0"}}, "at least 1 is wanted"),
        ({"training": {"samples_per_epoch": 5, "steps_per_epoch": 5}}, "are both set"),
        ({"seeds": [1, 2], "cross_validation": {"variable": "n", "folds": 2}}, "seeds and cross_validation are both set"),
        ({"training": {"amp": "fp16", "device": "cpu"}}, "fp16 needs a GPU"),
        ({"data": {"train": {}}}, "data.train is empty"),
        ({"run": "../elsewhere"}, "key 'run'"),
        ({"export": {"opset": 99}}, "key 'export.opset': 99 does not fit; at most 23 is wanted"),
        ({"training": {"samples_per_epoch": 100, "batch_size": 64, "ranks": 2}}, "samples_per_epoch: 100 are less than one batch of 128"),
        ({"run": "r" * 101}, "at most 100 letters is wanted"),
        ({"training": {"lr": float("inf")}}, "key 'training.lr': inf is not a finite number"),
        ({"sampling": {"weight_scale": float("nan")}}, "key 'sampling.weight_scale': nan is not a finite number"),
        ({"data": {"train": {"a b": "x"}}}, "key 'data.train': 'a b' does not fit; text like"),
        ({"data": {"train": {"a": ["x", 3]}}}, "key 'data.train.a[1]': 3 does not fit; text is wanted"),
    ],
)
def test_mistakes_name_the_file_the_key_and_the_remedy(over, message):
    document = {**SMALLEST, **over} if "data" not in over else {**SMALLEST, "data": {**SMALLEST["data"], **over["data"]}}
    with pytest.raises(ConfigError, match=r"^a\.yaml: ") as error:
        resolve_config(document, where="a.yaml")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_later_files_win_key_by_key(tmp_path):
    (tmp_path / "a.yaml").write_text(yaml.safe_dump(SMALLEST))
    (tmp_path / "b.yaml").write_text("run: b\ntraining: {epochs: 7}\n")
    config = resolve_config(read_config([tmp_path / "a.yaml", tmp_path / "b.yaml"]))
    assert (config["run"], config["training"]["epochs"], config["data"]["train"]) == ("b", 7, ["x.root"])
    with pytest.raises(ConfigError, match=r"none\.yaml: cannot be read"):
        read_config([tmp_path / "none.yaml"])


def test_shipped_configurations_are_valid(repository):
    paths = sorted((repository / "config").glob("*.yaml"))
    assert [path.name for path in paths].count("demo.yaml") == 1
    for path in paths:
        assert resolve_config(read_config([path]), where=str(path))["run"]
