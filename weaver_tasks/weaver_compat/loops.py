"""Training loops and helpers that network configurations import from `weaver.utils.nn.tools`, with weaver's signatures.

A custom loop gets `train_loader.dataset.config` and batches (X, y, Z) of dicts, `extra_args["args"]` with weaver's options,
`opt._clip_grad_norm`, and a scheduler that it must advance after each step (if `_update_per_step`) or after the epoch.
"""

from __future__ import annotations

import functools
import logging
import math
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from weaver_tasks.base.errors import ConfigError, did_you_mean
from weaver_tasks.base.progress import Progress
from weaver_tasks.data.expressions.array_functions import concat as _concat
from weaver_tasks.training.distributed import GatherRows, rank
from weaver_tasks.training.losses import flatten_label as _flatten_label
from weaver_tasks.training.losses import flatten_predictions as _flatten_preds

logger = logging.getLogger("weaver_tasks")

AllGather = GatherRows

__all__ = [
    "AllGather", "_concat", "_flatten_label", "_flatten_preds", "confusion_matrix", "evaluate_classification", "evaluate_metrics",
    "evaluate_onnx", "evaluate_regression", "get_autocast_config", "get_tensorboard_helper", "roc_auc_score_ovo", "train_classification",
    "train_regression", "unwrap_model",
]  # fmt: skip

_CLASSIFICATION_METRICS = ("roc_auc_score", "roc_auc_score_matrix", "confusion_matrix")
_REGRESSION_METRICS = ("mean_squared_error", "mean_absolute_error", "median_absolute_error", "mean_gamma_deviance")


def get_autocast_config(args: Any) -> tuple[bool, torch.dtype | None]:
    """Whether mixed precision is on, and its type (None: the default of the device)."""
    return bool(args.use_amp), torch.bfloat16 if args.amp_dtype == "bf16" else None


def train_classification(
    model: nn.Module,
    loss_func: Callable[..., Tensor],
    opt: torch.optim.Optimizer,
    scheduler: Any,
    train_loader: Iterable[Any],
    dev: torch.device,
    epoch: int,
    steps_per_epoch: int | None = None,
    grad_scaler: torch.amp.GradScaler | None = None,
    tb_helper: Any = None,
    extra_args: Mapping[str, Any] | None = None,
) -> None:
    """Train one epoch of classification. tb_helper, if any, gets weaver's scalars."""
    _train(_classified, model, loss_func, opt, scheduler, train_loader, dev, epoch, steps_per_epoch, grad_scaler, tb_helper, extra_args)


def train_regression(
    model: nn.Module,
    loss_func: Callable[..., Tensor],
    opt: torch.optim.Optimizer,
    scheduler: Any,
    train_loader: Iterable[Any],
    dev: torch.device,
    epoch: int,
    steps_per_epoch: int | None = None,
    grad_scaler: torch.amp.GradScaler | None = None,
    tb_helper: Any = None,
    extra_args: Mapping[str, Any] | None = None,
) -> None:
    """Train one epoch of regression on the first label."""
    _train(_regressed, model, loss_func, opt, scheduler, train_loader, dev, epoch, steps_per_epoch, grad_scaler, tb_helper, extra_args)


def evaluate_classification(
    model: nn.Module,
    test_loader: Iterable[Any],
    dev: torch.device,
    epoch: int | None,
    for_training: bool = True,
    loss_func: Callable[..., Tensor] | None = None,
    steps_per_epoch: int | None = None,
    eval_metrics: Sequence[Any] = _CLASSIFICATION_METRICS,
    tb_helper: Any = None,
    extra_args: Mapping[str, Any] | None = None,
) -> Any:
    """The accuracy; with for_training False also the scores, the labels and the observers, each of the latter two a dict by name.

    Scores are (N, C). Per-particle scores are jagged (N, particles kept by the mask, C), or (N, P, C) without a mask.
    """
    mode = "eval" if for_training else "test"
    found = _evaluate(_classified, model, test_loader, dev, epoch, loss_func, steps_per_epoch, mode, tb_helper, extra_args)
    logits, truth = torch.cat(found.predictions), torch.cat(found.truth).numpy()
    scores = logits.softmax(dim=1).numpy()
    accuracy = found.mean("correct")
    logger.info("AvgLoss: %.5f, AvgAcc: %.5f, labels: %s", found.mean("loss"), accuracy, _counts(truth))
    found.write_scalars(mode, epoch, tb_helper, {"Acc": accuracy})
    _log_metrics(evaluate_metrics(truth, scores, eval_metrics))
    return accuracy if for_training else (accuracy, *found.per_event(scores), found.joined_observers())


