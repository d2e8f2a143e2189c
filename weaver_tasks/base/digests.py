"""Digests of plain data and checksums of files."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

_CHUNK = 1 << 22


def digest(*parts: Any) -> str:
    """A digest (32 hexadecimal characters) of plain data. It does not depend on the order of keys."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=_plain)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _plain(value: Any) -> Any:
    if isinstance(value, (set, frozenset)):
        return sorted(value)
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    raise TypeError(f"no digest for {type(value).__name__}")


def file_checksum(path: str | os.PathLike[str]) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal."""
    sha = hashlib.sha256()
    with Path(path).open("rb") as handle:
        while chunk := handle.read(_CHUNK):
            sha.update(chunk)
    return sha.hexdigest()


def telling_parts(first: str, second: str, *, length: int = 16) -> tuple[str, str]:
    """Two different checksums for a message: shortened to `length` characters if these differ, otherwise whole."""
    if first[:length] == second[:length]:
        return first, second
    return f"{first[:length]}…", f"{second[:length]}…"
