"""The keys of a data configuration (weaver's format): the type, default, meaning, limits and affected stages of each.

These models detect unknown keys and invalid values. The module `checks` tests whether the sections are consistent with each other.
The schema for editors and the reference are generated from these models. The module does not import numpy, because the workflow
reads data configurations every time it is parsed.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, ConfigDict, Field, Tag, WithJsonSchema
from pydantic_core import PydanticCustomError

from weaver_tasks.settings.fields import (
    LIST,
    MAP,
    WHOLE,
    Number,
    Section,
    key,
    no_item_twice,
    one_of,
    optional_section,
    section,
)
from weaver_tasks.settings.model import OF_THE_DATA, OF_THE_NETWORK, PREDICTION, STAGING, STANDARDIZATION, WEIGHTS

# `reweight` writes the whole document into data_config.auto.yaml.
EVENTS = OF_THE_DATA | STANDARDIZATION | WEIGHTS
BATCHES = OF_THE_NETWORK | WEIGHTS
COLUMNS = STAGING | BATCHES
OF_TESTS = STAGING | PREDICTION | WEIGHTS

Text = Annotated[str, Field(min_length=1)]
Texts = Annotated[list[Text], AfterValidator(no_item_twice)]
Fraction = Annotated[Number, Field(gt=0, le=1)]
_CENTER = "center; nothing: no transformation."


def _one_line(name: str) -> str:
    if "\n" in name:
        raise PydanticCustomError("name", "a name without line breaks")
    return name


Name = Annotated[Text, AfterValidator(_one_line)]


def _center(value: Any) -> Any:
    """A number, None or auto."""
    if value is None or value == "auto" or (isinstance(value, (int, float)) and not isinstance(value, bool)):
        return value
    raise PydanticCustomError("form", "a number or nothing or auto")


Center = Annotated[Any, AfterValidator(_center), WithJsonSchema({"anyOf": [{"type": ["number", "null"]}, {"const": "auto"}]})]


class DataSection(Section):
    # An infinite limit means that the variable has no limit.
    model_config = ConfigDict(allow_inf_nan=True)


class Transformation(DataSection):
    """What follows a variable's name: clip((x - center) * scale, min, max)."""

    center: Center = key(None, _CENTER, affects=STANDARDIZATION | BATCHES)
    scale: Number = key(1, "scale.", affects=STANDARDIZATION | BATCHES)
    min: Number = key(-5, "min.", affects=STANDARDIZATION | BATCHES)
    max: Number = key(5, "max.", affects=STANDARDIZATION | BATCHES)
    pad_value: Number = key(0, "pad_value.", affects=BATCHES)


def _entry(value: Any) -> Any:
    """Check an entry of `vars`: a name, or [name, center, scale, min, max, pad_value], where trailing items may be left out."""
    if isinstance(value, str):
        return _name(value)
    if not isinstance(value, list):
        raise PydanticCustomError("form", "a name or a list")
    if not 1 <= len(value) <= 1 + len(Transformation.model_fields):
        raise PydanticCustomError("length", "one that is not empty" if not value else "at most 6 of them")
    for index, item in enumerate(value):
        name = "name" if index == 0 else list(Transformation.model_fields)[index - 1]
        text = "" if index == 0 else Transformation.model_fields[name].description
        try:
            (_name if index == 0 else _center if name == "center" else _number)(item)
        except PydanticCustomError as error:
            raise PydanticCustomError("item", error.message_template, {"index": index, "text": text}) from None
    return value


def _name(value: Any) -> Any:
    if not isinstance(value, str):
        raise PydanticCustomError("form", "text")
    if not value:
        raise PydanticCustomError("length", "one that is not empty")
    return _one_line(value)


