"""Hostile and random input: expressions and data configurations fail with their documented error only, and touch nothing."""

import contextlib
import os

import awkward as ak
import hypothesis.strategies as st
import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings

from weaver_tasks.base.errors import DataConfigError
from weaver_tasks.data.configuration import fingerprints, load_data_configuration
from weaver_tasks.data.expressions.evaluation import evaluate
from weaver_tasks.data.expressions.functions import expression_functions
from weaver_tasks.data.expressions.parsing import normal_form, parse_expression

EXAMPLES = pytest.mark.parametrize("examples", [120, pytest.param(5000, marks=pytest.mark.slow)])


def fuzz(examples):
    """Few examples are always the same ones; many are new each time."""
    return settings(
        max_examples=examples, derandomize=examples < 1000, database=None, deadline=None, suppress_health_check=list(HealthCheck)
    )


WORDS = str.split(
    "np ak math numpy awkward os sys open eval exec __import__ __class__ __globals__ __builtins__ x y jet_pt load save tofile dump "
    "fromfile memmap lambda for in if else and or not is None True import random rand behavior layout to_parquet format "
    "_pad _clip _hash len where abs px deltaR 'file.txt' \"a\" 0 1 -1 9999999 1e308 0x10 1j ** // % & | ~ ^ << >> @ "
    "( ) [ ] { } , . : = == < > := * + - # \n \\ ; ' \" f'{x}' b'1' ...",
    " ",
)

expressions = st.one_of(
    st.lists(st.sampled_from(WORDS), max_size=14).map(" ".join),
    st.lists(st.sampled_from(WORDS), max_size=14).map("".join),
    st.text(max_size=60),
)


@pytest.fixture(scope="module")
def functions():
    return expression_functions(random=np.random.RandomState(1))


TABLE = {"x": ak.Array([[1.0, 2.0], [], [3.0]]), "y": np.array([1.0, np.nan, -2.0]), "jet_pt": np.array([500, 600, 700], dtype=np.float32)}


@pytest.fixture
def untouched(tmp_path, monkeypatch):
    """An empty working folder that must be empty afterwards."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    yield tmp_path
    assert os.listdir(folder) == []


@EXAMPLES
@pytest.mark.filterwarnings("ignore")
def test_expressions(untouched, functions, examples):
    computed = []

    @fuzz(examples)
    @given(expressions)
    def check(text):
        before = {name: np.asarray(ak.flatten(array, axis=None)).copy() for name, array in TABLE.items()}
        with contextlib.suppress(DataConfigError):
            parse_expression(text)
            normal_form(text)
            evaluate(text, TABLE, functions)
            computed.append(text)
        for name, array in TABLE.items():
            np.testing.assert_array_equal(np.asarray(ak.flatten(array, axis=None)), before[name])

    check()
    assert computed, "nothing was valid: the test proves nothing"


leaves = st.sampled_from(["x", "y", "jet_pt", "flag", "2", "0.5", "-1", "7", "True"])
binary = st.sampled_from(["+", "-", "*", "/", "//", "%", "&", "|", "^", "<", "<=", ">", ">=", "==", "!="])
valid = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.builds("({} {} {})".format, inner, binary, inner),
        st.builds("{}({})".format, st.sampled_from(["-", "+", "~"]), inner),
        st.builds("{}({})".format, st.sampled_from(["np.abs", "np.exp", "np.isnan", "ak.zeros_like", "len"]), inner),
        st.builds("np.hypot({}, {})".format, inner, inner),
        st.builds("np.where({}, {}, {})".format, inner, inner, inner),
        st.builds("{}[{}]".format, leaves, inner),
        st.builds("({})[1:]".format, inner),
    ),
    max_leaves=12,
)


@EXAMPLES
@pytest.mark.filterwarnings("ignore")
def test_valid_expressions_give_what_python_gives(functions, examples):
    """Python's own eval is the reference: harmless here, since the texts are built from the parts above."""
    table = {**TABLE, "flag": np.array([True, False, True])}
    results = []

    @fuzz(examples)
    @given(valid)
    @example("np.hypot(x, ak.zeros_like(2))")
    def check(text):
        try:
            expected = eval(text, {"np": np, "ak": ak, "len": len}, table)
        except Exception:
            with pytest.raises(DataConfigError):
                evaluate(text, table, functions)
            return
        value = evaluate(text, table, functions)
        assert type(value) is type(expected)
        if isinstance(value, ak.Array):
            assert ak.array_equal(value, expected, equal_nan=True)
        else:
            np.testing.assert_array_equal(value, expected)
        results.append(text)

    check()
    assert len(results) > examples / 4


