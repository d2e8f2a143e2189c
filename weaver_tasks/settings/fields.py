"""Building blocks for the keys of config.yaml: types, defaults, descriptions, units, limits, and the stages that a key affects."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Annotated, Any, NamedTuple

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    field_validator,
)
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError, PydanticUndefined
from typing_extensions import TypeAliasType


class Effect(NamedTuple):
    """A stage whose result depends on a key. if_set: dotted name of another key; the effect exists only if that key is set."""

    stage: str
    if_set: str = ""


Effects = frozenset[Effect]


def stages(*names: str, if_set: str = "") -> Effects:
    """The effect of a key on the named stages."""
    return frozenset(Effect(name, if_set) for name in names)


NOTHING: Effects = frozenset()
"""The effect of a key that changes only speed, paths or monitoring."""


class Key(NamedTuple):
    """The properties of a key besides its type, default and limits.

    affects: the stages whose result depends on it. form: the form in which it enters their slices, if not as itself (a digest, say).
    passed: whether tasks get it outside of their slices. added_later: whether slices leave it out while it has its default.
    """

    affects: Effects
    form: str
    passed: bool
    unit: str
    added_later: bool


def key(
    default: Any,
    text: str,
    *,
    affects: Effects,
    form: str = "",
    passed: bool | None = None,
    unit: str = "",
    added_later: bool = False,
    **limits: Any,
) -> Any:
    """Define a key. default: its default, `...` for a required key. text: its description.

    affects: the stages whose result depends on it, or NOTHING if it changes only speed, paths or monitoring. The `params` of rules and the
    digests of finished epochs and validations follow from it.
    form: the form in which a key acts if it does not enter the slices as itself; `plan.settings` and the inputs of rules handle it.
    passed: whether tasks get it in addition to what they depend on. None: if it affects nothing. False: only the workflow uses it.
    added_later: for a key that is new in a version. While it has its default, slices and digests stay those of the version before.
    limits: gt, ge, lt, le, min_length, max_length and pattern, as in pydantic.Field.
    """
    meaning = Key(affects, form, not affects if passed is None else passed, unit, added_later)
    return Field(default, description=text, json_schema_extra=_Extra(meaning), **limits)


def section(model: type[Section], text: str) -> Any:
    """Define a section of keys; if it is left out, all its keys have their defaults."""
    return Field(default_factory=model, description=text)


def required_section(text: str) -> Any:
    """Define a section with a required key."""
    return Field(..., description=text)


def optional_section(text: str) -> Any:
    """Define a section that is null by default."""
    return Field(None, description=text)


class _Extra:
    """Attaches a `Key` to a pydantic field through json_schema_extra, and writes the unit into the schema."""

    def __init__(self, meaning: Key) -> None:
        self.meaning = meaning

    def __call__(self, schema: dict[str, Any]) -> None:
        if self.meaning.unit:
            schema["unit"] = self.meaning.unit
        schema["affects"] = sorted({effect.stage for effect in self.meaning.affects})


def key_of(field: FieldInfo) -> Key | None:
    """The `Key` of a field; None for a section."""
    extra = field.json_schema_extra
    return extra.meaning if isinstance(extra, _Extra) else None


def section_of(field: FieldInfo) -> type[Section] | None:
    """The model of a section; None for a key."""
    annotation = field.annotation
    for candidate in (annotation, *getattr(annotation, "__args__", ())):
        if isinstance(candidate, type) and issubclass(candidate, Section) and key_of(field) is None:
            return candidate
    return None


def is_optional(field: FieldInfo) -> bool:
    """Whether a section is null by default."""
    return section_of(field) is not None and field.default is None


class Leaf(NamedTuple):
    """A key with its dotted name."""

    name: str
    key: Key
    field: FieldInfo


def keys_of(model: type[Section], prefix: str = "") -> Iterator[Leaf]:
    """All keys of a model and of its sections, in order."""
    for name, field in model.model_fields.items():
        inner, meaning = section_of(field), key_of(field)
        if inner is not None:
            yield from keys_of(inner, f"{prefix}{name}.")
        else:
            assert meaning is not None, f"{prefix}{name} is made without key(…) or section(…)"
            yield Leaf(f"{prefix}{name}", meaning, field)


def default_of(field: FieldInfo) -> Any:
    """The default of a field as plain data; None for a required field."""
    default = field.get_default(call_default_factory=True)
    if default is PydanticUndefined:
        return None
    return default.model_dump() if isinstance(default, BaseModel) else default


# Conversion of text to other types: --config gives all scalars as text, and YAML 1.1 reads 5e-3 as text.


_NOTHING = ("null", "Null", "NULL", "None")


def readings(text: str) -> list[Any]:
    """The possible values of a text, the most likely first: null, a boolean, a list or a map; the text itself; a number."""
    if text in _NOTHING:
        return [None, text]
    numbers: list[Any] = []
    with contextlib.suppress(yaml.YAMLError, ValueError, RecursionError):
        value = yaml.safe_load(text)
        if isinstance(value, bool) or (isinstance(value, (list, dict)) and text.lstrip().startswith(("[", "{"))):
            return [value, text]
        numbers += [value] if isinstance(value, (int, float)) else []
    with contextlib.suppress(ValueError):
        numbers.append(float(text))
    return [text, *numbers]


def read_text(value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
    """Validate `value`; for a text, take the first of its readings that is valid."""
    if not isinstance(value, str):
        return handler(value)
    errors: list[ValidationError] = []
    for reading in readings(value):
        try:
            return handler(reading)
        except ValidationError as error:
            errors.append(error)
    # For '0', "too small" is a more helpful error than "not a number".
    raise next((error for error in errors if not _is_of_another_form(error)), errors[0])


def _is_of_another_form(error: ValidationError) -> bool:
    found = error.errors(include_url=False)[0]
    return not found["loc"] and (found["type"].endswith("_type") or found["type"] in ("form", "literal_error", "model_attributes_type"))


class Quoted(str):
    """A text that is quoted in a file, so it is not converted to a number. Used only in options, see `plain_options`."""

    __slots__ = ()


def plain_options(value: Any) -> Any:
    """Convert text in options without a schema to numbers, booleans or null where it looks like them, unless it is quoted."""
    if isinstance(value, Quoted):
        return str(value)
    if isinstance(value, dict):
        return {str(name): plain_options(item) for name, item in value.items()}
    if isinstance(value, list):
        return [plain_options(item) for item in value]
    if isinstance(value, str):
        for reading in readings(value):
            if reading is None or isinstance(reading, (bool, int, float)):
                return reading
    return value


def _keep_whole(value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
    """Keep 1 as an integer: 1.0 would have another digest."""
    made = handler(value)
    return value if isinstance(value, int) else made


def _number_as_text(value: Any) -> Any:
    return str(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else value


def _names_as_text(value: Any) -> Any:
    """Convert names such as 2016, which YAML reads as numbers, to text."""
    return {_number_as_text(name): item for name, item in value.items()} if isinstance(value, dict) else value


def no_item_twice(value: list[Any]) -> list[Any]:
    """Validate that no item of a list occurs twice."""
    if len(set(value)) < len(value):
        raise PydanticCustomError("item_twice", "no item twice")
    return value


Number = Annotated[float, WrapValidator(_keep_whole)]
"""A number. If it is written as an integer, it stays an integer."""
Path = Annotated[str, Field(min_length=1)]
Seeds = Annotated[
    list[Annotated[int, Field(ge=0), WrapValidator(read_text)]],
    Field(min_length=1, json_schema_extra={"uniqueItems": True}),
    AfterValidator(no_item_twice),
]
Options = Annotated[dict[str, Any], BeforeValidator(plain_options)]
"""Keyword arguments of an external function."""
FractionByName = Annotated[
    dict[str, Annotated[float, Field(gt=0, lt=1), WrapValidator(read_text)]],
    BeforeValidator(_names_as_text),
]

# Tags by which pydantic names the chosen form of a value that may have several; error messages leave them out.
TEXT, SWITCH, WHOLE, LIST, MAP = "<text>", "<switch>", "<whole>", "<list>", "<map>"
_WORDS = {TEXT: "text", SWITCH: "true or false", WHOLE: "a whole number", LIST: "a list", MAP: "a map of keys"}


def one_of(*forms: str) -> Discriminator:
    """A discriminator of the forms that a value may have. Its error names the expected forms."""

    def form(value: Any) -> str | None:
        kinds = {str: TEXT, bool: SWITCH, int: WHOLE, list: LIST, dict: MAP}
        found = next((tag for kind, tag in kinds.items() if isinstance(value, kind)), None)
        return found if found in forms else None

    return Discriminator(form, custom_error_type="form", custom_error_message=" or ".join(_WORDS[tag] for tag in forms))


FolderName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=100), BeforeValidator(_number_as_text)]
"""A text that becomes the name of a folder. It may look like a number, for example a year."""


class Section(BaseModel):
    """A section of keys. Unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False, protected_namespaces=())

    def plain(self) -> dict[str, Any]:
        """The section as plain data, which JSON and YAML can represent."""
        return self.model_dump()


