"""Transforms the branches of a range of entries to a block: selects events, computes definitions, packs columns.

Staging and reading on the fly use the same transformation, so `staging.mode` does not change any number.
"""

from __future__ import annotations

import ast
import zlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import awkward as ak
import numpy as np

from weaver_tasks.base.errors import DataConfigError
from weaver_tasks.data.events.block import (
    BASE_WEIGHT,
    LABEL,
    WEIGHT,
    Block,
    PackedColumn,
    StagingOptions,
    packed_columns,
    plain_columns,
    weight_columns,
)
from weaver_tasks.data.events.ordinary import missing_rows, without_missing
from weaver_tasks.data.events.packing import pack, plain_array
from weaver_tasks.data.expressions.evaluation import evaluate
from weaver_tasks.data.expressions.functions import Functions, expression_functions
from weaver_tasks.data.expressions.parsing import ON_THE_FLY_VARIABLE, on_the_fly, parse_expression, resolve

if TYPE_CHECKING:
    from weaver_tasks.data.configuration.model import DataConfiguration

_SELECTION = "_selection_"


@dataclass(frozen=True, kw_only=True)
class Transformation:
    """The transformation of a file's branches to blocks with certain columns. `plan_transformation` makes it.

    branches: the branches that are read from the file or determined by its path (file_magic). selecting, defining: definitions
    needed before and after the selection, in the order of their computation. random: definitions that draw random numbers.
    flags: for simple labels, the variable of each class. required: the label of an event matters only if the event passes one of
    these selections; if there are none, it always matters. fold_variable: of cross-validation; it must hold integers.
    strict: plain columns without missing values: labels and the variables of the weights.
    fields: branch -> its fields to read, for branches of which only fields are used.
    """

    configuration: DataConfiguration
    split: str
    options: StagingOptions
    packed: tuple[PackedColumn, ...]
    plain: tuple[str, ...]
    branches: tuple[str, ...]
    selecting: dict[str, str]
    defining: dict[str, str]
    random: frozenset[str]
    flags: dict[str, str]
    required: tuple[str, ...]
    fold_variable: str | None
    strict: frozenset[str]
    fields: dict[str, tuple[str, ...]]
    functions: Functions
    custom_functions: Path | None

    def __call__(self, arrays: Mapping[str, Any], first_entry: int, *, source: str, training: bool, seed: Sequence[int] = ()) -> Block:
        """Make the block of consecutive entries that start at `first_entry`. arrays: branch -> (N, …).

        source: name of the file, for messages. training: the value of aux_training_. seed: for expressions that draw random numbers.
        Raises DataConfigError when an expression cannot be computed, or when a training event does not have exactly one class.
        """
        entries = first_entry + np.arange(len(next(iter(arrays.values()))), dtype=np.int64)
        table = dict(arrays)
        table[ON_THE_FLY_VARIABLE] = ak.Array(np.full(len(entries), training))
        self._define(table, self.selecting, len(entries), source, seed)
        if _SELECTION in table:
            passed = _flags(table.pop(_SELECTION), f"{self.configuration.path}: selection", source, entries)
            if not passed.all():
                entries = entries[passed]
                table = {name: array[passed] for name, array in table.items()}
        self._define(table, self.defining, len(entries), source, seed)
        where = f"{self.configuration.path} (read from {source})"
        for name in self.strict & set(self.plain):
            self._check_present(missing_rows(table[name]), self._role(name), entries, source)
        plain = {name: plain_array(name, table[name], where=where) for name in self.plain if name != LABEL}
        for name in plain.keys() & set(weight_columns(self.configuration)):
            _check_single(table[name], _place(name, "weights"), where)
        for name in plain.keys() & {f"_extra_selection_{split}_" for split in ("train", "val")}:
            plain[name] = _flags(table[name], "data.extra_selection", source, entries)
        if self.fold_variable in plain:
            _check_whole_numbers(plain[self.fold_variable], self.fold_variable, source)
        several = 0
        if LABEL in self.plain:
            plain[LABEL], several = self._class_index(table, entries, source)
        return Block(
            entries=entries,
            packed={column.name: pack(column, table, len(entries), where=where) for column in self.packed},
            plain={name: plain[name] for name in self.plain},
            several=several,
        )

    def _check_present(self, missing: np.ndarray, what: str, entries: np.ndarray, source: str) -> None:
        """Raise DataConfigError naming the first missing value, if there is one. missing: (N,) bool."""
        found = np.flatnonzero(missing)
        if len(found):
            raise DataConfigError(
                f"{source}: entry {entries[found[0]]} has no value of {what}, nor have {len(found) - 1} more of "
                f"{len(entries)} selected entries. Give one with ak.fill_none in new_variables, or leave them out by the selection "
                f"in {self.configuration.path}."
            )

    def _role(self, name: str) -> str:
        """Return the key of a plain column, with its name if the key does not contain it."""
        labels, weights = self.configuration.labels, self.configuration.weights
        if labels is not None and name in labels.names:
            return f"labels.value.{name}"
        if weights is not None and (name in weights.variables or name in weights.classes):
            return f"'{name}' of weights.{'reweight_vars' if name in weights.variables else 'reweight_classes'}"
        if name == self.fold_variable:
            return f"cross_validation.variable '{name}'"
        if self.configuration.bucketing is not None and name == self.configuration.bucketing.variable:
            return f"'{name}' of bucketing.var"
        return _place(name)

    def _define(self, table: dict[str, Any], definitions: Mapping[str, str], events: int, source: str, seed: Sequence[int]) -> None:
        for name, text in definitions.items():
            functions = self._seeded(name, seed) if name in self.random else self.functions
            where = f"{self.configuration.path}: {_place(name)} (read from {source})"
            table[name] = _per_event(evaluate(text, table, functions, where=where), events, where)

    def _seeded(self, name: str, seed: Sequence[int]) -> Functions:
        """Return functions whose random numbers depend only on the seed and the definition, not on other computations."""
        state = np.random.RandomState(np.random.MT19937(np.random.SeedSequence((*seed, zlib.crc32(name.encode())))))
        return expression_functions(self.custom_functions, random=state)

    def _class_index(self, table: Mapping[str, Any], entries: np.ndarray, source: str) -> tuple[np.ndarray, int]:
        """Return the class of each event, (N,) int64, -1 for none, and the number of test events with the flags of several classes."""
        where = f"{self.configuration.path} (read from {source})"
        matters = np.ones(len(entries), dtype=bool)
        if self.required:
            matters = np.logical_or.reduce([_flags(table[name], name, source, entries) for name in self.required])
        columns = []
        for label, name in self.flags.items():
            _check_single(table[name], f"labels.value: {label}", where)
            columns.append(self._flag(label, table[name], matters, entries, source))
        flags = np.stack(columns, axis=1)  # (N, classes)
        # If a test event has several flags, the largest one determines its class, as in weaver.
        index = np.where(flags.any(axis=1), flags.argmax(axis=1), -1)
        counts = np.count_nonzero(flags, axis=1)
        if self.split == "test":
            return index, int(np.count_nonzero(counts > 1))
        wrong = np.flatnonzero((counts != 1) & matters)
        if len(wrong):
            first = int(wrong[0])
            true = [label for label, flag in zip(self.flags, flags[first], strict=True) if flag]
            belongs = f"to {len(true)} classes of labels.value ({', '.join(true)})" if true else "to no class of labels.value"
            raise DataConfigError(
                f"{source}: entry {entries[first]} belongs {belongs}, and so do {len(wrong) - 1} more of {len(entries)} selected entries: "
                f"each must belong to exactly one. Correct the labels or the selection in {self.configuration.path}."
            )
        return index, 0

    def _flag(self, label: str, value: Any, matters: np.ndarray, entries: np.ndarray, source: str) -> np.ndarray:
        """Return the flag of a class: (N,) integers, 0 or 1 where it matters. Test files may have others, such as a number of quarks."""
        self._check_present(missing_rows(value) & matters, f"the flag '{label}' of labels.value", entries, source)
        flag = plain_array(label, value, where=f"{self.configuration.path} (read from {source})")
        if not isinstance(flag, np.ndarray):
            raise DataConfigError(
                f"{self.configuration.path} (read from {source}): labels.value: {label}: is {value.type.content}, but a flag is 0 or 1."
            )
        if flag.dtype == bool:
            return flag.astype(np.int64)
        with np.errstate(invalid="ignore"):
            good = (flag >= 0) & (flag == np.floor(flag)) & np.isfinite(flag) if self.split == "test" else (flag == 0) | (flag == 1)
        wrong = np.flatnonzero(~good & matters)
        if len(wrong):
            raise DataConfigError(
                f"{source}: entry {entries[wrong[0]]}: the flag '{label}' of labels.value is {flag[wrong[0]]}, not 0 or 1, "
                f"and {len(wrong) - 1} more of {len(entries)} selected entries are such. Write {label} == 1, say, or leave these events "
                f"out by the selection in {self.configuration.path}."
            )
        return np.where(good, flag, 0).astype(np.int64)


