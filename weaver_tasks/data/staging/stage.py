"""Stages one input file: checks it, writes it as columns or copies it, and describes its content in a record."""

from __future__ import annotations

import copy
import dataclasses
import functools
import hashlib
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from weaver_tasks.base.digests import digest
from weaver_tasks.base.errors import DataConfigError, InputFileError
from weaver_tasks.base.files import atomic_path, read_json
from weaver_tasks.base.source_digest import source_digest
from weaver_tasks.data.configuration import fingerprints
from weaver_tasks.data.configuration.uses import describe_use
from weaver_tasks.data.events.block import LABEL, Block, StagingOptions
from weaver_tasks.data.events.column_types import ColumnType, common_type, type_of
from weaver_tasks.data.events.reading import blocks_of, opened
from weaver_tasks.data.events.transform import Transformation, changes_each_epoch, plan_transformation
from weaver_tasks.data.readers import Reader, branch_names
from weaver_tasks.data.readers.hdf5_links import companions
from weaver_tasks.data.readers.remote import RemoteFile, RemoteFileError, RemoteState, is_remote, open_stream, remote_state
from weaver_tasks.data.staging.arrow_file import FORMAT, StagedWriter
from weaver_tasks.data.staging.places import expand_path
from weaver_tasks.data.staging.source_checksums import StoredChecksum, check_unchanged, source_checksum, source_status
from weaver_tasks.data.staging.unlabeled import lacks_labels, without_labels

_FIRST_FORMAT = 1  # of staged files; stays in the events digest, so that a new format does not repeat trainings
_RULES = 2
"""Changes with what the same configuration makes of the same bytes, so that what was staged by earlier rules is staged again."""
_LOOKED_AT = 1_000
"""Entries whose inputs are made to see whether they fit, where they are read each epoch."""

if TYPE_CHECKING:
    from weaver_tasks.data.configuration.model import DataConfiguration


@dataclass(frozen=True, kw_only=True)
class Staging:
    """How the files of a split are staged. mode: "columnar", "copy" or "none". recorded: checksums from earlier staging."""

    configuration: DataConfiguration
    split: str
    mode: str
    options: StagingOptions = field(default_factory=StagingOptions)
    custom_functions: Path | None = None
    recorded: Mapping[str, StoredChecksum] = field(default_factory=dict)

    def digest(self) -> str:
        """The digest of everything that staged columns depend on besides the source. A file with another digest is staged again."""
        return digest(FORMAT, _RULES, self.events_digest())

    def events_digest(self) -> str:
        """The digest of everything that the events depend on besides the source, for any staging mode. Digests of epochs include it."""
        functions = source_digest(self.custom_functions) if self.custom_functions else None
        meaning = fingerprints.staging(self.configuration, self.split, self.options.expressions())
        return digest(_FIRST_FORMAT, meaning, self.options.as_dict(), functions)


@dataclass(kw_only=True)
class _Facts:
    """Facts collected about a file while it is read.

    types: of the plain columns. several: number of test events with the flags of several classes. irregular: for columns that may
    serve as weights and have such values: {column: {"not_finite": count, "first": entry of the first one, "negative": count}}.
    """

    kept: int = 0
    classes: np.ndarray | None = None
    not_finite: dict[str, int] = field(default_factory=dict)
    types: dict[str, ColumnType] = field(default_factory=dict)
    several: int = 0
    irregular: dict[str, dict[str, int | None]] = field(default_factory=dict)

    def count(self, block: Block, transformation: Transformation, source: str) -> None:
        """Add the facts of a block. Raises DataConfigError if the type of a column differs from that in earlier blocks."""
        self.kept += len(block)
        self.several += block.several
        if transformation.flags and LABEL in block.plain:
            found = np.bincount(block.plain[LABEL] + 1, minlength=len(transformation.flags) + 1)[1:]
            self.classes = found if self.classes is None else self.classes + found
        for column in transformation.packed:
            bad = block.packed[column.name].not_finite()
            for name, count in zip(column.variables, bad, strict=True):
                if count:
                    self.not_finite[name] = self.not_finite.get(name, 0) + int(count)
        for name, array in block.plain.items():
            self._type(name, array, source, transformation)
            if name not in (LABEL, transformation.fold_variable) and isinstance(array, np.ndarray) and array.ndim == 1:
                self._irregular(name, array, block.entries)

    def _type(self, name: str, array: Any, source: str, transformation: Transformation) -> None:
        found = type_of(array)
        if not len(array) and name in self.types:
            return
        if self.kept == len(array) or name not in self.types:
            # Without events so far, the earlier type does not count.
            self.types[name] = found
            return
        try:
            self.types[name] = common_type(self.types[name], found)
        except ValueError as error:
            raise DataConfigError(
                f"{transformation.configuration.path} (read from {source}): variable '{name}' is {error} in different events of the file. "
                "Give it one type in new_variables."
            ) from None

    def _irregular(self, name: str, values: np.ndarray, entries: np.ndarray) -> None:
        if values.dtype.kind not in "if":
            return
        bad = np.flatnonzero(~np.isfinite(values)) if values.dtype.kind == "f" else np.zeros(0, dtype=np.int64)
        negative = int(np.count_nonzero(values < 0))
        if len(bad) or negative:
            known = self.irregular.setdefault(name, {"not_finite": 0, "first": None, "negative": 0})
            if len(bad) and known["first"] is None:
                known["first"] = int(entries[bad[0]])
            known["not_finite"] = (known["not_finite"] or 0) + len(bad)
            known["negative"] = (known["negative"] or 0) + negative