def evaluate_regression(
    model: nn.Module,
    test_loader: Iterable[Any],
    dev: torch.device,
    epoch: int | None,
    for_training: bool = True,
    loss_func: Callable[..., Tensor] | None = None,
    steps_per_epoch: int | None = None,
    eval_metrics: Sequence[Any] = _REGRESSION_METRICS,
    tb_helper: Any = None,
    extra_args: Mapping[str, Any] | None = None,
) -> Any:
    """The mean loss; with for_training False also the predictions, the labels and the observers."""
    mode = "eval" if for_training else "test"
    found = _evaluate(_regressed, model, test_loader, dev, epoch, loss_func, steps_per_epoch, mode, tb_helper, extra_args)
    predictions, truth = torch.cat(found.predictions).numpy(), torch.cat(found.truth).numpy()
    loss, mse, mae = (found.mean(name) for name in ("loss", "squared_error", "absolute_error"))
    logger.info("AvgLoss: %.5f, AvgMSE: %.5f, AvgMAE: %.5f", loss, mse, mae)
    found.write_scalars(mode, epoch, tb_helper, {"MSE": mse, "MAE": mae})
    _log_metrics(evaluate_metrics(truth, predictions, eval_metrics))
    labels = {name: _concat(parts) for name, parts in found.labels.items()}
    return loss if for_training else (loss, predictions, labels, found.joined_observers())


def evaluate_onnx(model_path: str, test_loader: Iterable[Any], eval_metrics: Sequence[Any] = _CLASSIFICATION_METRICS) -> Any:
    """Accuracy, scores (N, C), labels and observers of an ONNX classifier, whose outputs are probabilities."""
    import onnxruntime

    session = onnxruntime.InferenceSession(model_path)
    scores: list[np.ndarray] = []
    labels, observers = defaultdict(list), defaultdict(list)
    for X, y, Z in test_loader:
        scores.append(session.run([], {name: value.numpy() for name, value in X.items()})[0])
        for name, value in y.items():
            labels[name].append(value.numpy())
        for name, value in Z.items():
            observers[name].append(value)
    joined, all_scores = {name: _concat(parts) for name, parts in labels.items()}, np.concatenate(scores)
    truth = joined[test_loader.dataset.config.label_names[0]]  # type: ignore[attr-defined]
    accuracy = float((all_scores.argmax(1) == truth).mean())
    _log_metrics(evaluate_metrics(truth, all_scores, eval_metrics))
    return accuracy, all_scores, joined, {name: _concat(parts) for name, parts in observers.items()}


def unwrap_model(model: nn.Module) -> nn.Module:
    """The bare model, without the wrappers of DistributedDataParallel and torch.compile."""
    while (inner := getattr(model, "module", getattr(model, "_orig_mod", None))) is not None:
        model = inner
    return model


_tensorboard: Any = None


def get_tensorboard_helper() -> Any:
    """The TensorBoard of this training (`writer`, `write_scalars`, `global_step`), or None."""
    return _tensorboard


def set_tensorboard_helper(board: Any) -> None:
    """Set the result of `get_tensorboard_helper`."""
    global _tensorboard
    _tensorboard = board