def plan_transformation(
    configuration: DataConfiguration,
    split: str,
    options: StagingOptions,
    *,
    columns: Collection[str] | None = None,
    custom_functions: Path | None = None,
) -> Transformation:
    """Plan how the blocks of `split` (train, val, test) are made. columns: only these packed and plain columns; None for all."""
    for reader, text in options.extra_selection.items():
        parse_expression(text, functions=configuration.functions, where=f"data.extra_selection.{reader}")
    definitions, flags = _all_definitions(configuration, split, options)
    packed = tuple(column for column in packed_columns(configuration) if columns is None or column.name in columns)
    plain = tuple(name for name in plain_columns(configuration, split, options) if columns is None or name in columns)
    required = tuple(options.selection_columns(split)) if LABEL in plain else ()
    names = {name for column in packed for name in column.variables} | set(plain) - {LABEL} | set(required)
    if LABEL in plain:
        names |= set(flags.values())
    where, known = str(configuration.path), configuration.functions
    selecting: dict[str, str] = {}
    if _SELECTION in definitions:
        names.add(_SELECTION)
        _, selecting = resolve(definitions, [_SELECTION], functions=known, where=where)
    branches, ordered = resolve(definitions, names, functions=known, where=where)
    return Transformation(
        configuration=configuration,
        split=split,
        options=options,
        packed=packed,
        plain=plain,
        branches=branches,
        selecting=selecting,
        defining={name: text for name, text in ordered.items() if name not in selecting},
        random=frozenset(on_the_fly(definitions, names, functions=known)),
        flags=flags,
        required=required,
        fold_variable=options.fold_variable,
        strict=strict_columns(configuration, split, options),
        fields=_fields(branches, names, ordered.values(), known, where),
        functions=expression_functions(custom_functions),
        custom_functions=custom_functions,
    )


