"""What the plots of a classifier draw: intervals, limits, and nothing that is not defined."""

import numpy as np
import pytest
from matplotlib.figure import Figure

from weaver_tasks.results.metrics.classification import binomial_interval, rejection
from weaver_tasks.results.plots.classification import _efficiency, _roc_label, _working_point
from weaver_tasks.results.predictions.columns import Predictions


def drawn_axes(*, log):
    axes = Figure().add_subplot()
    axes.set_yscale("log" if log else "linear")
    return axes


def test_a_rejections_bar_is_its_interval():
    point = rejection(np.full(10, 0.8), np.where(np.arange(200) < 1, 0.9, 0.1), signal_efficiency=0.5)
    axes = drawn_axes(log=True)
    assert _working_point(axes, point, color="black") == pytest.approx(point["high"])
    (segment,) = axes.containers[0].lines[2][0].get_segments()
    assert segment[:, 1].tolist() == pytest.approx([point["low"], point["high"]])
    assert _roc_label("label_Hbb", point) == "Hbb: 200 (+958 \N{MINUS SIGN}139) at 50 %"


def test_a_rejection_without_passing_background_is_an_arrow():
    point = rejection(np.full(10, 0.8), np.full(200, 0.1), signal_efficiency=0.5)
    axes = drawn_axes(log=True)
    assert _working_point(axes, point, color="black") > point["at_least"]
    assert axes.containers[0].lines[0].get_ydata().tolist() == [point["at_least"]]
    assert "> 67.3 (95 % CL)" in _roc_label("label_Hbb", point)


@pytest.mark.parametrize("log", [True, False])
def test_bins_of_which_nothing_passes_show_their_limit(log):
    values, edges = np.repeat([0.5, 1.5, 2.5], [50, 50, 3]), np.arange(4.0)
    passing = (np.arange(103) < 10) & (values < 1)
    found = Predictions(
        classes=("a",), scores=np.ones((103, 1)), labels=np.zeros(103, int), groups={}, observers={"x": values}, weights=None
    )
    axes = drawn_axes(log=log)
    _efficiency(axes, found, values, 0, edges, passing, 0.0, label="cut", color="black")
    low, high = binomial_interval(np.array([0.2, 0.0]), np.array([50.0, 50.0]))
    points = axes.containers[0].lines[0].get_xydata()
    if log:
        np.testing.assert_allclose(points, [[0.5, 0.2]])
        np.testing.assert_allclose(axes.containers[1].lines[0].get_xydata(), [[1.5, high[1]]])
        assert axes.get_legend_handles_labels()[1] == ["cut"]
    else:
        np.testing.assert_allclose(points, [[0.5, 0.2], [1.5, 0]])
        bars = [segment[:, 1].tolist() for segment in axes.containers[0].lines[2][0].get_segments()]
        np.testing.assert_allclose(bars, np.stack([low, high], axis=1))


def test_bins_whose_weights_leave_no_fraction_are_not_drawn():
    values, edges = np.repeat([0.5, 1.5], 50), np.arange(3.0)
    weights = np.ones(100)
    weights[50:60] = -1
    passing = np.ones(100, bool)
    passing[50:60] = False  # 40 of 30 pass, by weight
    found = Predictions(
        classes=("a",), scores=np.ones((100, 1)), labels=np.zeros(100, int), groups={}, observers={"x": values}, weights=weights
    )
    axes = drawn_axes(log=False)
    _efficiency(axes, found, values, 0, edges, passing, 0.0, label="cut", color="black")
    np.testing.assert_allclose(axes.containers[0].lines[0].get_xydata(), [[0.5, 1]])
