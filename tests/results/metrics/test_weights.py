"""Event weights that are negative, as beyond leading order, or add up to nothing. References: pairs of events, numpy."""

import itertools
import math

import numpy as np
import pytest
import scipy.stats
import sklearn.metrics

from weaver_tasks.results.metrics.classification import (
    accuracy,
    auc,
    auc_matrix,
    binomial_interval,
    confusion_counts,
    confusion_matrix,
    rejection,
)
from weaver_tasks.results.metrics.evaluation import evaluate_classification, evaluate_regression
from weaver_tasks.results.metrics.regression import central_quantiles, regression_summary
from weaver_tasks.results.metrics.roc import area, pair_ratio
from weaver_tasks.results.predictions.columns import Predictions
from weaver_tasks.settings.model import EvaluationSettings


@pytest.fixture(scope="module")
def signed(scored):
    return np.random.default_rng(7).choice([0.01, -0.01], len(scored.labels), p=[0.85, 0.15])


def chance(signal, background, weights):
    """That a signal event has the higher value: over all pairs of events."""
    higher = (signal[:, None] > background) + 0.5 * (signal[:, None] == background)
    both = weights[0][:, None] * weights[1]
    return float((both * higher).sum() / both.sum())


def test_areas_are_those_over_all_pairs(scored, signed):
    matrix = auc_matrix(scored.scores, scored.labels, signed)
    members = [scored.labels == index for index in range(10)]
    for i, j in ((0, 1), (3, 8), (2, 9)):
        ratio = np.round(pair_ratio(scored.scores, j, i), 3)  # ties
        given = (ratio[members[j]], ratio[members[i]], signed[members[j]], signed[members[i]])
        assert area(*given) == pytest.approx(chance(*given[:2], given[2:]), abs=1e-12)
        assert matrix[i, j] == pytest.approx(
            area(pair_ratio(scored.scores, j, i)[members[j]], pair_ratio(scored.scores, j, i)[members[i]], *given[2:])
        )
    pairs = [
        chance(scored.scores[members[i], i], scored.scores[members[j], i], (signed[members[i]], signed[members[j]]))
        for i, j in itertools.permutations(range(10), 2)
    ]
    assert auc(scored.scores, scored.labels, signed) == pytest.approx(np.mean(pairs), abs=1e-12)


def test_accuracy_and_its_error(scored, signed):
    right = scored.scores.argmax(axis=1) == scored.labels
    value, error = accuracy(scored.scores, scored.labels, signed)
    assert value == pytest.approx((signed * right).sum() / signed.sum())
    # Of events that are drawn again and again: how much the ratio of the sums varies.
    generator = np.random.default_rng(1)
    drawn = [generator.integers(0, len(right), len(right)) for _ in range(2000)]
    spread = np.std([(signed[which] * right[which]).sum() / signed[which].sum() for which in drawn])
    assert error == pytest.approx(spread, rel=0.1)
    assert accuracy(scored.scores, scored.labels, np.full(len(right), 3.0)) == pytest.approx(accuracy(scored.scores, scored.labels))


def test_a_class_of_no_weight_is_like_one_of_no_events(scored):
    weights = np.where(scored.labels == 4, 0.0, 1.0)
    kept = scored.labels != 4
    assert auc(scored.scores, scored.labels, weights) == pytest.approx(auc(scored.scores[kept], scored.labels[kept]), abs=1e-12)
    matrix = auc_matrix(scored.scores, scored.labels, weights)
    assert np.isnan(matrix[4]).all()
    assert np.isfinite(matrix).sum() == 72
    assert np.isnan(confusion_matrix(confusion_counts(scored.scores, scored.labels, weights))[4]).all()
    negative = confusion_matrix(confusion_counts(scored.scores, scored.labels, np.where(scored.labels == 4, -1.0, 1.0)))
    assert np.isnan(negative[4]).all()
    nothing = rejection(np.ones(3), np.ones(4), signal_efficiency=0.5, background_weights=np.zeros(4))
    assert all(math.isnan(nothing[name]) for name in ("rejection", "error", "low", "high", "at_least"))


