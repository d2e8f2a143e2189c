"""Makes inputs.json, the manifest: the list of all input files of a run, gathered from the records of the files."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from typing import Any

from weaver_tasks.base.digests import digest
from weaver_tasks.base.errors import DataConfigError, InputFileError
from weaver_tasks.data.events.block import BASE_WEIGHT, WEIGHT
from weaver_tasks.data.events.column_types import ColumnType, common_type
from weaver_tasks.data.readers.remote_state import RemoteState
from weaver_tasks.data.staging.unlabeled import check_groups

logger = logging.getLogger("weaver_tasks")

_WEIGHT_KEYS = {WEIGHT: "the product of weights.weight_branches", BASE_WEIGHT: "weights.reweight_basewgt"}
_GATHERED = ("types", "several", "irregular")
_SPLITS = ("train", "val", "test")
_IDENTITY = ("split", "group", "checksum", "bytes", "tree", "entries", "kept", "events_digest", "bad")


def make_manifest(
    records: Sequence[dict[str, Any]], *, on_bad_file: str, max_bad_fraction: float, evaluation_weight: str | None = None
) -> dict[str, Any]:
    """Gather the records of files into the content of inputs.json, ordered by split, then as in `records`.

    on_bad_file: "fail" or "skip"; skipped files stay in the list, with the reason. evaluation_weight: the observer that weights test
    events. "types" of each file lists the columns whose type differs from that of the split; "warnings" lists warnings for the user.
    Raises InputFileError naming the bad files, and DataConfigError when no training event is left, when the types of a column are
    incompatible, or when a required weight is not finite.
    """
    # Records of earlier versions have no events_digest; their staging_digest had the same meaning.
    records = [{"events_digest": record["staging_digest"], **record} for record in records]
    records = sorted(records, key=lambda record: _SPLITS.index(record["split"]))
    bad = [record for record in records if record["bad"]]
    if bad and (on_bad_file == "fail" or len(bad) > max_bad_fraction * len(records)):
        raise InputFileError(_bad_files(bad, len(records), on_bad_file, max_bad_fraction))
    for record in bad:
        logger.warning("skipped: %s", record["bad"])
    good = [record for record in records if not record["bad"]]
    warnings = [*_check_events(good), *_check_weights(good, evaluation_weight), *_several_classes(good)]
    for warning in warnings:
        logger.warning("%s", warning)
    _warn_of_values(good)
    _warn_of_copies(good)
    check_groups(good)
    shared = {key: good[0][key] for key in ("mode", "options")} if good else {}
    types = {split: _agreed_types([record for record in good if record["split"] == split]) for split in _SPLITS}
    files = [
        {key: value for key, value in record.items() if key not in (*shared, *_GATHERED)}
        | {"types": _other_types(record, types[record["split"]])}
        for record in records
    ]
    # The digest depends on the data and not on their location. A remote file has no checksum: its address and its state are used instead.
    identity = [[*(record[key] for key in _IDENTITY), record["checksum"] or record["source"], *_of_server(record)] for record in records]
    return {**shared, "files": files, "warnings": warnings, "digest": digest(identity)}


def _of_server(record: dict[str, Any]) -> list[Any]:
    """The size of a remote file that was not copied, and what tells its content. Records of earlier versions have neither."""
    state = RemoteState.recorded(record.get("remote"))
    return [] if state is None or record["checksum"] else [state.size, state.identity()]


def _other_types(record: dict[str, Any], agreed: dict[str, ColumnType]) -> dict[str, ColumnType]:
    """Return the columns of a file whose common type in the split differs from their type in the file."""

    def plain(kind: ColumnType) -> ColumnType:
        return {key: value for key, value in kind.items() if key != "largest"}

    return {name: plain(agreed[name]) for name, own in record.get("types", {}).items() if plain(own) != plain(agreed.get(name, own))}


def _agreed_types(records: Sequence[dict[str, Any]]) -> dict[str, ColumnType]:
    """Return the type of each plain column that holds the values of all files exactly. Files without events are ignored."""
    agreed: dict[str, ColumnType] = {}
    first: dict[str, str] = {}
    for record in [record for record in records if record["kept"]] or records[:1]:
        for name, kind in record.get("types", {}).items():
            if name not in agreed:
                agreed[name], first[name] = kind, record["source"]
                continue
            try:
                agreed[name] = common_type(agreed[name], kind)
            except ValueError as error:
                raise DataConfigError(
                    f"{record['data_config']}: '{name}' is {error}: the first in {first[name]}, the second in {record['source']}. "
                    f"All {record['split']} files need one type. Give it in new_variables, or leave one of the files out."
                ) from None
    return agreed


def _bad_files(bad: Sequence[dict[str, Any]], total: int, on_bad_file: str, max_bad_fraction: float) -> str:
    causes = "; ".join(record["bad"].removesuffix(".") for record in bad[:20]) + (f"; and {len(bad) - 20} more" if len(bad) > 20 else "")
    if on_bad_file == "fail":
        return (
            f"{len(bad)} of {total} input files cannot be used: {causes}. Repair them or leave them out, or set staging.on_bad_file: skip."
        )
    return (
        f"{len(bad)} of {total} input files cannot be used, more than staging.max_bad_fraction {max_bad_fraction:g} allows: {causes}. "
        "Repair them or leave them out, or raise staging.max_bad_fraction."
    )


def _check_events(good: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Yield warnings about the training events. Raises DataConfigError when there are none."""
    training = [record for record in good if record["split"] == "train"]
    if not training:
        return
    where = training[0]["data_config"]
    entries = sum(record["entries"] for record in training)
    if not any(record["kept"] for record in training):
        if not entries:
            raise DataConfigError(f"{training[0]['source']}: has no entries, nor has any other training file. Give files with events.")
        raise DataConfigError(
            f"{where}: selection: none of the {entries} entries of {len(training)} training files passes. Correct the selection."
        )
    counts: dict[str, int] = {}
    for record in training:
        for name, count in (record["classes"] or {}).items():
            counts[name] = counts.get(name, 0) + count
    absent = [name for name, count in counts.items() if count == 0]
    if absent:
        yield (
            f"{where}: labels.value: NO TRAINING EVENT of class {', '.join(absent)}: the network cannot learn it. If there should be some, "
            "check its flag and the selection, or add files to data.train; otherwise take it out of labels.value."
        )


