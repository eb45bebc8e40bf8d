"""The timeline: the parts of a sample, and the rules that hold for them (`validate`).

- Times are seconds on the clock of the video file, the same clock as `video.start` and `video.end`.
- Events stand in arrival order: times never decrease, a segment's time is its end, ties keep the order of the list.
- Segments do not overlap; gaps are allowed.
- A query is answered at least once, never before it is asked and never before its answer can be known. A standing
  (forward) query may have silences and several answers later on.

Import these names from `whilst.sample`, where samples also find their way into files and out of them.
"""

from __future__ import annotations

import string
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NoReturn, TypeAlias

JSON: TypeAlias = "bool | int | float | str | Sequence[JSON] | Mapping[str, JSON] | None"


class SampleError(ValueError):
    """A sample that breaks a rule. The message names the file and line, the field, what is wrong and the fix."""


@dataclass(frozen=True)
class Video:
    """The part `[start, end]` (seconds) of a video file, or of a folder of images; `end` None: as far as it goes."""

    path: str
    start: float = 0.0
    end: float | None = None


@dataclass(frozen=True)
class Segment:
    """A span `[start, end)` of video, in seconds, that arrives as one piece."""

    start: float
    end: float

    @property
    def time(self) -> float:
        """When it has arrived: at its end, in seconds."""
        return self.end


@dataclass(frozen=True)
class Thought:
    """Text that the model writes at `time` (seconds), when a segment has arrived."""

    time: float
    text: str


@dataclass(frozen=True)
class Query:
    """A question asked at `time`. All times are seconds.

    `text` is all that a model reads of it; `options`, the texts to choose from, stand in it too. A reply is valid in
    `window`. `evidence` holds the spans of video that the answer rests on, and `knowable_at` is the first moment at
    which it can be known.
    """

    id: str
    time: float
    text: str
    kind: str | None = None
    options: tuple[str, ...] | None = None
    window: tuple[float, float] | None = None
    evidence: tuple[tuple[float, float], ...] = ()
    knowable_at: float | None = None


@dataclass(frozen=True)
class Answer:
    """The reply at `time` (seconds) to the query with the id `query`: one of its options or that option's letter."""

    time: float
    text: str
    query: str


@dataclass(frozen=True)
class Silence:
    """Nothing is said at `time` (seconds); with `query`, that standing query stays unanswered at this time."""

    time: float
    query: str | None = None


Event: TypeAlias = Segment | Thought | Query | Answer | Silence


@dataclass(frozen=True)
class Sample:
    """One timeline. `memory` is the text memory it starts with; `meta` is free JSON."""

    id: str
    video: Video
    events: tuple[Event, ...]
    memory: str = ""
    meta: Mapping[str, JSON] = field(default_factory=dict, hash=False)

    def segments(self) -> tuple[Segment, ...]:
        """The segments, in order of arrival."""
        return tuple(event for event in self.events if isinstance(event, Segment))

    def queries(self) -> tuple[Query, ...]:
        """The queries, in the order in which they are asked."""
        return tuple(event for event in self.events if isinstance(event, Query))

    def answers_to(self, query_id: str) -> tuple[Answer, ...]:
        """The answers to one query, in order of time; empty when no query has this id."""
        return tuple(event for event in self.events if isinstance(event, Answer) and event.query == query_id)

    def with_events(self, events: Iterable[Event]) -> Sample:
        """The same sample with other events (not validated here; writers validate)."""
        return replace(self, events=tuple(events))

    def without_thoughts(self) -> Sample:
        """The same sample with its thoughts left out and nothing in their place; the initial text memory stays."""
        return self.with_events(event for event in self.events if not isinstance(event, Thought))


def validate(sample: Sample, where: str = "") -> None:
    """Check every rule. `where` (such as `file:line`) begins the message.

    Raises:
        SampleError: at the first rule that is broken, naming the field, what is wrong and the fix.
    """
    for name, problem in _problems(sample):
        fail(where, name, problem)


