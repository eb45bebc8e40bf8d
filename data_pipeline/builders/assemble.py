"""What a builder says, put on one timeline: a Sample out of a script, its thoughts and its replies.

Order at one time: the segment, its thought, the replies of queries that stand since earlier, then new queries, each
followed by its reply of that time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

from data_pipeline.builders.script import Script
from data_pipeline.queries.ask import Ask, Reply
from data_pipeline.queries.choice import listed
from data_pipeline.source import Source
from whilst.sample import JSON, Answer, Event, Query, Sample, Segment, Silence, Thought, Video

Said: TypeAlias = "tuple[str, tuple[str, ...]]"
"""The text of a thought, and the ids of the edges that it says."""

Replies: TypeAlias = "Sequence[tuple[float, Reply | None]]"
"""What is replied to one ask, by time (seconds of the source); None is a silence."""


def assemble(
    source: Source,
    script: Script,
    builder: str,
    thoughts: Sequence[Said | None],
    replies: Mapping[str, Replies],
    meta: Mapping[str, JSON] | None = None,
    *,
    memory: str = "",
    span: tuple[float, float] | None = None,
) -> Sample:
    """The sample of a script.

    `thoughts` has one entry a segment of the script, None for a silence at its end; it is empty for a sample that does
    not think. `replies` are by the id of the ask. `span` is the part [start, end] s of the source that the sample's
    video shows, all of it by default. Times of the source become times of the video's clock, none outside the video.

    An ask without a reply stays as a query without an answer: `whilst.sample.validate` turns such a sample down. It
    comes of a script that is told from less than it was planned with, as `whilst doctor causality` does.

    Raises:
        ValueError: another number of thoughts than of segments, or replies to what the script does not ask.
    """
    if thoughts and len(thoughts) != len(script.segments):
        raise ValueError(f"script {script.id}: {len(thoughts)} thoughts for {len(script.segments)} segments")
    if unknown := set(replies) - {ask.id for ask in script.asks}:
        raise ValueError(f"script {script.id}: replies to {sorted(unknown)}, which it does not ask")
    video = _part(source.video, span)
    clock = _Clock(source.video.start, video)
    placed: list[tuple[float, int, int, int, Event]] = []  # time, rank at that time, which ask, order of its events
    for k, segment in enumerate(script.segments):
        start, end = clock(segment.start), clock(segment.end)
        placed.append((end, 0, 0, 0, Segment(start, end)))
        if thoughts:
            said = thoughts[k]
            placed.append((end, 1, 0, 0, Silence(end) if said is None else Thought(end, said[0])))
    for i, ask in enumerate(script.asks):
        given = replies.get(ask.id, ())
        asked = clock(ask.time)
        placed.append((asked, 3, i, 0, _query(ask, script.questions[ask.id], given, clock)))
        for n, (at, reply) in enumerate(given, start=1):
            time = clock(at)
            event: Event = Silence(time, ask.id) if reply is None else Answer(time, reply.text, ask.id)
            placed.append((time, 3 if time == asked else 2, i, n, event))
    placed.sort(key=lambda one: one[:4])
    return Sample(
        script.id,
        video,
        tuple(event for *_, event in placed),
        memory=memory,
        meta=_meta(source, script, builder, thoughts, replies) | dict(meta or {}),
    )


class _Clock:
    """Seconds of the source as seconds of the video's clock, kept inside the video."""

    def __init__(self, offset: float, video: Video) -> None:
        self.offset, self.video = offset, video

    def __call__(self, time: float) -> float:
        at = max(time + self.offset, self.video.start)
        return at if self.video.end is None else min(at, self.video.end)


def _part(video: Video, span: tuple[float, float] | None) -> Video:
    if span is None:
        return video
    end = video.start + span[1]
    return Video(video.path, video.start + span[0], end if video.end is None else min(end, video.end))


def _query(ask: Ask, text: str, given: Replies, clock: _Clock) -> Query:
    said = [(at, reply) for at, reply in given if reply is not None]
    evidence = dict.fromkeys((clock(start), clock(end)) for _, reply in said for start, end in reply.evidence)
    knowable_at = clock(said[0][1].knowable_at) if said else None
    window = None
    if ask.until is not None and knowable_at is not None:
        # A standing query may be replied to from the moment at which its reply can be known.
        first = max(knowable_at, clock(ask.time))
        window = first, max(first, clock(ask.until))
    return Query(
        ask.id,
        clock(ask.time),
        text + listed(ask.options or ()),
        kind=ask.kind,
        options=ask.options,
        window=window,
        evidence=tuple(evidence),
        knowable_at=knowable_at,
    )


def _meta(
    source: Source,
    script: Script,
    builder: str,
    thoughts: Sequence[Said | None],
    replies: Mapping[str, Replies],
) -> dict[str, JSON]:
    asks: dict[str, JSON] = {
        ask.id: {
            "kind": ask.kind,
            "subkind": ask.subkind,
            "format": ask.format,
            "slots": dict(ask.slots),
            "until": ask.until,
        }
        for ask in script.asks
    }
    resting: dict[str, JSON] = {
        ask: list(dict.fromkeys(edge for _, reply in given if reply is not None for edge in reply.edges))
        for ask, given in replies.items()
    }
    return {
        "builder": builder,
        "source": source.id,
        "dataset": source.dataset,
        "video_id": source.video_id,
        "licence": source.licence,
        "asks": asks,
        "thought_edges": [list(said[1]) for said in thoughts if said is not None],
        "answer_edges": resting,
    }
