"""Compute the loss and the metric sums of a batch from the output of a model and the labels.

Shapes: B events, C classes, T targets, P particles.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from weaver_tasks.base.errors import NetworkError
from weaver_tasks.base.user_code import users_code

LossFunction = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class StepOutput:
    """The result of one batch.

    loss: scalar, the mean over `count` labels. sums: other scalar tensors that are summed over an epoch. predictions: logits (count, C),
    or regressed values, detached; truth: their labels. output: the unchanged output of the model.
    """

    loss: Tensor
    count: int
    sums: dict[str, Tensor]
    predictions: Tensor
    truth: Tensor
    output: Any


def default_loss(task: str) -> LossFunction:
    return nn.CrossEntropyLoss() if task == "classification" else nn.MSELoss()


def label_columns(names: Sequence[str]) -> list[str]:
    """The names of labels, without those of label masks."""
    return [name for name in names if not name.endswith("_mask")]


def outcome(
    task: str, output: Any, labels: Mapping[str, Tensor], names: Sequence[str], loss_function: LossFunction, *, classes: int | None = None
) -> StepOutput:
    """The loss and metric sums of a batch. output: of the model; names: the labels of the data configuration.

    classes: the number of classes, if known. Raises NetworkError if output, labels and loss do not fit each other.
    """
    if task == "classification":
        return _classification(output, labels, label_columns(names), loss_function, classes)
    return _regression(output, labels, label_columns(names), loss_function)


def _classification(
    output: Any, labels: Mapping[str, Tensor], names: Sequence[str], loss_function: LossFunction, classes: int | None
) -> StepOutput:
    mask = labels.get(f"{names[0]}_mask")
    logits, truth, _ = flatten_predictions(output, labels[names[0]].long(), None if mask is None else mask.bool())
    assert truth is not None
    if logits.ndim != 2 or len(logits) != len(truth):
        raise NetworkError(
            f"the model gives an output of shape {tuple(logits.shape)} for {len(truth)} labels; (events, classes) is required, "
            "or (events, classes, particles) with per-particle labels."
        )
    # A loss defined by the user may take more outputs than scores; the scores come first.
    own_loss = not isinstance(loss_function, nn.CrossEntropyLoss)
    if classes and (logits.shape[1] < classes or (logits.shape[1] > classes and not own_loss)):
        raise NetworkError(
            f"the model gives {logits.shape[1]} outputs for the {classes} classes of labels.value. "
            "Make it as wide as they are many: num_classes=len(data_config.label_value)."
        )
    loss = _loss(loss_function, logits, truth)
    correct = (logits.detach().argmax(1) == truth).sum()
    return StepOutput(loss=loss, count=len(truth), sums={"correct": correct}, predictions=logits.detach(), truth=truth, output=output)


def _regression(output: Any, labels: Mapping[str, Tensor], names: Sequence[str], loss_function: LossFunction) -> StepOutput:
    columns = [labels[name].float() for name in names]
    truth = columns[0] if len(columns) == 1 else torch.stack(columns, dim=1)  # (B,), (B, T) or (B, P)
    predictions = output.squeeze(1) if output.ndim == truth.ndim + 1 and output.shape[1] == 1 else output
    if predictions.shape != truth.shape:
        raise NetworkError(
            f"the model gives an output of shape {tuple(output.shape)} for targets of shape {tuple(truth.shape)}. "
            "Give it one output for each label of the data configuration; those of a regression are of type custom."
        )
    mask = labels.get(f"{names[0]}_mask")
    if mask is not None:
        predictions, truth = predictions[mask.bool()], truth[mask.bool()]
    loss = _loss(loss_function, predictions, truth)
    error = (predictions.detach() - truth).double()
    sums = {"absolute_error": error.abs().sum(), "squared_error": error.square().sum(), "values": torch.tensor(truth.numel())}
    return StepOutput(loss=loss, count=len(truth), sums=sums, predictions=predictions.detach(), truth=truth, output=output)


def _loss(loss_function: LossFunction, predictions: Tensor, truth: Tensor) -> Tensor:
    sizes = f"for an output of shape {tuple(predictions.shape)} and labels of shape {tuple(truth.shape)}"
    with users_code("get_loss of the network", NetworkError, doing=f"its loss function {sizes}", passing=(torch.OutOfMemoryError,)):
        loss = loss_function(predictions, truth)
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        what = f"a tensor of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
        raise NetworkError(
            f"get_loss of the network: its loss function gives {what} {sizes}. Let it return one number, the mean of the batch."
        )
    return loss


def flatten_predictions(
    output: Any, label: Tensor | None = None, mask: Tensor | None = None, label_axis: int = 1
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Flatten per-particle outputs to one row for each particle that the mask keeps.

    output: (B, C) or (B, C, P), or a tuple (output, mask) or (output, label, mask). label, mask: (B,) or (B, P).
    label_axis: the axis of the classes. Returns predictions (N, C), label (N,), mask.
    """
    if isinstance(output, tuple):
        if len(output) == 2:
            predictions, mask = output
        else:
            predictions, label, mask = output
    else:
        predictions = output
    if predictions.ndim > 2:
        predictions = predictions.transpose(label_axis, -1)
        predictions = predictions.reshape(-1, predictions.shape[-1])
        if mask is not None:
            predictions = predictions[mask.reshape(-1)]
    return predictions, None if label is None else flatten_label(label, mask), mask


def flatten_label(label: Tensor, mask: Tensor | None = None) -> Tensor:
    """Flatten (B, P) labels to one axis and drop masked ones. (B,) labels stay unchanged."""
    if label.ndim == 1:
        return label
    label = label.reshape(-1)
    return label if mask is None else label[mask.reshape(-1)]
