"""Reads parts of a file over HTTP, by the sessions of fsspec and aiohttp.

Every answer is looked at: its status, the range that it holds, its length, and whether it is still of the same file.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import ipaddress
import os
import ssl
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import fsspec
from fsspec.asyn import sync

from weaver_tasks.base.addresses import complete
from weaver_tasks.base.remote_limits import limits
from weaver_tasks.data.readers.remote_failures import NO_RANGES, Failure, lost, of_status
from weaver_tasks.data.readers.remote_state import RemoteState

if TYPE_CHECKING:
    import aiohttp

_HEAD = 1024  # bytes read first
_PROBE = (256, 512)  # another range of them: some servers answer each range with the beginning of the file
_AT_ONCE = 8  # requests
_CHUNK = 1 << 20
_GRID_CERTIFICATES = "/etc/grid-security/certificates"
_FROM_ENVIRONMENT = (
    "X509_USER_PROXY", "X509_USER_CERT", "X509_USER_KEY", "X509_CERT_DIR", "SSL_CERT_FILE", "SSL_CERT_DIR", "BEARER_TOKEN",
    "BEARER_TOKEN_FILE", "NETRC", "HOME",
)  # fmt: skip


class HttpFile:
    """A file of a web server. source: its address without credentials."""

    def __init__(self, source: str) -> None:
        self.source = source
        self._address = complete(source)
        environment = tuple(os.environ.get(name) for name in _FROM_ENVIRONMENT)
        self._files = _file_system(os.getpid(), limits().silence, environment)

    def state(self, *, parts: bool) -> RemoteState:
        """The state of the file. parts: whether parts of it will be read, which takes a server that knows ranges. Raises."""
        return self._run(self._state(parts=parts))

    async def _state(self, *, parts: bool) -> RemoteState:
        if not parts:
            async with self._answer("GET", {}) as answer:
                return _state_of(answer, _length(answer))
        async with self._answer("GET", {"Range": f"bytes=0-{_HEAD - 1}"}) as answer:
            if answer.status == 416:
                raise Failure("the file is empty", "Leave it out, or make it again.")
            if answer.status != 206:
                await _check_not_a_page(answer)
                raise Failure(NO_RANGES.partition(". ")[0], NO_RANGES.partition(". ")[2])
            head = await answer.read()
            first, total = _content_range(answer)
            if first != 0:
                raise _other_bytes()
            state = _state_of(answer, total)
        if len(head) >= _PROBE[1]:
            (probe,) = await self._parts([_PROBE], None)
            if probe != head[slice(*_PROBE)]:
                raise _other_bytes()
        if state.size is None:
            async with self._answer("HEAD", {}) as answer:
                state = state._replace(size=_length(answer))
        if state.size is None:
            raise Failure("the server does not say how large the file is", "Set staging.mode: copy.")
        return state

    def read(self, ranges: Sequence[tuple[int, int]], state: RemoteState) -> list[bytes]:
        """The bytes of ranges (first, last + 1). Raises `Failure` when the file is not that of `state` any more, and others."""
        return self._run(self._parts(ranges, state))

    async def _parts(self, ranges: Sequence[tuple[int, int]], state: RemoteState | None) -> list[bytes]:
        gate = asyncio.Semaphore(_AT_ONCE)

        async def part(start: int, stop: int) -> bytes:
            async with gate, self._answer("GET", {"Range": f"bytes={start}-{stop - 1}"}) as answer:
                if answer.status != 206:
                    raise Failure(NO_RANGES.partition(". ")[0], NO_RANGES.partition(". ")[2])
                first, total = _content_range(answer)
                if state is not None:
                    state.check(_state_of(answer, total))
                if first != start:
                    raise _other_bytes()
                content = await answer.read()
                if len(content) != stop - start:
                    raise lost(f"the server sent {len(content)} of {stop - start} bytes")
                return content

        tasks = [asyncio.ensure_future(part(*each)) for each in ranges]
        try:
            return list(await asyncio.gather(*tasks))
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def send(self, start: int, state: RemoteState, write: Callable[[bytes], None]) -> None:
        """Give `write` the bytes from `start` to the end, in order. Raises `Failure` and others; what was written until then is right."""
        self._run(self._send(start, state, write))

    async def _send(self, start: int, state: RemoteState, write: Callable[[bytes], None]) -> None:
        async with self._answer("GET", {"Range": f"bytes={start}-"} if start else {}) as answer:
            if start and (answer.status != 206 or _content_range(answer)[0] != start):
                raise Failure("the connection was lost, and the server cannot go on in the middle of a file", "Run again.")
            if not start:
                await _check_not_a_page(answer)
            state.check(_state_of(answer, _content_range(answer)[1] if start else _length(answer)))
            async for chunk in answer.content.iter_chunked(_CHUNK):
                write(chunk)

    def forget(self) -> None:
        """Nothing is kept of a request that has failed."""

    @contextlib.asynccontextmanager
    async def _answer(self, method: str, headers: dict[str, str]) -> AsyncIterator[aiohttp.ClientResponse]:
        session = await self._files.set_session()
        given = self._files.kwargs
        # Compressed on the way, a range would be one of other bytes.
        headers = {"Accept-Encoding": "identity", **_bearer(self._address, session), **given.get("headers", {}), **headers}
        async with session.request(method, self._files.encode_url(self._address), **{**given, "headers": headers}) as answer:
            if answer.status >= 400 and answer.status != 416:
                raise of_status(answer.status, answer.reason or "", answer.headers.get("Retry-After"))
            yield answer

    def _run(self, coroutine: Any) -> Any:
        return sync(self._files.loop, lambda: coroutine)


def _other_bytes() -> Failure:
    return Failure("the server answers a range with other bytes than those asked for", "Set staging.mode: copy.")


def _state_of(answer: aiohttp.ClientResponse, size: int | None) -> RemoteState:
    headers = answer.headers
    return RemoteState(size=size, etag=headers.get("ETag"), modified=headers.get("Last-Modified"), server=answer.url.authority)


def _length(answer: aiohttp.ClientResponse) -> int | None:
    return answer.content_length


def _content_range(answer: aiohttp.ClientResponse) -> tuple[int, int | None]:
    """(first byte, size of the file) of an answer with a part."""
    kind, _, rest = answer.headers.get("Content-Range", "").partition(" ")
    place, _, total = rest.partition("/")
    first = place.partition("-")[0]
    if kind != "bytes" or not first.isdigit():
        raise _other_bytes()
    return int(first), int(total) if total.isdigit() else None


async def _check_not_a_page(answer: aiohttp.ClientResponse) -> None:
    """Raise `Failure` for a web page, which servers send to who has not logged in."""
    if answer.content_type != "text/html":
        return
    beginning = (await answer.content.read(512)).lstrip().lower()
    if beginning.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        raise Failure(
            "the server sends a web page (a login?) instead of the file",
            "Give the address of the file itself, with credentials in the environment (BEARER_TOKEN, X509_USER_PROXY, netrc).",
        )
    answer.content.unread_data(beginning)


# Sessions.


@functools.lru_cache(maxsize=4)
def _file_system(_process: int, silence: float, _environment: tuple[str | None, ...]) -> Any:
    """fsspec's file system for HTTP, with limits on silence only. FSSPEC_HTTP adds what aiohttp's sessions and requests take."""
    import aiohttp

    given = fsspec.config.conf.get("http", {}) | fsspec.config.conf.get("https", {})
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=silence, sock_read=silence)
    client = {"timeout": timeout, "trust_env": True, **given.get("client_kwargs", {})}
    if isinstance(client.get("auth"), (list, tuple)):
        client["auth"] = aiohttp.BasicAuth(*client["auth"])
    return fsspec.filesystem("http", client_kwargs=client, get_client=_session, skip_instance_cache=True)


async def _session(**options: Any) -> aiohttp.ClientSession:
    import aiohttp

    if "connector" not in options:
        options["connector"] = aiohttp.TCPConnector(ssl=_secure())
    return aiohttp.ClientSession(**options)


def _secure() -> ssl.SSLContext:
    """Certificates of the system and of grids, and the user's own. SSL_CERT_FILE and SSL_CERT_DIR are read by OpenSSL."""
    context = ssl.create_default_context()
    folder = os.environ.get("X509_CERT_DIR", _GRID_CERTIFICATES)
    if os.path.isdir(folder):
        context.load_verify_locations(capath=folder)
    own = os.environ.get("X509_USER_PROXY") or os.environ.get("X509_USER_CERT")
    if own:
        key = None if os.environ.get("X509_USER_PROXY") else os.environ.get("X509_USER_KEY")
        try:
            context.load_cert_chain(own, key)
        except (OSError, ssl.SSLError) as error:
            raise Failure(f"the certificate {own} cannot be used ({error})", "Make a new one, or unset X509_USER_PROXY.") from error
    return context


def _bearer(address: str, session: aiohttp.ClientSession) -> dict[str, str]:
    """The header with the token of the environment; none where the address or the session has credentials, or others could read it."""
    parts = urlsplit(address)
    token = os.environ.get("BEARER_TOKEN", "").strip()
    if not token and (path := os.environ.get("BEARER_TOKEN_FILE")):
        try:
            token = Path(path).read_text().strip()
        except (OSError, UnicodeDecodeError) as error:
            raise Failure(f"the token in {path} cannot be read ({error})", "Correct BEARER_TOKEN_FILE, or unset it.") from error
    own = "@" in parts.netloc or "authz=" in parts.query or "Authorization" in session.headers or session.auth
    return {"Authorization": f"Bearer {token}"} if token and not own and (parts.scheme == "https" or _is_here(parts.hostname)) else {}


def _is_here(host: str | None) -> bool:
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host or "").is_loopback
    return host == "localhost"
