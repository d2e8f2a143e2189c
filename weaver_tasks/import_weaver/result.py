"""What a weaver command becomes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One key of config.yaml. key: dotted. comment: why it has this value, where that is not plain."""

    key: str
    value: Any
    comment: str = ""


@dataclass(kw_only=True)
@dataclass(kw_only=True)
class Conversion:
    """What a command becomes. notes: (option, what became of it), for the options that have no key of their own."""

    settings: list[Setting] = field(default_factory=list)
    notes: list[tuple[str, str]] = field(default_factory=list)

    def set(self, key: str, value: Any, comment: str = "") -> None:
        self.settings.append(Setting(key=key, value=value, comment=comment))

    def note(self, option: str, text: str) -> None:
        self.notes.append((option, text))
