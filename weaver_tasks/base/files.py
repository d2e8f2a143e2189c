"""Write files atomically (to a temporary name, then synced and renamed), read and write JSON, and lock files."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import math
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from weaver_tasks.base.errors import WeaverTasksError

# Error codes of a full disk, a quota, a limit, a failing disk or a folder that is not writable.
_CANNOT_WRITE = (
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO),
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST),
)


@contextlib.contextmanager
def writing(target: str | os.PathLike[str]) -> Iterator[None]:
    """Convert errors of writing `target` in this block to a WeaverTasksError with a message of one line."""
    try:
        yield
    except OSError as error:
        if error.errno in _CANNOT_WRITE:
            raise WeaverTasksError(
                f"{target}: cannot be written ({error.strerror}). Free some space or give a writable folder, then run again."
            ) from error
        raise


@contextlib.contextmanager
def atomic_path(target: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path in the folder of `target`; rename it to `target` when the block succeeds.

    The temporary file keeps the suffix of the target (some writers choose the format by it) and is
    removed when the block fails, so a killed or failed writer never leaves `target` half-written.
    Raises WeaverTasksError naming the target when the folder cannot be written or the disk is full.
    """
    target = Path(target)
    temporary = None
    try:
        with writing(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(prefix=f".{target.stem}.", suffix=target.suffix, dir=target.parent)
            os.close(handle)
            temporary = Path(name)
            yield temporary
            _publish(temporary, target)
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def _publish(temporary: Path, target: Path) -> None:
    descriptor = os.open(temporary, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    mask = os.umask(0)
    os.umask(mask)
    temporary.chmod(0o666 & ~mask)
    os.replace(temporary, target)


def copy_file(source: str | os.PathLike[str], target: str | os.PathLike[str]) -> None:
    """Copy a file atomically; the copy has its own modification time.

    This is needed for two files that Snakemake tracks: hard links share one modification time, so a job that writes one of them would
    also make the other one newer.
    """
    with atomic_path(target) as temporary, temporary.open("wb") as out:
        for chunk in _chunks(Path(source)):
            out.write(chunk)


def _chunks(path: Path) -> Iterator[bytes]:
    """The bytes of a file, in chunks. Raises WeaverTasksError if they cannot be read, so that the message does not name the target file."""
    try:
        with path.open("rb") as file:
            while chunk := file.read(1 << 22):
                yield chunk
    except FileNotFoundError:
        raise
    except OSError as error:
        raise WeaverTasksError(f"{path}: cannot be read ({error.strerror}). Make it readable, or delete it and run again.") from error


def link_or_copy(source: str | os.PathLike[str], target: str | os.PathLike[str]) -> None:
    """Publish `source` under a second name, atomically: as a hard link, or as a copy if the file system has no links."""
    source, target = Path(source), Path(target)
    if target.exists() and os.path.samefile(source, target):
        return
    temporary = target.parent / f".{target.name}.{os.getpid()}.link"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary.unlink(missing_ok=True)
        os.link(source, temporary)
    except OSError:
        copy_file(source, target)
        return
    os.replace(temporary, target)


def check_regular(path: str | os.PathLike[str]) -> None:
    """Raise WeaverTasksError if `path` exists but is not a regular file, because reading from a pipe could wait forever."""
    path = Path(path)
    if path.exists() and not path.is_file():
        kind = "a folder" if path.is_dir() else "a named pipe" if path.is_fifo() else "no regular file"
        raise WeaverTasksError(f"{path}: is {kind}, not a file. Correct the path.")


def read_json(path: str | os.PathLike[str]) -> Any:
    """The content of a JSON file. Raises WeaverTasksError if it is missing or damaged."""
    try:
        return json.loads(Path(path).read_text())
    except FileNotFoundError:
        raise WeaverTasksError(f"{path}: no such file. Run the rule that makes it.") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise WeaverTasksError(f"{path}: damaged JSON ({error}). Delete it and run again.") from error


def write_json(path: str | os.PathLike[str], content: Any) -> None:
    """Write JSON atomically, indented, with keys in the given order. NaN and infinity become null, because JSON has neither."""
    text = json_text(content)
    with atomic_path(path) as temporary:
        temporary.write_text(text)


def json_text(content: Any) -> str:
    """The text that `write_json` writes."""
    return json.dumps(_without_nan(content), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _without_nan(content: Any) -> Any:
    if isinstance(content, dict):
        return {key: _without_nan(value) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [_without_nan(value) for value in content]
    if isinstance(content, float) and not math.isfinite(content):
        return None
    return content


@contextlib.contextmanager
def exclusive(path: str | os.PathLike[str], *, patience: float = 60.0) -> Iterator[None]:
    """Hold a lock on the file `path` while the block runs, so that two tasks never write the same outputs.

    Waits `patience` seconds for a task that is ending. Raises WeaverTasksError if that does not release the lock.
    On file systems without locks (some Lustre mounts) nothing is locked; outputs are still written atomically.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as handle:
        deadline = time.monotonic() + patience
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise WeaverTasksError(
                        f"{path}: another task has been writing here for {patience:.0f} s. Wait for it or stop it, then run again."
                    ) from None
                time.sleep(0.2)
            except OSError as error:
                if error.errno in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
                    break
                raise
        yield
