"""Thoughts: one a segment, only what is new, nothing that is not known, no seconds, no repetition.

The prompts of VST's synthesis ask for this ("incremental delta only", "never restate the previous segment", no times;
appendix H of the paper, which states no threshold); here it is checked. A sample with a bad thought is turned down as
a whole: without the thought, a segment would be left with none.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from data_pipeline.filters.claims import clauses, false_claims, unknown
from data_pipeline.filters.view import Problems, View
from data_pipeline.filters.words import SECONDS, likeness, repeated, words
from data_pipeline.graph import Edge
from data_pipeline.text.templates.thought import says_nothing
from whilst.sample import Query, Segment, Silence, Thought

SPEECH = ("text_stream",)
"""Builders whose thoughts are pieces of running speech: a clause may begin in one and end in a later one."""


def thought_problems(view: View) -> Problems:
    """Not exactly one thought (or a silence in its place) after each segment; what it says is not of its segment."""
    events = view.sample.events
    thinks = any(isinstance(event, Thought) for event in events)
    if not thinks:
        return
    segment: Segment | None = None
    said = 0
    for event in (*events, None):
        if event is None or isinstance(event, Segment):
            if segment is not None and said != 1:
                where = f"the segment [{segment.start}, {segment.end}] s has {said}"
                yield ("thought: missing" if said == 0 else "thought: more than one"), where
            segment, said = event, 0
        elif isinstance(event, Thought) or (isinstance(event, Silence) and event.query is None):
            said += 1
            if segment is None or event.time != segment.end:
                yield "thought: not at a segment's end", f"at {event.time} s"
            if isinstance(event, Thought) and not event.text.strip():
                yield "thought: empty", f"at {event.time} s"
    if view.said is None:
        yield "thought: no record of its edges", "meta.thought_edges has no list for every thought"
        return
    for (segment, before, thought), edges in zip(view.thoughts, view.said, strict=False):
        for edge in edges:
            if edge is None:
                yield "thought: says what is not in the graph", f"at {thought.time} s: {thought.text!r}"
            elif edge.knowable_at > view.moment(segment.end):
                yield "thought: says what comes later", f"{edge.text!r} at {thought.time} s"
            elif not _speaks(view) and before >= 0.0 and edge.knowable_at <= view.moment(before):
                yield "thought: says what is not new", f"{edge.text!r} at {thought.time} s"
        if _speaks(view):
            continue
        for clause in _stale(view, thought, before, [edge.text for edge in edges if edge is not None]):
            yield "thought: says what is not new", f"{clause!r} at {thought.time} s: {thought.text!r}"


def _speaks(view: View) -> bool:
    return view.sample.meta.get("builder") in SPEECH


def _stale(view: View, thought: Thought, before: float, own: Sequence[str]) -> list[str]:
    """The clauses of earlier segments that a thought repeats word for word, and that are not new once more."""
    if before < 0.0:
        return []
    new = {" ".join(words(clause)) for clause in own}
    return [clause for clause in clauses(thought.text, view.moment(before), view.language) if clause not in new]


def thought_grounding(view: View) -> Problems:
    """A thought that names what is not known yet, or tells a relation that the graph does not hold by then."""
    told = [event for event in view.sample.events if isinstance(event, Thought)]
    if _speaks(view) and told:  # clauses are cut in two at the ends of turns
        text = " ".join(event.text for event in told)
        told = [Thought(told[-1].time, text[: text.rfind(".") + 1])]
    for event in told:
        # "The scene stays the same" names no scene.
        if not says_nothing(event.text):
            yield from _ungrounded("thought", event.text, view, event.time)
    segments = view.sample.segments()
    if view.sample.memory and segments:
        # A memory that was cut in the middle begins with a piece of a clause, but names entities all the same.
        for name in unknown(view.sample.memory, view.moment(segments[0].start), view.language):
            yield "grounding: memory names what is not known", repr(name)


def answer_grounding(view: View, query: Query) -> Problems:
    """An answer that names what is not known yet, or tells a relation that the graph does not hold by then."""
    ask = view.ask(query)
    if ask is not None and "exchange" in ask.slots:
        return  # the annotation's own words, at its own time
    for answer in view.answers(query):
        yield from _ungrounded("answer", answer.text, view, answer.time)


def _ungrounded(what: str, text: str, view: View, time: float) -> Problems:
    at = view.moment(time)
    for name in unknown(text, at, view.language):
        yield f"grounding: {what} names what is not known", f"{name!r} at {time} s: {text!r}"
    for clause in false_claims(text, at, view.language):
        yield f"grounding: {what} tells what did not happen", f"{clause!r} at {time} s: {text!r}"


def thought_seconds(view: View) -> Problems:
    """A thought that names a time of the clock, unless the graph's own words hold it (`boil for 30 s`).

    After LIVE's filter (videollm-online, data/livechat/filter.py), which drops every dialogue with `second` or digits
    and `s` in it; ordinals are let be here.
    """
    for event in view.sample.events:
        if isinstance(event, Thought):
            yield from _seconds("a thought", event.text, view, event.time)


def answer_seconds(view: View, query: Query) -> Problems:
    """An answer that names a time of the clock; one of format `interval` is meant to."""
    ask = view.ask(query)
    if ask is None or ask.format != "interval":
        for answer in view.answers(query):
            yield from _seconds("an answer", answer.text, view, answer.time)


def _seconds(what: str, text: str, view: View, time: float) -> Problems:
    for match in SECONDS.finditer(text):
        if not any(match[0].casefold() in edge.text.casefold() for edge in view.known(time).edges):
            yield f"seconds: in {what}", f"{match[0]!r} at {time} s: {text!r}"


def repetition_problems(view: View) -> Problems:
    """A thought that goes round in circles, or says what the thought before said although other things are new.

    Two thoughts may be alike when nothing is new in both, or when the same thing has happened again.
    """
    limits = view.settings.repetition
    assert limits is not None
    if _speaks(view):
        return
    said = view.said or [[] for _ in view.thoughts]
    before: tuple[tuple[str, ...], tuple[str, ...]] | None = None
    for (_, _, thought), edges in zip(view.thoughts, said, strict=False):
        text, facts = words(thought.text), words(_facts(edges))
        share = repeated(text, limits.n)
        if share > limits.share and share > repeated(facts, limits.n) + 0.1:
            yield (
                "repetition: within a thought",
                f"{share:.2f} of its {limits.n}-grams come again: {thought.text[:80]!r}",
            )
        if sentence := _twice(thought.text, edges):
            yield "repetition: within a thought", f"{sentence!r} at {thought.time} s"
        if before is not None and (text or before[0]):
            alike, facts_alike = likeness(before[0], text), likeness(before[1], facts)
            # Thoughts are as alike as what they tell; a little more by the words around it, or what they leave out.
            if alike >= limits.similarity and facts_alike < alike - 0.3:
                yield "repetition: of the thought before", f"at {thought.time} s: {thought.text[:80]!r}"
        before = text, facts


def _facts(edges: Sequence[Edge | None]) -> str:
    return ". ".join(edge.text for edge in edges if edge is not None)


def _twice(text: str, edges: Sequence[Edge | None]) -> str | None:
    """A sentence of four words or more that comes more often than there are facts of one text."""
    often = max(Counter(edge.text for edge in edges if edge is not None).values(), default=1)
    sentences = Counter(words(sentence) for sentence in re.split(r"[.;!?]+\s", text + " "))
    return next((" ".join(one) for one, count in sentences.items() if len(one) >= 4 and count > often), None)
