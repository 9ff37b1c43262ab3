"""Readable differences between a golden file and a recording."""

from __future__ import annotations

import difflib


def difference(golden: str, recorded: str, *, context: int = 4) -> str:
    """A unified diff of the two texts, without its file header."""
    lines = difflib.unified_diff(golden.splitlines(), recorded.splitlines(), lineterm="", n=context)
    return "\n".join(list(lines)[2:])
