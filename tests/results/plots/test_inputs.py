"""The plots of the inputs: what is drawn is what was counted."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

from weaver_tasks.results.plots.inputs import _scale, _transformed, plot_no_reweighting, plot_reweighting, plot_standardization

EDGES = np.linspace(0, 10, 101)
CONTENTS = np.linspace(1, 3, 100)


def facts(center, scale, low=-5.0, high=5.0):
    return {"center": center, "scale": scale, "low": low, "high": high, "percentiles": {"16": 2.0, "50": 5.0, "84": 8.0}}


@pytest.mark.parametrize(
    ("center", "scale", "low", "high"),
    [(5.0, 0.5, -5, 5), (5.0, 2.0, -1, 3), (4.0, -1.0, -2, 9)],
    ids=["within", "clipped", "turned round"],
)
def test_the_transformed_histogram_is_that_of_the_transformed_values(center, scale, low, high):
    edges, contents = _transformed((EDGES, CONTENTS), facts(center, scale, low, high))
    assert contents.sum() == pytest.approx(CONTENTS.sum())
    values = np.clip(((EDGES[1:] + EDGES[:-1]) / 2 - center) * scale, low, high)
    assert low <= edges[0] < edges[-1] <= high
    # Up to each edge there is as much as of the values themselves, but for those next to it.
    for edge, cumulative in zip(edges[1:-1], contents.cumsum(), strict=False):
        assert_allclose(cumulative, CONTENTS[values <= edge].sum(), atol=3.1)


def test_a_variable_without_transformation_or_beyond_the_limits():
    assert _transformed((EDGES, CONTENTS), facts(None, 1))[0] is EDGES
    edges, contents = _transformed((EDGES, CONTENTS), facts(100.0, 1.0))
    assert edges.mean() == -5
    assert contents.sum() == pytest.approx(CONTENTS.sum())


@pytest.mark.parametrize(
    ("contents", "scale"),
    [
        (CONTENTS, "linear"),
        (1000 * np.exp(-(np.linspace(-3, 3, 60) ** 2) / 2), "linear"),
        (1000 * np.exp(-np.linspace(0, 9, 60)), "log"),
        ([997, 0, 0, 3], "log"),
        ([600, 0, 400], "linear"),
        ([0, 0], "linear"),
        ([5], "linear"),
    ],
    ids=["flat", "bell", "falling", "rare flag", "flag", "nothing", "one bin"],
)
def test_peaked_variables_get_a_logarithmic_axis(contents, scale):
    assert _scale(np.asarray(contents, dtype=float)) == scale


def test_files_are_written_and_the_same_again(tmp_path):
    variables = {f"variable_{number}": facts(*(None, 1) if number % 3 else (5.0, 0.5)) for number in range(4)}
    histograms = dict.fromkeys(variables, (EDGES, CONTENTS))
    for path in (tmp_path / "one.png", tmp_path / "two.png"):
        assert plot_standardization(variables, histograms, path) == [path, path.with_suffix(".pdf")]
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()


@pytest.mark.parametrize("variables", [1, 3])
def test_reweighting_in_any_number_of_variables(tmp_path, variables):
    edges = {f"x{number}": np.arange(number + 3.0) for number in range(variables)}
    content = {f"label_{number}": np.ones([len(edge) - 1 for edge in edges.values()]) for number in range(10)}
    path = tmp_path / "reweighting.png"
    plot_reweighting(edges, content, content, path)
    assert path.stat().st_size > 5000


def test_why_there_is_nothing_to_show(tmp_path):
    assert plot_no_reweighting("Every event weighs the same", tmp_path / "none.png")[0].exists()
