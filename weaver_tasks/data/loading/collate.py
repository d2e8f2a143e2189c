"""From packed columns to a batch's inputs: gather, standardize, clip, pad or wrap, NaN to 0, in one pass.

The one definition of what weaver's `inputs` section means; `training.padding` does the same to the last bit, on the device that trains.
Shape legend: B events of a batch, P pieces (files, or
blocks read from them), k variables of a packed column, S places of variables in the input groups, L length of a group.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from weaver_tasks.base.errors import DataConfigError
from weaver_tasks.data.events.block import Block, Packed, packed_columns
from weaver_tasks.data.loading.buffers import BufferPool
from weaver_tasks.data.loading.kernels import assemble_flat, assemble_jagged, corner, event_lengths, gather_jagged, load, touch

if TYPE_CHECKING:
    from weaver_tasks.data.configuration import DataConfiguration, InputGroup, Variable

Segment = tuple[dict[str, "PackedPieces"], np.ndarray, np.ndarray]
"""Events of a batch that come from one window: its packed columns, and where the events are in them: pieces (n,), rows (n,)."""


class Piece:
    """A block, with the addresses of its packed columns' arrays: (values, offsets or 0). It keeps the arrays alive."""

    def __init__(self, block: Block) -> None:
        self.block = block
        self.addresses = {name: _addresses(packed) for name, packed in block.packed.items()}


class PackedPieces:
    """One packed column of several pieces: values, offsets (P,) addresses; width is k."""

    def __init__(self, pieces: Sequence[Piece], name: str) -> None:
        self._alive = pieces
        addresses = np.array([piece.addresses[name] for piece in pieces], dtype=np.int64).reshape(-1, 2)
        self.values, self.offsets = np.ascontiguousarray(addresses.T)
        self.width = pieces[0].block.packed[name].values.shape[1] if pieces else 0

    def touch(self, pieces: np.ndarray, rows: np.ndarray) -> None:
        """Bring these events (where they are: (n,), (n,)) into memory, if the column is jagged."""
        if self.offsets.all():
            touch(pieces, rows, self.values, self.offsets, self.width)


def _addresses(packed: Packed) -> tuple[int, int]:
    values, offsets = packed.values, packed.offsets
    assert values.dtype == np.float32
    assert values.flags.c_contiguous
    if offsets is None:
        return values.ctypes.data, 0
    assert offsets.dtype == np.int64
    assert offsets.flags.c_contiguous
    return values.ctypes.data, offsets.ctypes.data


@dataclass(frozen=True, kw_only=True, eq=False)
class Layout:
    """The groups that one packed column fills. They share variables, hence length (None: flat) and padding.

    how: (k, 5) center, scale, low, high and padding of its variables. group, slot, column: (S,) of each place in the groups,
    where it is, and which of the k variables it holds.
    """

    name: str
    groups: tuple[InputGroup, ...]
    length: int | None
    wrap: bool
    how: np.ndarray
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
        jagged = (touch, assemble_jagged if pad else gather_jagged, *((event_lengths,) if trim else ()))
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
        events = sum(len(rows) for _, _, rows in segments)
        inputs: dict[str, Any] = {}
        for layout in self._layouts:
            if layout.length is not None and not self._pad:
                inputs[layout.name] = self._gathered(layout, layout.length, segments, events)
                continue
            longest = self._longest(layout, segments)
            arrays = [self._array(group, events, longest) for group in layout.groups]
            inputs.update((group.name, array) for group, array in zip(layout.groups, arrays, strict=True))
            _fill(layout, segments, arrays)
        return inputs

    def _gathered(self, layout: Layout, length: int, segments: Sequence[Segment], events: int) -> Unpadded:
        width = len(layout.how)
        room = self._batch_size * width * length
        values = self._buffers.array(room, (room // width, width))
        counts = self._buffers.array(self._batch_size * width, (events, width)).view(np.int32)
        event, particles = 0, 0
        for columns, pieces, rows in segments:
            packed, own = columns[layout.name], counts[event : event + len(rows)]
            assert packed.width == width
            target = values.ctypes.data + particles * values.strides[0]
            particles += gather_jagged(pieces, rows, packed.values, packed.offsets, width, length, target, own)
            event += len(rows)
        longest = max(1, int(counts.max())) if self._trim else length
        return Unpadded(layout=layout, values=values[:particles], counts=counts, length=longest)

    def sizes(self, segment: Segment) -> np.ndarray:
        """How much each event fills of what it may: its values in all jagged inputs. (n,); 0 where all inputs are flat. Needs `trim`."""
        sizes = np.zeros(len(segment[2]), dtype=np.int64)
        for layout in self._layouts:
            if layout.length is not None:
                sizes += np.minimum(_lengths(layout, segment), layout.length) * len(layout.slot)
        return sizes

    def _longest(self, layout: Layout, segments: Sequence[Segment]) -> int | None:
        if not self._trim or layout.length is None:
            return None
        return max(1, *(_lengths(layout, segment).max(initial=0) for segment in segments))

    def _array(self, group: InputGroup, events: int, longest: int | None) -> np.ndarray:
        places = len(group.variables)
        if group.length is None:
            return self._buffers.array(self._batch_size * places, (events, places) if places > 1 else (events,))
        length = group.length if longest is None else min(group.length, longest)
        return self._buffers.array(self._batch_size * places * group.length, (events, places, length))


def _lengths(layout: Layout, segment: Segment) -> np.ndarray:
    columns, pieces, rows = segment
    return event_lengths(pieces, rows, columns[layout.name].offsets)


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
        how=np.array([_how(variable, wrap=members[0].pad_mode == "wrap") for variable in distinct], dtype=np.float32),
        group=np.array([which for which, _, _ in places], dtype=np.int64),
        slot=np.array([slot for _, slot, _ in places], dtype=np.int64),
        column=np.array(column, dtype=np.int64),
    )


def _how(variable: Variable, *, wrap: bool) -> tuple[float, ...]:
    """center, scale, low, high, padding. Without a center these change nothing; an event without particles cannot wrap."""
    if isinstance(variable.center, str):
        raise DataConfigError(
            f"variable '{variable.name}': its standardization is not known yet. Use data_config.auto.yaml, which the rule reweight makes."
        )
    padding = 0.0 if wrap else variable.pad_value
    if variable.center is None:
        return 0.0, 1.0, -np.inf, np.inf, padding
    return variable.center, variable.scale, variable.low, variable.high, padding


def _fill(layout: Layout, segments: Sequence[Segment], arrays: Sequence[np.ndarray]) -> None:
    """Write the events of the segments, in turn, to the arrays of the groups."""
    strides = np.array([array.strides[0] for array in arrays], dtype=np.int64)[layout.group]
    starts = np.array([array.ctypes.data for array in arrays], dtype=np.int64)[layout.group]
    length = arrays[0].shape[2] if layout.length is not None else 1
    targets = starts + 4 * layout.slot * length
    for columns, pieces, rows in segments:
        packed = columns[layout.name]
        assert packed.width == len(layout.how)
        if layout.length is None:
            assemble_flat(pieces, rows, packed.values, layout.how, layout.column, targets, strides)
        else:
            shape = (layout.how, layout.wrap, length, corner(len(layout.how), length))
            assemble_jagged(pieces, rows, packed.values, packed.offsets, *shape, layout.column, targets, strides)
        targets = targets + strides * len(rows)
