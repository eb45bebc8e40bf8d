"""Multiple choice: distractors of the answer's type from the same video, as far as it is known when the query is put.

No option says the same as another or is part of it, none is a second right answer, and right answers to other queries
may be "not known yet" too: were that only ever offered where it is right, it would always be worth a guess (OVO-Bench).
"""

from __future__ import annotations

import random
import re
import string
from collections.abc import Iterable, Sequence

from data_pipeline.queries.clauses import same
from data_pipeline.queries.kind import UNKNOWN
from data_pipeline.queries.known import View
from whilst.sample import Query


def options(
    answer: str,
    wrong: Iterable[str],
    view: View,
    rng: random.Random,
    *,
    position: int,
    count: int,
    least: int,
    unknown_share: float,
) -> tuple[str, ...] | None:
    """`count` options with the answer at `position` (modulo their number), or fewer but at least `least`; else None.

    `wrong` are the candidates. With a chance of `unknown_share` one distractor is "not known yet".
    """
    candidates = sorted(set(wrong))  # in an order of its own, so that the draw does not depend on how they were found
    rng.shuffle(candidates)
    chosen: list[str] = []
    if answer != UNKNOWN and rng.random() < unknown_share:
        chosen.append(UNKNOWN)
    for text in candidates:
        if len(chosen) == count - 1:
            break
        if not any(clash(text, other, view) for other in (answer, *chosen)):
            chosen.append(text)
    entities = len(chosen) - (UNKNOWN in chosen)
    if entities < 1 or len(chosen) + 1 < least:
        return None
    rng.shuffle(chosen)
    at = position % (len(chosen) + 1)
    return (*chosen[:at], answer, *chosen[at:])


def listed(options: Sequence[str]) -> str:
    """The options as they stand below a question, a letter each. What a model reads of a query is its text alone."""
    return "".join(f"\n{letter}. {option}" for letter, option in zip(string.ascii_uppercase, options, strict=False))


def own_words(query: Query) -> str:
    """What a query asks, without the options below it."""
    return query.text.removesuffix(listed(query.options or ()))


def clash(one: str, other: str, view: View) -> bool:
    """Whether two texts may mean the same: equal, one within the other, or names of one thing."""
    a, b = same(one), same(other)
    if a == b or b in view.other_names.get(a, ()) or a in view.other_names.get(b, ()):
        return True
    if a.isdigit() and b.isdigit():
        return False
    short, long = sorted((a, b), key=len)
    return re.search(rf"(?<!\w){re.escape(short)}(?!\w)", long) is not None
