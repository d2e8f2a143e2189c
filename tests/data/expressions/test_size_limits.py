"""What an expression makes is bounded, and columns cannot be overwritten."""

from __future__ import annotations

import contextlib

import awkward as ak
import numpy as np
import pytest

from weaver_tasks.base.errors import DataConfigError
from weaver_tasks.data.expressions.evaluation import evaluate
from weaver_tasks.data.expressions.functions import expression_functions

FUNCTIONS = expression_functions()
COUNTS = np.array([300, 0, 200])
PARTICLES = ak.unflatten(np.arange(500.0), COUNTS)
MANY = ak.unflatten(np.arange(60_000.0), [20_000] * 3)


def table() -> dict[str, ak.Array]:
    return {"x": ak.Array([0.5, -1.0, 2.0]), "y": ak.Array([3.0, 4.0, 5.0]), "p": PARTICLES, "many": MANY, "k": ak.Array([3, -1, 1])}


@pytest.mark.parametrize(
    "text",
    [
        "np.ones(2*10**9)",
        "np.zeros((10**5, 10**5))",
        "np.full(10**10, 1.0)",
        "np.ones_like(x, shape=10**10)",
        "np.arange(10**10)",
        "np.arange(0, 1, 1e-10)",
        "np.linspace(0, 1, 10**10)",
        "np.eye(10**5)",
        "np.meshgrid(" + ", ".join(["p[0]"] * 15) + ")",
        "np.tile(x, 10**10)",
        "np.repeat(x, 10**10)",
        "np.asarray(x).repeat(10**10)",
        "np.broadcast_to(x, (10**10, 3))",
        "np.outer(np.arange(10**5), np.arange(10**5))",
        "np.asarray(np.arange(10**5))[:, None] * np.arange(10**5)",
        "np.add(np.arange(10**5)[:, None], np.arange(10**5))",
        "np.bincount(np.array([10**10]))",
        "np.random.normal(0, 1, 10**10)",
        "np.random.rand(10**5, 10**5)",
        "np.random.poisson(2.0, size=10**10)",
        "ak.cartesian([many, many])",
        "ak.cartesian([p, p, p, p])",
        "ak.argcartesian({'a': many, 'b': many})",
        "ak.combinations(p, 8)",
        "ak.combinations(many, 2, replacement=True)",
        "_pad(p, 10**9)",
        "ak.pad_none(p, 10**9)",
        "np.power(10**300, 10**6)",
        "np.array([10**300]) ** 10**6",
        "np.asarray(y).astype('O') ** 1000000",
        "np.array([7], dtype='object') ** 10**9",
    ],
)
def test_too_much_is_told_before_memory_is_gone(text: str) -> None:
    tracked = pytest.importorskip("tracemalloc")
    tracked.start()
    try:
        with pytest.raises(DataConfigError, match=r"new_variables\.a: .* cannot be computed"):
            evaluate(text, table(), FUNCTIONS, where="new_variables.a")
        assert tracked.get_traced_memory()[1] < 50e6
    finally:
        tracked.stop()


@pytest.mark.parametrize(
    "text",
    [
        "ak.max(ak.combinations(p, 2)['0'], axis=1)",
        "ak.num(ak.cartesian([p, p]))",
        "ak.num(ak.cartesian({'a': p, 'b': p}, nested=True))",
        "np.repeat(np.arange(3), 1)",
        "_pad(p, 128)",
        "ak.pad_none(p, 5)",
        "np.meshgrid(np.arange(3), np.arange(4))[0]",
        "np.random.normal(0, 1, 3)",
        "np.random.randint(0, 10**12, 3)",
        "np.random.uniform(0, 1, 3)",
        "np.stack([x, y], axis=1)",
        "np.arange(3)[:, None] * np.arange(3)",
        "ak.unflatten(np.arange(4), np.array([3, 0, 1]))",
        "np.histogram(x, bins=[0, 1, 2])[0]",
        "np.hypot(x, y)",
        "ak.values_astype(p, 'float32')",
    ],
)
def test_ordinary_ones_are_computed(text: str) -> None:
    assert len(evaluate(text, table(), FUNCTIONS)) > 0


@pytest.mark.parametrize(
    "text",
    [
        "np.clip(x, 0, 1, x)",
        "x.clip(0, 1, x)",
        "np.clip(y, 0, 1, x)",
        "np.nan_to_num(x, False, 7.0)",
        "np.cumsum(x, None, None, x)",
        "np.around(x, 0, x)",
        "np.asarray(x).cumsum(0, None, x)",
        "np.clip(ak.flatten(p), 0, 1, ak.flatten(p))",
    ],
)
def test_a_column_is_not_overwritten(text: str) -> None:
    columns = table()
    columns["x"] = ak.Array([0.5, np.nan, 2.0])
    before = {name: ak.to_list(array) for name, array in columns.items() if name != "many"}
    with contextlib.suppress(DataConfigError):
        evaluate(text, columns, FUNCTIONS)
    for name, values in before.items():
        assert str(ak.to_list(columns[name])) == str(values), name


def test_a_numpy_column_is_not_overwritten_and_stays_writeable() -> None:
    x = np.array([0.5, -1.0, 2.0])
    with pytest.raises(DataConfigError, match="read-only"):
        evaluate("np.clip(x, 0, 1, x)", {"x": x}, FUNCTIONS)
    assert x.tolist() == [0.5, -1.0, 2.0]
    x[0] = 1


@pytest.mark.parametrize("text", ["ak.unflatten(np.arange(3), k)", "ak.unflatten(np.arange(3), [3, -1, 1])"])
def test_lists_of_negative_length_are_refused(text: str) -> None:
    with pytest.raises(DataConfigError, match=r"new_variables\.a: .*negative count"):
        evaluate(text, table(), FUNCTIONS, where="new_variables.a")
