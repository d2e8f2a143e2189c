"""Checkpoints: `<name>_state.pt`, the bare weights in weaver's format, and `<name>_optimizer.pt`, the rest of the training state.

Both load with `torch.load(weights_only=True)`. The second file holds the checksum of the first, so that files of
two different trainings are never combined.
"""

from __future__ import annotations

import hashlib
import pickle
import random
import struct
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from weaver_tasks.base.digests import file_checksum
from weaver_tasks.base.errors import CheckpointError
from weaver_tasks.base.files import atomic_path, check_regular
from weaver_tasks.base.unpickling import damage, why_refused
from weaver_tasks.training.journal import refuse_damaged, refuse_removed

# Errors that torch raises when it reads a damaged file.
_DAMAGED = (
    *(OSError, RuntimeError, EOFError, ValueError, zipfile.BadZipFile, pickle.UnpicklingError, struct.error),
    *(LookupError, TypeError, AttributeError, AssertionError, ArithmeticError, MemoryError),
)


def save_state(path: Path, model: nn.Module) -> None:
    """Write the bare state_dict of `model` (on the CPU), atomically."""
    _write(path, {name: tensor.cpu() for name, tensor in model.state_dict().items()})


def save_training_state(path: Path, content: Mapping[str, Any], *, state: Path) -> None:
    """Write the training state that belongs to the weights at `state` (plain values and tensors), atomically."""
    _write(path, {**_on_cpu(content), "state_checksum": file_checksum(state)})


def save_tensors(path: Path, content: Mapping[str, Any]) -> None:
    """Write tensors and plain values (on the CPU), atomically."""
    _write(path, _on_cpu(content))


def _write(path: Path, content: dict[str, Any]) -> None:
    # Pass a handle: torch would write the name of the temporary file, which is random, into a file that it opens itself.
    with atomic_path(path) as temporary, temporary.open("wb") as handle:
        try:
            torch.save(content, handle)
        except RuntimeError as error:
            # If writing fails, torch then fails to close the archive, and its second error hides the first.
            if isinstance(error.__context__, OSError):
                raise error.__context__ from error
            raise


def tensors_digest(tensors: Mapping[str, Tensor]) -> str:
    """A digest of the names, types, shapes and values of tensors."""
    sha = hashlib.sha256()
    for name, tensor in tensors.items():
        sha.update(f"{name} {tensor.dtype} {tuple(tensor.shape)};".encode())
        sha.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return sha.hexdigest()[:32]