def stage_file(source: str, target: Path | None, staging: Staging, *, group: str) -> dict[str, Any]:
    """Stage a file to `target` and return its record, an entry of inputs.json.

    For an unusable file, the record gives the reason under "bad", and the staged file is empty.
    Raises DataConfigError when the configuration does not match the file.
    """
    record = _not_read_yet(source, staging, group)
    named = target
    if target is not None:
        target = expand_path(target)
    try:
        try:
            _stage(record, target, staging)
        except RemoteFileError:
            raise
        except InputFileError:
            asked = (staging.configuration, staging.split, staging.options)
            if not lacks_labels(record["staged"] or source, source, *asked, custom_functions=staging.custom_functions):
                raise
            record |= {"labeled": False, "staged": None}
            _stage(record, target, dataclasses.replace(staging, configuration=without_labels(staging.configuration)))
    except InputFileError as error:
        nothing = {key: copy.copy(value) for key, value in _NOTHING.items()}
        record |= {"staged": None, "bad": " ".join(str(error).split()), **nothing}
    if target is not None and record["staged"] is None:
        # The workflow expects the declared output, but nothing reads it.
        with atomic_path(target):
            pass
    if record["staged"]:
        record["staged"] = str(named)
    return record


def staged_before(path: Path, source: str, target: Path | None, staging: Staging, *, group: str) -> dict[str, Any] | None:
    """Return the record of an earlier task at `path` if staging the source again would give the same result, otherwise None.

    The checksum is computed only when the size or the modification time of the source has changed. Bad files are always tried again.
    """
    if not path.exists():
        return None
    record: dict[str, Any] = read_json(path)
    now = _not_read_yet(source, staging, group)
    if any(record.get(key) != now[key] for key in _ASKED) or record["bad"]:
        return None
    if record["staged"] and not (record["staged"] == str(target) and expand_path(record["staged"]).exists()):
        return None
    if not is_remote(source):
        try:
            check_unchanged(record)
            modified = source_status(source)[1]
        except (InputFileError, FileNotFoundError):
            return None
        if record["modified_ns"] is not None:
            record["modified_ns"] = modified
        return record
    return record if _is_unchanged_on_server(record) else None


def _is_unchanged_on_server(record: Mapping[str, Any]) -> bool:
    """Whether the server still says the same of a remote file."""
    known = RemoteState.recorded(record.get("remote"))
    try:
        now = remote_state(record["source"], parts=record["mode"] != "copy")
    except InputFileError:
        return False
    return known is not None and now is not None and not known.difference(now)


# The facts of a file that was not read.
_NOTHING: dict[str, Any] = {"kept": 0, "classes": None, "not_finite": {}, "types": {}, "several": 0, "irregular": {}}
# The keys of a record that are known before its source is read.
_ASKED = ("split", "group", "source", "staging_digest", "on_the_fly", "mode", "options", "data_config", "custom_functions")


def _not_read_yet(source: str, staging: Staging, group: str) -> dict[str, Any]:
    return {
        "split": staging.split,
        "group": group,
        "source": source,
        "checksum": None,
        "bytes": None,
        "modified_ns": None,
        "remote": None,
        "tree": None,
        "entries": 0,
        "staged": None,
        "staging_digest": staging.digest(),
        "events_digest": staging.events_digest(),
        "bad": None,
        "labeled": True,
        **{key: copy.copy(value) for key, value in _NOTHING.items()},
        "on_the_fly": sorted(changes_each_epoch(staging.configuration, staging.split, staging.options)),
        "mode": staging.mode,
        "options": staging.options.as_dict(),
        "data_config": str(staging.configuration.path),
        "custom_functions": str(staging.custom_functions) if staging.custom_functions else None,
    }


