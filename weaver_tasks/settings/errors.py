"""Validate a document and report a mistake in one line: file, key, value, what is expected, and similar names for an unknown key."""

from __future__ import annotations

import typing
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

from pydantic import ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from weaver_tasks.base.errors import ConfigError, WeaverTasksError, did_you_mean
from weaver_tasks.settings.fields import Section, section_of

Model = TypeVar("Model", bound=Section)

_FIRST = ("extra_forbidden", "missing")
_KINDS = {
    "string_type": "text",
    "int_type": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "list_type": "a list",
    "dict_type": "a map of keys",
    "model_type": "a map of keys",
}


def checked(model: type[Model], document: Any, *, where: str, error: type[WeaverTasksError] = ConfigError) -> Model:
    """Validate `document` as a model. where: its file names, for messages. Raises `error` with one line about the most helpful mistake."""
    try:
        return model.model_validate(document)
    except ValidationError as cause:
        found = cause.errors(include_url=False)
        # An unknown key is more helpful than a missing one, because it may be a misspelling of it.
        worst = min(found, key=lambda each: (*(each["type"] != kind for kind in _FIRST), found.index(each)))
        raise error(f"{where}: {_message(worst, model)}") from None


def _message(found: ErrorDetails, model: type[Section]) -> str:
    path = [part for part in found["loc"] if not (isinstance(part, str) and part.startswith("<"))]
    context: dict[str, Any] = found.get("ctx") or {}
    if "index" in context:
        # The error is in one item of a list.
        path.append(context["index"])
        found = {**found, "input": found["input"][context["index"]]}
    of_a_name = path[-1:] == ["[key]"]
    if of_a_name:
        path = path[:-2]
    holder, field = _holder(model, path[:-1]), _field(model, path)
    key = _dotted(path)
    text = context.get("text") or (field.description if field is not None else "")
    text = f" ({text})" if text else ""
    if found["type"] == "extra_forbidden":
        known = holder.model_fields if holder else {}
        hint = did_you_mean(str(path[-1]), known) or " Known here: " + ", ".join(sorted(known)) + "."
        return f"unknown key '{_one_line(key)}'.{hint}"
    if found["type"] == "missing":
        return f"key '{key}' is missing.{text}"
    if found["type"] == "finite_number":
        return f"key '{key}': {found['input']} is not a finite number. Correct it."
    place = f"key '{key}'" if key else "the document"
    values = _choices(field) if found["type"] == "literal_error" else []
    hint = did_you_mean(found["input"], values) if values and isinstance(found["input"], str) else ""
    if of_a_name and found["type"] == "string_pattern_mismatch":
        text = " (It becomes a folder's name: letters, digits, '.', '_' and '-'.)"
    itself = holder is not None and str(path[-1]) in holder.model_fields if path else False
    wanted = _wanted(found, values, or_nothing=itself and field is not None and _may_be_nothing(field))
    return f"{place}: {_shown(found['input'])} does not fit; expected {wanted}.{hint or text}"


def _wanted(found: ErrorDetails, values: Sequence[Any], *, or_nothing: bool) -> str:
    limits: dict[str, Any] = found.get("ctx") or {}
    match found["type"]:
        case "greater_than":
            return f"more than {_number(limits['gt'])}"
        case "greater_than_equal":
            return f"at least {_number(limits['ge'])}"
        case "less_than":
            return f"less than {_number(limits['lt'])}"
        case "less_than_equal":
            return f"at most {_number(limits['le'])}"
        case "string_pattern_mismatch":
            return f"text like {limits['pattern']}"
        case "string_too_long":
            return f"at most {limits['max_length']} letters"
        case "too_long":
            return f"at most {limits['max_length']} of them"
        case "string_too_short" | "too_short":
            return f"at least {limits['min_length']} of them" if limits["min_length"] > 1 else "one that is not empty"
        case "literal_error":
            return "one of " + ", ".join(["nothing" if value is None else str(value) for value in values])
        case kind:
            wanted = _KINDS.get(kind, found["msg"])
            return f"{wanted} or nothing" if or_nothing and (kind in _KINDS or kind == "form") else wanted


def _number(limit: float) -> str:
    return f"{limit:g}"


def _choices(field: FieldInfo | None) -> list[Any]:
    """The allowed values of a key, if it has a fixed list of them."""
    if field is None:
        return []
    annotations = [field.annotation, *typing.get_args(field.annotation)]
    values = [value for each in annotations if typing.get_origin(each) is typing.Literal for value in typing.get_args(each)]
    return [*values, None] if _may_be_nothing(field) else values


def _may_be_nothing(field: FieldInfo) -> bool:
    return type(None) in typing.get_args(field.annotation)


def _holder(model: type[Section], path: Sequence[str | int]) -> type[Section] | None:
    """The model of the section at `path`, or the model of the items if there is a map or list of sections."""
    for part in path:
        field = model.model_fields.get(str(part))
        if field is None:
            return None
        inner = section_of(field)
        if inner is None:
            return next(_sections_in(field.annotation), None)
        model = inner
    return model


def _sections_in(annotation: Any) -> Iterator[type[Section]]:
    if isinstance(annotation, type) and issubclass(annotation, Section):
        yield annotation
    for part in (*typing.get_args(annotation), *([annotation.__value__] if hasattr(annotation, "__value__") else [])):
        yield from _sections_in(part)


def _field(model: type[Section], path: Sequence[str | int]) -> FieldInfo | None:
    """The field of the key at `path`, or of the key that contains the item at `path`."""
    for end in range(len(path), 0, -1):
        holder, name = _holder(model, path[: end - 1]), str(path[end - 1])
        if holder is not None and name in holder.model_fields:
            return holder.model_fields[name]
    return None


def _dotted(path: Sequence[str | int]) -> str:
    key = ""
    for part in path:
        key = f"{key}[{part}]" if isinstance(part, int) else f"{key}.{part}" if key else part
    return key


def _shown(value: Any) -> str:
    text = "nothing" if value is None else repr(value)
    return text if len(text) <= 80 else text[:77] + "…"


def _one_line(text: str) -> str:
    return " ".join(text.split())[:200]
