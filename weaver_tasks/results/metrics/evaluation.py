"""Compute the content of `evaluation/metrics.json`: all metrics of a set of predictions, per test group and overall."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from weaver_tasks.base.errors import ConfigError, ResultError, did_you_mean
from weaver_tasks.results.metrics.by_name import classification_metric, named_metric, plain, regression_metric
from weaver_tasks.results.metrics.classification import accuracy, auc, auc_matrix, confusion_counts, confusion_matrix, rejection
from weaver_tasks.results.metrics.regression import regression_by_bins, regression_summary
from weaver_tasks.results.metrics.roc import pair_ratio
from weaver_tasks.results.predictions.columns import Predictions, outputs_match
from weaver_tasks.settings.model import EvaluationSettings

Array = np.ndarray

_EFFICIENCY = 0.5  # default for classes that `evaluation.signal_efficiencies` does not name


def labeled_events(predictions: Predictions) -> Predictions:
    """The predictions without the groups that have no labels; unchanged if no group has labels."""
    kept = {group: events for group, events in predictions.groups.items() if group not in predictions.unlabeled}
    if not predictions.unlabeled:
        return predictions

    def of(values: Array) -> Array:
        return np.concatenate([values[events] for events in kept.values()])

    ends = np.cumsum([events.stop - events.start for events in kept.values()]).tolist()
    starts = [0, *ends[:-1]]
    return dataclasses.replace(
        predictions,
        scores=of(predictions.scores),
        labels=None if predictions.labels is None else of(predictions.labels),
        targets={name: of(values) for name, values in predictions.targets.items()},
        groups={group: slice(start, end) for group, start, end in zip(kept, starts, ends, strict=True)},
        observers={name: of(values) for name, values in predictions.observers.items()},
        weights=None if predictions.weights is None else of(predictions.weights),
        not_finite={group: count for group, count in predictions.not_finite.items() if group in kept},
        unlabeled=(),
    )


def evaluate_classification(predictions: Predictions, settings: EvaluationSettings) -> dict[str, Any]:
    """The metrics of a classifier, over all test groups that have labels and for each group.

    settings: the `evaluation` section: signal_efficiencies, background, metrics.
    Metrics that are undefined for the events (an AUC in a group of one class, or for a class whose sum of weights is zero) are nan, which
    is null in JSON; "warnings" says which events and weights are the cause. Raises ConfigError for unknown classes or metrics, and
    ResultError for metrics that scikit-learn cannot compute for such predictions.
    """
    check_classes(predictions.classes, settings)
    whole = labeled_events(predictions)
    warnings = [*_event_warnings(predictions), *_weight_warnings(whole)]
    everything = _classification(whole, slice(None), settings, warnings)
    groups = {}
    for group, events in predictions.groups.items():
        if group in predictions.unlabeled:
            groups[group] = _unlabeled(predictions, group)
            continue
        found = _classification(predictions, events, settings.model_copy(update={"metrics": []}), warnings)
        groups[group] = {"labeled": predictions.labels is not None, "entries_not_finite": predictions.not_finite.get(group, 0), **found}
    return {
        "task": "classification",
        "classes": list(predictions.classes),
        "background": predictions.classes[background_class(predictions.classes, settings)] if predictions.classes else None,
        "background_chosen": settings.background is not None,
        "entries_not_finite": sum(whole.not_finite.values()),
        "groups_without_labels": list(predictions.unlabeled),
        **everything,
        "groups": groups,
        "warnings": warnings,
    }


def _unlabeled(predictions: Predictions, group: str) -> dict[str, Any]:
    events = predictions.groups[group]
    entries = events.stop - events.start
    return {"labeled": False, "entries": entries, "entries_not_finite": predictions.not_finite.get(group, 0)}


def _event_warnings(predictions: Predictions) -> Iterator[str]:
    """Warnings about events that enter no metric, with the reason."""
    for group, count in predictions.not_finite.items():
        if count:
            events = predictions.groups[group]
            yield f"group {group}: {count:,} of {events.stop - events.start + count:,} jets have scores that are NaN or infinite: left out"
    if predictions.unlabeled:
        yield f"without labels, and so in no figure: {', '.join(predictions.unlabeled)}"
    labels = predictions.labels
    for group, events in predictions.groups.items():
        if labels is None or group in predictions.unlabeled:
            continue
        outside = int((labels[events] < 0).sum())
        if outside:
            yield f"group {group}: {outside:,} of {events.stop - events.start:,} jets belong to no class: left out of all that needs one"


def _weight_warnings(predictions: Predictions) -> Iterator[str]:
    """Warnings about the effect on the metrics of negative weights, and of sums of weights that are not positive."""
    weights, labels = predictions.weights, predictions.labels
    if weights is None or not len(weights):
        return
    if negative := int((weights < 0).sum()):
        yield f"{negative:,} of {len(weights):,} jets have negative weights"
    if not weights.sum() > 0:
        yield "the weights of all jets do not add up to more than zero: the metrics are null"
    for group, events in predictions.groups.items():
        if events.stop > events.start and not weights[events].sum() > 0:
            yield f"the weights of group {group} do not add up to more than zero: its metrics are null"
    if labels is not None:
        for index, name in enumerate(predictions.classes):
            inside = labels == index
            if inside.any() and not weights[inside].sum() > 0:
                yield f"the weights of class {name} do not add up to more than zero: metrics that need it are null"


def check_classes(classes: tuple[str, ...], settings: EvaluationSettings) -> None:
    """Raises ConfigError if `evaluation.background` or `evaluation.signal_efficiencies` name classes that do not exist."""
    named: dict[str, list[str | None]] = {"background": [settings.background], "signal_efficiencies": list(settings.signal_efficiencies)}
    for key, names in named.items():
        for name in names:
            if name is not None and name not in classes:
                known = f"They are {', '.join(classes)}.{did_you_mean(name, classes)}"
                raise ConfigError(f"config.yaml: evaluation.{key}: '{name}' is not a class. {known}")


def _classification(predictions: Predictions, events: slice, settings: EvaluationSettings, warnings: list[str]) -> dict[str, Any]:
    scores, classes = predictions.scores[events], predictions.classes
    labels = np.full(len(scores), -1) if predictions.labels is None else predictions.labels[events]
    weights = None if predictions.weights is None else predictions.weights[events]
    inside = labels >= 0
    summary: dict[str, Any] = {"entries": len(scores), "entries_without_class": int((~inside).sum())}
    if not inside.all():
        scores, labels = scores[inside], labels[inside]
        weights = None if weights is None else weights[inside]
    value, error = accuracy(scores, labels, weights)
    counts = confusion_counts(scores, labels, weights)
    # For such events scikit-learn may refuse a metric that it can compute for others.
    unusual = len(np.unique(labels)) < len(classes) or (weights is not None and not _usual(weights, labels, len(classes)))
    metrics = {
        name: _metric(name, functools.partial(classification_metric, name, scores, labels, weights), warnings, optional=unusual)
        for name in settings.metrics
    }
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
        "metrics": metrics,
    }


def _usual(weights: Array, labels: Array, classes: int) -> bool:
    """Whether no weight is negative, and the sum of weights of each class is positive."""
    return bool((weights >= 0).all()) and all(weights[labels == index].sum() > 0 for index in range(classes))


def _metric(name: str, compute: Callable[[], Any], warnings: list[str], *, optional: bool) -> Any:
    """A metric of scikit-learn. If it is undefined and optional, the result is None, and a warning is added."""
    named_metric(name)
    try:
        return compute()
    except ResultError as error:
        if not optional:
            raise
        warnings.append(f"{' '.join(str(error).split())} It is null.")
        return None


def rejections(
    scores: Array, labels: Array, weights: Array | None, classes: tuple[str, ...], settings: EvaluationSettings
) -> list[dict[str, Any]]:
    """For each class except the background, the background rejection with the discriminant score_S / (score_S + score_B)."""
    background = background_class(classes, settings)
    efficiencies = settings.signal_efficiencies
    rows = []
    for signal, name in enumerate(classes):
        if signal == background:
            continue
        of_signal, of_background = labels == signal, labels == background
        found = rejection(
            pair_ratio(scores[of_signal], signal, background),
            pair_ratio(scores[of_background], signal, background),
            signal_efficiency=efficiencies.get(name, _EFFICIENCY),
            signal_weights=None if weights is None else weights[of_signal],
            background_weights=None if weights is None else weights[of_background],
        )
        rows.append({"signal": name, "background": classes[background], **found})
    return rows


def background_class(classes: tuple[str, ...], settings: EvaluationSettings) -> int:
    """The index of the class `evaluation.background`, or of the first class if that is null."""
    name = settings.background
    return 0 if name is None else classes.index(name)


def evaluate_regression(predictions: Predictions, settings: EvaluationSettings) -> dict[str, Any]:
    """Bias and resolution of each target: over all test groups with labels, in bins of the target, and per group.

    Events whose target is NaN or infinite are left out of its metrics and counted. Raises the same errors as `evaluate_classification`.
    """
    whole = labeled_events(predictions)
    warnings = [*_event_warnings(predictions), *_weight_warnings(whole)]
    if outputs_match(whole):
        targets = {
            name: _regression(whole, name, predicted, settings, warnings)
            for name, predicted in zip(whole.targets, whole.scores.T, strict=True)
        }
    else:
        targets = {name: _not_compared(whole) for name in whole.targets}
        if whole.targets:
            warnings.append(
                f"{whole.scores.shape[1]} outputs for the targets {', '.join(whole.targets)}: which belongs to which is not known, so "
                "their metrics are null. The prediction files hold all of them"
            )
    return {
        "task": "regression",
        "entries": len(whole.scores),
        "entries_not_finite": sum(whole.not_finite.values()),
        "groups_without_labels": list(predictions.unlabeled),
        "targets": plain(targets),
        "warnings": warnings,
    }


def _not_compared(predictions: Predictions) -> dict[str, Any]:
    """The entry of each target if the outputs of the network cannot be assigned to targets."""
    nothing = regression_summary(np.empty(0), np.empty(0))
    groups = {group: {**nothing, "entries": events.stop - events.start} for group, events in predictions.groups.items()}
    return {**nothing, "entries": len(predictions.scores), "entries_not_finite": 0, "metrics": {}, "bins": [], "groups": groups}


def _regression(predictions: Predictions, name: str, predicted: Array, settings: EvaluationSettings, warnings: list[str]) -> dict[str, Any]:
    """The metrics of one target."""
    target, weights = predictions.targets[name], predictions.weights
    finite = np.isfinite(target)
    if left := int((~finite).sum()):
        warnings.append(f"{left:,} of {len(target):,} jets have a {name} that is NaN or infinite: left out of its metrics")

    def of(events: Array) -> tuple[Array, Array, Array | None]:
        return predicted[events], target[events], None if weights is None else weights[events]

    whole, weights_of = of(finite), of(finite)[2]
    bins = regression_by_bins(*whole)
    if weights is not None and (undefined := sum(np.isnan(row["bias"]) for row in bins)):
        warnings.append(f"the weights of {undefined} bins of {name} do not add up to more than zero: their metrics are null")
    groups = {}
    for group, events in predictions.groups.items():
        inside = np.zeros(len(target), bool)
        inside[events] = True
        groups[group] = regression_summary(*of(inside & finite))
    unusual = not finite.any() or (weights_of is not None and not ((weights_of >= 0).all() and weights_of.sum() > 0))
    metrics = {
        metric: _metric(metric, functools.partial(regression_metric, metric, *whole), warnings, optional=unusual)
        for metric in settings.metrics
    }
    return {**regression_summary(*whole), "entries_not_finite": left, "metrics": metrics, "bins": bins, "groups": groups}
