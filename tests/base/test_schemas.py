"""YAML files and schemas: every mistake is one line that names file, key, value and remedy."""

import pytest

from weaver_tasks.base.errors import ConfigError, DataConfigError
from weaver_tasks.base.schemas import load_schema, read_yaml, validate

SCHEMA = {
    "type": "object",
    "additionalProperties": False,
    "required": ["run"],
    "properties": {
        "run": {"type": "string", "pattern": "^[a-z]+$", "description": "Name of the run."},
        "training": {
            "type": "object",
            "additionalProperties": False,
            "properties": {
                "epochs": {"type": "integer", "minimum": 1},
                "device": {"enum": ["cpu", "cuda", None]},
                "lr": {"type": "number", "exclusiveMinimum": 0, "description": "Learning rate."},
                "files": {"type": ["array", "null"], "minItems": 2, "items": {"type": "string"}},
                "groups": {
                    "oneOf": [
                        {"type": "string"},
                        {"type": "object", "propertyNames": {"pattern": "^[a-z]+$", "description": "A folder."}, "maxProperties": 3},
                    ]
                },
            },
        },
    },
}


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({"run": "a", "training": {"epoch": 3}}, "c.yaml: unknown key 'training.epoch'. Did you mean: epochs?"),
        ({"run": "a", "xyz": 3}, "c.yaml: unknown key 'xyz'. Known here: run, training."),
        ({}, "c.yaml: key 'run' is missing. (Name of the run.)"),
        ({"run": "a", "training": {"epochs": 0}}, "c.yaml: key 'training.epochs': 0 does not fit; at least 1 is wanted."),
        ({"run": "a", "training": {"epochs": None}}, "c.yaml: key 'training.epochs': nothing does not fit; a whole number is wanted."),
        ({"run": "a", "training": {"lr": 0}}, "c.yaml: key 'training.lr': 0 does not fit; more than 0 is wanted. (Learning rate.)"),
        (
            {"run": "a", "training": {"device": "cudaa"}},
            "c.yaml: key 'training.device': 'cudaa' does not fit; one of cpu, cuda, nothing is wanted. Did you mean: cuda?",
        ),
        ({"run": "a", "training": {"files": ["x"]}}, "c.yaml: key 'training.files': ['x'] does not fit; at least 2 of them is wanted."),
        ({"run": "a", "training": {"files": ["x", 1]}}, "c.yaml: key 'training.files[1]': 1 does not fit; text is wanted."),
        ({"run": "A"}, "c.yaml: key 'run': 'A' does not fit; text like ^[a-z]+$ is wanted. (Name of the run.)"),
        (
            {"run": "a", "training": {"groups": {"a b": "x"}}},
            "c.yaml: key 'training.groups': 'a b' does not fit; text like ^[a-z]+$ is wanted. (A folder.)",
        ),
        (
            {"run": "a", "training": {"groups": 3}},
            "c.yaml: key 'training.groups': 3 does not fit; text or a map of keys is wanted.",
        ),
        ([], "c.yaml: the document: [] does not fit; a map of keys is wanted."),
    ],
)
def test_messages(document, message):
    with pytest.raises(ConfigError) as caught:
        validate(document, SCHEMA, where="c.yaml")
    assert str(caught.value) == message


def test_the_error_is_the_callers():
    with pytest.raises(DataConfigError):
        validate({}, SCHEMA, where="d.yaml", error=DataConfigError)
    validate({"run": "a"}, SCHEMA, where="d.yaml")


@pytest.mark.parametrize("name", ["config", "data_config"])
def test_schemas_are_found_and_describe_every_key(name):
    schema = load_schema(name)
    assert schema["additionalProperties"] is False
    assert all(child.get("description") or "$ref" in child for child in schema["properties"].values())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [1\nb: 2\n", "line 2, column 2: not valid YAML"),
        ("a: b: c\n", "line 1, column 5: not valid YAML"),
        ("a: \t- x\n\tb: 1\n", "not valid YAML"),
        ("a: !!int x\n", "not valid YAML"),
        ("a: 2020-13-45\n", "not valid YAML"),
        ("[" * 2000, "not valid YAML"),
        ("a: " + "[" * 100 + "]" * 100, "key 'a': nested too deep"),
        ("a: {1: x}\n", "key 1 of 'a' is no text. Put it in quotes."),
        ("a: 1\nb: 2\na: 3\n", "line 3: the key 'a' is given twice, first in line 1. Keep one of them."),
        ("a:\n  b: 1\n  c: {d: [{e: 1, e: 2}]}\n", "line 3: the key 'e' is given twice, first in line 3."),
        ("a: {b: .nan}\n", "key 'a.b': not a number"),
        ("a: 1e999\n", ""),
    ],
)
def test_yaml_mistakes_are_one_line(tmp_path, text, message):
    path = tmp_path / "c.yaml"
    path.write_text(text)
    if not message:
        assert read_yaml(path)
        return
    with pytest.raises(ConfigError) as caught:
        read_yaml(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_merged_key_may_be_given_anew(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("a: &a {x: 1, y: 1}\nb: &b {<<: *a, x: 2}\nc: {<<: *b, x: 3}\n")
    assert read_yaml(path) == {"a": {"x": 1, "y": 1}, "b": {"x": 2, "y": 1}, "c": {"x": 3, "y": 1}}


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(ConfigError, match=r"absent\.yaml: cannot be read \(No such file or directory\)"):
        read_yaml(tmp_path / "absent.yaml")
