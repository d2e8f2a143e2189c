"""The block, which holds some events column by column: the unit in which data are processed.

Input variables are *packed*: variables of the same jaggedness share one array, with the values of a particle (or jet) side by
side, so that an event is contiguous in memory. All other variables (labels, weight variables, observers) are *plain* columns.
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
    """Input variables of the same jaggedness, for P particles, k variables and N events.

    values: (P, k) float32, C-contiguous. offsets: (N + 1,) int64: event i is values[offsets[i]:offsets[i + 1]]. They
    need not start at 0, and `values` may extend beyond these events, because both may be views of a whole file. Flat variables
    have offsets None and P == N. An event has as many rows as its longest variable; shorter ones are filled up with ABSENT.
    """

    values: np.ndarray
    offsets: np.ndarray | None

    def own_values(self) -> np.ndarray:
        """Return a view of the values of these events only."""
        return self.values if self.offsets is None else self.values[self.offsets[0] : self.offsets[-1]]

    def not_finite(self) -> np.ndarray:
        """Return the number of NaN or infinite values of these events: (k,)."""
        values = self.own_values()
        with np.errstate(over="ignore", invalid="ignore"):
            # A finite sum is a fast way to see that there are none.
            if np.isfinite(values.sum(dtype=np.float64)):
                return np.zeros(values.shape[1], dtype=np.int64)
        return (~np.isfinite(values) & (values.view(np.uint32) != ABSENT)).sum(axis=0)


@dataclass(frozen=True, kw_only=True, eq=False)
class Block:
    """A block of N events. entries: (N,) int64, increasing: the entry number of each event in its source file, before selection.

    packed: packed columns by name. plain: arrays of length N by name: numpy arrays of one or more dimensions, or awkward arrays
    (jagged, text). several: number of test events that have the flags of several classes.
    """

    entries: np.ndarray
    packed: dict[str, Packed] = field(default_factory=dict)
    plain: dict[str, np.ndarray | ak.Array] = field(default_factory=dict)
    several: int = 0

    def __len__(self) -> int:
        return len(self.entries)


@dataclass(frozen=True, kw_only=True)
class PackedColumn:
    """The name and content of a packed column. name: that of its first input group. variables: in the order of the second axis."""

    name: str
    variables: tuple[str, ...]
    jagged: bool


@dataclass(frozen=True, kw_only=True)
class StagingOptions:
    """The options of config.yaml that affect the staged events, besides the data configuration.

    extra_selection: split -> expression. For validation and test files it is applied as a further selection. Training files also
    serve the statistics, which ignore it, and sometimes validation. There it becomes the bool columns `_extra_selection_train_`
    and, if validation is taken from the training files, `_extra_selection_val_`. Code that reads a split keeps the events for
    which the column `extra_selection_column(split)`, if it exists, is true.
    fold_variable: the integer variable of cross-validation.
    max_entries: number of leading entries of each file that are used; None for all.
    """

    extra_selection: Mapping[str, str] = field(default_factory=dict)
    fold_variable: str | None = None
    validation_from_training: bool = False
    max_entries: int | None = None

    @classmethod
    def from_settings(cls, settings: StageSettings) -> StagingOptions:
        """Make the options from the settings of a staging task."""
        extra = settings.data.extra_selection.plain()
        return cls(
            extra_selection={split: text for split, text in extra.items() if text},
            fold_variable=settings.cross_validation.variable if settings.cross_validation else None,
            validation_from_training=settings.validation_from_training,
            max_entries=settings.staging.max_entries,
        )

    @classmethod
    def from_manifest(cls, manifest: Mapping[str, Any]) -> StagingOptions:
        """Read the options recorded in inputs.json."""
        return cls(**manifest.get("options", {}))

    def as_dict(self) -> dict[str, Any]:
        return {
            "extra_selection": dict(self.extra_selection),
            "fold_variable": self.fold_variable,
            "validation_from_training": self.validation_from_training,
            "max_entries": self.max_entries,
        }

    def expressions(self) -> dict[str, str]:
        """Return the expressions of config.yaml that the events need, by their key."""
        texts = {f"data.extra_selection.{split}": text for split, text in self.extra_selection.items()}
        return texts | ({"cross_validation.variable": self.fold_variable} if self.fold_variable else {})

    def selection_columns(self, split: str) -> dict[str, str]:
        """Return the extra selections that are stored as columns in the files of `split`: column -> expression."""
        if split != "train":
            return {}
        readers = ("train", "val") if self.validation_from_training else ("train",)
        return {extra_selection_column(reader): self.extra_selection[reader] for reader in readers if reader in self.extra_selection}


def extra_selection_column(split: str) -> str:
    """Return the name of the bool column that marks the events of a training file that pass the extra selection of `split`."""
    return f"_extra_selection_{split}_"


def packed_columns(configuration: DataConfiguration) -> tuple[PackedColumn, ...]:
    """Return one packed column for each set of input groups that share variables, directly or through other groups.

    Groups that share a variable have the same jaggedness. For other groups this is only known from the files.
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
    """Return the names of the plain columns of the files of `split` (train, val, test)."""
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
    """Return the names of the plain columns that `weights.event_weights` reads."""
    weights = configuration.weights
    if weights is None:
        return ()
    if weights.precomputed:
        return (WEIGHT,)
    base = (BASE_WEIGHT,) if weights.base_weight else ()
    return tuple(dict.fromkeys((*weights.variables, *weights.classes, *base)))


def join(blocks: Sequence[Block]) -> Block:
    """Concatenate consecutive blocks. A single block is returned unchanged."""
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
