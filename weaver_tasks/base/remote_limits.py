"""The limits on waiting for a remote server, as `remote` in config.yaml gives them. They are those of the process."""

from __future__ import annotations

from typing import NamedTuple


class RemoteLimits(NamedTuple):
    """silence: seconds without a byte. retries: of a request that failed. longest_wait: seconds before a retry."""

    silence: float = 60
    retries: int = 5
    longest_wait: float = 300


_limits = [RemoteLimits()]


def limits() -> RemoteLimits:
    return _limits[0]


def set_limits(new: RemoteLimits) -> None:
    _limits[0] = new
