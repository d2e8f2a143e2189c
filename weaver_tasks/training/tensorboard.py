"""Write scalars of each step and epoch for TensorBoard, and call weaver's custom function, if `training.tensorboard` is set.

Tags and calls are those of weaver: Loss, Acc (or MSE, MAE) and GradNorm of each training step; Loss and Acc (or MSE, MAE) of each epoch
in training and validation. The function is called for each batch (counted from 1), and at the end with the last batch again, as batch -1.
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from weaver_tasks.base.errors import ConfigError
from weaver_tasks.settings.model import TrainingSettings
from weaver_tasks.training.distributed import rank

_NAMES = {"loss": "Loss", "accuracy": "Acc", "mse": "MSE", "mae": "MAE", "lr": "LearningRate", "gradient_norm": "GradNorm"}
_OF_EPOCHS = ("loss", "accuracy", "mse", "mae")


class TensorBoard:
    """Writes below `folder`, starting at step `first_step` of the training. Later steps written by a killed job are superseded.

    mode: train, or eval for a validation, which counts no steps. A validation has its own folder, since the next epoch trains meanwhile.
    custom: a Python file that defines weaver's `get_tensorboard_custom_fn(tb_writer, model_output, model, epoch, i_batch, mode)`.
    The attributes are those of weaver's `tb_helper` that its loops use.
    Raises ConfigError if the package tensorboard or the function is missing.
    """

    def __init__(self, folder: Path, *, mode: str = "train", first_step: int = 0, custom: Path | None = None) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise ConfigError(f"training.tensorboard: {error}. Run `pip install tensorboard`, or set it to false.") from error
        self.writer = SummaryWriter(log_dir=str(folder), purge_step=first_step + 1 if mode == "train" else None)
        self.mode = mode
        self.global_step = first_step
        self.batch_train_count = 0
        self.custom_fn: Callable[..., None] | None = None
        if custom is not None:
            self.custom_fn = functools.partial(_custom_function(custom), tb_writer=self.writer)

    def write_scalars(self, scalars: Iterable[tuple[str, float, int]]) -> None:
        for name, value, step in scalars:
            self.writer.add_scalar(name, value, step)

    def step(self, step: int, metrics: Mapping[str, float | None]) -> None:
        """Write the metrics of one step (counted from 1 over all epochs) under weaver's names."""
        known = {name: value for name, value in metrics.items() if value is not None and value == value}
        self.write_scalars((f"{_NAMES[name]}/{self.mode}", value, step) for name, value in known.items())

    def epoch(self, epoch: int, metrics: Mapping[str, Any]) -> None:
        """Write the metrics of a whole epoch."""
        known = {name: metrics[name] for name in _OF_EPOCHS if metrics.get(name) is not None}
        self.write_scalars((f"{_NAMES[name]}/{self.mode} (epoch)", value, epoch) for name, value in known.items())

    def output(self, output: Any, model: torch.nn.Module, *, epoch: int, batch: int) -> None:
        """Pass the output of a model to the custom function, if there is one."""
        if self.custom_fn is not None:
            with torch.no_grad():
                self.custom_fn(model_output=output, model=model, epoch=epoch, i_batch=batch, mode=self.mode)

    def close(self) -> None:
        self.writer.close()


def wanted_board(settings: TrainingSettings, folder: Path | None, *, mode: str = "train", first_step: int = 0) -> TensorBoard | None:
    """The TensorBoard writer on the first rank if `training.tensorboard` is set, otherwise None."""
    wanted = settings.tensorboard
    if not wanted or folder is None or rank() > 0:
        return None
    custom = Path(wanted) if isinstance(wanted, str) else None
    return TensorBoard(folder if mode == "train" else folder / "validation", mode=mode, first_step=first_step, custom=custom)


def _custom_function(path: Path) -> Callable[..., None]:
    spec = importlib.util.spec_from_file_location("_tensorboard_function", path)
    if spec is None or spec.loader is None or not path.is_file():
        raise ConfigError(f"training.tensorboard: '{path}' is no Python file. Give true, false, or the path of one.")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not hasattr(module, "get_tensorboard_custom_fn"):
        raise ConfigError(f"training.tensorboard: {path} defines no get_tensorboard_custom_fn. Define it as for weaver.")
    return module.get_tensorboard_custom_fn