def _stage(record: dict[str, Any], target: Path | None, staging: Staging) -> None:
    source, stored = record["source"], staging.recorded.get(record["source"])
    if is_remote(source):
        record["remote"] = _state(source, stored, staging.mode)
    if staging.mode == "copy":
        assert target is not None
        if others := companions(source):
            raise InputFileError(
                f"{source}: takes values from {others[0]}, which staging.mode: copy leaves behind. Set staging.mode to columnar or none."
            )
        record["checksum"] = _copy(source, target, record["remote"])
        record["staged"] = str(target)
        record["bytes"] = target.stat().st_size
    elif not is_remote(source):
        if not Path(source).is_file():
            raise InputFileError(f"{source}: no such file. Correct the path.")
        # Before reading, so that a change of the file during the reading is detected later.
        record["bytes"], record["modified_ns"] = source_status(source)
        record["checksum"] = source_checksum(source)
    if stored is not None and stored.checksum and record["checksum"]:
        stored.compare(source, record["checksum"])
    transformation = plan_transformation(
        staging.configuration, staging.split, staging.options, custom_functions=staging.custom_functions
    )  # fmt: skip
    facts = _Facts()
    expected = None if record["staged"] else RemoteState.recorded(record["remote"])
    with opened(record["staged"] or source, transformation, name=source, expected=expected) as reader:
        fits = _look_inside(record, reader, transformation, staging.options)
        if not fits:
            facts.classes = np.zeros(len(transformation.flags), dtype=np.int64)
        elif staging.mode == "columnar" and not record["on_the_fly"]:
            assert target is not None
            _write_columns(record, reader, transformation, target, facts)
        else:
            _look_through(reader, transformation, record["entries"], source, facts)
    record |= {key: getattr(facts, key) for key in ("kept", "not_finite", "types", "several", "irregular")}
    if transformation.flags and facts.classes is not None:
        record["classes"] = {name: int(count) for name, count in zip(transformation.flags, facts.classes, strict=True)}


def _look_inside(record: dict[str, Any], reader: Reader, transformation: Transformation, options: StagingOptions) -> bool:
    """Record tree and entries. Returns False for a file without entries that lacks branches, because there is nothing to read.

    Raises InputFileError when a file with entries lacks branches.
    """
    configuration = transformation.configuration
    record["tree"], record["entries"] = reader.tree, min(reader.entries, options.max_entries or reader.entries)
    magic: dict[str, Any] = {"branch_magic": configuration.branch_magic, "file_magic": configuration.file_magic}
    describe = functools.partial(describe_use, configuration, options=options)
    try:
        branch_names(reader, record["source"], transformation.branches, **magic, describe_use=describe)
    except InputFileError:
        # The output of a skim that no event has passed may have no branches.
        if record["entries"]:
            raise
        return False
    return True


def _look_through(reader: Reader, transformation: Transformation, entries: int, source: str, facts: _Facts) -> None:
    """Collect the same facts and refuse the same files as `_write_columns`, for events that are read again each epoch.

    The inputs are checked for a few events, the plain columns for all events.
    """
    for _ in blocks_of(reader, transformation, 0, min(entries, _LOOKED_AT), name=source):
        pass
    beside = plan_transformation(
        transformation.configuration, transformation.split, transformation.options,
        columns=transformation.plain, custom_functions=transformation.custom_functions,
    )  # fmt: skip
    for block in blocks_of(reader, beside, 0, entries, name=source):
        facts.count(block, beside, source)


def _write_columns(record: dict[str, Any], reader: Reader, transformation: Transformation, target: Path, facts: _Facts) -> None:
    variables = {column.name: column.variables for column in transformation.packed}
    metadata = {key: record[key] for key in ("source", "checksum", "entries", "staging_digest")}
    with StagedWriter(target, variables=variables, metadata=metadata) as writer:
        for block in blocks_of(reader, transformation, 0, record["entries"], name=record["source"]):
            facts.count(block, transformation, record["source"])
            writer.append(block)
            # Free the memory of the block before the next one is made.
            del block
    record["staged"] = str(target)


def _state(source: str, stored: StoredChecksum | None, mode: str) -> dict[str, Any]:
    """What the server says of a remote file. Raises RemoteFileError when that differs from what is stored."""
    now = remote_state(source, parts=mode != "copy")
    assert now is not None
    # A copy has a checksum of its own, which says more.
    if stored is not None and not (mode == "copy" and stored.checksum):
        stored.compare_remote(source, now)
    return now._asdict()


def _copy(source: str, target: Path, remote: Mapping[str, Any] | None) -> str:
    """Copy a file, local or remote, and return the SHA-256 of the bytes copied."""
    sha = hashlib.sha256()
    with atomic_path(target) as temporary, temporary.open("wb") as out:
        if remote is not None:
            RemoteFile(source, parts=False, expected=RemoteState.recorded(remote)).copy_to(_Hashing(out, sha))
        else:
            with open_stream(source, None) as stream:
                shutil.copyfileobj(stream, _Hashing(out, sha), 1 << 22)
    return sha.hexdigest()


class _Hashing:
    """A file-like object that writes to a file and updates a hash."""

    def __init__(self, out: IO[bytes], sha: Any) -> None:
        self._out = out
        self._sha = sha

    def write(self, data: bytes) -> int:
        self._sha.update(data)
        return self._out.write(data)
