"""A thought: what is new in a segment, and no more. Short where nothing is (VST appendix C: incremental delta only).

Facts: `new`, the clauses that have become known; `known`, the latest clauses from before; `previous`, the thought
before this one, so that no two in a row are the same.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

from data_pipeline.text.templates.clauses import joined, sentence

NOTHING = (
    "Nothing new.",
    "Nothing changes here.",
    "No change.",
    "Nothing new happens.",
    "All stays as it was.",
    "The scene stays the same.",
    "Nothing to add.",
    "Still as before.",
)
NOTHING_YET = (
    "Nothing has happened yet.",
    "Nothing happens so far.",
    "No event so far.",
    "Nothing to note yet.",
)
NEWS = (
    "{clauses}",
    "now {clauses}",
    "here {clauses}",
    "at this point {clauses}",
    "in this part {clauses}",
    "what is new: {clauses}",
    "I see that {clauses}",
    "this time {clauses}",
)
AGAIN = ("again {clauses}", "once more {clauses}", "another time {clauses}")


def write(facts: Mapping[str, Any], rng: random.Random) -> str:
    """One sentence."""
    new, known, previous = list(facts["new"]), facts["known"], facts["previous"]
    if new:
        repeated = len(new) == 1 and new[0] in known
        texts = [sentence(frame.format(clauses=joined(new))) for frame in (AGAIN if repeated else NEWS)]
    else:
        texts = list(NOTHING if known else NOTHING_YET)
    return rng.choice([text for text in texts if text != previous])


def says_nothing(text: str) -> bool:
    """Whether a thought of these templates says that nothing is new."""
    return text in NOTHING or text in NOTHING_YET
