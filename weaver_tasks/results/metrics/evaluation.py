"""What `evaluation/metrics.json` holds: all figures of merit of a set of predictions, per group and over all."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from weaver_tasks.base.errors import ConfigError, nearest
from weaver_tasks.results.metrics.by_name import classification_metric, plain, regression_metric
from weaver_tasks.results.metrics.classification import accuracy, auc, auc_matrix, confusion_counts, confusion_matrix, rejection
from weaver_tasks.results.metrics.regression import regression_by_bins, regression_summary
from weaver_tasks.results.metrics.roc import pair_ratio
from weaver_tasks.results.predictions.columns import Predictions

Array = np.ndarray

_EFFICIENCY = 0.5  # where `evaluation.signal_efficiencies` says nothing of a class


def evaluate_classification(predictions: Predictions, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The figures of a classifier, over all test groups and for each.

    settings: the `evaluation` section: signal_efficiencies, background, metrics.
    Figures that the events do not allow (an AUC in a group of one class) are nan, null in JSON.
    Raises ConfigError for unknown classes or metrics, ResultError for metrics that cannot be computed.
    """
    check_classes(predictions.classes, settings)
    weights = predictions.weights
    everything = _classification(predictions.scores, predictions.labels, weights, predictions.classes, settings)
    groups = {
        group: _classification(
            predictions.scores[events],
            None if predictions.labels is None else predictions.labels[events],
            None if weights is None else weights[events],
            predictions.classes,
            {**settings, "metrics": []},
        )
        for group, events in predictions.groups.items()
    }
    return {"task": "classification", "classes": list(predictions.classes), **everything, "groups": groups}


def check_classes(classes: tuple[str, ...], settings: Mapping[str, Any]) -> None:
    """Raises ConfigError when `evaluation.background` or `evaluation.signal_efficiencies` name classes that are not there."""
    named = {"background": [settings.get("background")], "signal_efficiencies": list(settings.get("signal_efficiencies") or {})}
    for key, names in named.items():
        for name in names:
            if name is not None and name not in classes:
                known = f"They are {', '.join(classes)}.{nearest(name, classes)}"
                raise ConfigError(f"config.yaml: evaluation.{key}: '{name}' is not a class. {known}")


def _classification(
    scores: Array, labels: Array | None, weights: Array | None, classes: tuple[str, ...], settings: Mapping[str, Any]
) -> dict[str, Any]:
    if labels is None:
        labels = np.full(len(scores), -1)
    inside = labels >= 0
    summary: dict[str, Any] = {"entries": len(scores), "entries_without_class": int((~inside).sum())}
    if not inside.all():
        scores, labels = scores[inside], labels[inside]
        weights = None if weights is None else weights[inside]
    value, error = accuracy(scores, labels, weights)
    counts = confusion_counts(scores, labels, weights)
    return {
        **summary,
        "entries_per_class": dict(zip(classes, np.bincount(labels, minlength=len(classes)).tolist(), strict=True)),
        "accuracy": value,
        "accuracy_error": error,
        "auc": auc(scores, labels, weights),
        "auc_matrix": auc_matrix(scores, labels, weights).tolist(),
        "confusion_matrix": confusion_matrix(counts).tolist(),
        "confusion_counts": counts.tolist(),
        "rejections": rejections(scores, labels, weights, classes, settings),
        "metrics": {name: classification_metric(name, scores, labels, weights) for name in settings.get("metrics") or []},
    }


def rejections(
    scores: Array, labels: Array, weights: Array | None, classes: tuple[str, ...], settings: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """For each class but the background, the rejection of the background by score_S / (score_S + score_B)."""
    background = background_class(classes, settings)
    efficiencies = settings.get("signal_efficiencies") or {}
    rows = []
    for signal, name in enumerate(classes):
        if signal == background:
            continue
        of_signal, of_background = labels == signal, labels == background
        figures = rejection(
            pair_ratio(scores[of_signal], signal, background),
            pair_ratio(scores[of_background], signal, background),
            signal_efficiency=efficiencies.get(name, _EFFICIENCY),
            signal_weights=None if weights is None else weights[of_signal],
            background_weights=None if weights is None else weights[of_background],
        )
        rows.append({"signal": name, "background": classes[background], **figures})
    return rows


def background_class(classes: tuple[str, ...], settings: Mapping[str, Any]) -> int:
    """The index of `evaluation.background`; the first class where it is null."""
    name = settings.get("background")
    return 0 if name is None else classes.index(name)


def evaluate_regression(predictions: Predictions, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Bias and resolution of each target: over all test groups, in bins of the target, per group. Raises as `evaluate_classification`."""
    weights = predictions.weights
    targets = {}
    for index, (name, target) in enumerate(predictions.targets.items()):
        predicted = predictions.scores[:, index]
        targets[name] = {
            **regression_summary(predicted, target, weights),
            "metrics": {metric: regression_metric(metric, predicted, target, weights) for metric in settings.get("metrics") or []},
            "bins": regression_by_bins(predicted, target, weights),
            "groups": {
                group: regression_summary(predicted[events], target[events], None if weights is None else weights[events])
                for group, events in predictions.groups.items()
            },
        }
    return {"task": "regression", "entries": len(predictions.scores), "targets": plain(targets)}
