"""Call any metric of `sklearn.metrics` by name with the inputs that it takes: classes, probabilities or regression values."""

from __future__ import annotations

import inspect
import logging
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from weaver_tasks.base.errors import ConfigError, ResultError, did_you_mean

Array = np.ndarray

logger = logging.getLogger("weaver_tasks")

# Their second argument is a probability, although some releases of scikit-learn name it y_pred.
_OF_PROBABILITIES = ("log_loss", "brier_score_loss", "d2_log_loss_score", "d2_brier_score")


def named_metric(name: str) -> Callable[..., Any]:
    """The function `sklearn.metrics.<name>`. Raises ConfigError, with similar names, if it is not a metric of predictions."""
    # Imported here because the import takes longer than an evaluation without such metrics.
    import sklearn.metrics

    function = getattr(sklearn.metrics, name, None)
    if function is None or not _measures(function):
        known = [known for known in dir(sklearn.metrics) if _measures(getattr(sklearn.metrics, known))]
        raise ConfigError(f"evaluation.metrics: '{name}' is not a metric of scikit-learn on predictions.{did_you_mean(name, known)}")
    return function


def _measures(function: Any) -> bool:
    """Whether a function compares the truth with predictions (its arguments are `y1` and `y2` if it is symmetric)."""
    return _parameters(function)[:1] in (["y_true"], ["y1"])


def _parameters(function: Any) -> list[str]:
    return list(inspect.signature(function).parameters) if inspect.isfunction(function) else []


def classification_metric(name: str, scores: Array, labels: Array, weights: Array | None = None) -> Any:
    """The metric `name` on scores (N, C) and class indices (N,).

    Metrics of class decisions get the class with the highest score. Metrics of scores or probabilities get all scores; with two classes,
    the score of the second class. With more than two classes `average` is "macro", and roc_auc_score is computed one against one.
    Raises ConfigError for an unknown name, ResultError where scikit-learn refuses the data.
    """
    function = named_metric(name)
    parameters = _parameters(function)
    several = scores.shape[1] > 2
    decides = parameters[1] in ("y_pred", "y2") and name not in _OF_PROBABILITIES
    given = scores.argmax(axis=1) if decides else scores if several else scores[:, 1]
    options: dict[str, Any] = {}
    if "labels" in parameters:
        options["labels"] = np.arange(scores.shape[1])
    if several and "average" in parameters:
        options["average"] = "macro"
    if several and "multi_class" in parameters:
        options["multi_class"] = "ovo"
    return _apply(name, labels, given, weights, options)


def regression_metric(name: str, predicted: Array, target: Array, weights: Array | None = None) -> Any:
    """The metric `name` on predicted and true values, both (N,). Raises as `classification_metric`."""
    named_metric(name)
    return _apply(name, target, predicted, weights, {})


def _apply(name: str, truth: Array, given: Array, weights: Array | None, options: dict[str, Any]) -> Any:
    function = named_metric(name)
    if weights is not None and "sample_weight" in _parameters(function):
        options["sample_weight"] = weights
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            value = function(truth, given, **options)
    except (ValueError, TypeError, ArithmeticError, IndexError) as error:
        raise ResultError(f"evaluation.metrics: '{name}' cannot be computed here ({error}). Remove it from the list.") from error
    for text in dict.fromkeys(str(warning.message) for warning in caught):
        logger.warning("evaluation.metrics: %s: %s", name, " ".join(text.split()))
    return plain(value)


def plain(value: Any) -> Any:
    """Convert numpy scalars and arrays to plain numbers and lists, for JSON."""
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value