def fail(where: str, name: str, problem: str) -> NoReturn:
    """Raise the SampleError `where: name: problem`, leaving out what is empty."""
    raise SampleError(": ".join(part for part in (where, name, problem) if part))


# ---- Rules. Each yields (field, what is wrong and the fix). Text is only built for what is wrong: reading stays fast.

Problems: TypeAlias = Iterator[tuple[str, str]]


def _problems(sample: Sample) -> Problems:
    yield from _full_problems("id", sample.id, "give each sample its own")
    yield from _text_problems("memory", sample.memory)
    yield from _video_problems(sample.video)
    queries: dict[str, Query] = {}
    for i, event in enumerate(sample.events):
        if isinstance(event, Query):
            yield from _full_problems(f"events[{i}].id", event.id, "give each query its own")
            if event.id in queries:
                yield f"events[{i}].id", f"a second query {event.id!r} in this sample; give each query its own id"
            queries[event.id] = event
    for i, event in enumerate(sample.events):
        for name, problem in _event_problems(event, sample.video):
            yield f"events[{i}]{name}", problem
    yield from _order_problems(sample.events)
    yield from _reply_problems(sample.events, queries)
    if not isinstance(sample.meta, Mapping):
        yield "meta", f"must be an object, not {sample.meta!r}"
    yield from _json_problems("meta", sample.meta)


def is_seconds(value: object) -> bool:
    """Whether a value is a time: a finite number of seconds, not negative."""
    # The upper bound also turns away inf, and whole numbers too large for a float; every comparison with NaN is false.
    return isinstance(value, (float, int)) and not isinstance(value, bool) and 0.0 <= value <= sys.float_info.max


def _full_problems(name: str, value: object, fix: str) -> Problems:
    yield from _text_problems(name, value)
    if isinstance(value, str) and not value.strip():
        yield name, f"must not be empty; {fix}"


def _text_problems(name: str, value: object) -> Problems:
    if not isinstance(value, str):
        yield name, f"must be text, not {value!r}"
    elif not value.isascii() and any("\ud800" <= character <= "\udfff" for character in value):
        yield name, f"{value!r} has half of a surrogate pair, which UTF-8 cannot hold; write the whole character"


def _time_problems(name: str, value: object, video: Video) -> Problems:
    if not is_seconds(value):
        yield name, f"must be a finite number of seconds >= 0, not {value!r}"
    elif value < video.start or (video.end is not None and value > video.end):  # type: ignore[operator]
        yield name, f"{value} s is outside the video's [{video.start}, {video.end}] s; correct it or video.start/end"


def _span_problems(name: str, span: object, video: Video) -> Problems:
    if not isinstance(span, tuple) or len(span) != 2:
        yield name, f"must be a pair [start, end] in seconds, not {span!r}"
        return
    for i, time in enumerate(span):
        yield from _time_problems(f"{name}[{i}]", time, video)
    if span[0] > span[1]:
        yield name, f"runs backwards, from {span[0]} s to {span[1]} s; write [start, end]"


def _video_problems(video: Video) -> Problems:
    yield from _full_problems("video.path", video.path, "name a file or a folder of images")
    if not is_seconds(video.start):
        yield "video.start", f"must be a finite number of seconds >= 0, not {video.start!r}"
    if video.end is not None:
        if not is_seconds(video.end):
            yield "video.end", f"must be a finite number of seconds >= 0 or null, not {video.end!r}"
        if video.end <= video.start:
            yield "video.end", f"{video.end} s is not after video.start, {video.start} s; a video has a length"