def evaluate_metrics(y_true: np.ndarray, y_score: np.ndarray, eval_metrics: Sequence[Any] = ()) -> dict[str, Any]:
    """Compute metrics given as functions, or by names in sklearn.metrics or weaver (one-vs-one roc_auc_score, roc_auc_score_matrix).

    A metric that cannot be computed (such as the AUC of events of one class) is None, with a warning. Raises ConfigError for unknown names.
    """
    results = {}
    for metric in eval_metrics:
        name, function = (metric.__name__, metric) if callable(metric) else (metric, _metric(metric))
        try:
            with warnings.catch_warnings():
                # Replace the warnings of scikit-learn by a single line below.
                warnings.simplefilter("ignore")
                value = function(y_true, y_score)
        except Exception as error:
            # A metric may be any function. Its failure must not stop a training or a prediction.
            _warn_once(f"metric {name} cannot be computed: {' '.join(str(error).split()) or type(error).__name__}")
            value = None
        if isinstance(value, float) and math.isnan(value):
            _warn_once(f"metric {name} is not defined for these events")
            value = None
        results[name] = value
    return results


def _metric(name: str) -> Callable[[np.ndarray, np.ndarray], Any]:
    import sklearn.metrics

    ours = {"roc_auc_score": _roc_auc_score, "roc_auc_score_matrix": roc_auc_score_ovo, "confusion_matrix": confusion_matrix}
    if name in ours:
        return ours[name]
    if not hasattr(sklearn.metrics, name):
        raise ConfigError(f"eval_metrics: sklearn.metrics has no '{name}'.{did_you_mean(name, vars(sklearn.metrics))}")
    return getattr(sklearn.metrics, name)


def _roc_auc_score(y_true: np.ndarray, y_score: np.ndarray) -> float:
    import sklearn.metrics

    # For two classes scikit-learn expects the score of the second class only.
    score = y_score[:, 1] if y_score.ndim == 2 and y_score.shape[1] == 2 else y_score
    return float(sklearn.metrics.roc_auc_score(y_true, score, multi_class="ovo"))


def roc_auc_score_ovo(y_true: np.ndarray, y_score: np.ndarray) -> Any:
    """A matrix: at [i, j] with i < j, the AUC of score_j / (score_i + score_j) for events of these two classes; otherwise 0.

    NaN if one of the two classes has no events. y_true: (N,); y_score: (N, C), or (N,) of a single score.
    """
    import sklearn.metrics

    if y_score.ndim == 1:
        return float(sklearn.metrics.roc_auc_score(y_true, y_score))
    classes = y_score.shape[1]
    areas = np.zeros((classes, classes), np.float32)
    for i in range(classes):
        for j in range(i + 1, classes):
            chosen = (y_true == i) | (y_true == j)
            truth, own, other = y_true[chosen] == j, y_score[chosen, j], y_score[chosen, i]
            defined = truth.any() and not truth.all()
            areas[i, j] = sklearn.metrics.roc_auc_score(truth, own / np.maximum(own + other, 1e-6)) if defined else np.nan
    return areas


def confusion_matrix(y_true: np.ndarray, y_score: np.ndarray) -> np.ndarray:
    """The confusion matrix: fractions of events of a true class (rows) by predicted class. y_score: (N, C), or (N,) cut at 0.5."""
    import sklearn.metrics

    return sklearn.metrics.confusion_matrix(y_true, y_score > 0.5 if y_score.ndim == 1 else y_score.argmax(1), normalize="true")


@functools.cache
def _warn_once(message: str) -> None:
    """Log a warning once, since each part of a prediction would repeat it."""
    logger.warning("%s", message)


def _log_metrics(metrics: Mapping[str, Any]) -> None:
    for name, value in metrics.items():
        logger.info("%s: %s", name, value)


def _counts(truth: np.ndarray) -> dict[int, int]:
    return {int(label): int(count) for label, count in zip(*np.unique(truth, return_counts=True), strict=True)}


@dataclass
class _Compared:
    """The predictions and labels of a batch, with one row per unmasked label. mask: (B, P), True for unmasked particles, or None."""

    predictions: Tensor
    label: Tensor
    mask: Tensor | None = None


Compare = Callable[[Any, Mapping[str, Tensor], Sequence[str]], _Compared]


def _classified(output: Any, labels: Mapping[str, Tensor], names: Sequence[str]) -> _Compared:
    given = labels.get(f"{names[0]}_mask")
    logits, label, mask = _flatten_preds(output, labels[names[0]].long(), None if given is None else given.bool())
    assert label is not None
    return _Compared(logits, label, mask)


