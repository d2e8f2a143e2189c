"""The training loops and helpers that network configurations import from `weaver.utils.nn.tools`, with weaver's signatures.

A custom loop gets `train_loader.dataset.config` and batches (X, y, Z) of dicts, `extra_args["args"]` with weaver's options,
`opt._clip_grad_norm`, and a scheduler to step after each step (`_update_per_step`) or after the epoch.
"""

from __future__ import annotations

import logging
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from weaver_tasks.base.errors import ConfigError, nearest
from weaver_tasks.base.progress import Progress
from weaver_tasks.training.distributed import GatherRows, rank
from weaver_tasks.training.losses import flatten_label as _flatten_label
from weaver_tasks.training.losses import flatten_predictions as _flatten_preds

logger = logging.getLogger("weaver_tasks")

AllGather = GatherRows

__all__ = [
    "AllGather", "_flatten_label", "_flatten_preds", "evaluate_classification", "evaluate_metrics", "evaluate_regression",
    "get_autocast_config", "train_classification", "train_regression",
]  # fmt: skip


def get_autocast_config(args: Any) -> tuple[bool, torch.dtype | None]:
    """Whether mixed precision is on, and its type (None: that of the device)."""
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
    """One epoch of classification; tb_helper, if any, gets weaver's scalars."""
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
    """One epoch of regression on the first label."""
    _train(_regressed, model, loss_func, opt, scheduler, train_loader, dev, epoch, steps_per_epoch, grad_scaler, tb_helper, extra_args)


def evaluate_classification(
    model: nn.Module,
    test_loader: Iterable[Any],
    dev: torch.device,
    epoch: int | None,
    for_training: bool = True,
    loss_func: Callable[..., Tensor] | None = None,
    steps_per_epoch: int | None = None,
    eval_metrics: Sequence[Any] = ("roc_auc_score",),
    tb_helper: Any = None,
    extra_args: Mapping[str, Any] | None = None,
) -> Any:
    """The accuracy; with for_training False also the scores (N, C), the labels and the observers, each a dict of arrays by name."""
    results = _evaluate(_classified, model, test_loader, dev, loss_func, steps_per_epoch, extra_args)
    scores, labels = torch.cat(results["predictions"]).softmax(dim=1).numpy(), torch.cat(results["truth"]).numpy()
    accuracy = float((scores.argmax(1) == labels).mean())
    for name, value in evaluate_metrics(labels, scores, eval_metrics).items():
        logger.info("%s: %s", name, value)
    return accuracy if for_training else (accuracy, scores, _joined(results["labels"]), _joined(results["observers"]))


def evaluate_regression(
    model: nn.Module,
    test_loader: Iterable[Any],
    dev: torch.device,
    epoch: int | None,
    for_training: bool = True,
    loss_func: Callable[..., Tensor] | None = None,
    steps_per_epoch: int | None = None,
    eval_metrics: Sequence[Any] = ("mean_squared_error", "mean_absolute_error"),
    tb_helper: Any = None,
    extra_args: Mapping[str, Any] | None = None,
) -> Any:
    """The mean loss; with for_training False also the predictions, the labels and the observers."""
    results = _evaluate(_regressed, model, test_loader, dev, loss_func, steps_per_epoch, extra_args)
    predictions, labels = torch.cat(results["predictions"]).numpy(), torch.cat(results["truth"]).numpy()
    loss = math.fsum(results["loss"]) / max(len(labels), 1)
    for name, value in evaluate_metrics(labels, predictions, eval_metrics).items():
        logger.info("%s: %s", name, value)
    return loss if for_training else (loss, predictions, _joined(results["labels"]), _joined(results["observers"]))


def evaluate_metrics(y_true: np.ndarray, y_score: np.ndarray, eval_metrics: Sequence[Any] = ()) -> dict[str, Any]:
    """Metrics by their names in sklearn.metrics (roc_auc_score one against one), or as functions of (y_true, y_score).

    Raises ConfigError for an unknown name, and whatever a metric raises.
    """
    import sklearn.metrics

    results = {}
    for metric in eval_metrics:
        if callable(metric):
            results[metric.__name__] = metric(y_true, y_score)
        elif metric == "roc_auc_score":
            # Of two classes scikit-learn wants the score of the second alone.
            score = y_score[:, 1] if y_score.ndim == 2 and y_score.shape[1] == 2 else y_score
            results[metric] = sklearn.metrics.roc_auc_score(y_true, score, multi_class="ovo")
        elif metric == "confusion_matrix":
            predicted = y_score > 0.5 if y_score.ndim == 1 else y_score.argmax(1)
            results[metric] = sklearn.metrics.confusion_matrix(y_true, predicted, normalize="true")
        elif hasattr(sklearn.metrics, metric):
            results[metric] = getattr(sklearn.metrics, metric)(y_true, y_score)
        else:
            raise ConfigError(f"eval_metrics: sklearn.metrics has no '{metric}'.{nearest(metric, vars(sklearn.metrics))}")
    return results


