"""What a weaver command becomes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

TODO = "TODO"
"""The value of a key that cannot be carried over. No key accepts it, so a run is refused until it is replaced."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One key of config.yaml. key: dotted. comment: why it has this value, where that is not plain; of a TODO, what is to be done."""

    key: str
    value: Any
    comment: str = ""

    @property
    def is_todo(self) -> bool:
        return isinstance(self.value, str) and self.value == TODO


@dataclass(kw_only=True)
class Conversion:
    """What a command becomes.

    notes: (option, what became of it), for the options that have no key of their own.
    todos: (option or key, what is to be done by hand), for what cannot be carried over.
    """

    settings: list[Setting] = field(default_factory=list)
    notes: list[tuple[str, str]] = field(default_factory=list)
    todos: list[tuple[str, str]] = field(default_factory=list)

    def set(self, key: str, value: Any, comment: str = "") -> None:
        """Give a key its value. value TODO: the comment says what is to be done."""
        setting = Setting(key=key, value=value, comment=comment)
        self.settings.append(setting)
        if setting.is_todo:
            self.todos.append((key, comment))

    def note(self, option: str, text: str) -> None:
        self.notes.append((option, text))

    def todo(self, option: str, text: str) -> None:
        """Something to be done that no key stands for."""
        self.todos.append((option, text))
