"""inputs.json: the list of all input files of a run, gathered from the records of the files."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from weaver_tasks.base.digests import digest
from weaver_tasks.base.errors import DataConfigError, InputFileError

logger = logging.getLogger("weaver_tasks")

_SPLITS = ("train", "val", "test")
_IDENTITY = ("split", "group", "checksum", "bytes", "tree", "entries", "kept", "staging_digest", "bad")


def make_manifest(records: Sequence[dict[str, Any]], *, on_bad_file: str, max_bad_fraction: float) -> dict[str, Any]:
    """Gather the records of files into the content of inputs.json; its order is that of splits, then of `records`.

    on_bad_file: "fail" or "skip"; skipped files stay in the list, with their reasons. Raises InputFileError naming the bad
    files, and DataConfigError when no training event is left, or none of some class.
    """
    records = sorted(records, key=lambda record: _SPLITS.index(record["split"]))
    bad = [record for record in records if record["bad"]]
    if bad and (on_bad_file == "fail" or len(bad) > max_bad_fraction * len(records)):
        raise InputFileError(_bad_files(bad, len(records), on_bad_file, max_bad_fraction))
    for record in bad:
        logger.warning("skipped: %s", record["bad"])
    good = [record for record in records if not record["bad"]]
    _check_events(good)
    _warn_of_copies(good)
    shared = {key: good[0][key] for key in ("mode", "options")} if good else {}
    files = [{key: value for key, value in record.items() if key not in shared} for record in records]
    # What the data are, wherever the files lie; a remote file has no checksum, so its address stands for it.
    identity = [[*(record[key] for key in _IDENTITY), record["checksum"] or record["source"]] for record in records]
    return {**shared, "files": files, "digest": digest(identity)}


def _bad_files(bad: Sequence[dict[str, Any]], total: int, on_bad_file: str, max_bad_fraction: float) -> str:
    causes = "; ".join(record["bad"].removesuffix(".") for record in bad[:20]) + (f"; and {len(bad) - 20} more" if len(bad) > 20 else "")
    if on_bad_file == "fail":
        return f"{len(bad)} of {total} input files cannot be used: {causes}. Mend or leave them out, or set staging.on_bad_file: skip."
    return (
        f"{len(bad)} of {total} input files cannot be used, more than staging.max_bad_fraction {max_bad_fraction:g} allows: {causes}. "
        "Mend or leave them out, or raise staging.max_bad_fraction."
    )


def _check_events(good: Sequence[dict[str, Any]]) -> None:
    training = [record for record in good if record["split"] == "train"]
    if not training:
        return
    where = training[0]["data_config"]
    if not any(record["kept"] for record in training):
        entries = sum(record["entries"] for record in training)
        raise DataConfigError(
            f"{where}: selection: none of the {entries} entries of {len(training)} training files passes. Correct the selection."
        )
    counts: dict[str, int] = {}
    for record in training:
        for name, count in (record["classes"] or {}).items():
            counts[name] = counts.get(name, 0) + count
    absent = [name for name, count in counts.items() if count == 0]
    if absent:
        raise DataConfigError(
            f"{where}: labels.value: no training event matches the class {', '.join(absent)}. "
            "Add files of it to data.train, or take it out of labels.value; if it should be there, check its flag and the selection."
        )
    for record in training:
        for name, count in record["not_finite"].items():
            logger.warning("%s: %d values of '%s' are not finite; NaN will become 0", record["source"], count, name)


def _warn_of_copies(good: Sequence[dict[str, Any]]) -> None:
    seen: dict[str, dict[str, Any]] = {}
    for record in good:
        if record["checksum"]:
            first = seen.setdefault(record["checksum"], record)
            # Training files may be predicted by the folds that did not see their events.
            out_of_fold = record["split"] == "test" and record["options"]["fold_variable"]
            if first is not record and not out_of_fold:
                logger.warning("%s (%s) is a copy of %s (%s)", record["source"], record["split"], first["source"], first["split"])