TEMPLATE = {
    "treename": "tree",
    "selection": "jet_pt > 500",
    "new_variables": {"part_pt": "np.hypot(part_px, part_py)"},
    "preprocess": {"method": "auto", "data_fraction": 0.1, "params": None},
    "inputs": {"pf": {"length": 16, "pad_mode": "wrap", "vars": ["part_pt", ["part_deta", None]]}},
    "labels": {"type": "simple", "value": ["a", "b"]},
    "observers": ["jet_pt"],
    "weights": {"reweight_method": "flat", "reweight_vars": {"jet_pt": [0, 1]}, "reweight_classes": ["a", "b"], "class_weights": [1, 1]},
    "bucketing": {"var": "n", "bins": [1, 2]},
    "file_magic": {"s": {"a": 1}},
    "branch_magic": {"a": "b"},
}


def nested(inner):
    return st.one_of(inner, st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=6), inner, max_size=4))


words = st.sampled_from(["auto", "a", "1e-3", "x +", "[", "a and b"])
plain = nested(nested(st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8), words)))


def places(document, path=()):
    """Every place of a document, as paths."""
    yield path
    items = document.items() if isinstance(document, dict) else enumerate(document) if isinstance(document, list) else ()
    for key, value in items:
        yield from places(value, (*path, key))


def replaced(document, path, value):
    if not path:
        return value
    copy = dict(document) if isinstance(document, dict) else list(document)
    copy[path[0]] = replaced(document[path[0]], path[1:], value)
    return copy


mutations = st.lists(st.tuples(st.sampled_from(list(places(TEMPLATE))[1:]), plain), min_size=1, max_size=2)


def load_or_refuse(path):
    try:
        configuration = load_data_configuration(path)
    except DataConfigError as error:
        message = str(error)
    else:
        message = None
    if message is not None:
        assert "\n" not in message
        assert message.startswith(str(path))
        return False
    for split in ("train", "val", "test"):
        fingerprints.staging(configuration, split)
    fingerprints.standardization(configuration)
    fingerprints.weighting(configuration)
    fingerprints.batches(configuration)
    return True


@EXAMPLES
def test_mutated_configurations(untouched, examples):
    path = untouched / "data.yaml"
    loaded = []

    @fuzz(examples)
    @given(mutations)
    def check(changes):
        document = TEMPLATE
        for place, value in changes:
            with contextlib.suppress(KeyError, IndexError, TypeError):
                document = replaced(document, place, value)
        path.write_text(yaml.safe_dump(document, allow_unicode=True), encoding="utf-8", errors="surrogatepass")
        loaded.append(load_or_refuse(path))

    check()
    assert any(loaded)
    assert not all(loaded)


@EXAMPLES
@pytest.mark.filterwarnings("ignore")
def test_bytes(untouched, examples):
    path = untouched / "data.yaml"
    text = yaml.safe_dump(TEMPLATE)
    pieces = st.lists(
        st.one_of(
            st.sampled_from(text.splitlines()), st.sampled_from(["&a", "*a", "!!python/object:os.system", "- ", "? ", "<<: *a", "|", ">"])
        )
    )

    @fuzz(examples)
    @given(st.one_of(st.binary(max_size=200), pieces.map(lambda lines: "\n".join(lines).encode())))
    def check(content):
        path.write_bytes(content)
        load_or_refuse(path)

    check()


def test_a_document_that_aliases_blow_up_is_refused(tmp_path):
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"] + [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 10)]
    (tmp_path / "data.yaml").write_text("\n".join(lines))
    with pytest.raises(DataConfigError, match="nested too deep, or too large"):
        load_data_configuration(tmp_path / "data.yaml")


def test_python_objects_in_yaml_are_refused(tmp_path):
    (tmp_path / "data.yaml").write_text("selection: !!python/object/apply:os.system ['touch x']\n")
    with pytest.raises(DataConfigError, match="line 1, column 12"):
        load_data_configuration(tmp_path / "data.yaml")
