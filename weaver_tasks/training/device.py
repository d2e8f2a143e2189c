"""Set up the device (CPU or GPU) of a rank: choice, threads, determinism, seeds, mixed precision, compilation."""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import nn

from weaver_tasks.base.errors import ConfigError, TrainingError
from weaver_tasks.settings.model import TrainingSettings

_PRECISIONS = {"bf16": torch.bfloat16, "fp16": torch.float16}


def choose_device(name: str) -> torch.device:
    """The device of this rank for `training.device`: auto means cuda if there is a GPU. Raises ConfigError if cuda is not available."""
    if name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    if local_rank >= torch.cuda.device_count():
        raise ConfigError(
            f"training.device: {name}, but rank {local_rank} of this node finds {torch.cuda.device_count()} GPUs. "
            "Lower training.ranks, ask for more GPUs, or set training.device: cpu."
        )
    device = torch.device("cuda", local_rank)
    torch.cuda.set_device(device)
    return device


def device_name(device: torch.device) -> str:
    """The name of the device in records: cpu, or cuda with the model of the GPU."""
    return f"cuda {torch.cuda.get_device_name(device)}" if device.type == "cuda" else device.type


def prepare_process(settings: TrainingSettings, device: torch.device, *, cache: Path | None = None) -> None:
    """Set the number of threads, determinism, and the folder that keeps compiled code between jobs (`cache`)."""
    torch.set_num_threads(settings.threads)
    # Not use_deterministic_algorithms, which imports torch's compiler (2 s). Operations without a deterministic form give a warning.
    torch.set_deterministic_debug_mode("warn")
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    if device.type == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.backends.cudnn.benchmark = False
        torch.backends.cudnn.deterministic = True
    if settings.compile and cache is not None:
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache.absolute()))


def seed_generators(seed: int, *parts: int | str) -> None:
    """Seed torch, numpy and random from (seed, parts), so that dropout depends on epoch and rank, and not on earlier computations."""
    text = ":".join(map(str, (seed, *parts)))
    number = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1
    torch.manual_seed(number)
    random.seed(number)
    np.random.seed(number % 2**32)


def batch_memory(device: torch.device) -> Callable[..., np.ndarray]:
    """A function like numpy.empty. For a GPU it gives pinned memory, so that copies overlap with computation."""
    if device.type == "cpu":
        return np.empty
    return lambda count, dtype: torch.empty(count, dtype=torch.float32, pin_memory=True).numpy()


@contextlib.contextmanager
def enough_memory(key: str, size: int) -> Iterator[None]:
    """Report in one line that the memory of the GPU is too small for a batch of `size` events, the value of training.<key>."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise TrainingError(
            f"training.{key}: {size} events at a time need more memory than the GPU has ({' '.join(str(error).split())[:200]}). "
            "Give a smaller one, or less precision (training.amp)."
        ) from error


def mixed_precision(settings: TrainingSettings, device: torch.device) -> contextlib.AbstractContextManager[object]:
    """The autocast context of `training.amp`. Raises ConfigError for fp16 on a CPU."""
    if settings.amp is None:
        return contextlib.nullcontext()
    if settings.amp == "fp16" and device.type == "cpu":
        raise ConfigError("training.amp: fp16 needs a GPU; on the CPU use bf16.")
    return torch.autocast(device.type, dtype=_PRECISIONS[settings.amp])


def gradient_scaler(settings: TrainingSettings, device: torch.device) -> torch.amp.GradScaler | None:
    return torch.amp.GradScaler(device.type) if settings.amp == "fp16" else None


def compiled(model: nn.Module, settings: TrainingSettings) -> nn.Module:
    """`model`, compiled if `training.compile` is true or a map of options for torch.compile. Raises ConfigError if torch refuses them."""
    if not settings.compile:
        return model
    options = {} if settings.compile is True else dict(settings.compile)
    if not isinstance(options.get("fullgraph", False), bool):
        raise ConfigError(f"training.compile: fullgraph is {options['fullgraph']!r}. Give true or false.")
    try:
        return torch.compile(model, **options)  # type: ignore[return-value]
    except (RuntimeError, TypeError, AssertionError) as error:
        raise ConfigError(
            f"training.compile: torch.compile refuses {options} ({' '.join(str(error).split())[:300]}). Correct it."
        ) from error
