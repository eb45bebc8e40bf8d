"""Backward queries: what happened before the current segment, which then cannot tell by itself."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from data_pipeline.graph import Edge
from data_pipeline.queries.ask import Ask, Reply
from data_pipeline.queries.clauses import inverted, noun, nth
from data_pipeline.queries.formats import interval
from data_pipeline.queries.kind import (
    Kind,
    Moment,
    Slots,
    Subkind,
    grain,
    int_slot,
    many,
    names_like,
    rest_on,
    shuffled,
    text_slot,
    texts_like,
)
from data_pipeline.queries.known import View, comes_after


def in_turn(view: View, predicate: str) -> list[Edge]:
    """The events with this predicate, in order, each of another head; none where this order cannot be told.

    It cannot where two begin at once. And the second object that does something would be two different ones, by turns
    and by objects, where one object does it again.
    """
    edges = [edge for edge in view.by_predicate.get(predicate, ()) if edge.kind != "state"]
    clear = len({edge.start for edge in edges}) == len({view.graph.name(edge.head) for edge in edges}) == len(edges)
    return edges if clear else []


# ---- ordinal: "Which object goes into the box second?"


def turn_slots(view: View, predicate: str, number: int, edge: Edge) -> Slots:
    """What names the `number`-th event of a predicate; `edge` is any of them."""
    of = view.kind_of(edge.head)
    return {"predicate": predicate, "number": number, "nth": nth(number), "of": of, "noun": noun(of)}


def _propose_ordinal(moment: Moment) -> Iterator[Slots]:
    view = moment.known
    turns = [(predicate, in_turn(view, predicate)) for predicate in view.by_predicate]
    found: Iterable[Slots] = (
        turn_slots(view, predicate, i + 1, edge)
        for predicate, edges in turns
        if len(edges) > 1 and len({view.kind_of(edge.head) for edge in edges}) == 1
        for i, edge in enumerate(edges)
    )
    return shuffled(found, moment.rng("ordinal"))


def answer_ordinal(ask: Ask, view: View) -> Reply | None:
    """The head of the n-th event with this predicate; it rests on the ones before it too, which make it the n-th."""
    edges, number = in_turn(view, text_slot(ask, "predicate")), int_slot(ask, "number")
    return rest_on(view.graph.name(edges[number - 1].head), *edges[:number]) if len(edges) >= number else None


# ---- who: "Which person opens the door?"


def _propose_who(moment: Moment) -> Iterator[Slots]:
    view = moment.known
    found: Iterable[Slots] = (
        {"predicate": predicate, "of": of, "noun": noun(of)}
        for predicate, edges in view.by_predicate.items()
        if many(view, of := view.kind_of(edges[0].head))
    )
    return shuffled(found, moment.rng("who"))


def answer_who(ask: Ask, view: View) -> Reply | None:
    """The one head of which this has been said."""
    edges = view.by_predicate.get(text_slot(ask, "predicate"), [])
    heads = {view.graph.name(edge.head) for edge in edges}
    return rest_on(heads.pop(), *edges) if len(heads) == 1 else None


# ---- object: "Which object did the person hold?"


def object_slots(view: View, stem: str, edge: Edge) -> Slots:
    """What names the object of a clause; `edge` is any that has this stem."""
    clause, of = view.clauses[edge.id], view.kind_of(edge.tail)
    assert clause.verb is not None
    does, did = inverted(clause.subject, clause.verb)
    return {"stem": stem, "does": does, "did": did, "of": of, "noun": noun(of)}


def _propose_object(moment: Moment) -> Iterator[Slots]:
    view = moment.known
    found: Iterable[Slots] = (
        object_slots(view, stem, edges[0])
        for stem, edges in view.by_stem.items()
        if many(view, view.kind_of(edges[0].tail))
    )
    return shuffled(found, moment.rng("object"))


def answer_object(ask: Ask, view: View) -> Reply | None:
    """The one tail of which this has been said."""
    edges = view.by_stem.get(text_slot(ask, "stem"), [])
    tails = {view.graph.name(edge.tail) for edge in edges}
    return rest_on(tails.pop(), *edges) if len(tails) == 1 else None


# ---- when: "When does this happen: the person opens the door?"


def _propose_when(moment: Moment) -> Iterator[Slots]:
    found: Iterable[Slots] = ({"event": edge.text} for edge in moment.known.items)
    return shuffled(found, moment.rng("when"))


def answer_when(ask: Ask, view: View) -> Reply | None:
    """The span of the one event with this clause; a moment has none."""
    edge = view.once(text_slot(ask, "event"))
    return rest_on(interval(edge.start, edge.end), edge) if edge is not None and edge.start < edge.end else None


# ---- last: "What was over last before the current segment?"


def _propose_last(moment: Moment) -> Iterator[Slots]:
    view = moment.known
    found: Iterable[Slots] = (
        {"level": level, "grain": grain(view, level), "since": moment.since} for level in view.levels
    )
    return shuffled(found, moment.rng("last"))


def answer_last(ask: Ask, view: View) -> Reply | None:
    """The event that was over last before the current segment began, where that is clear."""
    since = ask.slots["since"]
    assert isinstance(since, float)
    before = [edge for edge in view.at_level.get(int_slot(ask, "level"), ()) if edge.knowable_at <= since]
    over = sorted((edge for edge in before if edge.end <= since), key=lambda edge: edge.end)
    if not over or any(not comes_after(edge, over[-1]) for edge in over[-3:-1]):
        return None
    return rest_on(over[-1].text, over[-1])


BACKWARD = Kind(
    "backward",
    {
        "ordinal": Subkind(_propose_ordinal, answer_ordinal, ("open", "choice"), names_like, past=True),
        "who": Subkind(_propose_who, answer_who, ("open", "choice"), names_like, past=True),
        "object": Subkind(_propose_object, answer_object, ("open", "choice"), names_like, past=True),
        "when": Subkind(_propose_when, answer_when, ("interval",), past=True),
        "last": Subkind(_propose_last, answer_last, ("open", "choice"), texts_like, past=True),
    },
)
