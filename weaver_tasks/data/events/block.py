"""Some events, column by column: the unit that all work on data is done in.

Input variables are *packed*: those of one jaggedness lie together, one particle's (or jet's) values side by side, so
that an event is one contiguous piece of memory. Everything else (labels, what weights are made of, observers) is *plain*.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import awkward as ak
import numpy as np

if TYPE_CHECKING:
    from weaver_tasks.data.configuration.model import DataConfiguration
    from weaver_tasks.settings.stage import StageSettings

LABEL = "_label_"
"""The class index of simple labels, -1 where an event belongs to none."""
WEIGHT = "_weight_"
"""The product of the precomputed weight branches."""
BASE_WEIGHT = "_basewgt_"
"""The base weight of reweighting."""
ABSENT = 0x7FC0AB5E
"""The bits of a NaN that stands where a variable has no value: in a group whose variables have lists of different lengths."""


@dataclass(frozen=True, eq=False)
class Packed:
    """Input variables of one jaggedness. P particles, k variables, N events.

    values: (P, k) float32, C-contiguous. offsets: (N + 1,) int64: event i is values[offsets[i]:offsets[i + 1]]. They
    need not start at 0, and `values` may reach beyond these events: both are views of a whole file. Flat variables
    have offsets None and P == N. An event has as many rows as its longest variable; the others end with ABSENT.
    """

    values: np.ndarray
    offsets: np.ndarray | None

    def own_values(self) -> np.ndarray:
        """The values of these events only: a view."""
        return self.values if self.offsets is None else self.values[self.offsets[0] : self.offsets[-1]]

    def not_finite(self) -> np.ndarray:
        """(k,): how many values of these events are NaN or infinite."""
        values = self.own_values()
        with np.errstate(over="ignore", invalid="ignore"):
            # The sum tells at once when there are none.
            if np.isfinite(values.sum(dtype=np.float64)):
                return np.zeros(values.shape[1], dtype=np.int64)
        return (~np.isfinite(values) & (values.view(np.uint32) != ABSENT)).sum(axis=0)


@dataclass(frozen=True, kw_only=True, eq=False)
class Block:
    """N events. entries: (N,) int64, increasing: the number of each in its source file, before any selection.

    packed: by the name of the packed column. plain: arrays of length N: numpy arrays of one or more dimensions, or
    awkward arrays (jagged, text). several: how many of them, in a test, have the flags of several classes.
    """

    entries: np.ndarray
    packed: dict[str, Packed] = field(default_factory=dict)
    plain: dict[str, np.ndarray | ak.Array] = field(default_factory=dict)
    several: int = 0

    def __len__(self) -> int:
        return len(self.entries)


@dataclass(frozen=True, kw_only=True)
class PackedColumn:
    """name: that of its first input group. variables: in the order of the values' second axis."""

    name: str
    variables: tuple[str, ...]
    jagged: bool


@dataclass(frozen=True, kw_only=True)
class StagingOptions:
    """What config.yaml adds to the data configuration.

    extra_selection: split -> expression. For the files of validation and test it is one more selection. Training files serve
    the statistics, which ignore it, and perhaps validation too, so there it becomes the bool columns
    `_extra_selection_train_` and, if validation is taken from the training files, `_extra_selection_val_`: whoever
    reads a split keeps the events where `extra_selection_column(split)`, if there is such a column, is true.
    fold_variable: the integer variable of cross-validation.
    max_entries: of each file, the leading ones that are used; None: all.
    """

    extra_selection: Mapping[str, str] = field(default_factory=dict)
    fold_variable: str | None = None
    validation_from_training: bool = False
    max_entries: int | None = None

    @classmethod
    def from_settings(cls, settings: StageSettings) -> StagingOptions:
        """From the settings of a staging task."""
        extra = settings.data.extra_selection.plain()
        return cls(
            extra_selection={split: text for split, text in extra.items() if text},
            fold_variable=settings.cross_validation.variable if settings.cross_validation else None,
            validation_from_training=settings.validation_from_training,
            max_entries=settings.staging.max_entries,
        )

    @classmethod
    def from_manifest(cls, manifest: Mapping[str, Any]) -> StagingOptions:
        """As recorded in inputs.json."""
        return cls(**manifest.get("options", {}))

    def as_dict(self) -> dict[str, Any]:
        return {
            "extra_selection": dict(self.extra_selection),
            "fold_variable": self.fold_variable,
            "validation_from_training": self.validation_from_training,
            "max_entries": self.max_entries,
        }

    def expressions(self) -> dict[str, str]:
        """The expressions of config.yaml that the events need, by where they stand."""
        texts = {f"data.extra_selection.{split}": text for split, text in self.extra_selection.items()}
        return texts | ({"cross_validation.variable": self.fold_variable} if self.fold_variable else {})

    def selection_columns(self, split: str) -> dict[str, str]:
        """The extra selections that are columns in the files of `split`: column -> expression."""
        if split != "train":
            return {}
        readers = ("train", "val") if self.validation_from_training else ("train",)
        return {extra_selection_column(reader): self.extra_selection[reader] for reader in readers if reader in self.extra_selection}


