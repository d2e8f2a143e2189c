"""Says what a failure of a remote file means, for every protocol: the reason, a remedy that fits, and whether a repetition can help."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import re
import ssl
import time
from collections.abc import Callable
from email.utils import parsedate_to_datetime
from typing import TypeVar

from weaver_tasks.base.addresses import without_credentials
from weaver_tasks.base.errors import InputFileError
from weaver_tasks.base.remote_limits import limits

logger = logging.getLogger("weaver_tasks")

Result = TypeVar("Result")

NO_RANGES = "the server knows no ranges: it sends the whole file where a part is asked for. Set staging.mode: copy."
_CREDENTIALS = (
    "Give valid credentials in the environment (X509_USER_PROXY; for https also BEARER_TOKEN, a netrc file or FSSPEC_HTTP), or renew them."
)
_LATER = "Run again later."
_MISSING = "Correct the address."


class RemoteFileError(InputFileError):
    """A remote file cannot be read, whatever is in it."""


class Failure(Exception):
    """A failed request. reason, remedy: for the user. repeats: how often it may be repeated, None for `remote.retries`. wait: seconds."""

    def __init__(self, reason: str, remedy: str, *, repeats: int | None = 0, wait: float | None = None) -> None:
        super().__init__(reason)
        self.reason, self.remedy, self.repeats, self.wait = reason, remedy, repeats, wait

    def refusal(self, source: str, tries: int) -> RemoteFileError:
        tried = f" (tried {tries} times)" if tries > 1 else ""
        return RemoteFileError(f"{source}: cannot be read: {self.reason.rstrip('.')}{tried}. {self.remedy}")


def persistently(source: str, request: Callable[[], Result], *, before_repeating: Callable[[], None] = lambda: None) -> Result:
    """Return the result of a request, which is repeated where that can help. Raises RemoteFileError naming the source."""
    tries = 0
    while True:
        tries += 1
        try:
            return request()
        except Exception as error:
            failure = failure_of(error)
            if failure is None:
                raise
            wait_or_refuse(source, failure, tries, error)
            before_repeating()


def wait_or_refuse(source: str, failure: Failure, tries: int, error: Exception) -> None:
    """Wait before the next try. Raises RemoteFileError when there is none."""
    most = limits().retries
    repeats = most if failure.repeats is None else min(failure.repeats, most)
    if tries > repeats:
        raise failure.refusal(source, tries) from error
    wait = min(limits().longest_wait, 2.0 ** (tries - 1)) * random.uniform(0.75, 1.25)
    if failure.wait is not None:
        if failure.wait > limits().longest_wait:
            asked = Failure(f"{failure.reason}, and the server asks to wait {failure.wait:.0f} s", failure.remedy)
            raise asked.refusal(source, tries) from error
        wait = failure.wait
    logger.info("%s: %s; again in %.1f s", source, failure.reason, wait)
    time.sleep(wait)


def failure_of(error: BaseException) -> Failure | None:
    """What an exception of a library means; None for one that no server or connection causes."""
    if isinstance(error, Failure):
        return error
    for find in (_of_http, _of_connection, _of_xrootd, _of_file_system):
        if (failure := find(error)) is not None:
            return failure
    # Some file systems wrap the error that says more.
    cause = error.__cause__
    if cause is not None and isinstance(error, OSError) and (failure := failure_of(cause)) is not None:
        return failure
    if isinstance(error, FileNotFoundError):
        return Failure("the server has no such file", _MISSING)
    if isinstance(error, PermissionError):
        return Failure("the server does not allow it", _CREDENTIALS)
    if isinstance(error, OSError):
        return Failure(_brief(error), "Correct the address, or run again when the server answers.", repeats=2)
    return None


def of_status(status: int, text: str, retry_after: str | None) -> Failure:
    """What a status of HTTP means. text: its name. retry_after: the header."""
    reason = f"the server answers {status} {text}".rstrip()
    if status in (401, 403):
        return Failure(reason, _CREDENTIALS)
    if status == 407:
        return Failure(reason, "Give the credentials of the proxy in https_proxy.")
    if status in (404, 410):
        return Failure(f"{reason}: it has no such file", _MISSING)
    if status in (408, 425, 429, 500, 502, 503, 504):
        return Failure(reason, f"The server is busy or broken. {_LATER}", repeats=None, wait=_seconds(retry_after))
    return Failure(reason, "Correct the address, or ask who runs the server.")


def _seconds(retry_after: str | None) -> float | None:
    """The header Retry-After: seconds, or a date."""
    if not retry_after:
        return None
    if retry_after.strip().isdigit():
        return float(retry_after)
    with contextlib.suppress(ValueError, TypeError):
        return max(0.0, parsedate_to_datetime(retry_after).timestamp() - time.time())
    return None


def _brief(error: BaseException) -> str:
    text = " ".join(without_credentials(str(error)).split())[:200]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def silent() -> Failure:
    return Failure(
        f"the server was silent for {limits().silence:g} s", f"{_LATER} If it only is slow to answer, raise remote.silence.", repeats=1
    )


def lost(reason: str) -> Failure:
    return Failure(reason, _LATER, repeats=None)


def _of_http(error: BaseException) -> Failure | None:
    try:
        import aiohttp
    except ImportError:
        return None
    if isinstance(error, aiohttp.TooManyRedirects):
        return Failure("the server redirects without end", "Correct the address, or log in first.")
    if isinstance(error, aiohttp.ClientResponseError):
        headers = error.headers
        return of_status(error.status, error.message, headers.get("Retry-After") if headers else None)
    if isinstance(error, (aiohttp.ClientConnectorCertificateError, aiohttp.ClientSSLError)):
        return _of_certificate(error)
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return Failure(f"there is no server of the name {error.host}", _MISSING, repeats=1)
    if isinstance(error, (aiohttp.InvalidURL, aiohttp.NonHttpUrlClientError)):
        return Failure("it is no valid address", _MISSING)
    if isinstance(error, aiohttp.ServerTimeoutError):
        return silent()
    if isinstance(error, aiohttp.ClientConnectorError):
        return lost(f"no connection to {error.host}:{error.port} ({error.os_error.strerror or type(error.os_error).__name__})")
    if isinstance(error, aiohttp.ClientError):
        return lost(f"the connection was lost ({_brief(error)})")
    return None


def _of_certificate(error: BaseException) -> Failure:
    remedy = "Give the certificates of its authority in SSL_CERT_FILE or X509_CERT_DIR; or, if it asks for yours, a valid X509_USER_PROXY."
    return Failure(f"no secure connection ({_brief(error)})", remedy)


def _of_connection(error: BaseException) -> Failure | None:
    if isinstance(error, ssl.SSLError):
        return _of_certificate(error)
    if isinstance(error, (TimeoutError, asyncio.TimeoutError)):
        return silent()
    if isinstance(error, ConnectionError):
        return lost(f"the connection was lost ({_brief(error)})")
    if isinstance(error, ImportError):
        return Failure(f"a package is missing ({error})", "Install weaver-tasks[remote], and for root:// xrootd; see docs/remote_files.md.")
    return None


# What XRootD's client says, by the kind of fault. The file system makes an OSError of each. The numbers are kXR codes.
_XROOTD = (
    (r"\[3011\]|no such file or directory|file not found", "the server has no such file", _MISSING, 0),
    (
        r"\[3010\]|\[3030\]|permission denied|not authorized|auth\w* failed|no protocols left",
        "the server does not allow it",
        _CREDENTIALS,
        0,
    ),
    (r"\[3024\]|\[3023\]|overload|too busy", "the server is busy", _LATER, None),
    (r"tls error|certificate", "no secure connection", "Give the certificates of its authority in X509_CERT_DIR or SSL_CERT_FILE.", 0),
    (r"invalid address|invalid arguments|unable to resolve|name or service not known", "there is no server of this name", _MISSING, 0),
    # The client has repeated these by itself.
    (r"operation expired|socket timeout|operation timed out", "the server was silent", f"{_LATER} See remote.silence.", 0),
    (r"connection error|connection refused|stream error|socket \w*\s?error", "no connection to the server", _LATER, 1),
    (r"\[3016\]|\[3012\]|\[3007\]|\[3005\]|\[3021\]", "the server failed", _LATER, 2),
)


def _of_xrootd(error: BaseException) -> Failure | None:
    text = " ".join(str(error).split())
    if not isinstance(error, OSError) or not re.search(r"\[(ERROR|FATAL)\]", text):
        return None
    for pattern, reason, remedy, repeats in _XROOTD:
        if re.search(pattern, text, re.IGNORECASE):
            return Failure(f"{reason} ({without_credentials(text)[:200]})", remedy, repeats=repeats)
    return None


def _of_file_system(error: BaseException) -> Failure | None:
    """Errors of other libraries that carry a status of HTTP, such as those of S3."""
    response = getattr(error, "response", None)
    status = getattr(error, "status", None) or getattr(response, "status_code", None)
    if isinstance(response, dict):
        status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    if isinstance(status, int) and 400 <= status < 600:
        return of_status(status, _brief(error), None)
    if type(error).__name__ in ("NoCredentialsError", "PartialCredentialsError"):
        return Failure(_brief(error), _CREDENTIALS)
    return Failure(_brief(error), _MISSING) if isinstance(error, ValueError) and "rotocol" in str(error) else None
