"""A sample beside the source that it was told from: what every filter looks at, worked out once."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, TypeAlias

from data_pipeline.filters.claims import Language, language
from data_pipeline.filters.settings import FilterSettings
from data_pipeline.graph import Edge, Graph
from data_pipeline.queries.ask import Ask
from data_pipeline.queries.plan import from_meta
from data_pipeline.source import Source
from whilst.sample import Answer, Query, Sample, Segment, Silence, Thought

Problems: TypeAlias = Iterator[tuple[str, str]]
"""(reason, detail): a reason is one of few texts, begins with the filter's name and can be counted."""


@dataclass(frozen=True)
class View:
    """Times of the graph are seconds from `start`, those of events seconds of the video file.

    `start` is where the source's video starts; a sample may watch a later part of it.
    """

    sample: Sample
    source: Source
    settings: FilterSettings

    @property
    def start(self) -> float:
        """When the graph's clock begins, on the clock of the file (seconds)."""
        return self.source.video.start

    def moment(self, time: float) -> float:
        """A time of an event on the graph's clock, exactly as the graph or a segment has it where one does.

        Adding a video's start and taking it off again may lose the last digit, and with it what is known just then.
        """
        at = time - self.start
        if self.start:
            place = bisect_left(self._marks, at - 1e-6)
            if place < len(self._marks) and self._marks[place] <= at + 1e-6:
                return self._marks[place]
        return at

    @cached_property
    def _marks(self) -> list[float]:
        times = {time for edge in self.source.graph.edges for time in (edge.start, edge.end, edge.knowable_at)}
        return sorted(times | {time for segment in self.source.segments for time in (segment.start, segment.end)})

    @cached_property
    def _known(self) -> dict[float, Graph]:
        return {}

    def known(self, time: float) -> Graph:
        """The graph as of `time` s on the clock of the file."""
        if time not in self._known:
            self._known[time] = self.source.graph.as_of(self.moment(time))
        return self._known[time]

    @cached_property
    def language(self) -> Language:
        """How the whole graph speaks."""
        return language(self.source.graph)

    @cached_property
    def edges(self) -> dict[str, Edge]:
        """All edges of the whole graph by id."""
        return {edge.id: edge for edge in self.source.graph.edges}

    @cached_property
    def thoughts(self) -> list[tuple[Segment, float, Thought]]:
        """Each thought with the segment before it, and that segment's predecessor's end (-1 s where it has none)."""
        found: list[tuple[Segment, float, Thought]] = []
        segment, before = None, -1.0
        for event in self.sample.events:
            if isinstance(event, Segment):
                before = segment.end if segment is not None else -1.0
                segment = event
            elif isinstance(event, Thought) and segment is not None:
                found.append((segment, before, event))
        return found

    @cached_property
    def said(self) -> list[list[Edge | None]] | None:
        """The edges that each thought says, by `meta["thought_edges"]`; None for ids that the graph does not have.

        None at all when the sample does not tell, or not of as many thoughts as it has.
        """
        told: Any = self.sample.meta.get("thought_edges")
        count = sum(isinstance(event, Thought) for event in self.sample.events)
        if not isinstance(told, (list, tuple)) or len(told) != count:
            return None
        return [[self.edges.get(str(id)) for id in ids] for ids in told]

    @cached_property
    def replies(self) -> dict[str, list[Answer | Silence]]:
        """The replies to each query, in order of time."""
        found: dict[str, list[Answer | Silence]] = {query.id: [] for query in self.sample.queries()}
        for event in self.sample.events:
            if isinstance(event, (Answer, Silence)) and event.query in found:
                found[event.query].append(event)
        return found

    def answers(self, query: Query) -> list[Answer]:
        """The answers to a query, in order of time."""
        return [event for event in self.replies[query.id] if isinstance(event, Answer)]

    def ask(self, query: Query) -> Ask | None:
        """The ask behind a query, by `meta["asks"]`, on the graph's clock; None when the sample does not tell."""
        asks: Any = self.sample.meta.get("asks")
        if not isinstance(asks, Mapping) or query.id not in asks:
            return None
        return from_meta(query.id, self.moment(query.time), query.options, asks[query.id])


def chosen(query: Query, answer: Answer) -> str:
    """The text of an answer; for a choice answered by letter, the option that the letter stands for."""
    if query.options is not None and answer.text not in query.options and len(answer.text) == 1:
        place = ord(answer.text) - ord("A")
        if 0 <= place < len(query.options):
            return query.options[place]
    return answer.text


def without(sample: Sample, removed: set[str]) -> Sample:
    """The sample without these queries, all replies to them, and what `meta` says of them."""
    events = [
        event
        for event in sample.events
        if not (isinstance(event, Query) and event.id in removed)
        and not (isinstance(event, (Answer, Silence)) and event.query in removed)
    ]
    meta = dict(sample.meta)
    for name in ("asks", "answer_edges"):
        told = meta.get(name)
        if isinstance(told, Mapping):
            meta[name] = {id: value for id, value in told.items() if id not in removed}
    return replace(sample, events=tuple(events), meta=meta)
