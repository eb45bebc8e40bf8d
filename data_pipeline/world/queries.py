"""Questions about a world, with exact answers, evidence and the moment from which on the answer can be known.

Every query is asked at the end of a segment, the current one. What a query about the past rests on lies before the
current segment, so that the current segment alone can never answer it.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from data_pipeline.world.config import SEGMENT_SECONDS, WorldConfig
from data_pipeline.world.graph import Edge, WorldGraph
from whilst.sample import Answer, Query, Silence


@dataclass(frozen=True)
class Question:
    """A query that may be asked at `time` and is answered at `due` (seconds); `subkind` is the finer name of `kind`."""

    kind: str
    subkind: str
    text: str
    time: float
    answer: str
    evidence: tuple[tuple[float, float], ...]
    knowable_at: float
    due: float
    window: tuple[float, float] | None = None


@dataclass(frozen=True)
class Asked:
    """A query with its replies: an answer, and before it a silence at every segment end at which it is not yet due."""

    query: Query
    replies: tuple[Answer | Silence, ...]
    subkind: str


def ask(graph: WorldGraph, config: WorldConfig, rng: random.Random) -> list[Asked]:
    """config.queries_per_video queries in order of time, or fewer where this world does not hold as many.

    A kind is drawn by its weight, then a subkind by its own, then a text and a time, each evenly. Nothing is asked
    twice at one time, and a video has at most one standing query, whose `now` would otherwise not say what it is about.
    """
    pool = [question for question in questions(graph, config) if config.queries.get(question.kind, 0.0) > 0]
    chosen: list[Question] = []
    while pool and len(chosen) < config.queries_per_video:
        kinds = sorted({question.kind for question in pool})
        kind = rng.choices(kinds, [config.queries[kind] for kind in kinds])[0]
        options = [question for question in pool if question.kind == kind]
        subkinds = sorted({question.subkind for question in options})
        subkind = rng.choices(subkinds, [config.subkinds.get(name, 1.0) for name in subkinds])[0]
        text = rng.choice(sorted({question.text for question in options if question.subkind == subkind}))
        question = rng.choice([question for question in options if question.text == text])
        chosen.append(question)
        pool.remove(question)
        if kind == "forward":
            pool = [question for question in pool if question.kind != "forward"]
    chosen.sort(key=lambda question: question.time)
    return [_asked(f"q{i}", question) for i, question in enumerate(chosen)]


def questions(graph: WorldGraph, config: WorldConfig) -> Iterator[Question]:
    """All questions that could be asked about a world."""
    time = SEGMENT_SECONDS
    while time <= graph.duration:
        yield from _present(graph, time)
        for relation in ("in", "out"):
            edges = [edge for edge in graph.of(relation) if edge.end <= time]
            past = [edge for edge in edges if edge.end < time]
            yield from _backward(relation, edges, past, time)
            yield from _before(relation, past, time)
            yield from _unanswerable(relation, len(edges), time, most=config.segments[1])
        yield from _first([edge for edge in graph.of("in") if edge.end < time], time)
        yield from _forward(graph, time)
        time += SEGMENT_SECONDS


def _backward(relation: str, edges: list[Edge], past: list[Edge], time: float) -> Iterator[Question]:
    for edge in past:
        text = f"which {relation}-{edge.ordinal} ?"
        yield Question("backward", f"which_{relation}", text, time, edge.head, _spans(edge), edge.knowable_at, time)
    if past:
        # One more could come until now, so the count is known now and not earlier.
        yield Question("backward", "count", f"count {relation} ?", time, f"n-{len(edges)}", _spans(*edges), time, time)


def _present(graph: WorldGraph, time: float) -> Iterator[Question]:
    edge = next(edge for edge in graph.of("shows") if edge.end == time)
    yield Question("present", "star", "now star ?", time, edge.tail, _spans(edge), edge.knowable_at, time)


def _before(relation: str, past: list[Edge], time: float) -> Iterator[Question]:
    for earlier, later in pairwise(past):
        text, evidence = f"before {relation} {later.head} ?", _spans(earlier, later)
        yield Question("order", "before", text, time, earlier.head, evidence, later.knowable_at, time)


def _first(past: list[Edge], time: float) -> Iterator[Question]:
    for i, earlier in enumerate(past):
        for later in past[i + 1 :]:
            for one, other in ((earlier, later), (later, earlier)):
                text, evidence = f"first {one.head} {other.head} ?", _spans(earlier, later)
                yield Question("order", "first", text, time, earlier.head, evidence, later.knowable_at, time)


def _unanswerable(relation: str, count: int, time: float, most: int) -> Iterator[Question]:
    """The next one, which has not happened yet: further off, the number alone would tell."""
    if count < most:
        text, evidence = f"which {relation}-{count + 1} ?", ((0.0, time),)
        yield Question("unanswerable", f"unknown_{relation}", text, time, "unknown", evidence, time, time)


def _forward(graph: WorldGraph, time: float) -> Iterator[Question]:
    for edge in graph.of("out"):
        if edge.end > time:
            text, window = f"tell-when out {edge.head} ?", (edge.end, min(edge.end + SEGMENT_SECONDS, graph.duration))
            yield Question("forward", "tell_when", text, time, "now", _spans(edge), edge.knowable_at, edge.end, window)


def _spans(*edges: Edge) -> tuple[tuple[float, float], ...]:
    return tuple((edge.start, edge.end) for edge in edges)


def _asked(id: str, question: Question) -> Asked:
    query = Query(
        id,
        question.time,
        question.text,
        kind=question.kind,
        window=question.window,
        evidence=question.evidence,
        knowable_at=question.knowable_at,
    )
    waits = range(1, round((question.due - question.time) / SEGMENT_SECONDS))
    silences = [Silence(question.time + wait * SEGMENT_SECONDS, id) for wait in waits]
    return Asked(query, (*silences, Answer(question.due, question.answer, id)), question.subkind)
