"""Expressions: what they need, in which order, and what they may not say."""

import pytest

from weaver_tasks.base.errors import DataConfigError
from weaver_tasks.data.expressions.parsing import names_in, normal_form, on_the_fly, parse_expression, resolve


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("jet_pt", {"jet_pt"}),
        ("(jet_pt>500) & (abs(eta)<2)", {"jet_pt", "eta"}),
        ("np.hypot(part_px, part_py)", {"part_px", "part_py"}),
        ("_p4_from_ptetaphie(pt, ak.where(eta >= 0, 1, -1) * rel + eta, phi, np.exp(loge))", {"pt", "eta", "rel", "phi", "loge"}),
        ("pfp4.px", {"pfp4"}),
        ("ak.values_astype(x, np.bool_) + math.pi", {"x"}),
        ("np.array(ak.to_numpy(ak.fill_none(ak.pad_none(d, 50, axis=2, clip=True), -2)))", {"d"}),
        ("label.argmax(1)", {"label"}),
        ("x[:, :3][mask]", {"x", "mask"}),
        ("ak.zip({'a': a, 'b': b})", {"a", "b"}),
        ("(a\n # because\n & b)", {"a", "b"}),
        ("a  # b", {"a"}),
        ("1", set()),
        ("my_function(a, key=b)", {"a", "b"}),
    ],
)
def test_names(text, names):
    assert names_in(text, functions={"my_function": False}) == names


REFUSED = {
    "__import__('os')": "there is no function '__import__'",
    "__import__('os').system('true')": "the method 'system' is not among",
    "().__class__.__bases__": "'__bases__' is not allowed",
    "a.__class__": "'__class__' is not allowed",
    "a._behavior": "'_behavior' is not allowed",
    "__builtins__": "'__builtins__' is not allowed",
    "np.load('x')": "np.load is not among the functions",
    "np.fromfile('x')": "np.fromfile is not among",
    "np.save('x', a)": "np.save is not among",
    "np.memmap('x')": "np.memmap is not among",
    "np.lib.format.open_memmap('x')": "np.lib.format.open_memmap is not among",
    "np.vectorize(a)(b)": "only functions and methods can be called",
    "np.add.reduce(a)": "np.add.reduce is not among",
    "ak.from_parquet('x')": "ak.from_parquet is not among",
    "ak.to_parquet(a, 'x')": "ak.to_parquet is not among",
    "ak.numba.np": "ak.numba.np is not among",
    "math.__loader__": "math.__loader__ is not among",
    "a.tofile('x')": "the method 'tofile' is not among",
    "a.dump('x')": "the method 'dump' is not among",
    "a.layout.to_buffers()": "the method 'to_buffers' is not among",
    "'{0.__class__}'.format(a)": "the method 'format' is not among",
    "open('x')": "there is no function 'open'",
    "eval('1')": "there is no function 'eval'",
    "getattr(a, 'x')": "there is no function 'getattr'",
    "(lambda: 1)()": "only functions and methods",
    "np.where(lambda: 1, a, b)": "lambdas are not allowed",
    "[x for x in a]": "comprehensions are not allowed",
    "sum(x for x in a)": "there is no function 'sum'. Did you mean: np.sum?",
    "{x: 1 for x in a}": "comprehensions are not allowed",
    "{1, 2}": "Set is not allowed",
    "a and b": "Write & and |",
    "not a": "Write ~(…)",
    "a if b else c": "np.where(c, a, b)",
    "500 < a < 1000": "Write (a < x) & (x < b)",
    "a in [1, 2]": "np.isin",
    "a is None": "Write ==",
    "f'{a}'": "f-strings are not allowed",
    "(a := 1)": "`:=` is not allowed",
    "np.sum(*a)": "`*` before an argument",
    "np.sum(**a)": "the argument '**' is not allowed",
    "np.add(a, b, out=c)": "the argument 'out' is not allowed",
    "{**a}": "`**` is not allowed",
    "np": "'np' alone is not a value",
    "ak.JaggedArray.ones_like(a)": "Did you mean: ak.ones_like?",
    "awkward.to_list2(a)": "Did you mean: ak.to_list",
    "hypot(a, b)": "Did you mean: np.hypot?",
    "_clip_(a)": "Did you mean: _clip?",
    "a +": "is not an expression",
    "a; b": "is not an expression",
    "a = 1": "is not an expression",
    "import os": "is not an expression",
    "": "is not an expression",
    "a)\n+ (b": "is not an expression",
    "a\x00b": "is not an expression",
    "(" * 300 + "a" + ")" * 300: "is not an expression",
    "-" * 500 + "a": "nested too deep",
    "a + " * 6000 + "a": "an expression of 24001 characters",
    "yield a": "is not an expression",
    "await a": "Await is not allowed",
}


@pytest.mark.parametrize("text", REFUSED)
def test_refusals_name_the_place_and_the_remedy(text):
    with pytest.raises(DataConfigError) as caught:
        parse_expression(text, where="data.yaml: selection")
    message = str(caught.value)
    assert message.startswith("data.yaml: selection: ")
    assert REFUSED[text] in message
    assert "\n" not in message


DEFINITIONS = {
    "c": "a + b",
    "a": "x * 2",
    "b": "np.log(a) + y",
    "alone": "z",
    "rand": "np.random.rand(len(x))",
    "next": "rand + 1",
    "t": "aux_training_ * x",
}


def test_resolve_is_transitive_in_any_order():
    branches, ordered = resolve(DEFINITIONS, {"c", "w"})
    assert branches == ("w", "x", "y")
    assert list(ordered) == ["a", "b", "c"]


def test_resolve_leaves_out_what_the_loader_gives():
    assert resolve(DEFINITIONS, {"t"}) == (("x",), {"t": "aux_training_ * x"})


def test_resolve_goes_through_long_chains():
    definitions = {f"v{index}": f"v{index + 1}" for index in range(5000)}
    branches, ordered = resolve(definitions, {"v0"})
    assert branches == ("v5000",)
    assert next(iter(ordered)) == "v4999"


def test_cycles_are_named():
    with pytest.raises(DataConfigError, match=r"new_variables\.b: needs itself \(a → b → a\)"):
        resolve({"a": "b", "b": "a + 1"}, {"a"})


def test_on_the_fly():
    assert on_the_fly(DEFINITIONS, {"c", "next", "t"}) == {"rand", "next", "t"}
    assert on_the_fly({"v": "shake(x)"}, {"v"}, functions={"shake": True}) == {"v"}
    assert on_the_fly({"v": "_batch_permute_indices(x)"}, {"v"}) == {"v"}
    assert on_the_fly({"v": "shake(x)"}, {"v"}, functions={"shake": False}) == set()


def test_normal_form_ignores_layout_and_comments():
    assert normal_form("a+b") == normal_form(" a +\n  b # sum") == "a + b"
    assert normal_form("a+b") != normal_form("b+a")
