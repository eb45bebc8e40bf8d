"""Counting queries: how many times so far. One more could come until now, so a count is known now and not earlier."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator

from data_pipeline.graph import Edge
from data_pipeline.queries.ask import Ask, Reply
from data_pipeline.queries.clauses import inverted, same
from data_pipeline.queries.formats import read_number
from data_pipeline.queries.kind import Kind, Moment, Slots, Subkind, grain, int_slot, rest_on, shuffled, text_slot
from data_pipeline.queries.known import View

MOST = 20  # a larger count says nothing about whether somebody has watched


def _counted(ask: Ask, edges: list[Edge]) -> Reply | None:
    return rest_on(str(len(edges)), *edges, knowable_at=ask.time) if 1 <= len(edges) <= MOST else None


def _begun(moment: Moment, edges: list[Edge]) -> bool:
    """Whether some of it lies before the current segment, so that this alone cannot give the count."""
    return any(max(edge.end, edge.knowable_at) <= moment.since for edge in edges)


# ---- times: "How many times did something go into the box so far?"


def _propose_times(moment: Moment) -> Iterator[Slots]:
    view, often, once = moment.known, list[Slots](), list[Slots]()
    for predicate, edges in view.by_predicate.items():
        happened = [edge for edge in edges if edge.kind != "state"]
        if _begun(moment, happened):
            who = somebody(view, happened)
            slots: Slots = {"predicate": predicate, "who": who, "did": inverted(who, predicate)[1]}
            (often if len(happened) > 1 else once).append(slots)
    return _balanced(often, once, moment.rng("times"))


def _balanced(often: list[Slots], once: list[Slots], rng: random.Random) -> Iterator[Slots]:
    """Most things happen once: as many of those as of the others, or the answer would nearly always be 1."""
    rng.shuffle(once)
    return shuffled(often + once[: max(1, len(often))], rng)


def somebody(view: View, edges: list[Edge]) -> str:
    """What a question calls the heads of these edges, whoever they are."""
    return "somebody" if all(view.kind_of(edge.head) == "person" for edge in edges) else "something"


def _answer_times(ask: Ask, view: View) -> Reply | None:
    edges = view.by_predicate.get(text_slot(ask, "predicate"), [])
    return _counted(ask, [edge for edge in edges if edge.kind != "state"])


# ---- times_this: "How many times so far has this happened: the person stirs the pot?"


def _propose_times_this(moment: Moment) -> Iterator[Slots]:
    view, often, once = moment.known, list[Slots](), list[Slots]()
    for edges in view.by_text.values():
        happened = [edge for edge in edges if edge.kind != "state"]
        if _begun(moment, happened):
            (often if len(happened) > 1 else once).append({"event": happened[0].text})
    return _balanced(often, once, moment.rng("times this"))


def _answer_times_this(ask: Ask, view: View) -> Reply | None:
    edges = view.by_text.get(same(text_slot(ask, "event")), [])
    return _counted(ask, [edge for edge in edges if edge.kind != "state"])


# ---- steps: "How many separate actions have been seen so far?"


def _propose_steps(moment: Moment) -> Iterator[Slots]:
    view = moment.known
    found: Iterable[Slots] = (
        {"level": level, "grain": grain(view, level)} for level in view.levels if _begun(moment, view.at_level[level])
    )
    return shuffled(found, moment.rng("steps"))


def _answer_steps(ask: Ask, view: View) -> Reply | None:
    return _counted(ask, view.at_level.get(int_slot(ask, "level"), []))


def _wrong_count(ask: Ask, view: View) -> list[str]:
    """The numbers nearest to the count, which `COUNTING` works out again."""
    reply = COUNTING.subkinds[ask.subkind].answer(ask, view)
    count = read_number(reply.text) if reply else None
    if count is None:
        return []
    near = [count + step for step in (-3, -2, -1, 1, 2, 3)]
    return [str(number) for number in near if number >= 0]


COUNTING = Kind(
    "counting",
    {
        "times": Subkind(_propose_times, _answer_times, ("number", "choice"), _wrong_count, closed=True),
        "times_this": Subkind(_propose_times_this, _answer_times_this, ("number", "choice"), _wrong_count, closed=True),
        "steps": Subkind(_propose_steps, _answer_steps, ("number", "choice"), _wrong_count, closed=True),
    },
)
