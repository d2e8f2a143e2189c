import math

import numpy as np
import pytest

from weaver_tasks.results.metrics.regression import central_quantiles, regression_by_bins, regression_summary


@pytest.fixture(scope="module")
def smeared(scored):
    """The jets' pt, and the same smeared by 8 % and shifted by 2 %."""
    target = scored.observers["jet_pt"].astype(np.float64)
    return target * np.random.default_rng(6).normal(1.02, 0.08, len(target)), target


def test_bias_and_resolution_find_the_smearing(smeared):
    figures = regression_summary(*smeared)
    assert figures["response"] == pytest.approx(1.02, abs=0.01)
    assert figures["relative_resolution"] == pytest.approx(0.08, rel=0.1)
    difference = smeared[0] - smeared[1]
    assert figures["bias"] == pytest.approx(difference.mean())
    assert figures["bias_error"] == pytest.approx(difference.std() / math.sqrt(len(difference)))
    low, median, high = np.percentile(difference, [15.8655, 50, 84.1345])
    assert figures["median_bias"] == pytest.approx(median)
    assert figures["resolution"] == pytest.approx((high - low) / 2)


def test_weights_are_repetitions(smeared):
    predicted, target = (values[:200] for values in smeared)
    counts = np.arange(200) % 3 + 1
    weighted = regression_summary(predicted, target, counts.astype(np.float64))
    repeated = regression_summary(np.repeat(predicted, counts), np.repeat(target, counts))
    assert weighted["bias"] == pytest.approx(repeated["bias"])
    assert weighted["rms"] == pytest.approx(repeated["rms"])
    assert weighted["resolution"] == pytest.approx(repeated["resolution"], rel=0.02)


def test_bins_hold_equally_many_and_all(smeared):
    rows = regression_by_bins(*smeared, bins=8)
    assert sum(row["entries"] for row in rows) == len(smeared[1])
    assert {row["entries"] for row in rows} == {125}
    inside = (smeared[1] >= rows[3]["low"]) & (smeared[1] < rows[3]["high"])
    assert rows[3]["bias"] == pytest.approx((smeared[0] - smeared[1])[inside].mean())


def test_targets_of_any_sign_and_none(smeared):
    figures = regression_summary(smeared[0] - 600, smeared[1] - 600)
    assert math.isnan(figures["relative_resolution"])
    assert figures["resolution"] > 0
    empty = regression_summary(np.empty(0), np.empty(0))
    assert empty["entries"] == 0
    assert math.isnan(empty["bias"])
    assert regression_by_bins(np.empty(0), np.empty(0)) == []
    assert regression_by_bins(np.ones(5), np.full(5, 2.0))[0]["entries"] == 5


def test_central_quantiles_of_a_gaussian():
    low, median, high = central_quantiles(np.random.default_rng(2).normal(3, 2, 200_000))
    assert (low, median, high) == pytest.approx((1, 3, 5), abs=0.03)
