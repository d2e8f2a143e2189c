"""YAML files: every mistake is one line that names file, place and remedy."""

import pytest

from weaver_tasks.base.errors import ConfigError
from weaver_tasks.base.yaml_files import read_yaml


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
        ("a: {1: x}\n", "key 1 of 'a' is not text. Put it in quotes."),
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


def test_keys_that_look_like_numbers_are_text_where_that_is_asked_for(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("run: 2024_05\nother: 2024_05\na: {2016: x, 2016_1: y, yes: z, 1.0: v, 2020-01-01: w}\n")
    groups = {"2016": "x", "2016_1": "y", "yes": "z", "1.0": "v", "2020-01-01": "w"}
    assert read_yaml(path, keys_as_text=True, names=("run",)) == {"run": "2024_05", "other": 202405, "a": groups}
    path.write_text("a: {2016: x, '2016': y}\n")
    with pytest.raises(ConfigError, match="the key '2016' is given twice"):
        read_yaml(path, keys_as_text=True)
