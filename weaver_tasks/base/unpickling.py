"""Explain in a phrase why torch refuses to load a checkpoint, without torch's advice to load it unsafely."""

from __future__ import annotations

import re


def why_refused(error: Exception) -> str:
    """A phrase with the reason why `torch.load(weights_only=True)` refused a file; '' if the file is only damaged.

    Torch suggests weights_only=False, which would execute any code in the file.
    """
    text = str(error)
    if named := re.search(r"GLOBAL (\S+)", text):
        return f"it holds more than tensors and would run code when it is loaded ({named[1].rstrip('.')}); none of it was run"
    if "Weights only load failed" in text or "weights_only" in text:
        return "it is a pickle of Python objects, which may run code when it is loaded; none of it was run"
    return ""
