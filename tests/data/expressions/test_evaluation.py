"""Expressions computed on real jets: the same numbers, types and shapes as weaver-core's eval gives."""

import os
import random
from typing import Any

import awkward as ak
import numpy as np
import pytest
import uproot
import yaml

from weaver_tasks.base.errors import DataConfigError
from weaver_tasks.data.configuration import dump_auto, fingerprints, load_data_configuration
from weaver_tasks.data.expressions.elementwise import flat_columns
from weaver_tasks.data.expressions.evaluation import evaluate
from weaver_tasks.data.expressions.functions import expression_functions
from weaver_tasks.data.expressions.grammar import HELPERS, METHODS, PROPERTIES, RANDOM_HELPERS
from weaver_tasks.data.expressions.parsing import parse_expression, resolve


@pytest.fixture(scope="module")
def jets_table(jets):
    with uproot.open(jets / "test" / "HToBB.root") as file:
        return file["tree"].arrays(entry_stop=60)


@pytest.fixture(scope="module")
def functions():
    return expression_functions()


@pytest.fixture(scope="module")
def weaver_eval():
    pytest.importorskip("weaver")
    from weaver.utils.data.eval_utils import _eval_expr

    return _eval_expr


def columns(table):
    return {name: table[name] for name in table.fields}


def assert_same(ours, theirs):
    assert type(ours) is type(theirs)
    if isinstance(ours, ak.Array):
        assert ours.type == theirs.type
        assert ak.array_equal(ours, theirs, equal_nan=True)
    else:
        np.testing.assert_array_equal(ours, theirs)
        assert np.asarray(ours).dtype == np.asarray(theirs).dtype


AS_WEAVER = """
np.hypot(part_px, part_py)
np.log(part_energy/jet_energy)
ak.ones_like(part_energy)
np.tanh(part_d0val)
1-label_QCD
(jet_pt>500) & (np.abs(jet_eta)<2) | ~(jet_sdmass>100)
jet_nparticles%7!=0
jet_nparticles//2 ** 2
-jet_pt + +jet_eta
ak.sum(part_px, axis=1)
ak.num(part_px)
part_px[:, :3]
part_px[part_px > 0]
part_px[:, ::-1]
ak.firsts(part_px)
ak.argmax(part_energy, axis=1, keepdims=True)
part_energy[ak.argmax(part_energy, axis=1, keepdims=True)]
np.where(jet_pt > 600, jet_pt, 0)
np.maximum(1, np.where(label_QCD, jet_sdmass, jet_tau1))
np.log(0 * jet_pt)
math.pi * jet_eta + math.sqrt(2)
ak.to_numpy(jet_pt).astype('int64')
ak.to_numpy(jet_pt).argmax()
np.stack([ak.to_numpy(jet_pt), ak.to_numpy(jet_eta)], axis=1).sum(1)
len(jet_pt)
ak.values_astype(part_charge, np.bool_) & ~ak.values_astype(part_isMuon, np.bool_)
ak.fill_none(ak.pad_none((part_charge != 0), 50, axis=1, clip=True), -1)
np.array(ak.to_numpy(ak.fill_none(ak.pad_none(part_charge, 50, axis=1, clip=True), -2), allow_missing=True))
ak.Array([0.02])
ak.zip({'x': part_px, 'y': part_py}).y
ak.unflatten(ak.flatten(part_px), ak.num(part_px))
_clip(part_d0val, -1, 1)
_clip(jet_pt, 500, 600)
_pad(part_px, 20, value=-1)
_pad(part_px, 200)
_pad(jet_pt, 3)
_pad(part_px[part_px > 1e6], 4)
_repeat_pad(part_px, 200)
_repeat_pad(part_px[part_px > 30], 10)
_repeat_pad(jet_pt, 3)
_pad(ak.to_numpy(_pad(part_px, 20)), 20)
_pad(ak.to_list(part_px), 7)
_concat([jet_pt, jet_eta])
_concat([part_px, part_py], axis=1)
_concat([])
_stack([ak.to_numpy(jet_pt), ak.to_numpy(jet_eta)])
_stack([jet_pt, jet_eta], axis=0)
_stack([jet_pt, jet_eta])
_hash(jet_pt, jet_eta)
_batch_argsort(part_energy)
_batch_gather(part_px, _batch_argsort(part_energy))
_batch_permute_and_drop_indices(part_px, random_permute=False)
_p4_from_pxpypze(part_px, part_py, part_pz, part_energy).pt
_p4_from_pxpypze(part_px, part_py, part_pz, part_energy).eta
_p4_from_ptetaphie(jet_pt, jet_eta, jet_phi, jet_energy).mass
_p4_from_ptetaphie(jet_pt, jet_eta, jet_phi, jet_energy).px
_p4_from_ptetaphim(jet_pt, jet_eta, jet_phi, jet_sdmass).energy
_p4_from_ptetaphim(jet_pt, jet_eta, jet_phi, jet_sdmass).deltaR(_p4_from_ptetaphie(jet_pt, -jet_eta, jet_phi, jet_energy))
(_p4_from_ptetaphim(jet_pt, jet_eta, jet_phi, jet_sdmass) + _p4_from_ptetaphie(jet_pt, jet_eta, jet_phi, jet_energy)).mass
ak.sum(_p4_from_pxpypze(part_px, part_py, part_pz, part_energy), axis=1).mass
""".strip().splitlines()


