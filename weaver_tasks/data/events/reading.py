"""Reads a range of entries of a file in steps of bounded size and transforms each step to a block."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

from weaver_tasks.data.events.block import Block
from weaver_tasks.data.events.transform import Transformation
from weaver_tasks.data.readers import STEP_BYTES, Reader, branch_names, open_reader, read_arrays
from weaver_tasks.data.readers.remote import RemoteState

RANDOM_STEP = 10_000
"""Entries read at a time where expressions draw random numbers."""


def opened(
    path: str, transformation: Transformation, *, name: str | None = None, expected: RemoteState | None = None
) -> contextlib.AbstractContextManager[Reader]:
    """Open a file to read the branches that the transformation needs. name, expected: as of `open_reader`."""
    configuration = transformation.configuration
    options: dict[str, Any] = {"branches": transformation.branches, "fields": transformation.fields, "name": name, "expected": expected}
    return open_reader(path, tree=configuration.treename, **options)


def transformed_blocks(
    path: str,
    transformation: Transformation,
    first_entry: int,
    last_entry: int | None,
    *,
    name: str | None = None,
    expected: RemoteState | None = None,
    training: bool = False,
    seed: Sequence[int] = (),
) -> Iterator[Block]:
    """Read entries of a file in steps of bounded size and transform each step. Yields at least one block.

    last_entry: None for all. name: the path of the file for file_magic and for messages. expected: the recorded state of a remote file.
    Raises InputFileError or DataConfigError.
    """
    with opened(path, transformation, name=name, expected=expected) as reader:
        last_entry = reader.entries if last_entry is None else last_entry
        yield from blocks_of(reader, transformation, first_entry, last_entry, name=name or path, training=training, seed=seed)


def blocks_of(
    reader: Reader, transformation: Transformation, first: int, last: int, *, name: str, training: bool = False, seed: Sequence[int] = ()
) -> Iterator[Block]:
    """Like `transformed_blocks`, for an open file."""
    configuration = transformation.configuration
    magic: dict[str, Any] = {"branch_magic": configuration.branch_magic, "file_magic": configuration.file_magic}
    branches = list(branch_names(reader, name, transformation.branches, **magic).values())
    while True:
        # Random numbers are drawn per step, so the step size must not depend on which columns are read.
        stop = first + RANDOM_STEP if transformation.random else reader.step(branches, first, STEP_BYTES)
        stop = min(stop, last)
        # Keep no reference to a step while the next one is read: that would double the memory.
        yield transformation(
            read_arrays(reader, name, transformation.branches, first, stop, **magic),
            first,
            source=name,
            training=training,
            seed=(*seed, first),
        )
        first = stop
        if first >= last:
            return
