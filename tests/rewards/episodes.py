"""Samples and episodes that the tests of rewards are worked out on: small enough to follow by hand."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rewards.base import Scene
from whilst.episode import Episode, Turn, polls
from whilst.sample import Answer, Event, Query, Sample, Segment, Silence, Thought, Video
from whilst.timeline import validate


@dataclass(frozen=True)
class Ask:
    """A query, and what the sample lists for it: (time, text) each, an empty text for a silence."""

    query: Query
    replies: tuple[tuple[float, str], ...]


def ask(id: str, *answers: str | tuple[float, str], time: float = 4.0, kind: str | None = None, **fields: Any) -> Ask:
    """A query asked at `time` (s). An answer is a text (at that time) or (time, text); an empty text is a silence.

    fields: of Query (options, window, evidence, knowable_at, text).
    """
    text = fields.pop("text", f"{id} ?")
    replies = tuple((time, answer) if isinstance(answer, str) else answer for answer in answers)
    return Ask(Query(id, time, text, kind, **fields), replies)


def standing(id: str, answer: str, asked: float, window: tuple[float, float], until: float, **fields: Any) -> Ask:
    """A forward query, polled at every second from `asked` to `until`: silence before its window, then the answer."""
    times = [float(t) for t in range(int(asked), int(until) + 1)]
    replies = [(t, answer if window[0] <= t <= window[1] else "") for t in times]
    return ask(id, *replies, time=asked, kind="forward", window=window, **fields)


def sample(
    *asks: Ask, segments: int = 4, thoughts: Sequence[str] = (), id: str = "a", meta: Mapping[str, Any] | None = None
) -> Sample:
    """Segments of one second. thoughts: the sample's own, one a segment ("" for a silence). A valid sample."""
    events: list[Event] = []
    waiting: list[Event] = []
    for one in asks:
        waiting.append(one.query)
        waiting += [Answer(t, text, one.query.id) if text else Silence(t, one.query.id) for t, text in one.replies]
    waiting.sort(key=lambda event: event.time)  # stable: a query stays before its replies
    for i in range(segments + 1):
        if i:
            events.append(Segment(float(i - 1), float(i)))
            if i <= len(thoughts):
                own = thoughts[i - 1]
                events.append(Thought(float(i), own) if own else Silence(float(i)))
        while waiting and (waiting[0].time < i + 1 or i == segments):
            events.append(waiting.pop(0))
    made = Sample(id, Video("video.mp4", 0.0, float(max(1, segments))), tuple(events), meta=dict(meta or {}))
    validate(made)
    return made


Replies = Mapping[str, "str | Sequence[tuple[float, str]]"]


def episode(
    sample: Sample,
    thoughts: Sequence[str] = (),
    replies: Replies | None = None,
    finished: bool = True,
    rollout: int = 0,
    perturbation: str = "",
) -> Episode:
    """An episode: thoughts one a segment (silences where the list is shorter), and replies by query.

    A reply is one text for all polls of the query, or (time, text) for some: silence at the others. Queries that
    `replies` leaves out are met with silence. A word is a token, the same one wherever it stands; `finished` holds for
    every turn.
    """
    said = {name: given if isinstance(given, str) else dict(given) for name, given in (replies or {}).items()}
    turns: list[Turn] = []
    for ordinal, step in enumerate(polls(sample), start=-1):
        if ordinal >= 0:
            text = thoughts[ordinal] if ordinal < len(thoughts) else ""
            turns.append(turn("thought", sample.segments()[ordinal].end, ordinal, None, text, finished))
        for poll in step:
            given = said.get(poll.query.id, "")
            text = given if isinstance(given, str) else given.get(poll.time, "")
            turns.append(turn("answer", poll.time, ordinal, poll.query.id, text, finished))
    return Episode(sample, tuple(turns), rollout, perturbation)


def turn(role: Any, time: float, segment: int, query: str | None, text: str, finished: bool = True) -> Turn:
    """A turn whose tokens are its words: the same id for the same word."""
    return Turn(role, time, segment, query, text, tuple(zlib.crc32(word.encode()) for word in text.split()), finished)


def right(sample: Sample, **fields: Any) -> Episode:
    """The episode that says what the sample says: its own thoughts, answers and silences."""
    own = {event.time: event.text for event in sample.events if isinstance(event, Thought)}
    thoughts = [own.get(segment.end, "") for segment in sample.segments()]
    replies = {q.id: [(a.time, a.text) for a in sample.answers_to(q.id)] for q in sample.queries()}
    return episode(sample, thoughts, replies, **fields)


def alone(one: Episode) -> Scene:
    """A scene in which the episode is its whole group."""
    return Scene((one,))