@pytest.mark.parametrize(("passing", "entries"), [(1, 40), (3, 200), (199, 200), (200, 200)])
def test_rejections_have_exact_intervals(passing, entries):
    background = np.where(np.arange(entries) < passing, 0.9, 0.1)
    found = rejection(np.full(10, 0.8), background, signal_efficiency=0.5)
    exact = scipy.stats.binomtest(passing, entries).proportion_ci(0.6826894921370859, method="exact")
    assert found["rejection"] == pytest.approx(entries / passing)
    assert (found["low"], found["high"]) == pytest.approx((1 / exact.high, 1 / exact.low))
    assert found["low"] <= found["rejection"] <= found["high"]


def test_rejection_with_negative_weights():
    weights = np.array([1.0, 1, -1, 1, 1, 1, 1, 1, -1, 1])
    background = np.array([0.9, 0.9, 0.9] + [0.1] * 7)
    found = rejection(np.full(5, 0.5), background, signal_efficiency=0.5, background_weights=weights)
    assert found["rejection"] == pytest.approx(6)
    entries = 36 / 10
    (low,), (high,) = binomial_interval(np.array([1 / 6]), np.array([entries]))
    assert (found["low"], found["high"]) == pytest.approx((1 / high, 1 / low))
    # Positive and negative ones that pass cancel, up to rounding.
    cancelled = rejection(np.full(5, 0.5), background, signal_efficiency=0.5, background_weights=np.array([0.1, 0.2, -0.3] + [1.0] * 7))
    assert math.isnan(cancelled["rejection"])
    assert cancelled["at_least"] > 1
    below = rejection(np.full(5, 0.5), background, signal_efficiency=0.5, background_weights=np.array([-1.0] * 3 + [1.0] * 7))
    assert math.isnan(below["rejection"])
    assert below["background_efficiency"] == pytest.approx(-3 / 4)


def test_an_interval_of_what_is_no_fraction_is_none():
    low, high = binomial_interval(np.array([-0.1, 0.5, 1.2, 1 + 1e-14]), np.array([10.0, 10, 10, 10]))
    assert np.isnan(low).tolist() == [True, False, True, False]
    assert high[3] == 1


@pytest.mark.parametrize("seed", range(5))
def test_quantiles_equal_numpys(seed):
    generator = np.random.default_rng(seed)
    values = np.round(generator.normal(size=300), 2)  # ties
    weights = generator.uniform(0, 2, 300) * (generator.random(300) > 0.2)
    expected = np.quantile(values, (0.158655, 0.5, 0.841345), weights=weights, method="inverted_cdf")
    np.testing.assert_array_equal(central_quantiles(values, weights), expected)


def test_quantiles_with_negative_weights_are_the_first_crossings():
    values, weights = np.array([5.0, 1, 2, 3, 4]), np.array([2.0, 1, 2, -1, 1])  # sums by value: 1 3 2 3 5
    assert central_quantiles(values, weights) == (1, 2, 5)
    # Of equal values only their sum counts.
    assert central_quantiles(np.array([1.0, 2, 2, 3]), np.array([1.0, 5, -5, 3]))[1] == 3
    assert all(map(math.isnan, central_quantiles(np.ones(3), np.array([1.0, -1, 0]))))
    assert all(map(math.isnan, central_quantiles(np.empty(0), np.empty(0))))


