"""Unanswerable queries: what has not happened so far. The right reply is to say that it is not known yet.

Each is put in the words of an answerable subkind, so the wording does not give it away: one must have watched.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from data_pipeline.graph import Edge
from data_pipeline.queries.ask import Ask, Reply
from data_pipeline.queries.backward import in_turn, turn_slots
from data_pipeline.queries.clauses import same
from data_pipeline.queries.kind import (
    UNKNOWN,
    Kind,
    Moment,
    Slots,
    Subkind,
    int_slot,
    many,
    names_like,
    shuffled,
    text_slot,
)
from data_pipeline.queries.known import View, comes_after
from data_pipeline.queries.order import wrong_beside


def _unknown(ask: Ask, *edges: Edge) -> Reply:
    """All that was watched shows that it has not happened yet."""
    return Reply(UNKNOWN, ((0.0, ask.time),), tuple(edge.id for edge in edges), ask.time)


# ---- ordinal_unknown, in the words of backward `ordinal`: the next one. Further off, the number alone would tell.


def _propose_ordinal(moment: Moment) -> Iterator[Slots]:
    view = moment.known
    turns = ((predicate, in_turn(view, predicate)) for predicate in view.by_predicate)
    found = (
        turn_slots(view, predicate, len(edges) + 1, edges[0])
        for predicate, edges in turns
        if edges and many(view, view.kind_of(edges[0].head)) and len({view.kind_of(edge.head) for edge in edges}) == 1
    )
    return shuffled(found, moment.rng("ordinal unknown"))


def _answer_ordinal(ask: Ask, view: View) -> Reply | None:
    edges = in_turn(view, text_slot(ask, "predicate"))
    return _unknown(ask, *edges) if len(edges) < int_slot(ask, "number") else None


# ---- when_unknown, in the words of backward `when`: what others have done, of one that has not.


def _propose_when(moment: Moment) -> Iterator[Slots]:
    view, found = moment.known, list[Slots]()
    for predicate, edges in view.by_predicate.items():
        doers = {view.graph.name(edge.head) for edge in edges}
        like = edges[0]
        if like.kind == "state" and view.events:
            continue  # `when` asks for states only where there are no events
        subject = view.clauses[like.id].subject
        doer = view.graph.name(like.head)
        for name in view.names[view.kind_of(like.head)]:
            if name not in doers and name not in predicate:
                found.append({"event": f"{subject[: len(subject) - len(doer)]}{name} {predicate}"})
    return shuffled(found, moment.rng("when unknown"))


def _answer_when(ask: Ask, view: View) -> Reply | None:
    return None if same(text_slot(ask, "event")) in view.by_text else _unknown(ask)


# ---- after_unknown, in the words of order `after`: what comes after the last that has been seen.


def _propose_after(moment: Moment) -> Iterator[Slots]:
    found: Iterable[Slots] = (
        {"event": edges[-1].text, "level": level} for level, edges in moment.known.at_level.items() if len(edges) > 1
    )
    return shuffled(found, moment.rng("after unknown"))


def _answer_after(ask: Ask, view: View) -> Reply | None:
    edge = view.once(text_slot(ask, "event"))
    row = view.at_level.get(int_slot(ask, "level"), [])
    if edge is None or any(other.id != edge.id and not comes_after(other, edge) for other in row):
        return None
    return _unknown(ask, edge)


UNANSWERABLE = Kind(
    "unanswerable",
    {
        "ordinal_unknown": Subkind(_propose_ordinal, _answer_ordinal, ("open", "choice"), names_like),
        "when_unknown": Subkind(_propose_when, _answer_when),
        "after_unknown": Subkind(_propose_after, _answer_after, ("open", "choice"), wrong_beside),
    },
)
