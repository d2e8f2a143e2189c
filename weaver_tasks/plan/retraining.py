"""Find finished epochs that a run would train again because settings have changed, and require the user's consent before it starts."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from weaver_tasks.base.digests import digest
from weaver_tasks.base.errors import ConfigError, WeaverTasksError
from weaver_tasks.base.files import atomic_path, read_json
from weaver_tasks.base.record import RECORDS
from weaver_tasks.plan.plan import FITTING, Plan

# Keys in the settings of an epoch that are not compared here: they can stop the training but change no epoch, or are compared as digests.
_OTHERWISE = {"epochs", "validation", "training.early_stopping", "meaning"}
_AGREED = ".retraining_agreed"
_MOST = 4  # maximum number of changes that are listed
_LONGEST = 60  # maximum length of a displayed value


@dataclass(frozen=True, kw_only=True)
class Retraining:
    """The finished epochs of a member that would be trained again.

    changes: descriptions of the changes. removed: the number of these epochs whose weights `training.keep_checkpoints` has removed.
    """

    member: str
    epochs: tuple[int, ...]
    changes: tuple[str, ...]
    removed: int


def check_retraining(plan: Plan, planned: Iterable[tuple[str, int]]) -> None:
    """Raise ConfigError if planned epochs were already finished with other settings, unless `retrain` gives consent.

    planned: (member, epoch) of the epochs that will be trained or published again. Consent is stored for these settings, so that an
    interrupted run continues without the key.
    """
    found = retrainings(plan, planned)
    if not found:
        return
    agreed, settings = Path(plan.run) / _AGREED, _all_settings(plan)
    if plan.config["retrain"]:
        with atomic_path(agreed) as temporary:
            temporary.write_text(settings)
    elif not agreed.is_file() or agreed.read_text() != settings:
        raise ConfigError(f"{plan.where}: {retraining_message(plan, found)}")


def retraining_message(plan: Plan, found: list[Retraining]) -> str:
    """The error message: which epochs would be trained again and replaced, why, and what to do."""
    epochs = sum(len(each.epochs) for each in found)
    changes = list(dict.fromkeys(change for each in found for change in each.changes))
    named = "; ".join(changes[:_MOST]) + (f"; and {len(changes) - _MOST} more" if len(changes) > _MOST else "")
    first = min(each.epochs[0] for each in found)
    removed = sum(each.removed for each in found)
    gone = f", but for {removed} that training.keep_checkpoints has removed," if removed else ""
    return (
        f"{plan.run} holds a training of other settings ({named}): {epochs} finished epoch{'s' if epochs > 1 else ''}, from epoch {first} "
        "on, would be trained again, and with them the checkpoints, predictions, evaluation and export of the run be replaced. "
        f"To keep both give this one another name (run: …); to go on, agree by --config retrain=true. The old epochs{gone} stay in "
        "checkpoints/.journal: with the old settings they are there again without training."
    )


def retrainings(plan: Plan, planned: Iterable[tuple[str, int]]) -> list[Retraining]:
    """The planned epochs that were finished with other settings or input files, or that follow such epochs."""
    by_member: dict[str, list[int]] = {}
    for member, epoch in planned:
        by_member.setdefault(member, []).append(epoch)
    return [found for member, epochs in by_member.items() if (found := _retraining(plan, member, sorted(epochs)))]


def _retraining(plan: Plan, member: str, epochs: list[int]) -> Retraining | None:
    finished = [epoch for epoch in epochs if _is_finished(plan, member, epoch)]
    if not finished:
        return None
    # These changes affect all epochs; changes of one epoch affect it and all later ones.
    of_all = [*_changed_files(plan), *_changed_start(plan, member)]
    recorded = _recorded(plan, member)
    for position, epoch in enumerate(finished):
        changes = [*of_all, *_changed_epoch(plan, member, epoch, recorded.get(epoch, {}))]
        if changes:
            return _of(plan, member, finished[position:], tuple(dict.fromkeys(changes)))
    return None


def _of(plan: Plan, member: str, epochs: list[int], changes: tuple[str, ...]) -> Retraining:
    journal = Path(plan.run) / member / "checkpoints" / ".journal"
    digests = [_metrics(plan, member, epoch).get("digest", "") for epoch in epochs]
    removed = sum((journal / each / "removed.json").exists() for each in digests if each)
    return Retraining(member=member, epochs=tuple(epochs), changes=changes, removed=removed)


def _metrics(plan: Plan, member: str, epoch: int) -> dict[str, Any]:
    found = _readable(Path(plan.run) / member / "metrics" / f"train_epoch-{epoch}.json")
    return found if isinstance(found, dict) else {}


def _is_finished(plan: Plan, member: str, epoch: int) -> bool:
    """Whether an epoch was trained; epochs that early stopping skipped were not."""
    metrics = _metrics(plan, member, epoch)
    return bool(metrics) and not metrics.get("stopped")


def _readable(path: Path) -> Any:
    """The content of a JSON file; None if it is missing or damaged (the task that needs it will report that)."""
    try:
        return read_json(path) if path.is_file() else None
    except WeaverTasksError:
        return None


def _recorded(plan: Plan, member: str) -> dict[int, dict[str, Any]]:
    """Epoch -> the settings recorded by its latest task."""
    folder = Path(plan.run) / RECORDS / "train_epoch" / member
    recorded: dict[int, dict[str, Any]] = {}
    for path in sorted(folder.glob("*.json"), key=lambda path: path.stat().st_mtime):
        settings = (_readable(path) or {}).get("settings") or {}
        recorded |= {int(epoch): settings for epoch in settings.get("epochs") or {}}
    return recorded


def _changed_files(plan: Plan) -> list[str]:
    """A description of changes in the list of training files; empty if there are none, or files were only moved (same name and size)."""
    manifest = _readable(Path(plan.run) / "staged" / "fitting.json")
    if not isinstance(manifest, dict):
        return []
    changes = []
    for split in FITTING:
        there = {entry["source"]: entry.get("bytes") for entry in manifest["files"] if entry["split"] == split}
        now = {file.source for file in plan.files_of(split)}
        gone = Counter((Path(source).name, there[source]) for source in there.keys() - now)
        new = Counter((Path(source).name, _size(source)) for source in now - there.keys())
        moved = sum((gone & new).values())
        if gone != new:
            changes.append(f"data.{split}: {gone.total() - moved} of {len(there)} files less, {new.total() - moved} new")
    return changes


def _size(source: str) -> int | None:
    """The bytes of a local file; None for one that is not there (a rule may still make it) or far away."""
    return os.stat(source).st_size if os.path.isfile(source) else None


def _changed_start(plan: Plan, member: str) -> list[str]:
    record = _readable(Path(plan.run) / RECORDS / "init_model" / member / "init_model.json") or {}
    return _in_words(plan, plan.settings("init_model", member=member), record.get("settings") or {})


def _changed_epoch(plan: Plan, member: str, epoch: int, recorded: Mapping[str, Any]) -> list[str]:
    now = plan.settings("train_epoch", member=member, epochs=range(epoch, epoch + 1))
    changes = _in_words(plan, now, recorded)
    old, new = ((settings.get("epochs") or {}).get(str(epoch), {}).get("rates") for settings in (recorded, now))
    if old is not None and old != json.loads(json.dumps(new)):
        horizon = (recorded.get("training") or {}).get("scheduler", {}).get("horizon")
        hint = (
            f"; training.scheduler.horizon: {horizon} would keep them" if horizon and horizon != plan.config["training"]["epochs"] else ""
        )
        changes.append(f"the learning rates of the schedule{hint}")
    return changes


def _in_words(plan: Plan, now: Mapping[str, Any], recorded: Mapping[str, Any]) -> list[str]:
    changes = [f"{key}: {_short(old)} there, {_short(new)} now" for key, old, new in _differences(recorded, json.loads(json.dumps(now)))]
    if recorded.get("meaning") not in (None, now.get("meaning")):
        network = (recorded.get("network") or {}).get("source_digest")
        if network not in (None, plan.untracked()["network"]["source_digest"]):
            changes.append("network.config: other code")
        else:
            changes.append("data.config: other inputs, labels, selection or weights")
    return changes


def _differences(recorded: Any, now: Any, key: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Yield (key, old, new) for recorded values that have changed. A key that an older version did not know is not a change."""
    if isinstance(now, dict) and isinstance(recorded, dict):
        for name, value in now.items():
            full = f"{key}.{name}" if key else name
            # In options of external functions, a key that was added or removed is a change.
            if full not in _OTHERWISE and (name in recorded or key.endswith("options")):
                yield from _differences(recorded.get(name), value, full)
        if key.endswith("options"):
            yield from ((f"{key}.{name}", value, None) for name, value in recorded.items() if name not in now)
    elif recorded != now:
        yield key, recorded, now


def _short(value: Any) -> str:
    text = "nothing" if value is None else value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"


def _all_settings(plan: Plan) -> str:
    """A digest of all settings that the trainings of the run depend on."""
    members = plan.members()
    starts = [plan.settings("init_model", member=member) for member in members]
    trainings = [plan.settings("train_epoch", member=member, epochs=plan.epochs()) for member in members]
    return digest(starts, trainings, [file.source for file in plan.files_of(*FITTING)])
