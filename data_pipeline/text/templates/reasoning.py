"""The way from evidence to an answer, in words (VST's QA has a chain of thought beside its answer; TWW's a rationale).

Facts: `clauses`, what the answer rests on, in order of time; `question`; and `answer`.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

from data_pipeline.text.templates.clauses import sentence

_FIRST = ("First, {clause}.", "To begin with, {clause}.", "I recall this: {clause}.", "What counts is this: {clause}.")
_THEN = ("Then {clause}.", "After that, {clause}.", "Later {clause}.", "Next, {clause}.")
_SO = ("So the answer is {answer}.", "That leaves {answer}.", "This gives {answer}.", "Hence {answer}.")
_NOTHING = (
    "Nothing that I have seen tells of it.",
    "I have not seen anything that would tell.",
    "So far nothing has shown that.",
)


def write(facts: Mapping[str, Any], rng: random.Random) -> str:
    """One sentence for each piece of evidence, and one for the answer."""
    clauses = list(dict.fromkeys(facts["clauses"]))
    steps = [rng.choice(_THEN if k else _FIRST).format(clause=clause) for k, clause in enumerate(clauses)]
    end = sentence(rng.choice(_SO).format(answer=facts["answer"]))
    return " ".join([*(map(sentence, steps) if steps else [rng.choice(_NOTHING)]), end])
