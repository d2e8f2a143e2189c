"""Stage one input file: check it, write it as columns or copy it, and say in a record what it holds."""

from __future__ import annotations

import functools
import hashlib
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from weaver_tasks.base.digests import digest, file_checksum
from weaver_tasks.base.errors import InputFileError
from weaver_tasks.base.files import atomic_path, read_json
from weaver_tasks.base.source_digest import source_digest
from weaver_tasks.data.configuration.uses import describe_use
from weaver_tasks.data.events.block import LABEL, Block, StagingOptions
from weaver_tasks.data.events.transform import Transformation, changes_each_epoch, plan_transformation
from weaver_tasks.data.readers import Reader, branch_names, open_reader
from weaver_tasks.data.readers.remote import is_remote, open_stream
from weaver_tasks.data.staging.arrow_file import FORMAT, StagedWriter
from weaver_tasks.data.staging.ensure import located
from weaver_tasks.data.staging.source_checksums import Recorded, check_unchanged
from weaver_tasks.data.staging.sources import blocks_of

if TYPE_CHECKING:
    from weaver_tasks.data.configuration.model import DataConfiguration


@dataclass(frozen=True, kw_only=True)
class Staging:
    """How the files of a split are staged. mode: "columnar", "copy" or "none". recorded: what is known of sources from before."""

    configuration: DataConfiguration
    split: str
    mode: str
    options: StagingOptions = field(default_factory=StagingOptions)
    custom_functions: Path | None = None
    recorded: Mapping[str, Recorded] = field(default_factory=dict)

    def digest(self) -> str:
        """What staged columns depend on besides the source's bytes."""
        functions = source_digest(self.custom_functions) if self.custom_functions else None
        return digest(FORMAT, self.configuration.staging_slice(self.split, self.options.expressions()), self.options.as_dict(), functions)


@dataclass(kw_only=True)
class _Facts:
    """What is found out about a file while it is read."""

    kept: int = 0
    classes: np.ndarray | None = None
    not_finite: dict[str, int] = field(default_factory=dict)

    def count(self, block: Block, transformation: Transformation) -> None:
        self.kept += len(block)
        if transformation.flags and LABEL in block.plain:
            found = np.bincount(block.plain[LABEL] + 1, minlength=len(transformation.flags) + 1)[1:]
            self.classes = found if self.classes is None else self.classes + found
        for column in transformation.packed:
            bad = block.packed[column.name].not_finite()
            for name, count in zip(column.variables, bad, strict=True):
                if count:
                    self.not_finite[name] = self.not_finite.get(name, 0) + int(count)


def stage_file(source: str, target: Path | None, staging: Staging, *, group: str) -> dict[str, Any]:
    """Stage a file to `target` and return its record, an entry of inputs.json.

    A file that cannot be used has its reason in the record's "bad", and an empty file in place of the staged one.
    Raises DataConfigError when the configuration does not fit the file.
    """
    record = _not_read_yet(source, staging, group)
    named = target
    if target is not None:
        target = located(target)
    try:
        _stage(record, target, staging)
    except InputFileError as error:
        record |= {"staged": None, "bad": " ".join(str(error).split()), "kept": 0, "classes": None, "not_finite": {}}
    if target is not None and record["staged"] is None:
        # The workflow expects the file that it declared; nothing reads it.
        with atomic_path(target):
            pass
    if record["staged"]:
        record["staged"] = str(named)
    return record


def staged_before(path: Path, source: str, target: Path | None, staging: Staging, *, group: str) -> dict[str, Any] | None:
    """The record of an earlier task at `path`, where staging the source now would give the same; otherwise None.

    The bytes of a source are looked at only when its size or its time is another. A bad file is always tried again.
    """
    if not path.exists():
        return None
    record: dict[str, Any] = read_json(path)
    now = _not_read_yet(source, staging, group)
    if any(record.get(key) != now[key] for key in _ASKED) or record["bad"]:
        return None
    if record["staged"] and not (record["staged"] == str(target) and located(record["staged"]).exists()):
        return None
    if not is_remote(source):
        try:
            check_unchanged(record)
            status = Path(source).stat()
        except (InputFileError, FileNotFoundError):
            return None
        if record["modified_ns"] is not None:
            record["modified_ns"] = status.st_mtime_ns
    return record


# What a record says before its source is read.
_ASKED = ("split", "group", "source", "staging_digest", "on_the_fly", "mode", "options", "data_config", "custom_functions")