def extra_selection_column(split: str) -> str:
    """The bool column saying which events of a training file pass the extra selection of the split that reads it."""
    return f"_extra_selection_{split}_"


def packed_columns(configuration: DataConfiguration) -> tuple[PackedColumn, ...]:
    """One column for each set of input groups that share variables, directly or through other groups.

    Groups that share a variable have the same jaggedness; of others that is known only from the files.
    """
    members: list[tuple[str, bool, dict[str, None]]] = []
    for group in configuration.inputs:
        variables = dict.fromkeys(variable.name for variable in group.variables)
        jagged = group.length is not None
        name = group.name
        apart = []
        merged: dict[str, None] = {}
        for other in members:
            if other[1] == jagged and other[2].keys() & variables.keys():
                name = other[0] if not merged else name
                merged |= other[2]
            else:
                apart.append(other)
        members = [*apart, (name, jagged, merged | variables)]
    order = {group.name: place for place, group in enumerate(configuration.inputs)}
    members.sort(key=lambda member: order[member[0]])
    return tuple(PackedColumn(name=name, variables=tuple(variables), jagged=jagged) for name, jagged, variables in members)


def plain_columns(configuration: DataConfiguration, split: str, options: StagingOptions) -> tuple[str, ...]:
    """The names of the plain columns of the files of `split` (train, val, test)."""
    names: list[str] = []
    if configuration.labels is not None:
        names += configuration.labels.names
    if split == "test":
        names += configuration.observers
        names += configuration.monitor_variables
    else:
        names += weight_columns(configuration)
        names += configuration.monitor_variables
        if configuration.bucketing is not None:
            names.append(configuration.bucketing.variable)
        names += options.selection_columns(split)
    if options.fold_variable:
        names.append(options.fold_variable)
    return tuple(dict.fromkeys(names))


def weight_columns(configuration: DataConfiguration) -> tuple[str, ...]:
    """The plain columns that `weights.event_weights` reads."""
    weights = configuration.weights
    if weights is None:
        return ()
    if weights.precomputed:
        return (WEIGHT,)
    base = (BASE_WEIGHT,) if weights.base_weight else ()
    return tuple(dict.fromkeys((*weights.variables, *weights.classes, *base)))


def join(blocks: Sequence[Block]) -> Block:
    """Blocks that follow one another as one. A single one is returned as it is."""
    if len(blocks) == 1:
        return blocks[0]
    return Block(
        entries=np.concatenate([block.entries for block in blocks]),
        packed={name: _join_packed([block.packed[name] for block in blocks]) for name in blocks[0].packed},
        plain={name: _join_plain([block.plain[name] for block in blocks]) for name in blocks[0].plain},
    )


def _join_packed(parts: Sequence[Packed]) -> Packed:
    values = np.concatenate([part.own_values() for part in parts])
    if parts[0].offsets is None:
        return Packed(values, None)
    counts = np.concatenate([np.diff(part.offsets) for part in parts if part.offsets is not None])
    return Packed(values, np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(counts)]))


def _join_plain(parts: Sequence[Any]) -> Any:
    return np.concatenate(parts) if isinstance(parts[0], np.ndarray) else ak.concatenate(parts)