def test_regression_with_negative_weights():
    generator = np.random.default_rng(2)
    target = generator.uniform(1, 2, 500)
    predicted = target * generator.normal(1.1, 0.1, 500)
    weights = generator.choice([1.0, -1], 500, p=[0.9, 0.1])
    found = regression_summary(predicted, target, weights)
    difference = predicted - target
    bias = (weights * difference).sum() / weights.sum()
    assert found["bias"] == pytest.approx(bias)
    assert found["bias_error"] == pytest.approx(math.sqrt((weights**2 * (difference - bias) ** 2).sum()) / weights.sum())
    assert found["rms"] == pytest.approx(math.sqrt((weights * (difference - bias) ** 2).sum() / weights.sum()))
    assert found["resolution"] > 0
    nothing = regression_summary(predicted[:2], target[:2], np.array([1.0, -1]))
    assert nothing["entries"] == 2
    assert all(math.isnan(value) for name, value in nothing.items() if name != "entries")
    # Of a negative variance there is no root.
    assert math.isnan(regression_summary(np.array([0.0, 1, 2]), np.zeros(3), np.array([-1.0, 3, -1]))["rms"])


def predictions(scored, weights, **more):
    names = tuple(f"class_{index}" for index in range(10))
    return Predictions(
        classes=names, scores=scored.scores, labels=scored.labels, groups=scored.groups, observers=scored.observers, weights=weights, **more
    )


def test_what_weights_do_not_allow_is_warned_of(scored):
    weights = np.where(scored.labels == 4, 0.0, 1.0)
    weights[scored.groups["TTBar"]] = -1
    figures = evaluate_classification(predictions(scored, weights), EvaluationSettings(metrics=["log_loss", "accuracy_score"]))
    told = "\n".join(figures["warnings"])
    assert "100 of 1,000 jets have negative weights" in told
    for what in ("group HToWW4Q", "class class_4", "group TTBar", "class class_8"):
        assert f"the weights of {what} do not add up to more than zero" in told
    assert math.isnan(figures["groups"]["TTBar"]["accuracy"])
    expected = sklearn.metrics.accuracy_score(scored.labels, scored.scores.argmax(axis=1), sample_weight=weights)
    assert figures["metrics"]["accuracy_score"] == pytest.approx(expected)


def test_a_metric_that_scikit_learn_refuses_for_the_weights_is_null(scored):
    """It takes no negative ones in everything."""
    two = scored.labels < 2
    weights = np.where(np.arange(two.sum()) % 5 == 0, -1.0, 1.0)
    found = Predictions(
        classes=("a", "b"),
        scores=scored.scores[two][:, :2],
        labels=scored.labels[two],
        groups={"all": slice(0, int(two.sum()))},
        observers={},
        weights=weights,
    )
    figures = evaluate_classification(found, EvaluationSettings(metrics=["roc_auc_score", "average_precision_score"]))
    assert figures["auc"] is not None
    assert figures["metrics"]["roc_auc_score"] is None
    assert any("'roc_auc_score' cannot be computed" in warning and "null" in warning for warning in figures["warnings"])


def test_targets_that_are_not_finite_are_left_out(scored):
    target = scored.observers["jet_pt"].astype(np.float64).copy()
    predicted = np.stack([target * 1.1, np.ones(1000)], axis=1)
    target[::10] = np.nan
    found = Predictions(
        classes=(),
        scores=predicted,
        labels=None,
        targets={"pt": target, "one": np.ones(1000)},
        groups=scored.groups,
        observers={},
        weights=None,
    )
    figures = evaluate_regression(found, EvaluationSettings(metrics=["r2_score"]))
    kept = np.isfinite(target)
    assert (figures["targets"]["pt"]["entries"], figures["targets"]["pt"]["entries_not_finite"]) == (900, 100)
    assert figures["targets"]["pt"]["bias"] == pytest.approx((0.1 * target[kept]).mean())
    assert figures["targets"]["pt"]["metrics"]["r2_score"] == pytest.approx(sklearn.metrics.r2_score(target[kept], predicted[kept, 0]))
    assert figures["targets"]["one"]["entries"] == 1000
    assert any("100 of 1,000 jets have a pt that is NaN or infinite" in warning for warning in figures["warnings"])
