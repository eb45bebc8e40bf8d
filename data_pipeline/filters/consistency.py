"""Consistency: is the reply what the graph says, told anew from what was known when it was given?

A query of `data_pipeline.queries` (or of the world's own language) is answered a second time from its ask, as of the
time of every reply to it: an answer must be the same and rest on the same evidence, a silence must come before there
is anything to say. An exchange of an annotation is held against the annotation. What other builders say in their own
words has no second telling here: its evidence must be known, and `whilst doctor causality` tells it again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

from data_pipeline.builders import world
from data_pipeline.filters.form import interval, numbers
from data_pipeline.filters.view import Problems, View, chosen
from data_pipeline.filters.words import holds, same, unboxed, words
from data_pipeline.graph import Graph
from data_pipeline.queries.ask import Ask, Reply
from data_pipeline.queries.kinds import KINDS
from whilst.sample import Answer, Query, Silence

NEAR = 0.051  # seconds by which an interval told in words may differ: they are rounded to 0.1 s

Retell: TypeAlias = Callable[[Ask, Graph, float], Reply | None]


def retelling(builder: str, ask: Ask) -> Retell | None:
    """How to work out a reply again from (ask, what is known, when); None for what only the builder can say."""
    if builder == "world":
        return world.reply
    kind = KINDS.get(ask.kind)
    if kind is None or ask.subkind not in kind.subkinds:
        return None
    return lambda ask, known, time: kind.reply(ask, known)


def consistency_problems(view: View, query: Query) -> Problems:
    """Another answer, other evidence, a silence that withholds, an answer that comes too early, unknown evidence."""
    ask = view.ask(query)
    if ask is None:
        yield "consistency: no record of the ask", f"meta.asks has no {query.id!r}"
        return
    yield from _edge_problems(view, query)
    retell = retelling(str(view.sample.meta.get("builder")), ask)
    for event in view.replies[query.id]:
        if retell is not None:
            told = retell(ask, view.known(event.time), view.moment(event.time))
            yield from _reply_problems(view, query, ask, event, told)
        elif isinstance(event, Answer):
            yield from _exchange_problems(view, query, ask, event)


def _reply_problems(view: View, query: Query, ask: Ask, event: Answer | Silence, told: Reply | None) -> Problems:
    if isinstance(event, Silence):
        if told is not None:
            yield "consistency: silent though it is known", f"{told.text!r} at {event.time} s"
        return
    if told is None:
        yield "consistency: answered before it is known", f"{event.text!r} at {event.time} s"
        return
    text = unboxed(chosen(query, event))
    if not agrees(text, told.text, ask.format):
        yield "consistency: another answer", f"{text!r} at {event.time} s, where the graph says {told.text!r}"
    for start, end in told.evidence:
        span = _clipped(view, start), _clipped(view, end)
        if not any(abs(one[0] - span[0]) + abs(one[1] - span[1]) < 1e-6 for one in query.evidence):
            yield "consistency: other evidence", f"{list(query.evidence)} does not hold {list(span)}"
            return


def _clipped(view: View, time: float) -> float:
    """A time of the graph on the clock of the file, kept inside the sample's video, as builders do."""
    video = view.sample.video
    at = max(time + view.start, video.start)
    return at if video.end is None else min(at, video.end)


def agrees(text: str, told: str, format: str) -> bool:
    """Whether an answer says what the graph says, in its format. An open one may say it in a sentence."""
    if format == "number":
        return numbers(text) == numbers(told)
    if format == "interval":
        one, other = interval(text), interval(told)
        return one is not None and other is not None and max(abs(a - b) for a, b in zip(one, other, strict=True)) < NEAR
    return same(text, told) or (format == "open" and holds(words(text), words(told)))


def _edge_problems(view: View, query: Query) -> Problems:
    """Every edge that the answer rests on must be in the graph, and known by the last answer."""
    resting: Any = view.sample.meta.get("answer_edges", {})
    answers = view.answers(query)
    if not answers:
        return
    for id in resting.get(query.id, ()):
        edge = view.edges.get(str(id))
        if edge is None:
            yield "consistency: rests on what is not in the graph", repr(id)
        elif edge.knowable_at > view.moment(answers[-1].time):
            yield "consistency: rests on what is not known yet", f"{edge.text!r}, known at {edge.knowable_at} s"


def _exchange_problems(view: View, query: Query, ask: Ask, event: Answer) -> Problems:
    """The answer of a ready-made exchange must be that of the annotation."""
    if "exchange" not in ask.slots:
        return
    exchange = next((one for one in view.source.exchanges if one.id == ask.slots["exchange"]), None)
    if exchange is None:
        yield "consistency: no such exchange", f"the source has none with the id {ask.slots['exchange']!r}"
    elif not same(unboxed(chosen(query, event)), exchange.answer):
        yield "consistency: another answer", f"{event.text!r}, where the annotation says {exchange.answer!r}"
