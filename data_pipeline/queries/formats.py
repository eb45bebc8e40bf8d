"""Answers that are numbers or intervals: how they are written, and read again.

interval(12.0, 15.5)                         # "from 12.0 to 15.5 seconds"
read_interval("from 12.0 to 15.5 seconds")   # (12.0, 15.5)
"""

from __future__ import annotations

import re

FORMATS = ("open", "choice", "number", "interval")

_INTERVAL = re.compile(r"from (\d+(?:\.\d+)?) to (\d+(?:\.\d+)?) seconds")


def interval(start: float, end: float) -> str:
    """A span (seconds) in words, to a tenth of a second."""
    return f"from {start:.1f} to {end:.1f} seconds"


def read_interval(text: str) -> tuple[float, float] | None:
    """The span (seconds) that `interval` has written; None for any other text, or one that runs backwards."""
    found = _INTERVAL.fullmatch(text.strip())
    if not found:
        return None
    start, end = float(found[1]), float(found[2])
    return (start, end) if start <= end else None


def read_number(text: str) -> int | None:
    """The whole number that a text is; None for any other text."""
    return int(text) if re.fullmatch(r"\d+", text.strip()) else None