def _fields(
    branches: Collection[str], served: Collection[str], texts: Iterable[str], functions: Mapping[str, bool], where: str
) -> dict[str, tuple[str, ...]]:
    """Return branch -> the fields that expressions use. Branches that are used as a whole are left out."""
    fields: dict[str, set[str]] = {}
    whole = set(served)
    for text in texts:
        parts: set[int] = set()
        for node in ast.walk(parse_expression(text, functions=functions, where=where).tree):
            match node:
                case ast.Attribute(value=ast.Name(id=name), attr=field):
                    pass
                case ast.Subscript(value=ast.Name(id=name), slice=ast.Constant(value=str(field))):
                    pass
                case ast.Name(id=name) if id(node) not in parts:
                    whole.add(name)
                    continue
                case _:
                    continue
            parts.add(id(node.value))
            fields.setdefault(name, set()).add(field)
    return {name: tuple(sorted(fields[name])) for name in branches if name in fields and name not in whole}


def strict_columns(configuration: DataConfiguration, split: str, options: StagingOptions) -> frozenset[str]:
    """Return the plain columns in which no value may be missing."""
    names = set(configuration.label_names) - {LABEL} | ({options.fold_variable} if options.fold_variable else set())
    if split != "test":
        names |= set(weight_columns(configuration))
        names |= {configuration.bucketing.variable} if configuration.bucketing is not None else set()
    return frozenset(names)


def changes_each_epoch(configuration: DataConfiguration, split: str, options: StagingOptions) -> set[str]:
    """Return the definitions of the split that are recomputed each epoch. If there are any, its files cannot be staged as columns."""
    definitions, flags = _all_definitions(configuration, split, options)
    names = {name for column in packed_columns(configuration) for name in column.variables} | set(flags.values())
    names |= set(plain_columns(configuration, split, options)) - {LABEL}
    names |= {_SELECTION} & definitions.keys()
    return on_the_fly(definitions, names, functions=configuration.functions)


