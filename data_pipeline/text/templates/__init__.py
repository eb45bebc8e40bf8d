"""Texts from templates: the default writer. No network, the same words for the same seed and key, on every machine.

    write = templates(seed=0)
    write(Task("thought", {"new": ["the red circle goes into the box"], "known": [], "previous": ""}, key="train-3/2"))

A step is one module here, a function (facts, rng) -> text.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import Any

from data_pipeline.source import SynthError, draw
from data_pipeline.text.task import Task, TextRejected, Write
from data_pipeline.text.templates import reasoning, reply, request, thought
from data_pipeline.text.templates.question import TEMPLATES


def templates(seed: int) -> Write:
    """A writer whose wording is drawn by seed, step and key of the task, and by nothing else.

    It raises SynthError for a step or a fact that it does not know of: that is a bug of who asks, not a bad text.
    """

    def write(task: Task) -> str:
        if task.step not in STEPS:
            raise SynthError(f"text step {task.step!r}: no templates; the steps are {', '.join(STEPS)}")
        try:
            return STEPS[task.step](task.facts, draw(seed, task.step, task.key))
        except KeyError as error:
            raise SynthError(f"text step {task.step!r}, key {task.key!r}: no fact {error}; give it in facts") from error

    return write


def _question(facts: Mapping[str, Any], rng: random.Random) -> str:
    """A question of the kinds in `data_pipeline.queries`, or a request that only builders make."""
    subkind = facts["subkind"]
    wordings = request.REQUESTS.get(subkind) or TEMPLATES.get(subkind)
    if wordings is None:
        raise SynthError(f"text step 'question': no wording for subkind {subkind!r}; add it to question.TEMPLATES")
    text = rng.choice(wordings).format(**facts).strip()
    if not text:
        raise TextRejected("empty text", f"question of subkind {subkind!r}")
    return text[0].upper() + text[1:]


STEPS: dict[str, Callable[[Mapping[str, Any], random.Random], str]] = {
    "thought": thought.write,
    "question": _question,
    "reply": reply.write,
    "reasoning": reasoning.write,
}