def _regressed(output: Any, labels: Mapping[str, Tensor], names: Sequence[str]) -> _Compared:
    label = labels[names[0]].float()
    return _Compared(output.reshape(label.shape) if output.numel() == label.numel() else output.squeeze(), label)


def _sums(compared: _Compared) -> dict[str, float]:
    """Sums over a batch: `correct` for classification, `squared_error` and `absolute_error` for regression."""
    predictions, label = compared.predictions.detach(), compared.label
    if predictions.ndim == 2 and label.ndim == 1 and not label.is_floating_point():
        return {"correct": float((predictions.argmax(1) == label).sum())}
    error = (predictions - label).float()
    return {"squared_error": error.square().sum().item(), "absolute_error": error.abs().sum().item()}


_SCALARS = {"correct": "Acc", "squared_error": "MSE", "absolute_error": "MAE"}


def _train(
    compare: Compare, model: Any, loss_func: Any, opt: Any, scheduler: Any, loader: Any, dev: Any,
    epoch: int, steps: int | None, grad_scaler: Any, tb_helper: Any, extra_args: Any,
) -> None:  # fmt: skip
    model.train()
    config = loader.dataset.config
    enabled, dtype = get_autocast_config(extra_args["args"])
    clip = getattr(opt, "_clip_grad_norm", math.inf)
    per_step = scheduler is not None and getattr(scheduler, "_update_per_step", False)
    output, number, count = None, 0, 0
    totals: dict[str, float] = defaultdict(float)
    with Progress(f"epoch {epoch}", total=None, quiet=rank() > 0) as bar:
        for number, (X, y, _) in enumerate(loader, start=1):
            inputs = [X[name].to(dev) for name in config.input_names]
            labels = {name: value.to(dev) for name, value in y.items()}
            opt.zero_grad()
            with torch.autocast(torch.device(dev).type, enabled=enabled, dtype=dtype):
                output = model(*inputs)
                compared = compare(output, labels, config.label_names)
                loss = loss_func(compared.predictions, compared.label)
            norm = _update(model, opt, loss, grad_scaler, clip)
            if per_step:
                scheduler.step()
            sums, labeled = _sums(compared), len(compared.label)
            count += labeled
            for name, value in {"loss": loss.item(), **sums}.items():
                totals[name] += value
            scalars = {"Loss": loss.item(), "GradNorm": norm, **{_SCALARS[name]: value / max(labeled, 1) for name, value in sums.items()}}
            bar.advance(len(inputs[0]), **{name: f"{value:.5f}" for name, value in scalars.items()})
            if tb_helper is not None:
                tb_helper.global_step += 1
                tb_helper.write_scalars([(f"{name}/train", value, tb_helper.global_step) for name, value in scalars.items()])
                _call_custom(tb_helper, output, model, epoch, number, "train")
            if steps is not None and number >= steps:
                break
    means = {"Loss": totals.pop("loss", 0.0) / max(number, 1), **{_SCALARS[name]: value / max(count, 1) for name, value in totals.items()}}
    if tb_helper is not None and number:
        tb_helper.write_scalars([(f"{name}/train (epoch)", value, epoch) for name, value in means.items()])
        _call_custom(tb_helper, output, model, epoch, -1, "train")
        tb_helper.batch_train_count += number
    if scheduler is not None and not per_step:
        scheduler.step()


def _call_custom(tb_helper: Any, output: Any, model: Any, epoch: int | None, number: int, mode: str) -> None:
    """Call the user's function for TensorBoard. number: of the batch, counted from 1, or -1 at the end of the epoch."""
    if tb_helper is not None and tb_helper.custom_fn:
        with torch.no_grad():
            tb_helper.custom_fn(model_output=output, model=model, epoch=epoch, i_batch=number, mode=mode)


def _update(model: nn.Module, opt: torch.optim.Optimizer, loss: Tensor, grad_scaler: torch.amp.GradScaler | None, clip: float) -> float:
    if grad_scaler is None:
        loss.backward()
    else:
        grad_scaler.scale(loss).backward()
        grad_scaler.unscale_(opt)
    norm = nn.utils.clip_grad_norm_(model.parameters(), clip).item()
    if grad_scaler is None:
        opt.step()
    else:
        grad_scaler.step(opt)
        grad_scaler.update()
    return norm