def _all_definitions(configuration: DataConfiguration, split: str, options: StagingOptions) -> tuple[dict[str, str], dict[str, str]]:
    """Return all definitions, including those made for labels, weights and selections; and label -> variable for simple labels."""
    definitions = dict(configuration.definitions)
    flags: dict[str, str] = {}
    labels, weights = configuration.labels, configuration.weights
    if labels is not None and labels.kind == "simple":
        for text in labels.classes:
            flags[text] = text if text.isidentifier() else f"_flag_{len(flags)}_"
            if flags[text] != text:
                definitions[flags[text]] = text
    if weights is not None and weights.base_weight:
        definitions[BASE_WEIGHT] = weights.base_weight
    if weights is not None and weights.precomputed:
        definitions[WEIGHT] = " * ".join(f"({text})" for text in weights.branches)
    selection = configuration.test_time_selection if split == "test" else configuration.selection
    extra = options.extra_selection.get(split) if split != "train" else None
    both = [text for text in (selection, extra) if text]
    if both:
        # Separate lines, because a selection may end with a comment.
        definitions[_SELECTION] = " & ".join(f"(\n{text}\n)" for text in both)
    definitions.update(options.selection_columns(split))
    return definitions, flags


def _place(name: str, section: str = "new_variables") -> str:
    """Return the key of the data configuration (or config.yaml) that a definition comes from. section: for all other definitions."""
    if name.startswith("_extra_selection_"):
        return "data.extra_selection"
    if name.startswith("_flag_"):
        return "labels.value"
    known = {_SELECTION: "selection", BASE_WEIGHT: "weights.reweight_basewgt", WEIGHT: "weights.weight_branches"}
    return known.get(name, f"{section}.{name}")


def _check_single(value: Any, key: str, where: str) -> None:
    if value.ndim != 1 or value.fields:
        raise DataConfigError(
            f"{where}: {key}: gives {value.type.content} where one number per event is required. Use ak.sum or ak.max, say."
        )


def _per_event(value: Any, events: int, where: str) -> Any:
    """Convert the value of an expression to an array with one item per event. A single number is repeated for all events."""
    if isinstance(value, (int, float, np.generic)) or (isinstance(value, np.ndarray) and value.ndim == 0):
        value = np.full(events, value)
    if not isinstance(value, (np.ndarray, ak.Array)) or len(value) != events:
        what = f"{len(value)} values" if hasattr(value, "__len__") else f"a {type(value).__name__}"
        raise DataConfigError(f"{where}: gives {what} for {events} events. An expression must give one value, or one list, per event.")
    if isinstance(value, np.ndarray):
        return ak.Array(value)
    if wrong := ak.validity_error(value):
        raise DataConfigError(f"{where}: gives lists that reach outside of their values ({' '.join(wrong.split())[:200]}).")
    return value


def _check_whole_numbers(values: Any, name: str, source: str) -> None:
    what = f"cross_validation.variable '{name}' (read from {source})"
    remedy = "Name a whole number of each event, such as its event number."
    if not isinstance(values, np.ndarray) or values.ndim != 1 or values.dtype.kind not in "biuf":
        kind = f"{values.ndim}-dimensional" if isinstance(values, np.ndarray) and values.ndim != 1 else str(ak.type(values).content)
        raise DataConfigError(f"{what}: is {kind}. {remedy}")
    if values.dtype.kind == "f":
        wrong = values[~(np.isfinite(values) & (values == np.floor(values)))]
        if len(wrong):
            raise DataConfigError(f"{what}: {wrong[0]} is not a whole number, nor are {len(wrong) - 1} other values. {remedy}")


def _flags(value: Any, what: str, source: str, entries: np.ndarray) -> np.ndarray:
    """Convert a selection to (N,) bool. Raises DataConfigError if it does not have one value per event, or lacks some."""
    if value.ndim != 1 or value.fields:
        raise DataConfigError(
            f"{what} gives {value.type.content} for {source}: a selection must give one truth value per event. Use ak.any, say."
        )
    missing = np.flatnonzero(missing_rows(value))
    if len(missing):
        raise DataConfigError(
            f"{what} has no value for entry {entries[missing[0]]} of {source}, nor for {len(missing) - 1} more. Say what holds for them: "
            "ak.fill_none(…, False), or ak.max(…, axis=1, mask_identity=False)."
        )
    return np.asarray(ak.to_numpy(ak.values_astype(without_missing(value), bool)))
