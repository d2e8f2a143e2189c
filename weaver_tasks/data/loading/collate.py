"""From packed columns to a batch's inputs: gather, standardize, clip, pad or wrap, NaN to 0, in one pass.

The one definition of what weaver's `inputs` section means; `training.padding` does the same to the last bit, on the device that trains.
Shape legend: B events of a batch, P pieces (files, or
blocks read from them), k variables of a packed column, S places of variables in the input groups, L length of a group.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from weaver_tasks.base.errors import DataConfigError
from weaver_tasks.data.events.block import Block, packed_columns
from weaver_tasks.data.loading.buffers import BufferPool
from weaver_tasks.data.loading.kernels import (
    assemble_flat,
    assemble_jagged,
    event_ranges,
    gather_jagged,
    list_of_offsets,
    list_of_values,
    load,
    touch,
)

if TYPE_CHECKING:
    from weaver_tasks.data.configuration import DataConfiguration, InputGroup, Variable

_LINE_FLOATS = 16

Segment = tuple[dict[str, "PackedPieces"], np.ndarray, np.ndarray]
"""Events of a batch that come from one window: its packed columns, and where the events are in them: pieces (n,), rows (n,)."""


class Events(NamedTuple):
    """Where events are: pieces (n,), rows (n,); and an order (n,) in which those of a piece are together."""

    pieces: np.ndarray
    rows: np.ndarray
    order: np.ndarray

    @classmethod
    def at(cls, pieces: np.ndarray, rows: np.ndarray) -> Events:
        return cls(pieces, rows, np.argsort(pieces, kind="stable"))


class PackedPieces:
    """One packed column of several pieces, as the compiled loops take it: lists of their arrays. width is k."""

    def __init__(self, pieces: Sequence[Block], name: str) -> None:
        columns = [piece.packed[name] for piece in pieces]
        self.values = list_of_values(column.values for column in columns)
        self.offsets = list_of_offsets(column.offsets for column in columns if column.offsets is not None)
        self.width = columns[0].values.shape[1] if columns else 0

    def ranges(self, events: Events) -> np.ndarray:
        """(n, 2): where the particles of these events begin and end in the values of a jagged column."""
        return event_ranges(self.offsets, *events)

    def touch(self, pieces: np.ndarray, rows: np.ndarray) -> None:
        """Bring these events (where they are: (n,), (n,)) into memory, if the column is jagged."""
        if len(self.offsets):
            events = Events.at(pieces, rows)
            touch(self.values, events.pieces, self.ranges(events), events.order)


@dataclass(frozen=True, kw_only=True, eq=False)
class Layout:
    """The groups that one packed column fills. They share variables, hence length (None: flat) and padding.

    scaling: (k, 5) center, scale, low, high and padding of its variables. group, slot, column: (S,) of each place in the groups,
    where it is, and which of the k variables it holds.
    """

    name: str
    groups: tuple[InputGroup, ...]
    length: int | None
    wrap: bool
    scaling: np.ndarray
    group: np.ndarray
    slot: np.ndarray
    column: np.ndarray

    @property
    def columns(self) -> dict[str, np.ndarray]:
        """group -> (S of it,) which of the k variables it holds."""
        return {group.name: self.column[self.group == which] for which, group in enumerate(self.groups)}


@dataclass(frozen=True, kw_only=True, eq=False)
class Unpadded:
    """What the groups of a jagged packed column are made of, in a batch that is padded elsewhere.

    values: (particles, k) float32 of its events, one after another, as they are; of each at most as many as the groups take. counts:
    (B, k) int32, how many particles of an event have each variable; the largest of them is how many it has here. length: of the groups.
    """

    layout: Layout
    values: np.ndarray
    counts: np.ndarray
    length: int

    @property
    def nbytes(self) -> int:
        return self.values.nbytes + self.counts.nbytes


_Part = tuple[dict[str, PackedPieces], Events]


class InputAssembler:
    """Makes the inputs of batches of at most `batch_size` events.

    trim: cut or pad a batch only to its longest event (never beyond the group's length), for networks that do not
    mind the padding. pad: whether jagged groups are standardized and padded here.
    """

    def __init__(
        self, configuration: DataConfiguration, *, batch_size: int, buffers: BufferPool | None = None, trim: bool = False, pad: bool = True
    ) -> None:
        self._layouts = [
            _layout(column.name, column.jagged, column.variables, configuration.inputs) for column in packed_columns(configuration)
        ]
        jagged = (event_ranges, touch, assemble_jagged if pad else gather_jagged)
        for kernel in {kernel for layout in self._layouts for kernel in (jagged if layout.length is not None else (assemble_flat,))}:
            load(kernel)
        self._trim, self._pad = trim, pad
        self._buffers = buffers or BufferPool()
        self._batch_size = batch_size

    @property
    def columns(self) -> tuple[str, ...]:
        """The packed columns that are read."""
        return tuple(layout.name for layout in self._layouts)

    @property
    def largest(self) -> int:
        """The largest of `sizes`: that of an event which fills all jagged inputs."""
        return sum(layout.length * len(layout.slot) for layout in self._layouts if layout.length is not None)

    def assemble(self, segments: Sequence[Segment]) -> dict[str, Any]:
        """The inputs of the events of all segments in turn: group -> (B, variables, L), (B, variables) or (B,) float32.

        Without padding: packed column -> Unpadded, in place of its jagged groups.
        Their memory is used again when nobody holds an array of it any more.
        """
        parts = [(columns, Events.at(pieces, rows)) for columns, pieces, rows in segments]
        events = sum(len(rows) for _, _, rows in segments)
        inputs: dict[str, Any] = {}
        for layout in self._layouts:
            if layout.length is not None and not self._pad:
                inputs[layout.name] = self._gathered(layout, layout.length, parts, events)
                continue
            inputs |= self._padded(layout, parts, events)
        return inputs

    def _padded(self, layout: Layout, parts: Sequence[_Part], events: int) -> dict[str, np.ndarray]:
        """The arrays of a layout's groups. They lie in one buffer, each from where a cache line begins, so that one loop fills them all."""
        length = 1 if layout.length is None else self._length(layout, layout.length, parts)
        sizes = [len(group.variables) * length for group in layout.groups]  # of an event
        ends = np.cumsum([_whole_lines(events * size) for size in sizes])
        begins = [0, *ends[:-1].tolist()]
        most = [self._batch_size * len(group.variables) * (layout.length or 1) for group in layout.groups]
        target = self._buffers.array(sum(map(_whole_lines, most)), (int(ends[-1]),))
        starts = np.array(begins, dtype=np.int64)[layout.group] + layout.slot * length
        strides = np.array(sizes, dtype=np.int64)[layout.group]
        for columns, own in parts:
            packed = columns[layout.name]
            assert packed.width == len(layout.scaling)
            places = (layout.column, target, starts, strides)
            if layout.length is None:
                assemble_flat(packed.values, *own, layout.scaling, *places)
            else:
                scaling = (layout.scaling, layout.wrap, length)
                assemble_jagged(packed.values, own.pieces, packed.ranges(own), own.order, *scaling, *places)
            starts = starts + strides * len(own.rows)
        arrays = {}
        for group, begin, size in zip(layout.groups, begins, sizes, strict=True):
            flat = (events, len(group.variables)) if len(group.variables) > 1 else (events,)
            shape = flat if layout.length is None else (events, len(group.variables), length)
            arrays[group.name] = target[begin : begin + events * size].reshape(shape)
        return arrays

    def _gathered(self, layout: Layout, length: int, parts: Sequence[_Part], events: int) -> Unpadded:
        width = len(layout.scaling)
        room = self._batch_size * width * length
        values = self._buffers.array(room, (room // width, width))
        counts = self._buffers.array(self._batch_size * width, (events, width)).view(np.int32)
        event, particles = 0, 0
        for columns, own in parts:
            packed, target = columns[layout.name], counts[event : event + len(own.rows)]
            assert packed.width == width
            particles += gather_jagged(packed.values, own.pieces, packed.ranges(own), own.order, length, values[particles:], target)
            event += len(own.rows)
        longest = max(1, int(counts.max())) if self._trim else length
        return Unpadded(layout=layout, values=values[:particles], counts=counts, length=longest)

    def sizes(self, segment: Segment) -> np.ndarray:
        """How much each event fills of what it may: its values in all jagged inputs. (n,); 0 where all inputs are flat. Needs `trim`."""
        columns, pieces, rows = segment
        events, sizes = Events.at(pieces, rows), np.zeros(len(rows), dtype=np.int64)
        for layout in self._layouts:
            if layout.length is not None:
                sizes += np.minimum(_lengths(columns[layout.name], events), layout.length) * len(layout.slot)
        return sizes

    def _length(self, layout: Layout, most: int, parts: Sequence[_Part]) -> int:
        """The length of a batch's jagged arrays."""
        if not self._trim:
            return most
        return min(most, max(1, *(int(_lengths(columns[layout.name], events).max(initial=0)) for columns, events in parts)))


def _lengths(packed: PackedPieces, events: Events) -> np.ndarray:
    ranges = packed.ranges(events)
    return ranges[:, 1] - ranges[:, 0]


def _whole_lines(floats: int) -> int:
    """So many float32 or some more, as many as whole cache lines hold."""
    return -(-floats // _LINE_FLOATS) * _LINE_FLOATS


def _layout(name: str, jagged: bool, variables: Sequence[str], groups: Sequence[InputGroup]) -> Layout:
    members = tuple(
        group
        for group in groups
        if (group.length is not None) == jagged and all(variable.name in variables for variable in group.variables)
    )
    places = [(which, slot, variable) for which, group in enumerate(members) for slot, variable in enumerate(group.variables)]
    column = [variables.index(variable.name) for _, _, variable in places]
    distinct = [places[column.index(which)][2] for which in range(len(variables))]
    return Layout(
        name=name,
        groups=members,
        length=members[0].length,
        wrap=members[0].pad_mode == "wrap",
        scaling=np.array([_scaling(variable, wrap=members[0].pad_mode == "wrap") for variable in distinct], dtype=np.float32),
        group=np.array([which for which, _, _ in places], dtype=np.int64),
        slot=np.array([slot for _, slot, _ in places], dtype=np.int64),
        column=np.array(column, dtype=np.int64),
    )


def _scaling(variable: Variable, *, wrap: bool) -> tuple[float, ...]:
    """center, scale, low, high, padding. Without a center these change nothing; an event without particles cannot wrap."""
    if isinstance(variable.center, str):
        raise DataConfigError(
            f"variable '{variable.name}': its standardization is not known yet. Use data_config.auto.yaml, which the rule reweight makes."
        )
    padding = 0.0 if wrap else variable.pad_value
    if variable.center is None:
        return 0.0, 1.0, -np.inf, np.inf, padding
    return variable.center, variable.scale, variable.low, variable.high, padding