@pytest.mark.parametrize("text", AS_WEAVER)
@pytest.mark.filterwarnings("ignore:divide by zero:RuntimeWarning")
def test_as_weaver(text, jets_table, functions, weaver_eval):
    ours, theirs = evaluate(text, columns(jets_table), functions), weaver_eval(text, jets_table)
    assert_same(ours, theirs)


@pytest.mark.parametrize(
    ("text", "numpy_text"),
    [
        ("abs(jet_eta) < 1", "np.abs(jet_eta) < 1"),
        ("sqrt(part_px**2 + part_py**2)", "np.sqrt(part_px**2 + part_py**2)"),
        ("where(jet_pt > 600, 1, 0)", "np.where(jet_pt > 600, 1, 0)"),
        ("(\njet_pt > 600\n)\n& (jet_eta > 0)  # forward", "(jet_pt > 600) & (jet_eta > 0)"),
    ],
)
def test_more_than_weaver(text, numpy_text, jets_table, functions, weaver_eval):
    assert_same(evaluate(text, columns(jets_table), functions), weaver_eval(numpy_text, jets_table))


def test_knn_finds_the_nearest(functions, jets_table):
    points = np.random.default_rng(1).normal(size=(30, 3)).astype("float32")
    found = evaluate("_knn(points, points[:5], 4)", {"points": points}, functions)
    distances = np.linalg.norm(points[:5, None] - points[None], axis=2)
    np.testing.assert_array_equal(found, np.argsort(distances, axis=1)[:, :4])
    supports = [points[:10], points[10:30]]
    batch = evaluate("_batch_knn(supports, supports, 2, 12)", {"supports": supports}, functions)
    assert batch.shape == (2, 12, 2)
    assert batch.dtype == np.int32
    np.testing.assert_array_equal(batch[0, :10, 0], np.arange(10))
    assert np.all(batch[0, 10:] == 11)


def test_events_without_particles(functions):
    table = {"x": ak.Array([[], [1.0, 2.0], []])[[0, 1, 2]], "none": ak.Array([[1.0]])[:0]}
    np.testing.assert_array_equal(evaluate("_repeat_pad(x, 3)", table, functions), [[0, 0, 0], [1, 2, 1], [0, 0, 0]])
    np.testing.assert_array_equal(evaluate("_pad(x, 3, value=9)", table, functions), [[9, 9, 9], [1, 2, 9], [9, 9, 9]])
    assert evaluate("_pad(none, 3)", table, functions).shape == (0, 3)
    assert evaluate("_repeat_pad(none, 3)", table, functions).shape == (0, 3)


