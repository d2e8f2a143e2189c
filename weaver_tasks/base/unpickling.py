"""Explain in a phrase why torch refuses to load a checkpoint, without torch's advice to load it unsafely."""

from __future__ import annotations

import os
import pickletools
import re


def why_refused(error: Exception, path: str | os.PathLike[str]) -> str:
    """A phrase with the reason why `torch.load(weights_only=True)` refused a file; '' if the file is only damaged.

    Torch suggests weights_only=False, which would execute any code in the file.
    """
    text = str(error)
    if named := re.search(r"GLOBAL (\S+)", text):
        return f"it holds more than tensors and would run code when it is loaded ({named[1].rstrip('.')}); none of it was run"
    if "weights_only" in text and _is_pickle(path):
        return "it is a pickle of Python objects, which may run code when it is loaded; none of it was run"
    return ""


def damage(error: Exception) -> str:
    """What torch says of a damaged file, in a line."""
    lines = str(error).splitlines()
    if not lines or "weights_only" in lines[0]:
        return type(error).__name__
    return lines[0]


def _is_pickle(path: str | os.PathLike[str]) -> bool:
    """Whether a file is a pickle to its end. Its instructions are only read, not carried out."""
    try:
        with open(path, "rb") as file:
            for _ in pickletools.genops(file):
                pass
    except (ValueError, OSError, EOFError, OverflowError, UnicodeDecodeError):
        return False
    return True
