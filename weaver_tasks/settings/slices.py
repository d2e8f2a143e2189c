"""Select the keys of config.yaml that the result of a stage depends on, and those that tasks get in addition."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

from weaver_tasks.settings.fields import Key, Section, default_of, key_of, section_of
from weaver_tasks.settings.model import Configuration


def depends_on(config: Mapping[str, Any], stage: str, *, unconditionally: bool = False) -> dict[str, Any]:
    """The keys that the result of a stage depends on, in their sections.

    config: the complete configuration, or that of a task, as plain data.
    unconditionally: leave out keys whose effect depends on another key being set.
    Keys that act in another form (`form` of their field) are not included.
    """

    def is_wanted(key: Key) -> bool:
        return not key.form and any(
            effect.stage == stage and (not effect.if_set or (not unconditionally and bool(_at(config, effect.if_set))))
            for effect in key.affects
        )

    return _chosen(Configuration, config, is_wanted, without_new=True)


def passed_besides(config: Mapping[str, Any]) -> dict[str, Any]:
    """The keys that tasks get although their result does not depend on them, or depends on them in another form."""
    return _chosen(Configuration, config, lambda key: key.passed, without_new=False)


def _chosen(model: type[Section], values: Mapping[str, Any], is_wanted: Callable[[Key], bool], *, without_new: bool) -> dict[str, Any]:
    chosen: dict[str, Any] = {}
    for name, inner, key, default in _members(model):
        value = values.get(name)
        if inner is not None:
            if value is None:
                if any(each is not None and is_wanted(each) for _, _, each, _ in _members(inner)):
                    chosen[name] = None
            elif part := _chosen(inner, value, is_wanted, without_new=without_new):
                chosen[name] = part
        elif key is not None and is_wanted(key) and not (without_new and key.added_later and value == default):
            chosen[name] = value
    return chosen


@functools.cache
def _members(model: type[Section]) -> list[tuple[str, type[Section] | None, Key | None, Any]]:
    """(name, model of the section, `Key`, default) of each member of a section. Cached, because every slice of every job needs it."""
    return [(name, section_of(field), key_of(field), default_of(field)) for name, field in model.model_fields.items()]


def _at(config: Mapping[str, Any], name: str) -> Any:
    value: Any = config
    for part in name.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value