def test_permutations_are_seeded_and_complete(jets_table):
    def draw(seed):
        functions = expression_functions(random=np.random.RandomState(seed))
        return evaluate("_batch_permute_indices(part_px)", columns(jets_table), functions)

    assert ak.array_equal(draw(1), draw(1))
    assert not ak.array_equal(draw(1), draw(2))
    assert ak.array_equal(ak.sort(draw(1)), ak.local_index(jets_table.part_px))


def test_dropping_keeps_between_the_rates(jets_table):
    functions = expression_functions(random=np.random.RandomState(3))
    text = "_batch_permute_and_drop_indices(part_px, drop_rate_min=0.3, drop_rate_max=0.5, min_elements=2)"
    kept, counts = ak.num(evaluate(text, columns(jets_table), functions)), ak.num(jets_table.part_px)
    assert ak.all(kept >= np.maximum(2, np.round(counts * 0.5) - 1))
    assert ak.all(kept <= np.round(counts * 0.7) + 1)
    with pytest.raises(DataConfigError, match="0 < min <= max < 1"):
        evaluate("_batch_permute_and_drop_indices(part_px, drop_rate_min=0.5)", columns(jets_table), functions)


OWN = """
import numpy as np
import random

SCALE = 2

def doubled(x):
    return SCALE * x

def noisy(x):
    return x + np.random.rand(len(x)) + random.random()

def broken(x):
    return x.no_such_attribute
"""


def test_own_functions(tmp_path, jets_table):
    (tmp_path / "own.py").write_text(OWN)
    table = columns(jets_table)
    functions = expression_functions(tmp_path / "own.py", random=np.random.RandomState(1))
    assert_same(evaluate("doubled(jet_pt) + 1", table, functions), 2 * jets_table.jet_pt + 1)
    with pytest.raises(DataConfigError, match=r"new_variables\.x: 'broken\(jet_pt\)' cannot be computed \(AttributeError"):
        evaluate("broken(jet_pt)", table, functions, where="data.yaml: new_variables.x")


def test_own_random_functions_are_seeded_and_leave_the_global_generators_alone(tmp_path, jets_table):
    (tmp_path / "own.py").write_text(OWN)
    table = columns(jets_table)

    def draw(seed):
        return evaluate("noisy(jet_pt)", table, expression_functions(tmp_path / "own.py", random=np.random.RandomState(seed)))

    before = np.random.get_state()[1].copy(), random.getstate()
    assert ak.array_equal(draw(1), draw(1))
    assert not ak.array_equal(draw(1), draw(2))
    np.testing.assert_array_equal(np.random.get_state()[1], before[0])
    assert random.getstate() == before[1]


@pytest.mark.parametrize("source", ["def f(:\n", "import no_such_module_at_all\n"])
def test_own_functions_that_cannot_be_imported(tmp_path, source):
    (tmp_path / "own.py").write_text(source)
    with pytest.raises(DataConfigError, match=r"own\.py"):
        expression_functions(tmp_path / "own.py")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("part_px + part_px[:, :1]", "cannot broadcast"),
        ("no_such_branch + 1", "no_such_branch"),
        ("jet_pt.px", "has no 'px'|cannot be computed"),
        ("jet_pt.layout", "has no 'layout'"),
        ("jet_pt[1000000]", "cannot be computed"),
        ("np.hypot(jet_pt)", "cannot be computed"),
        ("np.hypot(jet_pt, jet_eta, jet_phi)", "takes 2 arguments, not 3"),
        ("'a' * 1000000000", "arithmetic on text and lists"),
        ("[1] * 1000000000", "arithmetic on text and lists"),
        ("'%9999999999s' % jet_pt", "arithmetic on text and lists"),
        ("[1] * np.int64(1000000000)", "arithmetic on text and lists"),
        ("9 ** 9 ** 9", "a whole number of .* bits"),
        ("1 << 100000000", "a whole number of .* bits"),
        ("((10 ** 300) ** 300) ** 300", "a whole number of .* bits"),
        ("10 ** 300 * 10 ** 300", "a whole number of .* bits"),
        ("math.factorial(10 ** 7)", "a whole number above 1000"),
        ("math.comb(10 ** 7, 5 * 10 ** 6)", "a whole number above 1000"),
        ("np.ones(10 ** 13)", "np.ones would make 1e.13 values"),
        ("ak.Array(jet_pt, backend='cuda')", "ModuleNotFoundError"),
        ("jet_pt ** 10 ** 300", "RuntimeError|cannot be computed"),
    ],
)
def test_what_cannot_be_computed_is_told(text, reason, jets_table, functions):
    with pytest.raises(DataConfigError, match=reason) as caught:
        evaluate(text, columns(jets_table), functions, where="data.yaml: selection")
    assert str(caught.value).startswith(f"data.yaml: selection: '{text}' cannot be computed")
    assert "\n" not in str(caught.value)