def _event_problems(event: Event, video: Video) -> Problems:
    if isinstance(event, Segment):
        yield from _time_problems(".start", event.start, video)
        yield from _time_problems(".end", event.end, video)
        if event.end <= event.start:
            yield ".end", f"{event.end} s is not after the segment's start, {event.start} s; a segment has a length"
        return
    if not isinstance(event, (Thought, Query, Answer, Silence)):
        yield "", f"must be a segment, thought, query, answer or silence, not {event!r}"
    yield from _time_problems(".time", event.time, video)
    if isinstance(event, Thought):
        yield from _text_problems(".text", event.text)
    elif isinstance(event, (Query, Answer)):
        yield from _full_problems(".text", event.text, "to say nothing, use a silence event")
    if isinstance(event, Query):
        yield from _query_problems(event, video)
    elif isinstance(event, Answer) or (isinstance(event, Silence) and event.query is not None):
        yield from _text_problems(".query", event.query)


def _query_problems(query: Query, video: Video) -> Problems:
    if query.kind is not None:
        yield from _full_problems(".kind", query.kind, "leave it out instead")
    if query.options is not None and not isinstance(query.options, tuple):
        yield ".options", f"must be a list of texts, not {query.options!r}"
    for i, option in enumerate(query.options or ()):
        yield from _full_problems(f".options[{i}]", option, "write the text to choose")
    if query.window is not None:
        yield from _span_problems(".window", query.window, video)
    if not isinstance(query.evidence, tuple):
        yield ".evidence", f"must be a list of spans, not {query.evidence!r}"
    for i, span in enumerate(query.evidence):
        yield from _span_problems(f".evidence[{i}]", span, video)
    if query.knowable_at is not None:
        yield from _time_problems(".knowable_at", query.knowable_at, video)


def _order_problems(events: Sequence[Event]) -> Problems:
    now, seen = 0.0, 0.0
    for i, event in enumerate(events):
        if event.time < now:
            name = "end" if isinstance(event, Segment) else "time"
            yield f"events[{i}].{name}", f"{event.time} s comes after an event at {now} s; list events in order of time"
        now = event.time
        if isinstance(event, Segment):
            if event.start < seen:
                yield f"events[{i}].start", f"{event.start} s overlaps the segment before it, which ends at {seen} s"
            seen = event.end


def _reply_problems(events: Sequence[Event], queries: Mapping[str, Query]) -> Problems:
    asked: dict[str, int] = {}
    answered: set[str] = set()
    for i, event in enumerate(events):
        if isinstance(event, Query):
            asked[event.id] = i
        elif isinstance(event, (Answer, Silence)) and event.query is not None:
            query = queries.get(event.query)
            if query is None:
                known = ", ".join(map(repr, queries)) or "none"
                yield f"events[{i}].query", f"no query has the id {event.query!r} (queries: {known})"
            elif event.query not in asked:
                yield f"events[{i}].query", f"replies to {event.query!r} before it is asked; list the query first"
            elif isinstance(event, Answer):
                answered.add(event.query)
                for name, problem in _answer_problems(event, query):
                    yield f"events[{i}].{name}", problem
    for query_id, i in asked.items():
        if query_id not in answered:
            yield f"events[{i}].id", f"the query {query_id!r} has no answer; add one or leave the query out"


def _answer_problems(answer: Answer, query: Query) -> Problems:
    if query.knowable_at is not None and answer.time < query.knowable_at:
        yield "time", f"{query.id!r} is answered before it can be known: {answer.time} s < {query.knowable_at} s"
    if query.options is not None:
        letters = tuple(string.ascii_uppercase[: len(query.options)])
        if answer.text not in query.options and answer.text not in letters:
            yield "text", f"{answer.text!r} is none of the options {list(query.options)} and no letter of theirs"


def _json_problems(name: str, value: object) -> Problems:
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _text_problems(f"{name}.{key}", key)
            yield from _json_problems(f"{name}.{key}", item)
    elif isinstance(value, (list, tuple)):
        for i, item in enumerate(value):
            yield from _json_problems(f"{name}[{i}]", item)
    elif isinstance(value, str):
        yield from _text_problems(name, value)
    elif isinstance(value, float):
        if not abs(value) <= sys.float_info.max:
            yield name, f"{value} is no JSON number; use null or text"
    elif value is not None and not isinstance(value, int):
        yield name, f"{value!r} is no JSON value; use null, numbers, text, lists or objects"
