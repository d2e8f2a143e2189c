"""The part of `check` that tests the network: make it, train one step, and see whether validation gives the selected metric."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import numpy as np
import torch
from rich.console import Console

from weaver_tasks.base.errors import WeaverTasksError, did_you_mean
from weaver_tasks.jobs.new_network import fresh_network
from weaver_tasks.plan import Plan
from weaver_tasks.settings.model import TrainingSettings
from weaver_tasks.settings.stage import stage_settings
from weaver_tasks.training.device import choose_device
from weaver_tasks.training.losses import default_loss
from weaver_tasks.training.selection import METRICS
from weaver_tasks.training.step import Task

if TYPE_CHECKING:
    from weaver_tasks.data.configuration import DataConfiguration
    from weaver_tasks.networks.loading import Network


def network_problems(plan: Plan, console: Console) -> Iterator[str]:
    """Make the network and its optimizer as init_model will, pass two events through it, and check that validation gives the metric."""
    if plan.config["prediction"]["model"]:
        return
    path, settings = plan.config["network"]["config"], stage_settings(plan.settings("init_model", member=plan.members()[0]))
    configuration = plan.data_configuration("train")
    try:
        network, _ = fresh_network(settings, configuration, Path(path))
    except WeaverTasksError as error:
        yield str(error)
        return
    sizes = [parameter.numel() for parameter in network.model.parameters()]
    trained = [parameter.numel() for parameter in network.model.parameters() if parameter.requires_grad]
    console.print(f"Network {path}: {sum(sizes):,} parameters, {sum(trained):,} of them trained.")
    try:
        _take_a_step(network, configuration, settings.training)
    except WeaverTasksError as error:
        yield str(error)
    metric, known = plan.config["validation"]["metric"], METRICS[plan.config["training"]["task"]]
    if network.evaluate_fn is None and metric not in known:
        yield f"{plan.where}: validation.metric: '{metric}' is not what validation gives: {', '.join(known)}.{did_you_mean(metric, known)}"


def _take_a_step(network: Network, configuration: DataConfiguration, settings: TrainingSettings) -> None:
    """Run forward pass and loss for two events with all inputs 1. Raises NetworkError if the network's code fails or its output is invalid.

    This is skipped if the network has its own training loop, if label values are only known from the files, or if there is no GPU here.
    """
    elsewhere = settings.device == "cuda" and not torch.cuda.is_available()
    if network.train_fn is not None or configuration.class_count is None or elsewhere:
        return
    device = choose_device(settings.device)
    loss = network.loss if network.loss is not None else default_loss(settings.task)
    task = Task(
        settings=settings if device.type == "cuda" else settings.model_copy(update={"amp": None}),
        device=device,
        input_names=configuration.input_names,
        label_names=configuration.label_names,
        loss_function=loss.to(device) if hasattr(loss, "to") else loss,
        classes=configuration.class_count,
    )
    shapes = {name: (2, count) if length is None else (2, count, length) for name, (_, count, length) in configuration.input_shapes.items()}
    inputs = {name: np.ones(shape, np.float32) for name, shape in shapes.items()}
    labels = {name: np.array([0, configuration.class_count - 1]) for name in configuration.label_names}
    task.run(network.model.to(device).train(), SimpleNamespace(inputs=inputs, labels=labels))
