"""Replies of a running dialogue (the `live` builders): to a question, and at every change of state after it.

Facts: `about` is `past`, `current` or `next`; `change` is `ask`, `start`, `end` or `both`; `begun`, `over`, `now` and
`before` are clauses: what begins or is over at this moment, what is going on, and what was over last. Times are not
among the facts, so none can be told (LIVE filters every message that names seconds).
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

from data_pipeline.text.templates.clauses import joined, sentence

_ASKED = {
    ("past", True): (
        "The last thing to be over was this: {before}.",
        "Just before, this came to its end: {before}.",
        "What came before is this: {before}.",
        "This is what was done last: {before}.",
    ),
    ("past", False): (
        "Nothing has come to its end so far.",
        "I have not seen anything end yet.",
        "So far nothing has been done to the end.",
    ),
    ("current", True): (
        "Right now {now}.",
        "At the moment {now}.",
        "This is going on now: {now}.",
        "As I see it, {now}.",
    ),
    ("current", False): (
        "Nothing in particular is going on right now.",
        "At the moment I cannot tell of anything that is going on.",
        "Right now there is nothing to report.",
    ),
    ("next", None): (
        "That is still to come. I will tell you when I see it.",
        "I cannot know that yet. I will say so when it begins.",
        "That has not been shown yet. I will let you know.",
    ),
}
_START = (
    "Now {begun}.",
    "This begins now: {begun}.",
    "A new step: {begun}.",
    "From now on {begun}.",
)
_START_NEXT = (
    "This is what comes next: {begun}.",
    "Here is the next step: {begun}.",
    "Next {begun}.",
)
_END = (
    "This is over now: {over}.",
    "That step is done: {over}.",
    "This has just come to its end: {over}.",
)
_BOTH = (
    "This is over: {over}. Now {begun}.",
    "One step is done: {over}. The next begins: {begun}.",
    "After this is done ({over}), {begun}.",
)


def write(facts: Mapping[str, Any], rng: random.Random) -> str:
    """One or two sentences."""
    about, change = facts["about"], facts["change"]
    clauses = {name: joined(facts[name]) for name in ("begun", "over", "now", "before")}
    if change == "ask":
        told = {"past": "before", "current": "now"}.get(about)
        wordings = _ASKED[about, bool(facts[told]) if told else None]
    else:
        wordings = {"start": _START_NEXT if about == "next" else _START, "end": _END, "both": _BOTH}[change]
    return sentence(rng.choice(wordings).format(**clauses))
