"""Frozen dataclasses that hold the content of a data configuration. The package `configuration` reads and checks it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal


@dataclass(frozen=True, kw_only=True)
class Variable:
    """One input variable and its transformation clip((x - center) * scale, low, high).

    center: None for no transformation at all, "auto" if the standardization has not been computed yet.
    low, high, pad_value: weaver's `min`, `max` and `pad_value`; they apply to the transformed value.
    """

    name: str
    center: float | Literal["auto"] | None
    scale: float
    low: float
    high: float
    pad_value: float


@dataclass(frozen=True, kw_only=True)
class InputGroup:
    """One input of the network. length: particles kept per event; None for a flat group, which is not padded."""

    name: str
    length: int | None
    pad_mode: Literal["constant", "wrap"]
    variables: tuple[Variable, ...]


@dataclass(frozen=True, kw_only=True)
class Labels:
    """The training target.

    kind "simple": names is ("_label_",), the class index; classes are the flags (branches, definitions or expressions).
    kind "custom": names are the labels in order, with their masks; expressions maps each name to its expression;
    classes are the class names if weaver's `labels.names` gives them (per-particle classes), else ().
    """

    kind: Literal["simple", "custom"]
    names: tuple[str, ...]
    classes: tuple[str, ...] = ()
    expressions: dict[str, str] = field(default_factory=dict)

    @property
    def masks(self) -> dict[str, str]:
        """Label -> the label that masks it (`<label>_mask`)."""
        return {name: f"{name}_mask" for name in self.names if f"{name}_mask" in self.names}


@dataclass(frozen=True, kw_only=True)
class Weights:
    """How events are weighted in training: precomputed branches (their product), or histograms per class.

    variables: reweighting variable -> its bin edges, in order; one or more.
    base_weight: an expression; branches: expressions too.
    histograms: class -> nested lists, one axis per variable in order; None until they are computed.
    """

    precomputed: bool
    branches: tuple[str, ...] = ()
    method: Literal["flat", "ref"] | None = None
    variables: dict[str, tuple[float, ...]] = field(default_factory=dict)
    classes: tuple[str, ...] = ()
    class_weights: tuple[float, ...] = ()
    threshold: float = 10.0
    discard_under_overflow: bool = True
    base_weight: str | None = None
    histograms: dict[str, list[Any]] | None = None


@dataclass(frozen=True, kw_only=True)
class Bucketing:
    """Batches of events with similar values of `variable`. edges: increasing bin edges, or the number of bins of equal population."""

    variable: str
    edges: tuple[float, ...] | int


@dataclass(frozen=True, kw_only=True)
class DataConfiguration:
    """A data configuration, read and checked. Made by `configuration.load_data_configuration`.

    definitions: name -> expression, from new_variables and custom labels, except those whose expression is the name itself.
    test_time_selection: already falls back to `selection`.
    functions: the user's own functions that expressions may call (custom_functions): name -> whether it draws random numbers.
    raw: the document in weaver's shape, every top-level key present.
    """

    path: Path
    treename: str | None
    branch_magic: dict[str, str]
    file_magic: dict[str, dict[str, Any]]
    selection: str | None
    test_time_selection: str | None
    definitions: dict[str, str]
    preprocess_method: Literal["manual", "auto"]
    preprocess_fraction: float
    inputs: tuple[InputGroup, ...]
    labels: Labels | None
    observers: tuple[str, ...]
    monitor_variables: tuple[str, ...]
    weights: Weights | None
    bucketing: Bucketing | None
    functions: dict[str, bool] = field(default_factory=dict)
    raw: dict[str, Any] = field(repr=False)

    # The same content under weaver's names, which users' network files read.

    @property
    def input_names(self) -> tuple[str, ...]:
        return tuple(group.name for group in self.inputs)

    @property
    def input_dicts(self) -> dict[str, list[str]]:
        return {group.name: [variable.name for variable in group.variables] for group in self.inputs}

    @property
    def input_shapes(self) -> dict[str, tuple[int, int, int | None]]:
        """Group -> (-1, number of variables, length). The length is None for a flat group."""
        return {group.name: (-1, len(group.variables), group.length) for group in self.inputs}

    @property
    def label_type(self) -> str | None:
        return self.labels.kind if self.labels else None

    @property
    def label_names(self) -> tuple[str, ...]:
        return self.labels.names if self.labels else ()

    @property
    def class_count(self) -> int | None:
        """Number of classes of simple labels; None for other labels."""
        return len(self.labels.classes) if self.labels and self.labels.kind == "simple" else None

    @property
    def label_value(self) -> list[str] | dict[str, str] | None:
        """The list of flags of simple labels, or the map of expressions of custom labels."""
        return self.raw["labels"].get("value")

    @property
    def observer_names(self) -> tuple[str, ...]:
        return self.observers

    @property
    def z_variables(self) -> tuple[str, ...]:
        return self.observers or self.monitor_variables

    @property
    def preprocess_params(self) -> dict[str, dict[str, Any]]:
        """Variable -> weaver's length, pad_mode, center, scale, min, max, pad_value."""
        return {
            variable.name: {
                "length": group.length,
                "pad_mode": group.pad_mode,
                "center": variable.center,
                "scale": variable.scale,
                "min": variable.low,
                "max": variable.high,
                "pad_value": variable.pad_value,
            }
            for group in self.inputs
            for variable in group.variables
        }

    @property
    def preprocess(self) -> dict[str, Any]:
        return self.raw["preprocess"]

    @property
    def new_variables(self) -> dict[str, str]:
        return self.raw["new_variables"]

    @property
    def weaver(self) -> WeaverView:
        """The view for users' network files: like this object, but each YAML key gives its section as written."""
        return WeaverView(configuration=self)


_SECTIONS = ("branch_magic", "file_magic", "inputs", "labels", "observers", "weights")


@dataclass(frozen=True, kw_only=True)
class WeaverView:
    """A data configuration with the interface of weaver's own object: its attributes first, then the sections of the YAML."""

    configuration: DataConfiguration

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "configuration":
            raise AttributeError(name)
        if name in _SECTIONS:
            return self.configuration.raw[name]
        if name == "bucketing":
            return self.configuration.bucketing is not None
        return getattr(self.configuration, name)