def load_tensors(path: Path) -> dict[str, Any]:
    """Read a file written by torch.save, onto the CPU. Raises CheckpointError if it is missing, damaged or was removed."""
    refuse_removed(path)
    check_regular(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such checkpoint. Run the rule that makes it, or correct the path.") from None
    except _DAMAGED as error:
        if refused := why_refused(error, path):
            raise CheckpointError(
                f"{path}: not a checkpoint of tensors: {refused}. Save model.state_dict(), or get it from its source."
            ) from error
        raise CheckpointError(f"{path}: damaged checkpoint ({damage(error)}). Delete it and run again.") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: not a checkpoint, it holds a {type(content).__name__}. Delete it and run again.")
    return content


def content_digest(content: Any) -> str:
    """A digest of nested tensors and plain values: of their names, types, shapes and values."""
    sha = hashlib.sha256()
    for part in _parts(content):
        sha.update(part)
    return sha.hexdigest()


def _parts(content: Any) -> Iterator[Any]:
    if isinstance(content, Tensor):
        yield f"{content.dtype} {tuple(content.shape)};".encode()
        yield content.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    elif isinstance(content, Mapping):
        yield f"{len(content)} keys;".encode()
        for key, value in content.items():
            yield f"{key!r}:".encode()
            yield from _parts(value)
    elif isinstance(content, (list, tuple)):
        yield f"{len(content)} values;".encode()
        for value in content:
            yield from _parts(value)
    else:
        yield f"{content!r};".encode()


def save_snapshot(path: Path, content: Mapping[str, Any]) -> None:
    """Write tensors and plain values together with their checksum, atomically."""
    plain = _on_cpu(content)
    _write(path, {"content": plain, "checksum": content_digest(plain)})


def load_snapshot(path: Path) -> dict[str, Any]:
    """Read a file written by `save_snapshot`. Raises CheckpointError if it is damaged."""
    whole = load_tensors(path)
    if "model" in whole:
        return whole  # written by an earlier version, without a checksum
    content = whole.get("content")
    if not isinstance(content, dict) or content_digest(content) != whole.get("checksum"):
        raise CheckpointError(f"{path}: damaged checkpoint (it is not what was written). Delete it and run again.")
    return content


def is_training_state(content: Mapping[str, Any]) -> bool:
    """Whether loaded tensors were written by `save_training_state`, rather than being the state of an optimizer saved by weaver."""
    return "state_checksum" in content and "optimizer" in content


def load_training_state(path: Path, *, state: Path, expected_digest: str | None = None) -> dict[str, Any]:
    """Read a file written by `save_training_state`.

    state: the file of the weights. expected_digest: that of the epoch. Raises CheckpointError if the file is damaged, or belongs to other
    weights or to another training.
    """
    refuse_damaged(path)
    content = load_tensors(path)
    if not state.exists():
        raise CheckpointError(f"{state}: no such checkpoint. Run the rule that makes it.")
    if not is_training_state(content):
        raise CheckpointError(f"{path}: not written by this project's training. Start from {state.name} with network.load_weights instead.")
    if content["state_checksum"] != file_checksum(state):
        raise CheckpointError(f"{state}: damaged, or not the weights that {path.name} belongs to. Delete both and run again.")
    if expected_digest is not None and content.get("digest") != expected_digest:
        raise CheckpointError(
            f"{path}: of another training (its digest is {content.get('digest')}, the metrics beside it say {expected_digest}). "
            "Delete it and run again."
        )
    return content


def load_state(model: nn.Module, path: Path) -> None:
    """Load bare weights strictly.

    Raises CheckpointError if weights do not fit (it names the first ones), or if the file is not the one that the run wrote.
    """
    refuse_damaged(path)
    try:
        model.load_state_dict(load_tensors(path))
    except RuntimeError as error:
        raise CheckpointError(f"{path}: does not fit the network: {' '.join(str(error).split())[:300]}") from error


def hidden_buffers(model: nn.Module) -> dict[str, Tensor]:
    """The non-persistent buffers of a model, by name, which state_dict leaves out (such as the counter of SequenceTrimmer)."""
    saved = model.state_dict()
    return {name: buffer for name, buffer in model.named_buffers() if name not in saved}


def restore_hidden_buffers(model: nn.Module, buffers: Mapping[str, Tensor]) -> None:
    own = hidden_buffers(model)
    for name, value in buffers.items():
        if name in own:
            own[name].copy_(value)


def random_states(device: torch.device) -> dict[str, Any]:
    """The states of all random generators of this process, in types that torch.load(weights_only=True) accepts."""
    version, numbers, gauss = random.getstate()
    generator, keys, position, has_gauss, cached = np.random.get_state()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
        "python": [version, list(numbers), gauss],
        "numpy": [generator, torch.from_numpy(np.asarray(keys).astype(np.int64)), int(position), int(has_gauss), float(cached)],
    }


def restore_random_states(states: Mapping[str, Any], device: torch.device) -> None:
    torch.set_rng_state(states["torch"])
    if device.type == "cuda" and states["cuda"] is not None:
        torch.cuda.set_rng_state(states["cuda"], device)
    version, numbers, gauss = states["python"]
    random.setstate((version, tuple(numbers), gauss))
    generator, keys, position, has_gauss, cached = states["numpy"]
    np.random.set_state((generator, keys.numpy().astype(np.uint32), position, has_gauss, cached))


def _on_cpu(content: Any) -> Any:
    if isinstance(content, Tensor):
        return content.detach().cpu()
    if isinstance(content, Mapping):
        return {key: _on_cpu(value) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return type(content)(_on_cpu(value) for value in content)
    return content