def _number(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise PydanticCustomError("form", "a number")
    return value


_ENTRY_SCHEMA = {
    "anyOf": [
        {"type": "string", "minLength": 1, "description": "a name"},
        {
            "type": "array",
            "minItems": 1,
            "maxItems": 6,
            "description": "name, center, scale, min, max, pad_value.",
            "prefixItems": [
                {"type": "string", "minLength": 1},
                {"anyOf": [{"type": ["number", "null"]}, {"const": "auto"}], "description": _CENTER},
                *({"type": "number", "description": f"{name}."} for name in ("scale", "min", "max", "pad_value")),
            ],
        },
    ]
}
Entry = Annotated[Any, AfterValidator(_entry), WithJsonSchema(_ENTRY_SCHEMA)]


class Group(DataSection):
    """One input: length, pad_mode, vars."""

    length: Annotated[int, Field(ge=1)] | None = key(..., "Particles kept per event; nothing: a flat group.", affects=BATCHES)
    pad_mode: Literal["constant", "wrap"] = key("constant", "How shorter events are filled up.", affects=BATCHES)
    vars: list[Entry] = key(..., "name or [name, center, scale, min, max, pad_value].", affects=EVENTS, min_length=1)


class Parameters(DataSection):
    """The parameters of one variable, filled in."""

    length: Annotated[int, Field(ge=1)] | None = key(..., "That of its group.", affects=BATCHES)
    pad_mode: Literal["constant", "wrap"] = key(..., "That of its group.", affects=BATCHES)
    center: Center = key(..., _CENTER, affects=STANDARDIZATION | BATCHES)
    scale: Number = key(..., "What differences from the center are multiplied by.", affects=STANDARDIZATION | BATCHES)
    min: Number = key(..., "Lower end of the transformed value.", affects=STANDARDIZATION | BATCHES)
    max: Number = key(..., "Upper end of the transformed value.", affects=STANDARDIZATION | BATCHES)
    pad_value: Number = key(..., "The value of particles that are not there.", affects=BATCHES)


class Preprocess(DataSection):
    method: Literal["manual", "auto"] = key(
        "manual",
        "Whether variables without a center are computed (auto) or left as they are (manual).",
        affects=STANDARDIZATION | BATCHES,
    )
    data_fraction: Fraction = key(
        0.1, "Leading fraction of each training file that an auto standardization uses.", affects=STANDARDIZATION | BATCHES
    )
    params: dict[str, Parameters] | None = key(
        None, "The parameters of each variable: filled in data_config.auto.yaml.", affects=STANDARDIZATION | BATCHES
    )


class LabelsSection(DataSection):
    type: Literal["simple", "custom"] = key(
        None, "simple: value is a list of flags, one per class; custom: a map of expressions.", affects=COLUMNS
    )
    value: Annotated[
        Annotated[Texts, Field(min_length=1), Tag(LIST)] | Annotated[dict[str, Text], Field(min_length=1), Tag(MAP)],
        one_of(LIST, MAP),
    ] = key(None, "The flags of the classes, or name: expression.", affects=COLUMNS)
    names: Texts | None = key(None, "Names of the classes of a custom (per-particle) label.", affects=COLUMNS)


class WeightsSection(DataSection):
    use_precomputed_weights: bool = key(
        False, "Whether weights are read from weight_branches rather than made by reweighting.", affects=COLUMNS
    )
    weight_branches: list[Text] | None = key(None, "The weight is the product of these.", affects=COLUMNS)
    reweight_method: Literal["flat", "ref"] | None = key(None, "flat: flat in reweight_vars; ref: as the first class.", affects=BATCHES)
    reweight_vars: dict[str, Annotated[list[Number], Field(min_length=2)]] | None = key(
        None, "Variables to reweight in, with their bin edges.", affects=COLUMNS
    )
    reweight_classes: Annotated[list[Name], AfterValidator(no_item_twice)] | None = key(
        None, "The flags of the classes to reweight.", affects=COLUMNS
    )
    class_weights: list[Annotated[Number, Field(ge=0)]] | None = key(
        None, "One per class of reweight_classes, 0 for one that is not drawn; nothing: all 1.", affects=BATCHES
    )
    reweight_threshold: Number = key(10, "A percentile, in percent.", affects=BATCHES, unit="percent", ge=0, le=100)
    reweight_discard_under_overflow: bool = key(True, "Whether events outside the bins get weight 0.", affects=BATCHES)
    reweight_basewgt: str | None = key(None, "An expression: the weight before reweighting.", affects=COLUMNS)
    reweight_hists: dict[str, list[Any]] | None = key(
        None, "The weights per class and bin: filled in data_config.auto.yaml.", affects=BATCHES
    )


class BucketingSection(DataSection):
    var: Text = key(..., "The variable that tells the size.", affects=COLUMNS)
    bins: Annotated[
        Annotated[int, Field(ge=1), Tag(WHOLE)] | Annotated[list[Number], Field(min_length=2), Tag(LIST)], one_of(WHOLE, LIST)
    ] = key(..., "Bin edges, or the number of bins of equal population.", affects=BATCHES)


def _value(value: Any) -> Any:
    if isinstance(value, (bool, int, float)):
        return value
    raise PydanticCustomError("form", "a number or true or false")


Value = Annotated[Any, AfterValidator(_value), WithJsonSchema({"type": ["number", "boolean"]})]
FileMagic = dict[str, Annotated[dict[str, Value], Field(min_length=1)]]


class DataDocument(DataSection):
    """What is read from the files and how it becomes inputs, labels and weights: weaver's format."""

    treename: Text | None = key(None, "The tree to read; nothing: the only one of the file.", affects=EVENTS)
    branch_magic: dict[str, str] | None = key(
        None, "Substrings of branch names and what they are replaced by when reading.", affects=EVENTS
    )
    file_magic: FileMagic | None = key(
        None,
        "Variables made from the file's path: var: {regular expression: value}; the first match wins, 0 where none matches.",
        affects=EVENTS,
    )
    selection: str | None = key(None, "Events to keep: a boolean expression with &, | and ~.", affects=EVENTS)
    test_time_selection: str | None = key(None, "The same for test files; nothing: as selection.", affects=OF_TESTS)
    new_variables: dict[Text, Text] = key({}, "name: expression; in any order.", affects=EVENTS)
    preprocess: Preprocess = section(Preprocess, "Standardization of the inputs.")
    inputs: dict[str, Group] = key(..., "The inputs of the network: group: {length, pad_mode, vars}.", affects=EVENTS, min_length=1)
    labels: LabelsSection = section(LabelsSection, "What is learned.")
    observers: Texts = key([], "Variables carried to the predictions unchanged.", affects=OF_TESTS)
    monitor_variables: Texts = key([], "Variables served beside each batch, in training too.", affects=COLUMNS)
    weights: WeightsSection | None = optional_section("How events are weighted in training.")
    bucketing: BucketingSection | None = optional_section("Batches of events of similar size.")
