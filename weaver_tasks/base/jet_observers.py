"""Recognize the observers that are the jet's transverse momentum and mass, by their usual names."""

from __future__ import annotations

import re
from collections.abc import Iterable

_KINEMATIC = {"pt": re.compile(r"(^|_)pt$"), "mass": re.compile(r"(^|_)((sd|softdrop_?|trimmed_?)?mass|msoftdrop|msd)$")}


def kinematic_observers(names: Iterable[str]) -> dict[str, str]:
    """The observers for the jet's transverse momentum and mass: {"pt": name, "mass": name}, without those that do not exist."""
    names = list(names)
    found = {kind: sorted((name for name in names if pattern.search(name)), key=len) for kind, pattern in _KINEMATIC.items()}
    return {kind: matches[0] for kind, matches in found.items() if matches}
