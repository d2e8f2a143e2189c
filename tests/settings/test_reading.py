import pytest
import yaml

from weaver_tasks.base.errors import ConfigError
from weaver_tasks.base.maps import merge
from weaver_tasks.settings.reading import names_as_written, read_config, resolve_config

SMALLEST = {"run": "a", "data": {"config": "d.yaml", "train": ["x.root"]}, "network": {"config": "n.py"}}


def resolve(**over):
    return resolve_config(merge(SMALLEST, over), where="a.yaml")


def laid_over(over):
    """The smallest configuration with other keys, replaced section by section."""
    sections = {key: {**SMALLEST[key], **value} if isinstance(value, dict) and key in SMALLEST else value for key, value in over.items()}
    return {**SMALLEST, **sections}


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
        ({"training": {"epochs": "0"}}, "expected at least 1"),
        ({"training": {"samples_per_epoch": 5, "steps_per_epoch": 5}}, "are both set"),
        ({"seeds": [1, 2], "cross_validation": {"variable": "n", "folds": 2}}, "seeds and cross_validation are both set"),
        ({"training": {"amp": "fp16", "device": "cpu"}}, "fp16 needs a GPU"),
        ({"data": {"train": {}}}, "data.train is empty"),
        ({"run": "../elsewhere"}, "key 'run'"),
        ({"export": {"opset": 99}}, "key 'export.opset': 99 does not fit; expected at most 23"),
        ({"training": {"samples_per_epoch": 100, "batch_size": 64, "ranks": 2}}, "samples_per_epoch: 100 are less than one batch of 128"),
        ({"run": "r" * 101}, "expected at most 100 letters"),
        ({"training": {"lr": float("inf")}}, "key 'training.lr': inf is not a finite number"),
        ({"sampling": {"weight_scale": float("nan")}}, "key 'sampling.weight_scale': nan is not a finite number"),
        ({"data": {"train": {"a b": "x"}}}, "key 'data.train': 'a b' does not fit; expected text like"),
        ({"data": {"train": {"a": ["x", 3]}}}, "key 'data.train.a[1]': 3 does not fit; expected text"),
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


@pytest.mark.parametrize(
    ("over", "key", "typed"),
    [
        ({"seeds": "[1, 2]"}, "seeds", [1, 2]),
        ({"seeds": ["1", "2"]}, "seeds", [1, 2]),
        ({"seeds": "null"}, "seeds", None),
        ({"data": {"val": "null"}}, "data.val", None),
        ({"data": {"test": {"a": {"files": ["x"], "split": "2"}}}}, "data.test.a.split", 2),
        ({"data": {"train": "[a.root, b.root]"}}, "data.train", ["a.root", "b.root"]),
        ({"data": {"train": "root://host//a.root"}}, "data.train", "root://host//a.root"),
        ({"training": "{epochs: 3}"}, "training.epochs", 3),
        ({"training": {"compile": {"fullgraph": "false"}}}, "training.compile.fullgraph", False),
        ({"training": {"compile": "{fullgraph: 'false'}"}}, "training.compile.fullgraph", False),
        ({"training": {"continue_from": "{prefix: a, epoch: '3'}"}}, "training.continue_from.epoch", 3),
        ({"evaluation": {"signal_efficiencies": {"a": "0.5"}}}, "evaluation.signal_efficiencies.a", 0.5),
        ({"network": {"load_weights": "[a.pt, b.pt]"}}, "network.load_weights", ["a.pt", "b.pt"]),
        (
            {"network": {"options": {"depth": "3", "name": "null", "size": ["1e-3"]}}},
            "network.options",
            {"depth": 3, "name": None, "size": [1e-3]},
        ),
        ({"run": 2024}, "run", "2024"),
        ({"data": {"train": {2016: ["x"], 2017: "y"}}}, "data.train", {"2016": ["x"], "2017": "y"}),
        # As it is written: 1 and 1.0 have different digests.
        ({"training": {"lr": "1"}}, "training.lr", 1),
        ({"training": {"lr": 1.0}}, "training.lr", 1.0),
    ],
)
def test_text_is_read_as_what_is_wanted_everywhere(over, key, typed):
    document = laid_over(over)
    found = resolve_config(document)
    for part in key.split("."):
        found = found[part]
    assert found == typed
    assert type(found) is type(typed)


@pytest.mark.parametrize(
    ("over", "message"),
    [
        ({"seeds": [1, 1]}, "key 'seeds': [1, 1] does not fit; expected no item twice."),
        ({"seeds": "[1, x]"}, "key 'seeds[1]': 'x' does not fit; expected a whole number."),
        ({"seeds": 3}, "key 'seeds': 3 does not fit; expected a list or nothing."),
        ({"data": {"train": 3}}, "key 'data.train': 3 does not fit; expected text or a list or a map of keys or nothing."),
        ({"data": {"train": {"a": {"file": ["x"]}}}}, "unknown key 'data.train.a.file'. Did you mean: files?"),
        ({"data": {"test": {"a": {"files": ["x"], "split": 0}}}}, "key 'data.test.a.split': 0 does not fit; expected at least 1."),
        ({"training": {"compile": 3}}, "key 'training.compile': 3 does not fit; expected true or false or a map of keys."),
        ({"training": None}, "key 'training': nothing does not fit; expected a map of keys. (How it is trained.)"),
        ({"training": {"epochs": True}}, "key 'training.epochs': True does not fit; expected a whole number."),
        ({"training": {"epochs": 2.0}}, "key 'training.epochs': 2.0 does not fit; expected a whole number."),
        ({"training": {"amp": "bf17"}}, "'bf17' does not fit; expected one of bf16, fp16, nothing. Did you mean: bf16?"),
        ({"training": {"early_stopping": {}}}, "key 'training.early_stopping.patience' is missing. (Epochs without improvement.)"),
        (
            {"evaluation": {"signal_efficiencies": {"a": "1.5"}}},
            "key 'evaluation.signal_efficiencies.a': 1.5 does not fit; expected less than 1",
        ),
        ({"xyz": 3}, "unknown key 'xyz'. Known here: cross_validation, data,"),
    ],
)
def test_what_does_not_fit_in_unions_and_lists_is_named(over, message):
    document = laid_over(over)
    with pytest.raises(ConfigError) as error:
        resolve_config(document)
    assert message in str(error.value)
    assert "<" not in str(error.value).partition(" (")[0]


def test_names_that_yaml_takes_for_numbers_are_those_that_are_written(tmp_path):
    from snakemake.cli import parse_config
    from snakemake.common.configfile import load_configfile

    path = tmp_path / "a.yaml"
    path.write_text(
        "run: 2024_05\ndata: {config: d.yaml, train: {2016_05: [x.root], 017: [y.root], yes: z.root}}\nnetwork: {config: n.py}\n"
    )
    groups = {"2016_05": ["x.root"], "017": ["y.root"], "yes": "z.root"}
    own = resolve_config(read_config([path]))
    assert (own["run"], own["data"]["train"]) == ("2024_05", groups)
    seen = load_configfile(str(path))
    assert seen["run"] == 202405
    found = resolve_config(names_as_written(seen, files=[path], arguments=()))
    assert (found["run"], found["data"]["train"]) == ("2024_05", groups)
    seen |= parse_config(["run=2024_06"])
    assert resolve_config(names_as_written(seen, files=[path], arguments=["run=2024_06"]))["run"] == "2024_06"
    # A workflow that uses this one as a module may have made it in any way.
    assert resolve_config(names_as_written({**SMALLEST, "run": 2024}, files=["absent.yaml"], arguments=()))["run"] == "2024"
