"""Keeps credentials out of the addresses of remote files, except where a file is opened.

An address in a configuration may hold a token or a password (`?authz=…`, `user:password@`, a signed address). `remember` returns the
address without them: that name is the identity of the file, and all that a record, a log or a command may hold. `complete` returns the
address as it was given, for the code that opens it. Tasks that this process starts find the complete addresses in its memory (`publish`),
so they are never written to a disk or a command line.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote, unquote_plus

VARIABLE = "WEAVER_TASKS_ADDRESSES"
"""The environment variable that names the place of the complete addresses."""

# Parameters that select a file or a version of it. All others count as credentials, since nobody can list all names of those.
_SELECTING = frozenset(
    (
        *("branch", "dataset", "did", "dl", "download", "event", "file", "fileid", "filename", "files", "format", "generation"),
        *("i", "id", "index", "n", "name", "offset", "page", "part", "path", "raw", "ref", "rev", "revision", "run", "svcclass"),
        *("tag", "type", "version", "versionid", "xrdcl.unzip"),
    )
)
_NUMBER = re.compile(r"[0-9]{0,9}")  # an expiry time has ten digits
_SECRET = re.compile(r"auth|tok|sig|key|cred|secret|pass|pwd|pin|session|ticket|exp|jwt|bearer|x-amz-|x-goog-", re.IGNORECASE)
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^\s'\"<>`\\]+")
_AFTER = ".,;:!?)]}"  # of the sentence that an address stands in
_LEAST = 6  # characters of a secret that is replaced wherever it stands
_TOKEN = 20  # characters that no name of a user or parameter has
_HIDDEN = "***"

_complete: dict[str, str] = {}
_secrets: set[str] = set()
_published: list[int] = []
_inherited: dict[str, dict[str, str]] = {}


def is_remote(source: str | os.PathLike[str]) -> bool:
    """Whether `source` is an address: root://, https:// …"""
    return "://" in os.fspath(source)


def clean(address: str) -> str:
    """An address without credentials; a path is returned unchanged."""
    return "::".join(_clean(part) if "://" in part else part for part in address.split("::"))


def _clean(address: str) -> str:
    scheme, _, rest = address.partition("://")
    end = next((place for place, letter in enumerate(rest) if letter in "/?#"), len(rest))
    authority, rest = rest[:end].rpartition("@")[2], rest[end:]
    if scheme.lower() in ("http", "https"):
        rest = rest.partition("#")[0]
    path, _, query = rest.partition("?")
    kept = "&".join(part for part in query.split("&") if part and _selects(part))
    return f"{scheme}://{authority}{path}{'?' if kept else ''}{kept}"


def _selects(parameter: str) -> bool:
    """Whether a parameter of a query (name=value) selects a file."""
    name, _, value = parameter.partition("=")
    return name.lower() in _SELECTING or (not _SECRET.search(name) and bool(_NUMBER.fullmatch(value)) and "=" in parameter)


def _hidden_parts(address: str) -> set[str]:
    """The credentials of an address that are hidden wherever they stand, as they are written and decoded."""
    found: set[str] = set()
    for part in address.split("::"):
        rest = part.partition("://")[2]
        user, _, password = re.split(r"[/?#]", rest, maxsplit=1)[0].rpartition("@")[0].partition(":")
        # A user without a password is a name, unless it is as long as a token.
        found |= {password or (user if len(user) >= _TOKEN else "")}
        for parameter in rest.partition("?")[2].partition("#")[0].split("&"):
            name, _, value = parameter.partition("=")
            if not _selects(parameter) and (_SECRET.search(name) or len(value) >= _TOKEN):
                found.add(value or name)
    found |= {decode(each) for each in found for decode in (unquote, unquote_plus)}
    found |= {each.removeprefix("Bearer ") for each in found}
    return {each for each in found if len(each) >= _LEAST and not each.isdigit()}


def remember(address: str) -> str:
    """Return an address without its credentials, and keep these in this process for `complete`."""
    name = clean(address)
    if name != address:
        _complete[name] = address
        _secrets.update(_hidden_parts(address))
    return name


def complete(name: str) -> str:
    """Return the address with its credentials, as this process or the workflow that started it has read it."""
    return _complete.get(name) or _of_workflow().get(name) or name


def publish() -> None:
    """Let the tasks that this process will start find the complete addresses. They stay in the memory of this process."""
    if not _complete:
        return
    text = json.dumps(_of_workflow() | _complete).encode()
    if not _published:
        _published.append(os.memfd_create("addresses", os.MFD_CLOEXEC))
    os.ftruncate(_published[0], 0)
    os.pwrite(_published[0], text, 0)
    place = f"/proc/{os.getpid()}/fd/{_published[0]}"
    _inherited.pop(place, None)
    os.environ[VARIABLE] = place


def _of_workflow() -> dict[str, str]:
    """The addresses that the workflow has published; none if it has ended, or runs where its memory cannot be read."""
    place = os.environ.get(VARIABLE, "")
    if place and place not in _inherited:
        _inherited[place] = {}
        with contextlib.suppress(OSError, ValueError), open(place, "rb") as file:
            _inherited[place] = json.loads(file.read())
            for address in _inherited[place].values():
                _secrets.update(_hidden_parts(address))
    return _inherited.get(place, {})


def without_credentials(text: str) -> str:
    """Return a text with the credentials taken out of every address in it, and known ones wherever they stand."""
    if "://" in text:
        text = _ADDRESS.sub(_cleaned_match, text)
    _of_workflow()
    token = os.environ.get("BEARER_TOKEN", "").strip()
    for secret in sorted({*_secrets, token}, key=len, reverse=True):
        if len(secret) >= _LEAST and secret in text:
            text = text.replace(secret, _HIDDEN)
    return text


def _cleaned_match(match: re.Match[str]) -> str:
    address = match[0].rstrip(_AFTER)
    return clean(address) + match[0][len(address) :]


def without_credentials_in(content: Any) -> Any:
    """The same for all text in plain data, keys included."""
    if isinstance(content, str):
        return without_credentials(content)
    if isinstance(content, Mapping):
        return {without_credentials_in(name): without_credentials_in(value) for name, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [without_credentials_in(item) for item in content]
    return content