def _not_read_yet(source: str, staging: Staging, group: str) -> dict[str, Any]:
    return {
        "split": staging.split,
        "group": group,
        "source": source,
        "checksum": None,
        "bytes": None,
        "modified_ns": None,
        "tree": None,
        "entries": 0,
        "kept": 0,
        "staged": None,
        "staging_digest": staging.digest(),
        "bad": None,
        "classes": None,
        "not_finite": {},
        "on_the_fly": sorted(changes_each_epoch(staging.configuration, staging.split, staging.options)),
        "mode": staging.mode,
        "options": staging.options.as_dict(),
        "data_config": str(staging.configuration.path),
        "custom_functions": str(staging.custom_functions) if staging.custom_functions else None,
    }


def _stage(record: dict[str, Any], target: Path | None, staging: Staging) -> None:
    source = record["source"]
    if staging.mode == "copy":
        assert target is not None
        record["checksum"] = _copy(source, target)
        record["staged"] = str(target)
        record["bytes"] = target.stat().st_size
    elif not is_remote(source):
        if not Path(source).is_file():
            raise InputFileError(f"{source}: no such file. Correct the path.")
        # First, so that a change while the file is read is seen later.
        status = Path(source).stat()
        record["checksum"] = file_checksum(source)
        record["bytes"], record["modified_ns"] = status.st_size, status.st_mtime_ns
    if source in staging.recorded and record["checksum"]:
        staging.recorded[source].compare(source, record["checksum"])
    transformation = plan_transformation(
        staging.configuration, staging.split, staging.options, custom_functions=staging.custom_functions
    )  # fmt: skip
    facts = _Facts()
    with open_reader(record["staged"] or source, tree=staging.configuration.treename) as reader:
        _look_inside(record, reader, transformation, staging.options)
        if staging.mode == "columnar" and not record["on_the_fly"]:
            assert target is not None
            _write_columns(record, reader, transformation, target, facts)
        else:
            # Only what tells the events kept and their classes: the rest is read each epoch.
            labels = plan_transformation(
                staging.configuration, staging.split, staging.options, columns=[LABEL], custom_functions=staging.custom_functions
            )  # fmt: skip
            for block in blocks_of(reader, labels, 0, record["entries"], name=source):
                facts.count(block, labels)
    record["kept"] = facts.kept
    record["not_finite"] = facts.not_finite
    if transformation.flags and facts.classes is not None:
        record["classes"] = {name: int(count) for name, count in zip(transformation.flags, facts.classes, strict=True)}


def _look_inside(record: dict[str, Any], reader: Reader, transformation: Transformation, options: StagingOptions) -> None:
    configuration = transformation.configuration
    record["tree"], record["entries"] = reader.tree, min(reader.entries, options.max_entries or reader.entries)
    if reader.entries == 0:
        raise InputFileError(f"{record['source']}: has no entries. Leave it out.")
    magic: dict[str, Any] = {"branch_magic": configuration.branch_magic, "file_magic": configuration.file_magic}
    describe = functools.partial(describe_use, configuration, options=options)
    branch_names(reader, record["source"], transformation.branches, **magic, describe_use=describe)


def _write_columns(record: dict[str, Any], reader: Reader, transformation: Transformation, target: Path, facts: _Facts) -> None:
    variables = {column.name: column.variables for column in transformation.packed}
    metadata = {key: record[key] for key in ("source", "checksum", "entries", "staging_digest")}
    with StagedWriter(target, variables=variables, metadata=metadata) as writer:
        for block in blocks_of(reader, transformation, 0, record["entries"], name=record["source"]):
            facts.count(block, transformation)
            writer.append(block)
            # Let it go before the next one is made.
            del block
    record["staged"] = str(target)


def _copy(source: str, target: Path) -> str:
    """Copy a file, local or remote, and return the SHA-256 of the bytes copied."""
    sha = hashlib.sha256()
    with open_stream(source, forward=True) as stream, atomic_path(target) as temporary, temporary.open("wb") as out:
        shutil.copyfileobj(stream, _Hashing(out, sha), 1 << 22)
    return sha.hexdigest()


class _Hashing:
    """Writes to a file and to a hash."""

    def __init__(self, out: IO[bytes], sha: Any) -> None:
        self._out = out
        self._sha = sha

    def write(self, data: bytes) -> int:
        self._sha.update(data)
        return self._out.write(data)
