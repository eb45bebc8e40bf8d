"""Forward queries: asked before they can be answered, and standing until they are ("tell me when ...").

Who asks looks ahead, so that it does happen; who replies sees it in the graph as of then, and is silent until it does.
"""

from __future__ import annotations

from collections.abc import Iterator

from data_pipeline.graph import Edge
from data_pipeline.queries.ask import Ask, Reply
from data_pipeline.queries.clauses import noun, nth, same
from data_pipeline.queries.counting import somebody
from data_pipeline.queries.kind import (
    Kind,
    Moment,
    Slots,
    Subkind,
    grain,
    int_slot,
    many,
    rest_on,
    shuffled,
    text_slot,
)
from data_pipeline.queries.known import View, view_of

NOW = "now"  # the reply to a query that names all there is to say


def _first_new(ask: Ask, edges: list[Edge]) -> Edge | None:
    """The one that became known first after the ask; None where there is none yet, or several at once."""
    new = sorted((edge for edge in edges if edge.knowable_at > ask.time), key=lambda edge: edge.knowable_at)
    if not new or (len(new) > 1 and new[1].knowable_at == new[0].knowable_at):
        return None
    return new[0]


# ---- tell_when: "Tell me when this happens: the red circle comes out of the box."


def _propose_tell_when(moment: Moment) -> Iterator[Slots]:
    ahead = view_of(moment.graph)
    found: dict[str, Slots] = {
        same(edge.text): {"event": edge.text} for edge in ahead.items if edge.knowable_at > moment.time
    }
    fresh = (slots for text, slots in found.items() if text not in moment.known.by_text)
    return shuffled(fresh, moment.rng("tell when"))


def _answer_tell_when(ask: Ask, view: View) -> Reply | None:
    edge = _first_new(ask, view.by_text.get(same(text_slot(ask, "event")), []))
    return rest_on(NOW, edge) if edge else None


# ---- which_next: "Tell me which object goes into the box next."


def _propose_which_next(moment: Moment) -> Iterator[Slots]:
    ahead, found = view_of(moment.graph), dict[str, Slots]()
    for edge in ahead.events:
        of = ahead.kind_of(edge.head)
        if edge.knowable_at > moment.time and edge.id in ahead.clauses and many(ahead, of):
            predicate = ahead.clauses[edge.id].predicate
            found[predicate] = {"predicate": predicate, "of": of, "noun": noun(of)}
    return shuffled(found.values(), moment.rng("which next"))


def _answer_which_next(ask: Ask, view: View) -> Reply | None:
    edges = view.by_predicate.get(text_slot(ask, "predicate"), [])
    of = text_slot(ask, "of")
    edge = _first_new(ask, [edge for edge in edges if edge.kind != "state" and view.kind_of(edge.head) == of])
    return rest_on(view.graph.name(edge.head), edge) if edge else None


# ---- nth_time: "Tell me when something goes into the box for the third time."


def _propose_nth_time(moment: Moment) -> Iterator[Slots]:
    ahead = view_of(moment.graph)
    found: list[Slots] = []
    for predicate, edges in ahead.by_predicate.items():
        happened = [edge for edge in edges if edge.kind != "state"]
        known = sum(edge.knowable_at <= moment.time for edge in happened)
        for number in range(max(known, 1) + 1, len(happened) + 1):
            who = somebody(ahead, happened)
            found.append({"predicate": predicate, "who": who, "number": number, "nth": nth(number)})
    return shuffled(found, moment.rng("nth time"))


def _answer_nth_time(ask: Ask, view: View) -> Reply | None:
    edges = [edge for edge in view.by_predicate.get(text_slot(ask, "predicate"), ()) if edge.kind != "state"]
    known, number = sorted(edges, key=lambda edge: edge.knowable_at), int_slot(ask, "number")
    if len(known) < number or known[number - 1].knowable_at <= ask.time:
        return None
    return rest_on(NOW, *known[:number])


# ---- next: "Tell me what happens next, as soon as it does."


def _propose_next(moment: Moment) -> Iterator[Slots]:
    ahead = view_of(moment.graph)
    found: list[Slots] = [{"level": level, "grain": grain(moment.known, level)} for level in ahead.levels]
    return shuffled(found, moment.rng("next"))


def _answer_next(ask: Ask, view: View) -> Reply | None:
    edge = _first_new(ask, view.at_level.get(int_slot(ask, "level"), []))
    return rest_on(edge.text, edge) if edge else None


FORWARD = Kind(
    "forward",
    {
        "tell_when": Subkind(_propose_tell_when, _answer_tell_when, standing=True),
        "which_next": Subkind(_propose_which_next, _answer_which_next, standing=True),
        "nth_time": Subkind(_propose_nth_time, _answer_nth_time, standing=True),
        "next": Subkind(_propose_next, _answer_next, standing=True),
    },
)
