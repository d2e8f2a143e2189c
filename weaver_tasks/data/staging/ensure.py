"""Finds staged files on the local disk of a node, and stages them again if they are missing there.

A record names its staged file as `staging.directory` is written in config.yaml. Environment variables in it are expanded where the
file is used, because the scratch folder of a node often differs between jobs.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from weaver_tasks.base.errors import ConfigError, InputFileError
from weaver_tasks.base.files import exclusive
from weaver_tasks.data.configuration import load_data_configuration
from weaver_tasks.data.events.block import StagingOptions
from weaver_tasks.data.readers.remote import RemoteState
from weaver_tasks.data.staging.places import expand_path
from weaver_tasks.data.staging.source_checksums import StoredChecksum
from weaver_tasks.data.staging.stage import Staging, stage_file

logger = logging.getLogger(__name__)

_PATIENCE = 3600.0  # seconds to wait for another rank or job of this node that stages the same file


def ensure_staged(record: Mapping[str, Any], options: StagingOptions) -> Path:
    """Return the staged file of a record of inputs.json. If it is not on this machine, stage it again from its source.

    Raises InputFileError when the source has changed, and ConfigError when the data configuration has changed.
    """
    path = expand_path(record["staged"])
    if not path.exists():
        with exclusive(path.with_name(f".{path.name}.lock"), patience=_PATIENCE):
            if not path.exists():
                _stage_again(record, path, options)
    return path


def _stage_again(record: Mapping[str, Any], path: Path, options: StagingOptions) -> None:
    functions = Path(record["custom_functions"]) if record.get("custom_functions") else None
    staging = Staging(
        configuration=load_data_configuration(Path(record["data_config"]), custom_functions=functions),
        split=record["split"],
        mode="columnar" if path.suffix == ".arrow" else "copy",
        options=options,
        custom_functions=functions,
        recorded=_recorded(record),
    )
    if staging.digest() != record["staging_digest"]:
        raise ConfigError(
            f"{record['data_config']}: has changed since {record['source']} was staged. Run the workflow again from its start."
        )
    logger.warning("%s is not on %s: staging it again from %s", path, socket.gethostname(), record["source"])
    made = stage_file(record["source"], path, staging, group=record["group"])
    if made["bad"]:
        path.unlink(missing_ok=True)
        raise InputFileError(made["bad"])


def _recorded(record: Mapping[str, Any]) -> dict[str, StoredChecksum]:
    state = RemoteState.recorded(record.get("remote"))
    if not record["checksum"] and state is None:
        return {}
    return {record["source"]: StoredChecksum(record["checksum"] or "", "run the workflow again from its start", state)}
