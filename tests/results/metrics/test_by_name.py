import numpy as np
import pytest
import sklearn.metrics

from weaver_tasks.base.errors import ConfigError, ResultError
from weaver_tasks.results.metrics.by_name import classification_metric, regression_metric


@pytest.fixture(scope="module")
def exact(scored):
    scores = scored.scores.astype(np.float64)
    return scores / scores.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("name", ["balanced_accuracy_score", "cohen_kappa_score", "matthews_corrcoef", "zero_one_loss"])
def test_metrics_of_decisions(scored, exact, name):
    expected = getattr(sklearn.metrics, name)(scored.labels, exact.argmax(axis=1))
    assert classification_metric(name, exact, scored.labels) == pytest.approx(expected)


def test_metrics_of_scores_and_averages(scored, exact):
    expected = sklearn.metrics.roc_auc_score(scored.labels, exact, multi_class="ovo")
    assert classification_metric("roc_auc_score", exact, scored.labels) == pytest.approx(expected)
    assert classification_metric("log_loss", exact, scored.labels) == pytest.approx(sklearn.metrics.log_loss(scored.labels, exact))
    expected = sklearn.metrics.precision_score(scored.labels, exact.argmax(axis=1), average="macro")
    assert classification_metric("precision_score", exact, scored.labels) == pytest.approx(expected)


def test_two_classes_and_weights(scored, exact):
    chosen = scored.labels < 2
    scores, labels = exact[chosen][:, :2], scored.labels[chosen]
    scores = scores / scores.sum(axis=1, keepdims=True)
    weights = np.linspace(1, 3, len(labels))
    expected = sklearn.metrics.average_precision_score(labels, scores[:, 1], sample_weight=weights)
    assert classification_metric("average_precision_score", scores, labels, weights) == pytest.approx(expected)
    expected = sklearn.metrics.f1_score(labels, scores.argmax(axis=1))
    assert classification_metric("f1_score", scores, labels) == pytest.approx(expected)


def test_arrays_become_lists(scored, exact):
    value = classification_metric("confusion_matrix", exact, scored.labels)
    assert value == sklearn.metrics.confusion_matrix(scored.labels, exact.argmax(axis=1)).tolist()


def test_regression_metrics(scored):
    target = scored.observers["jet_pt"]
    predicted = target * 1.1
    expected = sklearn.metrics.mean_absolute_percentage_error(target, predicted)
    assert regression_metric("mean_absolute_percentage_error", predicted, target) == pytest.approx(expected)


def test_unknown_and_unfit_metrics_are_told(scored, exact):
    with pytest.raises(ConfigError, match=r"'log_los' is not a metric.*Did you mean: log_loss"):
        classification_metric("log_los", exact, scored.labels)
    with pytest.raises(ConfigError, match="'make_scorer' is not a metric"):
        classification_metric("make_scorer", exact, scored.labels)
    with pytest.raises(ResultError, match="'max_error' cannot be computed"):
        regression_metric("max_error", np.full(3, np.nan), np.ones(3))
