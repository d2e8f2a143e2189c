"""Interprets arrays of ROOT's Double32_t and Float16_t (`x[3]/d[0,100,16]`); uproot takes their range from the wrong brackets."""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np
import uproot

_LEAVES = {"TLeafD32": uproot.interpretation.numerical.AsDouble32, "TLeafF16": uproot.interpretation.numerical.AsFloat16}
_PI = {"2pi": 2 * math.pi, "2*pi": 2 * math.pi, "twopi": 2 * math.pi, "pi/2": math.pi / 2, "pi/4": math.pi / 4, "pi": math.pi}
_DEFAULT_BITS = {"TLeafD32": 32, "TLeafF16": 12}


def array_of_truncated(branch: Any) -> Any:
    """Return the interpretation of a branch with arrays of such numbers; None for all other branches, which uproot interprets.

    Raises ValueError when the range cannot be parsed.
    """
    leaves = branch.member("fLeaves") if branch.has_member("fLeaves") else []
    if len(leaves) != 1 or leaves[0].classname not in _LEAVES or branch.branches:
        return None
    kind, title = leaves[0].classname, leaves[0].member("fTitle")
    dimensions = re.findall(r"\[([^]]*)\]", title.partition("/")[0])
    if not dimensions:
        return None
    fixed = tuple(int(each) for each in dimensions if each.isdigit())
    limits = re.search(r"\[(.*)\]", title.partition("/")[2])
    if limits:
        low, high, *bits = (_number(part) for part in limits[1].split(","))
        wanted = int(bits[0]) if bits else 32
        content = _LEAVES[kind](low, high, wanted if 2 <= wanted <= 32 else 32, fixed)
    elif kind == "TLeafD32":
        content = uproot.AsDtype(np.dtype((">f4", fixed)), np.dtype(("f8", fixed)))
    else:
        content = _LEAVES[kind](0, 0, _DEFAULT_BITS[kind], fixed)
    return content if len(fixed) == len(dimensions) else uproot.AsJagged(content)


def _number(text: str) -> float:
    """Parse a limit as ROOT does: a number, or one of several expressions with pi."""
    text = text.strip().lower()
    if "pi" not in text:
        return float(text)
    size = next(value for name, value in _PI.items() if name in text)
    return -size if "-" in text else size