Compared = Callable[[Any, Mapping[str, Tensor], Sequence[str]], tuple[Tensor, Tensor]]


def _classified(output: Any, labels: Mapping[str, Tensor], names: Sequence[str]) -> tuple[Tensor, Tensor]:
    mask = labels.get(f"{names[0]}_mask")
    logits, label, _ = _flatten_preds(output, labels[names[0]].long(), None if mask is None else mask.bool())
    assert label is not None
    return logits, label


def _regressed(output: Any, labels: Mapping[str, Tensor], names: Sequence[str]) -> tuple[Tensor, Tensor]:
    label = labels[names[0]].float()
    return output.reshape(label.shape), label


def _figures(predictions: Tensor, label: Tensor) -> dict[str, float]:
    if predictions.ndim == 2 and label.ndim == 1:
        return {"Acc": (predictions.argmax(1) == label).float().mean().item()}
    error = (predictions - label).float()
    return {"MSE": error.square().mean().item(), "MAE": error.abs().mean().item()}


def _train(
    compare: Compared, model: Any, loss_func: Any, opt: Any, scheduler: Any, loader: Any, dev: Any,
    epoch: int, steps: int | None, grad_scaler: Any, tb_helper: Any, extra_args: Any,
) -> None:  # fmt: skip
    model.train()
    config = loader.dataset.config
    enabled, dtype = get_autocast_config(extra_args["args"])
    clip = getattr(opt, "_clip_grad_norm", math.inf)
    per_step = scheduler is not None and getattr(scheduler, "_update_per_step", False)
    with Progress(f"epoch {epoch}", total=None, quiet=rank() > 0) as bar:
        for number, (X, y, _) in enumerate(loader, start=1):
            inputs = [X[name].to(dev) for name in config.input_names]
            labels = {name: value.to(dev) for name, value in y.items()}
            opt.zero_grad()
            with torch.autocast(torch.device(dev).type, enabled=enabled, dtype=dtype):
                output = model(*inputs)
                predictions, label = compare(output, labels, config.label_names)
                loss = loss_func(predictions, label)
            norm = _update(model, opt, loss, grad_scaler, clip)
            if per_step:
                scheduler.step()
            figures = {"Loss": loss.item(), "GradNorm": norm, **_figures(predictions.detach(), label)}
            bar.advance(len(inputs[0]), **{name: f"{value:.5f}" for name, value in figures.items()})
            if tb_helper is not None:
                tb_helper.global_step += 1
                tb_helper.write_scalars([(f"{name}/train", value, tb_helper.global_step) for name, value in figures.items()])
                if tb_helper.custom_fn:
                    with torch.no_grad():
                        tb_helper.custom_fn(model_output=output, model=model, epoch=epoch, i_batch=number, mode="train")
            if steps is not None and number >= steps:
                break
    if scheduler is not None and not per_step:
        scheduler.step()


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


@torch.no_grad()
def _evaluate(
    compare: Compared, model: nn.Module, loader: Any, dev: Any, loss_func: Any, steps: int | None, extra_args: Any
) -> dict[str, Any]:
    model.eval()
    config = loader.dataset.config
    enabled, dtype = get_autocast_config(extra_args["args"])
    results: dict[str, Any] = {"predictions": [], "truth": [], "loss": [], "labels": defaultdict(list), "observers": defaultdict(list)}
    for number, (X, y, Z) in enumerate(loader, start=1):
        labels = {name: AllGather.apply(value.to(dev)) for name, value in y.items()}
        with torch.autocast(torch.device(dev).type, enabled=enabled, dtype=dtype):
            output = AllGather.apply(model(*(X[name].to(dev) for name in config.input_names)))
            predictions, label = compare(output, labels, config.label_names)
        results["predictions"].append(predictions.float().cpu())
        results["truth"].append(label.cpu())
        if loss_func is not None:
            results["loss"].append(loss_func(predictions, label).item() * len(label))
        for name, value in labels.items():
            results["labels"][name].append(value.cpu().numpy())
        for name, values in Z.items():
            results["observers"][name].append(values)
        if steps is not None and number >= steps:
            break
    return results


def _joined(parts: Mapping[str, list[Any]]) -> dict[str, Any]:
    """Each name's batches in one array; jagged ones stay awkward."""
    import awkward

    joined = {}
    for name, arrays in parts.items():
        plain = all(isinstance(array, np.ndarray) for array in arrays)
        joined[name] = np.concatenate(arrays) if plain else awkward.concatenate(arrays)
    return joined
