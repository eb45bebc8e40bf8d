"""Present queries: what holds or goes on now, and what has just happened in the current segment."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from data_pipeline.graph import Edge
from data_pipeline.queries.ask import Ask, Reply
from data_pipeline.queries.backward import object_slots
from data_pipeline.queries.clauses import noun
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
from data_pipeline.queries.known import View


def going_on(edges: Iterable[Edge], time: float) -> list[Edge]:
    """The edges that hold up to `time` (seconds). What goes on was cut at `time` by `as_of`, so it ends there."""
    return [edge for edge in edges if edge.start < time <= edge.end]


# ---- object_now: "Which colour does the star show now?"


def _propose_object(moment: Moment) -> Iterator[Slots]:
    view = moment.known
    found = {
        stem: object_slots(view, stem, edge)
        for edge in going_on(view.states, moment.time)
        if edge.id in view.clauses and (stem := view.clauses[edge.id].stem) and many(view, view.kind_of(edge.tail))
    }
    return shuffled(found.values(), moment.rng("object now"))


def _answer_object(ask: Ask, view: View) -> Reply | None:
    edges = _states_now(ask, view, view.by_stem.get(text_slot(ask, "stem"), []))
    tails = {view.graph.name(edge.tail) for edge in edges}
    return rest_on(tails.pop(), *edges, knowable_at=ask.time) if len(tails) == 1 else None


# ---- who_now: "Which person holds the cup now?"


def _propose_who(moment: Moment) -> Iterator[Slots]:
    view, found = moment.known, dict[str, Slots]()
    for edge in going_on(view.states, moment.time):
        of = view.kind_of(edge.head)
        if edge.id in view.clauses and many(view, of):
            predicate = view.clauses[edge.id].predicate
            found[predicate] = {"predicate": predicate, "of": of, "noun": noun(of)}
    return shuffled(found.values(), moment.rng("who now"))


def _answer_who(ask: Ask, view: View) -> Reply | None:
    edges = _states_now(ask, view, view.by_predicate.get(text_slot(ask, "predicate"), []))
    heads = {view.graph.name(edge.head) for edge in edges}
    return rest_on(heads.pop(), *edges, knowable_at=ask.time) if len(heads) == 1 else None


def _states_now(ask: Ask, view: View, edges: Iterable[Edge]) -> list[Edge]:
    return [edge for edge in going_on(edges, ask.time) if edge.kind == "state"]


# ---- doing: "What is going on now?"


def _propose_doing(moment: Moment) -> Iterator[Slots]:
    view = moment.known
    found: Iterable[Slots] = ({"level": level, "grain": grain(view, level)} for level in view.levels)
    return shuffled(found, moment.rng("doing"))


def _answer_doing(ask: Ask, view: View) -> Reply | None:
    edges = going_on(view.at_level.get(int_slot(ask, "level"), ()), ask.time)
    return rest_on(edges[0].text, edges[0], knowable_at=ask.time) if len(edges) == 1 else None


# ---- just: "What has just happened?"


def _propose_just(moment: Moment) -> Iterator[Slots]:
    view = moment.known
    found: Iterable[Slots] = (
        {"level": level, "grain": grain(view, level), "since": moment.since} for level in view.levels
    )
    return shuffled(found, moment.rng("just"))


def _answer_just(ask: Ask, view: View) -> Reply | None:
    since = ask.slots["since"]
    assert isinstance(since, float)
    edges = [edge for edge in view.at_level.get(int_slot(ask, "level"), ()) if edge.knowable_at > since]
    return rest_on(edges[0].text, edges[0]) if len(edges) == 1 and edges[0].end > since else None


PRESENT = Kind(
    "present",
    {
        "object_now": Subkind(_propose_object, _answer_object, ("open", "choice"), names_like),
        "who_now": Subkind(_propose_who, _answer_who, ("open", "choice"), names_like),
        "doing": Subkind(_propose_doing, _answer_doing, ("open", "choice"), texts_like),
        "just": Subkind(_propose_just, _answer_just, ("open", "choice"), texts_like),
    },
)
