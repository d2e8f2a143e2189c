"""The result of converting a weaver command: settings, notes, and TODOs for what cannot be converted."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

TODO = "TODO"
"""The value of a key that cannot be converted. No key accepts it, so a run is refused until it is replaced."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One key of config.yaml. key: dotted name. comment: the reason for the value if it is not obvious; for a TODO, what to do."""

    key: str
    value: Any
    comment: str = ""

    @property
    def is_todo(self) -> bool:
        return isinstance(self.value, str) and self.value == TODO


@dataclass(kw_only=True)
class Conversion:
    """The result of converting a command.

    notes: (option, what happened to it), for options without their own key.
    todos: (option or key, what to do by hand), for what cannot be converted.
    """

    settings: list[Setting] = field(default_factory=list)
    notes: list[tuple[str, str]] = field(default_factory=list)
    todos: list[tuple[str, str]] = field(default_factory=list)

    def set(self, key: str, value: Any, comment: str = "") -> None:
        """Set a key to a value. For the value TODO the comment says what to do."""
        setting = Setting(key=key, value=value, comment=comment)
        self.settings.append(setting)
        if setting.is_todo:
            self.todos.append((key, comment))

    def note(self, option: str, text: str) -> None:
        self.notes.append((option, text))

    def todo(self, option: str, text: str) -> None:
        """Add something to be done by hand that has no key."""
        self.todos.append((option, text))