class ReadSection(Section):
    """A section of config.yaml: text that stands for a number, a truth value, a list … is converted where such a value is expected."""

    @field_validator("*", mode="wrap")
    @classmethod
    def _read_text(cls, value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
        return read_text(value, handler)


class PartOfGroup(ReadSection):
    """A group of test files, predicted N files at a time."""

    files: Annotated[Annotated[Path, Tag(TEXT)] | Annotated[list[Path], Field(min_length=1), Tag(LIST)], one_of(TEXT, LIST)]
    split: int | None = Field(None, ge=1)


GroupOfFiles = Annotated[
    Annotated[Path, Tag(TEXT)] | Annotated[list[Path], Field(min_length=1), Tag(LIST)] | Annotated[PartOfGroup, Tag(MAP)],
    one_of(TEXT, LIST, MAP),
    WrapValidator(read_text),
]
Files = TypeAliasType(
    "Files",
    Annotated[
        Annotated[Path, Tag(TEXT)]
        | Annotated[list[Path], Field(min_length=1), Tag(LIST)]
        | Annotated[dict[FolderName, GroupOfFiles], Tag(MAP)],
        one_of(TEXT, LIST, MAP),
    ],
)
"""A path, a list of paths, or named groups of them. Groups' names become folders' names."""

SwitchOrText = Annotated[Annotated[bool, Tag(SWITCH)] | Annotated[str, Tag(TEXT)], one_of(SWITCH, TEXT)]
SwitchOrOptions = Annotated[Annotated[bool, Tag(SWITCH)] | Annotated[Options, Tag(MAP)], one_of(SWITCH, MAP)]
PathOrPaths = Annotated[Annotated[str, Tag(TEXT)] | Annotated[list[str], Tag(LIST)], one_of(TEXT, LIST)]
