"""From packed columns to a batch's inputs: gather, standardize, clip, pad or wrap, NaN to 0, in one pass.

The one definition of what weaver's `inputs` section means. Shape legend: B events of a batch, P pieces (files, or
blocks read from them), k variables of a packed column, S places of variables in the input groups, L length of a group.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from weaver_tasks.base.errors import DataConfigError
from weaver_tasks.data.blocks import Packed, packed_columns
from weaver_tasks.data.buffers import BufferPool
from weaver_tasks.data.kernels import assemble_flat, assemble_jagged, longest_event, touch

if TYPE_CHECKING:
    from weaver_tasks.data.configuration import DataConfiguration, InputGroup, Variable

Allocate = Callable[..., np.ndarray]


class PackedPieces:
    """One packed column of several pieces, by the addresses of its arrays. Keeps the arrays alive."""

    def __init__(self, pieces: Sequence[Packed]) -> None:
        self._alive = [(np.ascontiguousarray(piece.values, dtype=np.float32), piece.offsets) for piece in pieces]
        self.width = pieces[0].values.shape[1] if pieces else 0
        self.values = np.array([values.ctypes.data for values, _ in self._alive], dtype=np.int64)
        jagged = [np.ascontiguousarray(offsets, dtype=np.int64) for _, offsets in self._alive if offsets is not None]
        self._offsets_alive = jagged
        self.offsets = np.array([offsets.ctypes.data for offsets in jagged], dtype=np.int64)

    def touch(self, pieces: np.ndarray, rows: np.ndarray) -> None:
        """Bring these events (where they are: (n,), (n,)) into memory."""
        if len(self.offsets):
            touch(pieces, rows, self.values, self.offsets, self.width)


@dataclass(frozen=True, kw_only=True)
class _Layout:
    """The groups that one packed column fills, and for each place in them what is done: arrays of length S."""

    name: str
    jagged: bool
    groups: tuple[InputGroup, ...]
    group: np.ndarray
    slot: np.ndarray
    column: np.ndarray
    transforms: np.ndarray
    center: np.ndarray
    scale: np.ndarray
    low: np.ndarray
    high: np.ndarray
    wrap: np.ndarray
    pad: np.ndarray


class InputAssembler:
    """Makes the inputs of batches of at most `batch_size` events.

    trim: cut or pad a batch only to its longest event (never beyond the group's length), for networks that do not
    mind the padding.
    """

    def __init__(self, configuration: DataConfiguration, *, batch_size: int, allocate: Allocate = np.empty, trim: bool = False) -> None:
        self._layouts = [
            _layout(column.name, column.jagged, column.variables, configuration.inputs) for column in packed_columns(configuration)
        ]
        self._trim = trim
        self._pool = BufferPool(allocate)
        self._batch_size = batch_size

    @property
    def columns(self) -> tuple[str, ...]:
        """The packed columns that are read."""
        return tuple(layout.name for layout in self._layouts)

    def assemble(self, segments: Sequence[tuple[dict[str, PackedPieces], np.ndarray, np.ndarray]]) -> dict[str, np.ndarray]:
        """The inputs of the events of all segments in turn: group -> (B, variables, L), (B, variables) or (B,) float32.

        segments: packed columns, and where the events are in them: pieces (n,) and rows (n,). Memory is reused when
        nobody holds an array of it any more.
        """
        events = sum(len(rows) for _, _, rows in segments)
        inputs: dict[str, np.ndarray] = {}
        for layout in self._layouts:
            longest = self._longest(layout, segments)
            arrays = [self._array(group, events, longest) for group in layout.groups]
            inputs.update((group.name, array) for group, array in zip(layout.groups, arrays, strict=True))
            at = 0
            for columns, pieces, rows in segments:
                _fill(layout, columns[layout.name], pieces, rows, arrays, at)
                at += len(rows)
        return inputs

    def _longest(self, layout: _Layout, segments: Sequence[tuple[dict[str, PackedPieces], np.ndarray, np.ndarray]]) -> int | None:
        if not (self._trim and layout.jagged):
            return None
        return max(1, *(longest_event(pieces, rows, columns[layout.name].offsets) for columns, pieces, rows in segments))

    def _array(self, group: InputGroup, events: int, longest: int | None) -> np.ndarray:
        inner = () if group.length is None and len(group.variables) == 1 else (len(group.variables),)
        if group.length is not None:
            inner = (*inner, group.length if longest is None else min(group.length, longest))
        capacity = self._batch_size * len(group.variables) * (group.length or 1)
        return self._pool.array(group.name, capacity, (events, *inner))


def _layout(name: str, jagged: bool, variables: Sequence[str], groups: Sequence[InputGroup]) -> _Layout:
    members = tuple(
        group
        for group in groups
        if (group.length is not None) == jagged and all(variable.name in variables for variable in group.variables)
    )
    places = [(which, slot, variable) for which, group in enumerate(members) for slot, variable in enumerate(group.variables)]
    centers = [_center(variable) for _, _, variable in places]

    def floats(values: Sequence[float | None]) -> np.ndarray:
        return np.array([0.0 if value is None else value for value in values], dtype=np.float32)

    return _Layout(
        name=name,
        jagged=jagged,
        groups=members,
        group=np.array([which for which, _, _ in places], dtype=np.int64),
        slot=np.array([slot for _, slot, _ in places], dtype=np.int64),
        column=np.array([variables.index(variable.name) for _, _, variable in places], dtype=np.int64),
        transforms=np.array([center is not None for center in centers]),
        center=floats(centers),
        scale=floats([variable.scale for _, _, variable in places]),
        low=floats([variable.low for _, _, variable in places]),
        high=floats([variable.high for _, _, variable in places]),
        wrap=np.array([members[which].pad_mode == "wrap" for which, _, _ in places]),
        pad=floats([variable.pad_value for _, _, variable in places]),
    )


def _center(variable: Variable) -> float | None:
    if isinstance(variable.center, str):
        raise DataConfigError(
            f"variable '{variable.name}': its standardization is not known yet. Use data_config.auto.yaml, which the rule reweight makes."
        )
    return variable.center


def _fill(layout: _Layout, packed: PackedPieces, pieces: np.ndarray, rows: np.ndarray, arrays: Sequence[np.ndarray], at: int) -> None:
    """Write these events to the arrays of the groups, from event `at` on."""
    inner = np.array([int(np.prod(array.shape[1:])) for array in arrays], dtype=np.int64)
    lengths = np.array([array.shape[2] if array.ndim == 3 else 1 for array in arrays], dtype=np.int64)
    starts = np.array([array.ctypes.data for array in arrays], dtype=np.int64) + 4 * at * inner
    strides, lengths = inner[layout.group], lengths[layout.group]
    outputs = starts[layout.group] + 4 * layout.slot * lengths
    where = (pieces, rows, packed.values)
    how = (layout.transforms, layout.center, layout.scale, layout.low, layout.high)
    if layout.jagged:
        assemble_jagged(
            *where, packed.offsets, packed.width, layout.column, *how, layout.wrap, layout.pad, lengths, outputs, strides
        )  # fmt: skip
    else:
        assemble_flat(*where, packed.width, layout.column, *how, outputs, strides)
