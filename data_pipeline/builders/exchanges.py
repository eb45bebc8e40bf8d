"""Ready-made questions of an annotation, put on the timeline: a dataset's own questions and answers, word for word.

A question stands at its own time, or at the end of the video where the annotation has none; its answer at `wait` where
that is later, with a Silence at the end of every segment in between. Segments are cut at these times, so that whoever
asks or answers has seen the video up to then and not beyond; a time that would leave a piece shorter than `shortest`
moves to the nearest border instead. What comes after the last answer is not watched.

Only thoughts are read off the graph; the answer is the annotation's. So nothing here checks that an answer can be known
at its time: the annotation says so.
"""

from __future__ import annotations

import string
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from data_pipeline.builders.assemble import assemble
from data_pipeline.builders.script import Builder, Plan, Script
from data_pipeline.builders.watch import cut_at
from data_pipeline.queries.ask import Ask, Reply
from data_pipeline.source import Exchange, Rejected, Source, SynthError
from data_pipeline.text.task import Write
from data_pipeline.thoughts import thoughts
from whilst.sample import Query, Sample, Segment


@dataclass(frozen=True)
class ExchangesSettings:
    """`queries` is the most a sample has; `thoughts` of the graph at every segment, or none; `shortest` in seconds, of
    a piece of a segment: it has to hold a frame."""

    queries: int = 8
    shortest: float = 0.5
    thoughts: Literal["every", "none"] = "none"

    def __post_init__(self) -> None:
        if self.queries < 1 or self.shortest <= 0:
            raise SynthError("exchanges: queries must be at least 1 and shortest above 0 seconds")


def plan(source: Source, settings: ExchangesSettings, write: Write, seed: int) -> Plan:
    """Scripts of `queries` exchanges each, in order of time; exchanges that cannot stand in a sample are rejected."""
    planned = Plan()
    end = source.segments[-1].end
    fitting: list[Ask] = []
    words: dict[str, str] = {}
    for one in source.exchanges:
        planned.queries.taken += 1
        reason = _reason_against(one, end)
        if reason is None and one.id in words:
            reason = "a second exchange with this id"
        if reason is not None:
            planned.queries.reject(reason)
            continue
        planned.statistics["asked at the end"] += one.time is None
        fitting.append(_ask(one, end))
        words[one.id] = one.question
    fitting.sort(key=lambda ask: ask.time)
    parts = [fitting[at : at + settings.queries] for at in range(0, len(fitting), settings.queries)]
    for n, part in enumerate(parts):
        id = source.id if len(parts) == 1 else f"{source.id}-{n}"
        segments = cut_at(source.segments, _moments(part), settings.shortest)
        asks = tuple(replace(_at_borders(ask, segments), id=f"q{i}") for i, ask in enumerate(part))
        last = max(_moments(asks))
        segments = tuple(segment for segment in segments if segment.start < last)
        questions = {ask.id: words[str(ask.slots["exchange"])] for ask in asks}
        planned.scripts.append(Script(id, segments, asks, questions))
        planned.queries.made += len(asks)
    if not parts:
        planned.rejected.append(Rejected(source.id, "no exchange" if not source.exchanges else "no usable exchange"))
    return planned


def _moments(asks: Sequence[Ask]) -> list[float]:
    return [time for ask in asks for time in (ask.time, ask.time if ask.until is None else ask.until)]


def _at_borders(ask: Ask, segments: Sequence[Segment]) -> Ask:
    """The ask with its times on the nearest borders of segments; no answer before the first segment has arrived."""
    ends = [segment.end for segment in segments]
    borders = [segments[0].start, *ends]
    time = min(borders if ask.until is not None else ends, key=lambda border: abs(border - ask.time))
    # An answer that is due in the middle of a segment has to wait for the rest of it.
    until = None if ask.until is None else next((end for end in ends if end >= ask.until), ends[-1])
    return replace(ask, time=time, until=until if until is not None and until > time else None)


def _reason_against(one: Exchange, end: float) -> str | None:
    if not one.question.strip() or not one.answer.strip():
        return "no question or no answer"
    if one.options is not None:
        letters = string.ascii_uppercase[: len(one.options)]
        if one.answer not in one.options and one.answer not in tuple(letters):
            return "answer is none of the options"
    if one.time is not None and one.time > end:
        return "asked after the last segment"
    if one.wait is not None and (one.time is None or not one.time <= one.wait <= end):
        return "answered before it is asked or after the last segment"
    return None


def _ask(one: Exchange, end: float) -> Ask:
    time = end if one.time is None else one.time
    until = one.wait if one.wait is not None and one.wait > time else None
    kind = one.kind or ("backward" if until is None else "forward")
    format = "choice" if one.options is not None else "open"
    return Ask(one.id, kind, "exchange", time, {"exchange": one.id}, format, one.options, until)


def tell(source: Source, script: Script, settings: ExchangesSettings, write: Write, seed: int) -> Sample:
    """The exchanges at their times, with thoughts if so set.

    Raises:
        TextRejected: by the writer.
    """
    by_id = {one.id: one for one in source.exchanges}
    replies = {ask.id: _replies(ask, by_id.get(str(ask.slots["exchange"])), script) for ask in script.asks}
    said = thoughts(source, script.segments, write, seed) if settings.thoughts == "every" else []
    sample = assemble(source, script, "exchanges", said, replies)
    windows = {ask.id: by_id[str(ask.slots["exchange"])].window for ask in script.asks if replies[ask.id]}
    return sample.with_events(
        _in_window(event, windows.get(event.id), sample) if isinstance(event, Query) else event
        for event in sample.events
    )


def _replies(ask: Ask, exchange: Exchange | None, script: Script) -> Sequence[tuple[float, Reply | None]]:
    """Silence until the answer is due; nothing at all for an exchange that the source does not have (any more)."""
    if exchange is None:
        return []
    due = ask.time if ask.until is None else ask.until
    waits = [segment.end for segment in script.segments if ask.time < segment.end < due]
    reply = Reply(exchange.answer, exchange.evidence, (), due)
    return [*((time, None) for time in waits), (due, reply)]


def _in_window(query: Query, window: tuple[float, float] | None, sample: Sample) -> Query:
    """The query with the window of its annotation, on the video's clock."""
    if window is None or query.knowable_at is None:
        return query
    start, end = (min(sample.video.start + time, sample.video.end or float("inf")) for time in window)
    return replace(query, window=(start, end))


BUILDER = Builder(ExchangesSettings, plan, tell)