def test_columns_of_the_names_of_functions(functions):
    table = {"abs": np.array([1, -2]), "where": np.array([3, 4])}
    np.testing.assert_array_equal(evaluate("abs(abs) + where", table, functions), [4, 6])


def test_every_listed_name_exists(functions):
    assert all(callable(functions[name]) for name in HELPERS)
    vectors = evaluate("_p4_from_pxpypze(x, x, x, e)", {"x": np.ones(2), "e": np.full(2, 3.0)}, functions)
    holders = (vectors, np.ones(2), vectors.pt)
    missing = [name for name in PROPERTIES | METHODS if not any(hasattr(holder, name) for holder in holders)]
    assert missing == []
    assert RANDOM_HELPERS <= HELPERS


@pytest.mark.parametrize("name", ["jetclass_full", "jetclass_kinpid", "jetclass_kin"])
def test_shipped_configurations_compute_all_their_inputs(name, repository, jets_table, functions, weaver_eval):
    configuration = load_data_configuration(repository / "config" / "data" / f"{name}.yaml")
    variables = [variable.name for group in configuration.inputs for variable in group.variables]
    table = columns(jets_table)
    branches, definitions = resolve(configuration.definitions, variables)
    assert set(branches) <= set(jets_table.fields)
    for variable, text in definitions.items():
        table[variable] = evaluate(text, table, functions)
    theirs = jets_table[jets_table.fields]
    for variable in configuration.raw["new_variables"]:
        theirs[variable] = weaver_eval(configuration.raw["new_variables"][variable], theirs)
    for variable in variables:
        assert_same(table[variable], theirs[variable])


def made_up(branches, events=40):
    """A table of random numbers: integers for flags and counts, one list per event for the particles' branches."""
    generator = np.random.default_rng(5)
    counts = {prefix: generator.integers(0, 9, events) for prefix in ("pfcand_", "sv_", "part_")}
    table = {}
    for name in branches:
        prefix = next((prefix for prefix in counts if name.startswith(prefix)), None)
        size = counts[prefix].sum() if prefix else events
        whole = any(word in name for word in ("Flavour", "Hadrons", "event_no", "label"))
        values = generator.integers(0, 3, size) if whole else generator.uniform(0.1, 60, size).astype("float32")
        table[name] = ak.unflatten(values, counts[prefix]) if prefix else ak.Array(values)
    return ak.zip(table, depth_limit=1)


@pytest.mark.parametrize("name", ["ak4_flavor", "quark_gluon", "top_landscape"])
def test_shipped_configurations_of_other_data_compute_as_weaver(name, repository, functions, weaver_eval):
    configuration = load_data_configuration(repository / "config" / "data" / f"{name}.yaml")
    table = made_up(fingerprints.staging(configuration, "train")["branches"])
    ours, theirs = columns(table), table
    for variable, text in configuration.raw["new_variables"].items():
        theirs[variable] = weaver_eval(text, theirs)
    for variable, text in resolve(configuration.definitions, configuration.definitions)[1].items():
        ours[variable] = evaluate(text, ours, functions)
    for variable in configuration.raw["new_variables"]:
        assert_same(ours[variable], theirs[variable])
    for selection in {configuration.selection, configuration.test_time_selection} - {None}:
        kept = evaluate(selection, ours, functions)
        assert_same(kept, weaver_eval(selection, theirs))
        assert 0 < ak.sum(kept) < len(kept)