def _warn_of_values(good: Sequence[dict[str, Any]]) -> None:
    for record in good:
        if not record["entries"]:
            logger.warning("%s (%s, %s) has no entries", record["source"], record["split"], record["group"])
        for name, count in record["not_finite"].items() if record["split"] == "train" else ():
            logger.warning("%s: %d values of '%s' are not finite; NaN will become 0", record["source"], count, name)


def _several_classes(good: Sequence[dict[str, Any]]) -> Iterator[str]:
    several: dict[str, int] = {}
    for record in good:
        if record.get("several"):
            several[record["group"]] = several.get(record["group"], 0) + record["several"]
    for group, count in several.items():
        yield (
            f"{count} test events of group '{group}' have the flags of several classes of labels.value; "
            "each counts as the class of its largest flag, the first of equal ones."
        )


def _check_weights(good: Sequence[dict[str, Any]], evaluation_weight: str | None) -> Iterator[str]:
    """Yield warnings about negative or non-finite weights. Raises DataConfigError if they would make a result invalid."""
    summed: dict[tuple[str, str, str], list[int]] = {}
    for record in good:
        test = record["split"] == "test"
        for name in [evaluation_weight or ""] if test else [WEIGHT, BASE_WEIGHT]:
            found = record.get("irregular", {}).get(name)
            if not found:
                continue
            key = _WEIGHT_KEYS.get(name, f"evaluation.weight '{name}'")
            if found["not_finite"] and name != WEIGHT:
                raise DataConfigError(
                    f"{record['source']} (group '{record['group']}'): entry {found['first']}: {key} is not finite, and so it is in "
                    f"{found['not_finite'] - 1} more of {record['kept']} events. Correct it in the file, or define it with np.nan_to_num."
                )
            counts = summed.setdefault((record["split"], record["group"], key), [0, 0])
            counts[0] += found["not_finite"]
            counts[1] += found["negative"]
    for (split, group, key), (not_finite, negative) in summed.items():
        where = f"{split} group '{group}': {key}"
        if not_finite:
            yield f"{where} is not finite in {not_finite} events, which are never drawn."
        if negative:
            yield f"{where} is negative in {negative} events" + (" of the test." if split == "test" else ", which are never drawn.")


def _warn_of_copies(good: Sequence[dict[str, Any]]) -> None:
    seen: dict[str, dict[str, Any]] = {}
    for record in good:
        if record["checksum"]:
            first = seen.setdefault(record["checksum"], record)
            # With cross-validation, training files may also be test files: each event is predicted by a fold not trained on it.
            out_of_fold = record["split"] == "test" and record["options"]["fold_variable"]
            if first is not record and not out_of_fold:
                logger.warning("%s (%s) is a copy of %s (%s)", record["source"], record["split"], first["source"], first["split"])
