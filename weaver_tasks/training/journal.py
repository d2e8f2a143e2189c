"""The journal of finished epochs: `checkpoints/.journal/<digest>/`. No rule declares these files, so Snakemake never deletes them.

An epoch is written to the journal first, and then published under its declared names by hard links. The digest of an epoch includes
that of the epoch before. It therefore identifies the data, statistics, initial weights and settings that produced the entry.
The entry also keeps the validation metrics of the epoch. When `training.keep_checkpoints: best_and_last` removes an epoch, only its
tensors are deleted. The epoch is then published as placeholders, so that later epochs are still found, and only tasks that need its
tensors are refused. Two kinds of epochs are never removed: those that were ever selected (`selected.json` in their entries), and those
that any configuration trained here would select (`choices.json`). The selection is noted in the journal because Snakemake deletes
best_epoch.json before it selects again.
This module does not import numpy or torch, so that finished epochs are published within a fraction of a second.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from weaver_tasks.base.digests import digest, file_checksum
from weaver_tasks.base.errors import CheckpointError
from weaver_tasks.base.files import atomic_path, copy_file, json_text, link_or_copy, read_json, write_json
from weaver_tasks.base.record import environment
from weaver_tasks.settings.slices import depends_on
from weaver_tasks.settings.stage import StageSettings
from weaver_tasks.training.schedules import Rates

logger = logging.getLogger("weaver_tasks")

REMOVAL = "training.keep_checkpoints: best_and_last"
_TENSORS = ("state.pt", "optimizer.pt")
_REMOVED = "removed.json"
_SELECTED = "selected.json"
_PLACEHOLDER = f"removed by {REMOVAL}\n"


def epoch_uses(settings: StageSettings, *, data: Any, network: str, whole_schedule: bool) -> dict[str, Any]:
    """Everything that an epoch depends on, except the epoch before, its number and its learning rates.

    data: plain values that identify the manifest and the data configuration; network: digest of the network file.
    whole_schedule: True if the network's own init_opt makes the schedule. The settings of the schedule are then included.
    """
    config = settings.plain()
    # Without early stopping, which only decides whether an epoch is trained.
    uses = depends_on(config, "train_epoch", unconditionally=True)
    if whole_schedule:
        uses["training"] |= {name: config["training"][name] for name in ("epochs", "scheduler")}
    # The fold represents cross_validation, which is not a setting of a training. All existing digests contain null for it.
    own = {name: config[name] for name in ("seed", "fold", "validation_from_training", "meaning")}
    return {**uses, **own, "cross_validation": None, "data_and_statistics": data, "network_file": network}


def epoch_digest(previous: str, *, epoch: int, rates: Rates, uses: Mapping[str, Any]) -> str:
    """The digest of an epoch, which includes the digest of the epoch before."""
    return digest(previous, epoch, rates, uses)


class Journal:
    """The journal beside the published checkpoints of one training.

    checkpoints, metrics: the folders in which net_epoch-<n>_*.pt and train_epoch-<n>.json are published.
    first: number of the first epoch of this training, which starts from the state that init_model wrote.
    """

    def __init__(self, checkpoints: Path, metrics: Path, *, first: int = 0) -> None:
        self.checkpoints = checkpoints
        self.metrics = metrics
        self.first = first
        self.folder = checkpoints / ".journal"

    def state(self, epoch: int) -> Path:
        """Path of the published weights after `epoch`. For the epoch before the first: the weights that init_model wrote."""
        return self.checkpoints / ("init_state.pt" if epoch < self.first else f"net_epoch-{epoch}_state.pt")

    def training_state(self, epoch: int) -> Path:
        return self.checkpoints / ("init_optimizer.pt" if epoch < self.first else f"net_epoch-{epoch}_optimizer.pt")

    def metrics_file(self, epoch: int) -> Path:
        return self.metrics / ("init_model.json" if epoch < self.first else f"train_epoch-{epoch}.json")

    def entry(self, epoch_digest: str) -> Path:
        return self.folder / epoch_digest

    def snapshot(self, epoch_digest: str) -> Path:
        """Path of the snapshot of an unfinished epoch."""
        return self.entry(epoch_digest) / "snapshot.pt"

    def published_digest(self, epoch: int) -> str:
        """The digest of an epoch that is already published. Raises CheckpointError if its metrics contain no digest."""
        path = self.metrics_file(epoch)
        content = read_json(path)
        if not isinstance(content, dict) or "digest" not in content:
            raise CheckpointError(f"{path}: names no digest. Delete it and run again.")
        return content["digest"]

    def is_finished(self, epoch_digest: str) -> bool:
        """Whether an entry is complete and its files are unchanged.

        Files with tensors are hard links of the published files, so damage to one is damage to both. A removed epoch counts as finished.
        """
        entry = self.entry(epoch_digest)
        # metrics.json is written last.
        if not (entry / "metrics.json").exists():
            return False
        damaged = self._damaged(entry, epoch_digest)
        for name in damaged:
            logger.warning("%s: not what was written, so the epoch is trained again", entry / name)
        return not damaged

    def _damaged(self, entry: Path, epoch_digest: str) -> list[str]:
        """The names of files of a complete entry that are missing, unreadable or changed."""
        written = _read_dictionary(entry / "checksums.json")
        if written is None or not {*_TENSORS} <= written.keys():
            return ["checksums.json"]
        checked = {name: checksum for name, checksum in written.items() if name not in _TENSORS or not self.is_removed(epoch_digest)}
        damaged = [name for name, checksum in checked.items() if not _holds(entry / name, checksum)]
        # Entries of earlier versions have no checksums of these files.
        if "metrics.json" not in written and (_read_dictionary(entry / "metrics.json") or {}).get("digest") != epoch_digest:
            damaged.append("metrics.json")
        if "made_by.json" not in written and (entry / "made_by.json").exists() and _read_dictionary(entry / "made_by.json") is None:
            damaged.append("made_by.json")
        return damaged

    def checksums(self, epoch_digest: str) -> dict[str, str]:
        """The SHA-256 of each file of a finished epoch at the time of writing. Empty if unknown."""
        return _read_dictionary(self.entry(epoch_digest) / "checksums.json") or {}

    def finish(self, epoch_digest: str, metrics: Mapping[str, Any]) -> None:
        """Complete an entry whose state.pt and optimizer.pt are written."""
        entry = self.entry(epoch_digest)
        content = {**metrics, "digest": epoch_digest}
        # A removed epoch is trained again if the files that its removal left are damaged.
        (entry / _REMOVED).unlink(missing_ok=True)
        write_json(entry / "made_by.json", {**environment(), "end": datetime.now(UTC).isoformat()})
        checksums = {name: file_checksum(entry / name) for name in (*_TENSORS, "made_by.json")}
        write_json(entry / "checksums.json", {**checksums, "metrics.json": hashlib.sha256(json_text(content).encode()).hexdigest()})
        write_json(entry / "metrics.json", content)
        self.snapshot(epoch_digest).unlink(missing_ok=True)

    def made_by(self, epoch_digest: str) -> dict[str, Any] | None:
        """The code, machine and time of the training of a finished epoch.

        The record of the task may be lost, or belong to a task that found the epoch already finished.
        """
        path = self.entry(epoch_digest) / "made_by.json"
        return read_json(path) if path.exists() else None

    def publish(self, epoch: int, epoch_digest: str) -> list[Path]:
        """Publish a finished epoch under its declared names. Returns the paths."""
        entry = self.entry(epoch_digest)
        names = {"state.pt": self.state(epoch), "optimizer.pt": self.training_state(epoch), "metrics.json": self.metrics_file(epoch)}
        for source, target in names.items():
            if source.endswith(".pt") and self.is_removed(epoch_digest):
                write_placeholder(target)
            elif source.endswith(".pt"):
                link_or_copy(entry / source, target)
            else:
                # Copy this small file instead of linking it: users may edit the published file, and the journal must not change.
                copy_file(entry / source, target)
            # Snakemake reruns a rule whose outputs are older than its inputs.
            os.utime(target)
        return list(names.values())

    def publish_stopped(self, epoch: int, epoch_digest: str) -> list[Path]:
        """Publish an epoch skipped by early stopping: the previous checkpoint under the names of this epoch, and a `stopped` record."""
        copy_file(self.state(epoch - 1), self.state(epoch))
        copy_file(self.training_state(epoch - 1), self.training_state(epoch))
        write_json(self.metrics_file(epoch), {"epoch": epoch, "stopped": True, "digest": epoch_digest})
        return [self.state(epoch), self.training_state(epoch), self.metrics_file(epoch)]

    def prune(self, keep: set[int], *, below: int) -> list[int]:
        """Delete checkpoints of epochs below `below` that are not in `keep`, both published and in the journal. Returns the deleted epochs.

        Choose `below` so that no task reads the deleted epochs again: their validation and the next epoch must be finished. Epochs
        that were ever selected are kept even if not in `keep`, because undoing a change of the configuration selects them again.
        """
        gone = []
        for epoch in range(self.first, below):
            if epoch in keep:
                continue
            epoch_digest = self.published_digest(epoch) if self.metrics_file(epoch).exists() else None
            if epoch_digest is not None and self.is_selected(epoch_digest):
                continue
            if self.state(epoch).exists() or (epoch_digest is not None and self._has_tensors(epoch_digest)):
                gone.append((epoch, epoch_digest))
        # Delete only after all files were checked: a damaged file raises an error above.
        for epoch, epoch_digest in gone:
            # First the published files: if the task is killed after that, the epoch is still whole in the journal. A published
            # epoch whose entry is removed could be selected, but not kept.
            self._unpublish(epoch)
            if epoch_digest is not None:
                self._remove_tensors(epoch_digest)
        return [epoch for epoch, _ in gone]

    def drop_stopped(self, *, below: int) -> list[int]:
        """Delete published checkpoints of epochs below `below` that early stopping skipped (copies of the last trained epoch).

        Returns the epochs.
        """
        gone = []
        for epoch in range(self.first, below):
            if self.state(epoch).exists() and self.metrics_file(epoch).exists() and read_json(self.metrics_file(epoch)).get("stopped"):
                self._unpublish(epoch)
                gone.append(epoch)
        return gone

    def _unpublish(self, epoch: int) -> None:
        self.state(epoch).unlink(missing_ok=True)
        self.training_state(epoch).unlink(missing_ok=True)

    def _remove_tensors(self, epoch_digest: str) -> None:
        entry = self.entry(epoch_digest)
        if not (entry / "metrics.json").exists():
            return
        # Write this before deleting: an entry without tensors and without this file counts as damaged.
        write_json(entry / _REMOVED, {"removed_by": REMOVAL})
        for name in (*_TENSORS, "snapshot.pt"):
            (entry / name).unlink(missing_ok=True)

    def _has_tensors(self, epoch_digest: str) -> bool:
        entry = self.entry(epoch_digest)
        return (entry / "metrics.json").exists() and any((entry / name).exists() for name in _TENSORS)

    def is_removed(self, epoch_digest: str) -> bool:
        """Whether the tensors of a finished epoch were removed by `prune`."""
        return (self.entry(epoch_digest) / _REMOVED).exists()

    def tensors(self, epoch: int) -> tuple[Path, Path] | None:
        """Paths of the weights and the training state after a published epoch: published, or in the journal. None if they were deleted."""
        published = self.state(epoch), self.training_state(epoch)
        if all(path.exists() and not is_placeholder(path) for path in published):
            return published
        if not self.metrics_file(epoch).exists():
            return None
        entry = self.entry(self.published_digest(epoch))
        kept = entry / "state.pt", entry / "optimizer.pt"
        return kept if all(path.exists() for path in kept) and not (entry / _REMOVED).exists() else None

    def is_selected(self, epoch_digest: str) -> bool:
        """Whether an epoch was ever selected as the best."""
        return (self.entry(epoch_digest) / _SELECTED).exists()

    def note_selected(self, epoch_digest: str, best: Mapping[str, Any]) -> None:
        """Record permanently that an epoch was selected. best: the content of best_epoch.json."""
        if self.entry(epoch_digest).is_dir() and not self.is_selected(epoch_digest):
            write_json(self.entry(epoch_digest) / _SELECTED, best)

    def choices(self) -> list[dict[str, Any]]:
        """How each configuration that trained here chooses its best epoch. See `selection.chosen_epochs`."""
        path = self.folder / "choices.json"
        return read_json(path) if path.exists() else []

    def note_choice(self, choice: Mapping[str, Any]) -> None:
        """Record permanently how a configuration that trains here chooses its best epoch."""
        known = self.choices()
        if choice not in known:
            write_json(self.folder / "choices.json", [*known, choice])

    def validation(self, epoch_digest: str, key: str) -> Path:
        """Path of the validation metrics of an epoch. key: a digest of everything else that the validation depends on."""
        return self.entry(epoch_digest) / f"validation-{key}.json"


def keep_validation(path: Path, metrics: Mapping[str, Any]) -> None:
    """Write validation metrics into the journal, with a checksum."""
    plain = json.loads(json_text(metrics))
    write_json(path, {**plain, "checksum": digest(plain)})


def kept_validation(path: Path) -> dict[str, Any] | None:
    """The metrics that `keep_validation` wrote. None if the file is missing or changed."""
    if not path.exists():
        return None
    content = _read_dictionary(path)
    # Earlier versions wrote no checksum.
    written = content.pop("checksum", None) if content else None
    if not content or "epoch" not in content or (written is not None and digest(content) != written):
        logger.warning("%s: not what was written, so the epoch is validated again", path)
        return None
    return content


_CHECKPOINT = re.compile(r"net_(?:epoch-(?P<epoch>\d+)|best_epoch)_(?P<kind>state|optimizer)\.pt|init_(?P<first>state|optimizer)\.pt")


def refuse_damaged(path: Path) -> None:
    """Raise CheckpointError if a checkpoint of a run has changed since a task wrote it.

    Accepts files without a journal beside them, and files of earlier versions, which have no checksum.
    """
    expected = _written_checksum(path)
    if expected is not None and path.exists() and not is_placeholder(path) and file_checksum(path) != expected:
        raise CheckpointError(f"{path}: damaged checkpoint (it is not what was written). Delete it and run again.")


def _written_checksum(path: Path) -> str | None:
    found = _CHECKPOINT.fullmatch(path.name)
    run = path.parent.parent
    if not found:
        return None
    if found["first"]:
        first = _read_dictionary(run / "metrics" / "init_model.json") or {}
        return (first.get("checksums") or {}).get(f"{found['first']}.pt")
    epoch = found["epoch"] or (_read_dictionary(run / "best_epoch.json") or {}).get("epoch")
    trained = _read_dictionary(run / "metrics" / f"train_epoch-{epoch}.json") or {}
    if trained.get("stopped") or "digest" not in trained:
        return None
    return (_read_dictionary(path.parent / ".journal" / trained["digest"] / "checksums.json") or {}).get(f"{found['kind']}.pt")


def _read_dictionary(path: Path) -> dict[str, Any] | None:
    """The dictionary in a JSON file. None if it cannot be read or is not a dictionary."""
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def write_placeholder(path: Path) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text(_PLACEHOLDER)


def is_placeholder(path: Path) -> bool:
    """Whether a file is the placeholder of a removed checkpoint."""
    if not path.is_file() or path.stat().st_size != len(_PLACEHOLDER):
        return False
    return path.read_bytes() == _PLACEHOLDER.encode()


def refuse_removed(path: Path) -> None:
    """Raise CheckpointError if a checkpoint was removed by `training.keep_checkpoints`."""
    if is_placeholder(path):
        raise CheckpointError(
            f"{path}: was removed by {REMOVAL}, but this run needs it. Undo the change of the configuration; or set it to all, "
            f"delete {path.parent} and the metrics beside it, and train again."
        )


def validation_key(settings: StageSettings, *, manifest: str) -> str | None:
    """A digest of everything that a validation depends on besides the epoch. None if `settings.meaning` is None.

    settings: those of the task. manifest: the digest of the input files.
    """
    if settings.meaning is None:
        return None
    config = settings.plain()
    uses = {"sampling": {}, **depends_on(config, "validate_epoch")}
    uses |= {name: config[name] for name in ("seed", "fold", "validation_from_training", "meaning") if config[name] is not None}
    # Not needed, but existing keys of validations include it.
    uses["training"]["continue_from"] = config["training"]["continue_from"]
    return digest(uses, manifest)[:16]


def _holds(path: Path, checksum: str) -> bool:
    return path.exists() and file_checksum(path) == checksum