def test_weaver_computes_the_selection_of_an_auto_file(tmp_path, repository, jets_table, functions, weaver_eval):
    from weaver.utils.data.config import DataConfig
    from weaver.utils.data.preprocess import _apply_selection

    document = yaml.safe_load((repository / "config" / "data" / "jetclass_kin.yaml").read_text())
    document["new_variables"] = {
        "many": "n_hard > 5", "n_hard": "ak.sum(part_pt > cut, axis=1)", "cut": "0.01 * jet_pt", **document["new_variables"],
    }  # fmt: skip
    document["selection"] = "many & (abs(jet_eta) < 1.5)  # central\n"
    (tmp_path / "data.yaml").write_text(yaml.safe_dump(document, sort_keys=False))
    configuration = load_data_configuration(tmp_path / "data.yaml")
    (tmp_path / "auto.yaml").write_text(dump_auto(configuration, {}, None))
    theirs = DataConfig.load(tmp_path / "auto.yaml")
    table = columns(jets_table)
    for variable, text in resolve(configuration.definitions, {"many"})[1].items():
        table[variable] = evaluate(text, table, functions)
    selected = jets_table[evaluate(configuration.selection, table, functions)]
    assert 0 < len(selected) < len(jets_table)
    read = jets_table[[name for name in jets_table.fields if name in theirs.train_load_branches]]
    kept = _apply_selection(read, theirs.selection, funcs=theirs.var_funcs)
    assert ak.array_equal(kept.jet_pt, selected.jet_pt)
    assert load_data_configuration(tmp_path / "auto.yaml").selection is not None


def test_evaluation_reads_and_writes_no_file(tmp_path, monkeypatch, jets_table, functions):
    monkeypatch.chdir(tmp_path)
    for text in ("np.save('x', jet_pt)", "jet_pt.tofile('x')", "ak.to_parquet(jet_pt, 'x')", "open('x', 'w')"):
        with pytest.raises(DataConfigError):
            evaluate(text, columns(jets_table), functions)
    assert os.listdir(tmp_path) == []


def test_a_parsed_expression_is_computed_without_parsing_again(jets_table, functions):
    expression = parse_expression("jet_pt * 2")
    assert_same(evaluate(expression, columns(jets_table), functions), jets_table.jet_pt * 2)


@pytest.mark.parametrize(
    "text",
    ["f * 0.5", "i / 2", "i // 2", "u * 3", "f + e", "f * d", "i + e", "b & (f > 2)", "~b", "b * 1", "-f", "i ** 2", "np.hypot(f, e)",
     "np.arctan2(f, 3)", "ak.ones_like(i)", "ak.ones_like(b)", "abs(i)", "np.log(i - 2)", "f > e", "np.pi * f", "1 / (f - 2)"],
)  # fmt: skip
def test_values_at_once_are_what_awkward_computes(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """To the last bit and with the same type."""
    lists = ak.Array([[1.0, 2.0], [], [3.0, np.nan, 7.0]])
    table = {"f": ak.values_astype(lists, np.float32), "b": lists > 1, "d": ak.Array([1.5, 2.5, 0.0])}
    table |= {"i": ak.values_astype(ak.nan_to_num(lists), np.int32), "u": ak.values_astype(ak.nan_to_num(lists), np.uint8)}
    table |= {"e": ak.values_astype(table["d"], np.float32)}
    functions = expression_functions()
    found = []

    def finding(*arguments: Any) -> Any:
        found.append(flat_columns(*arguments))
        return found[-1]

    monkeypatch.setattr("weaver_tasks.data.expressions.evaluation.flat_columns", finding)
    at_once = evaluate(text, table, functions)
    assert found[0] is not None
    monkeypatch.setattr("weaver_tasks.data.expressions.evaluation.flat_columns", lambda *_: None)
    expected = evaluate(text, table, functions)
    assert at_once.type == expected.type
    assert ak.flatten(at_once).to_numpy().tobytes() == ak.flatten(expected).to_numpy().tobytes()
