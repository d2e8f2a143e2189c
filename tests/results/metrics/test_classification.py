import itertools
import math
import subprocess
import sys

import numpy as np
import pytest
import sklearn.metrics

from weaver_tasks.results.metrics.classification import (
    accuracy,
    auc,
    auc_matrix,
    binomial_interval,
    confusion_counts,
    confusion_matrix,
    effective_entries,
    rejection,
)
from weaver_tasks.results.metrics.roc import pair_ratio, roc_curve


@pytest.fixture(scope="module")
def weights(scored):
    return np.random.default_rng(3).uniform(0.2, 3, len(scored.labels))


def test_accuracy_equals_scikit_learn(scored, weights):
    decided = scored.scores.argmax(axis=1)
    value, error = accuracy(scored.scores, scored.labels)
    assert value == pytest.approx(sklearn.metrics.accuracy_score(scored.labels, decided), abs=1e-12)
    assert 0.3 < value < 0.9
    assert error == pytest.approx(math.sqrt(value * (1 - value) / 1000))
    weighted, _ = accuracy(scored.scores, scored.labels, weights)
    assert weighted == pytest.approx(sklearn.metrics.accuracy_score(scored.labels, decided, sample_weight=weights), abs=1e-12)
    assert weighted != value


def test_auc_equals_scikit_learn_one_against_one(scored):
    exact = scored.scores.astype(np.float64)
    exact /= exact.sum(axis=1, keepdims=True)
    expected = sklearn.metrics.roc_auc_score(scored.labels, exact, multi_class="ovo")
    assert auc(exact, scored.labels) == pytest.approx(expected, abs=1e-12)
    assert auc(scored.scores, scored.labels) == pytest.approx(expected, abs=1e-6)


def test_auc_of_two_classes(scored):
    chosen = scored.labels < 2
    scores = scored.scores[chosen][:, :2]
    scores = scores / scores.sum(axis=1, keepdims=True)
    labels = scored.labels[chosen]
    assert auc(scores, labels) == pytest.approx(sklearn.metrics.roc_auc_score(labels, scores[:, 1]), abs=1e-12)


def test_auc_leaves_out_classes_without_events(scored):
    chosen = np.isin(scored.labels, (0, 3, 8))
    assert auc(scored.scores[chosen], scored.labels[chosen]) > 0.5
    matrix = auc_matrix(scored.scores[chosen], scored.labels[chosen])
    assert np.isfinite(matrix).sum() == 6
    assert math.isnan(auc(scored.scores[:100], scored.labels[:100]))


@pytest.mark.slow
def test_auc_matrix_equals_weaver(scored, tmp_path):
    pytest.importorskip("weaver")
    # Another process: in this one, `weaver` may already mean this project's own networks.
    script = "import sys; import numpy as np; from weaver.utils.nn.metrics import roc_auc_score_ovo; given = np.load(sys.argv[1]); "
    script += "np.save(sys.argv[2], roc_auc_score_ovo(given['labels'], given['scores']))"
    given, theirs = tmp_path / "given.npz", tmp_path / "theirs.npy"
    np.savez(given, labels=scored.labels, scores=scored.scores.astype(np.float64))
    subprocess.run([sys.executable, "-c", script, given, theirs], check=True, capture_output=True)
    upper = np.triu_indices(10, 1)
    np.testing.assert_allclose(auc_matrix(scored.scores, scored.labels)[upper], np.load(theirs)[upper], atol=1e-6, rtol=0)


def test_auc_matrix_equals_scikit_learn(scored):
    """weaver-core's definition, score_j / (score_i + score_j) on the events of both classes."""
    matrix = auc_matrix(scored.scores, scored.labels)
    exact = scored.scores.astype(np.float64)
    for i, j in itertools.combinations(range(10), 2):
        pair = np.isin(scored.labels, (i, j))
        ratio = exact[pair, j] / (exact[pair, i] + exact[pair, j])
        assert matrix[i, j] == pytest.approx(sklearn.metrics.roc_auc_score(scored.labels[pair] == j, ratio), abs=1e-9)
    np.testing.assert_array_equal(matrix, matrix.T)
    assert np.isnan(np.diagonal(matrix)).all()


def test_weighted_auc_matrix_equals_scikit_learn(scored, weights):
    matrix = auc_matrix(scored.scores, scored.labels, weights)
    for i, j in ((0, 1), (3, 8), (2, 9)):
        pair = np.isin(scored.labels, (i, j))
        ratio = pair_ratio(scored.scores[pair], j, i)
        expected = sklearn.metrics.roc_auc_score(scored.labels[pair] == j, ratio, sample_weight=weights[pair])
        assert matrix[i, j] == pytest.approx(expected, abs=1e-9)


