"""What is said of a checkpoint that torch refuses to load: why, in a phrase, and never torch's own advice to load it all the same."""

from __future__ import annotations

import re


def why_refused(error: Exception) -> str:
    """The reason that `torch.load(weights_only=True)` gave for refusing a file, in a phrase; '' where the file is merely damaged.

    Torch suggests to set weights_only=False, which would run whatever the file holds.
    """
    text = str(error)
    if named := re.search(r"GLOBAL (\S+)", text):
        return f"it holds more than tensors and would run code when it is loaded ({named[1].rstrip('.')}); none of it was run"
    if "Weights only load failed" in text or "weights_only" in text:
        return "it is a pickle of Python objects, which may run code when it is loaded; none of it was run"
    return ""