@dataclass
class _Evaluated:
    """The result of a pass over batches: rows of unmasked labels, and data of the events.

    masks: (B, P) for each batch with per-particle predictions and a mask. events: number of events.
    """

    predictions: list[Tensor] = field(default_factory=list)
    truth: list[Tensor] = field(default_factory=list)
    masks: list[np.ndarray] = field(default_factory=list)
    labels: dict[str, list[np.ndarray]] = field(default_factory=lambda: defaultdict(list))
    observers: dict[str, list[Any]] = field(default_factory=lambda: defaultdict(list))
    sums: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    events: int = 0
    count: int = 0

    def mean(self, name: str) -> float:
        """The mean over unmasked labels. NaN if there are none."""
        return self.sums[name] / self.count if self.count else math.nan

    def write_scalars(self, mode: str, epoch: int | None, tb_helper: Any, values: Mapping[str, float]) -> None:
        if tb_helper is not None:
            scalars = {"Loss": self.mean("loss"), **values}
            tb_helper.write_scalars([(f"{name}/{mode} (epoch)", value, epoch) for name, value in scalars.items()])

    def per_event(self, scores: np.ndarray) -> tuple[Any, dict[str, Any]]:
        """Scores and labels with one entry per event. Per-particle values become lists of the particles kept by the mask."""
        import awkward

        labels = {name: _concat(parts) for name, parts in self.labels.items()}
        if not self.masks:
            each = len(scores) // max(self.events, 1)
            return (scores if len(scores) == self.events else scores.reshape(self.events, each, -1)), labels
        mask = np.concatenate(self.masks)
        counts = mask.sum(axis=1)
        kept = {
            name: awkward.unflatten(value.reshape(mask.shape)[mask], counts) if value.size == mask.size else value
            for name, value in labels.items()
        }
        return awkward.unflatten(scores, counts), kept

    def joined_observers(self) -> dict[str, Any]:
        """The observers of all batches, one concatenated array per name. Jagged ones stay awkward arrays."""
        import awkward

        plain = {name: all(isinstance(part, np.ndarray) for part in parts) for name, parts in self.observers.items()}
        return {name: (np if plain[name] else awkward).concatenate(parts) for name, parts in self.observers.items()}


@torch.no_grad()
def _evaluate(
    compare: Compare, model: nn.Module, loader: Any, dev: Any, epoch: int | None, loss_func: Any, steps: int | None, mode: str,
    tb_helper: Any, extra_args: Any,
) -> _Evaluated:  # fmt: skip
    model.eval()
    config = loader.dataset.config
    enabled, dtype = get_autocast_config(extra_args["args"])
    found, output, number = _Evaluated(), None, 0
    for number, (X, y, Z) in enumerate(loader, start=1):
        labels = {name: AllGather.apply(value.to(dev)) for name, value in y.items()}
        with torch.autocast(torch.device(dev).type, enabled=enabled, dtype=dtype):
            output = model(*(X[name].to(dev) for name in config.input_names))
            output = tuple(map(AllGather.apply, output)) if isinstance(output, tuple) else AllGather.apply(output)
            compared = compare(output, labels, config.label_names)
        # Convert to full precision for sums, and for the softmax of the scores.
        compared.predictions = compared.predictions.float()
        found.predictions.append(compared.predictions.cpu())
        found.truth.append(compared.label.cpu())
        events, rows = len(labels[config.label_names[0]]), len(compared.label)
        if compared.mask is not None:
            found.masks.append(compared.mask.reshape(events, -1).cpu().numpy())
        found.events += events
        found.count += rows
        loss = 0.0 if loss_func is None or not rows else loss_func(compared.predictions, compared.label).item()
        for name, value in {"loss": loss * rows, **_sums(compared)}.items():
            found.sums[name] += value
        for name, value in labels.items():
            found.labels[name].append(value.cpu().numpy())
        for name, values in Z.items():
            found.observers[name].append(values)
        _call_custom(tb_helper, output, model, epoch, number, mode)
        if steps is not None and number >= steps:
            break
    if number:
        _call_custom(tb_helper, output, model, epoch, -1, mode)
    return found