def test_confusion_matrix_equals_scikit_learn(scored, weights):
    decided = scored.scores.argmax(axis=1)
    counts = confusion_counts(scored.scores, scored.labels)
    np.testing.assert_array_equal(counts, sklearn.metrics.confusion_matrix(scored.labels, decided))
    expected = sklearn.metrics.confusion_matrix(scored.labels, decided, normalize="true")
    np.testing.assert_allclose(confusion_matrix(counts), expected, atol=1e-12)
    weighted = confusion_counts(scored.scores, scored.labels, weights)
    np.testing.assert_allclose(weighted, sklearn.metrics.confusion_matrix(scored.labels, decided, sample_weight=weights))
    only_first = confusion_matrix(confusion_counts(scored.scores[:100], scored.labels[:100]))
    assert np.isnan(only_first[1:]).all()
    assert only_first[0].sum() == pytest.approx(1)


@pytest.mark.parametrize("weighted", [False, True])
def test_roc_curve_equals_scikit_learn(scored, weights, weighted):
    signal, background = scored.labels == 9, scored.labels == 0
    ratio = np.round(pair_ratio(scored.scores, 9, 0), 2)  # many ties
    both = signal | background
    given = (weights[signal], weights[background]) if weighted else (None, None)
    curve = roc_curve(ratio[signal], ratio[background], *given)
    false, true, threshold = sklearn.metrics.roc_curve(
        signal[both], ratio[both], sample_weight=weights[both] if weighted else None, drop_intermediate=False
    )
    np.testing.assert_allclose(curve.signal_efficiency, true, atol=1e-12)
    np.testing.assert_allclose(curve.background_efficiency, false, atol=1e-12)
    np.testing.assert_array_equal(curve.threshold, threshold)


@pytest.mark.parametrize("signal_class", [1, 5, 9])
@pytest.mark.parametrize("efficiency", [0.5, 0.8, 0.995])
@pytest.mark.parametrize("weighted", [False, True])
def test_rejection_equals_scikit_learn(scored, weights, signal_class, efficiency, weighted):
    signal, background = scored.labels == signal_class, scored.labels == 0
    both = signal | background
    ratio = pair_ratio(scored.scores, signal_class, 0)
    figures = rejection(
        ratio[signal],
        ratio[background],
        signal_efficiency=efficiency,
        signal_weights=weights[signal] if weighted else None,
        background_weights=weights[background] if weighted else None,
    )
    false, true, threshold = sklearn.metrics.roc_curve(
        signal[both], ratio[both], sample_weight=weights[both] if weighted else None, drop_intermediate=False
    )
    point = np.flatnonzero(true >= efficiency - 1e-12)[0]
    assert figures["threshold"] == threshold[point]
    if false[point] == 0:
        assert math.isnan(figures["rejection"])
        return
    assert figures["rejection"] == pytest.approx(1 / false[point], rel=1e-9)
    entries = effective_entries(weights[background]) if weighted else 100
    up = 1 / false[point] - 1 / (false[point] + math.sqrt(false[point] * (1 - false[point]) / entries) * 1e-6)
    assert figures["error"] == pytest.approx(up * 1e6, rel=1e-3)


def test_rejection_without_passing_background():
    figures = rejection(np.array([0.9, 0.8, 0.7]), np.linspace(0, 0.1, 50), signal_efficiency=0.5)
    assert math.isnan(figures["rejection"])
    # 0.05 = (1 - 1/r)^50: with this true rejection, no jet of 50 passes in 5 % of experiments.
    assert (1 - 1 / figures["at_least"]) ** 50 == pytest.approx(0.05)


def test_rejection_without_events():
    assert math.isnan(rejection(np.empty(0), np.ones(3), signal_efficiency=0.5)["rejection"])


def test_thinned_curve_keeps_its_shape(scored):
    generator = np.random.default_rng(1)
    curve = roc_curve(generator.normal(1, 1, 30000), generator.normal(0, 1, 30000))
    thin = curve.thinned(200)
    assert len(thin.threshold) <= 402
    assert thin.signal_efficiency[[0, -1]].tolist() == [0, 1]
    np.testing.assert_allclose(
        np.interp(np.linspace(0, 1, 50), thin.signal_efficiency, thin.background_efficiency),
        np.interp(np.linspace(0, 1, 50), curve.signal_efficiency, curve.background_efficiency),
        atol=0.01,
    )


def test_binomial_interval_is_clopper_and_pearsons():
    from scipy.stats import binomtest

    passed, entries = np.array([0, 1, 7, 10, 250]), np.array([10, 10, 10, 10, 1000])
    low, high = binomial_interval(passed / entries, entries)
    for index, (k, n) in enumerate(zip(passed.tolist(), entries.tolist(), strict=True)):
        expected = binomtest(k, n).proportion_ci(0.6826894921370859, method="exact")
        # Of no or all events, scipy's interval has the same two sides.
        np.testing.assert_allclose((low[index], high[index]), (expected.low, expected.high), atol=1e-9)
