"""A text step: what is to be said, as facts; and who says it, a writer. Templates and endpoints are both writers.

write(Task("thought", {"new": ["the red circle goes into the box"], "known": [], "previous": ""}, key="train-3/2"))
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from whilst.sample import JSON


@dataclass(frozen=True)
class Task:
    """One text to write. `facts` is all that the writer may know; `key` seeds the choice of words."""

    step: str
    facts: Mapping[str, JSON]
    key: str


class TextRejected(ValueError):
    """No acceptable text came of a task. `reason` is one of few texts that can be counted."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason, self.detail = reason, detail


Write: TypeAlias = Callable[[Task], str]
"""Returns the text, or raises TextRejected. Safe to call from several threads."""
