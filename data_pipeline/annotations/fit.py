"""Annotations on the clock of their source: clipped where they reach out by a hair, rejected where they cannot be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from data_pipeline.annotations.phrases import clean
from data_pipeline.annotations.record import PLACEHOLDER, SILENCE, Annotation
from data_pipeline.source import Exchange, Rejected

DIGITS = 6  # of seconds: subtracting video.start must not put a time a hair outside the video


@dataclass
class Clock:
    """The clock of one source: all in seconds, `start` on that of the file. Counts what it clips."""

    start: float
    duration: float
    tolerance: float
    span_clue: float
    clipped: int = 0

    def fit(self, start: float, end: float) -> tuple[float, float] | str:
        """Seconds from 0, clipped within the tolerance, or the reason why not."""
        if end < start:
            return "backwards span"
        low, high = round(start - self.start, DIGITS), round(end - self.start, DIGITS)
        if low < -self.tolerance or high > self.duration + self.tolerance:
            return "outside the video"
        fit = min(max(low, 0.0), self.duration), min(max(high, 0.0), self.duration)
        if low < high and fit[0] == fit[1]:
            return "outside the video"
        self.clipped += fit != (low, high)
        return fit


@dataclass(frozen=True)
class Fitted:
    """An annotation on the clock of the source, its text cleaned."""

    annotation: Annotation
    start: float
    end: float
    knowable_at: float
    text: str


def fit_annotations(annotations: Sequence[Annotation], clock: Clock) -> tuple[list[Fitted], list[Rejected]]:
    """What passes, in the order in which it becomes known, and what does not."""
    kept: list[Fitted] = []
    dropped: list[Rejected] = []
    seen: set[tuple[object, ...]] = set()
    for annotation in annotations:
        found = _fit(annotation, clock)
        if isinstance(found, Fitted):
            key = (annotation.level, annotation.actor, annotation.triple, found.text, found.start, found.end)
            if key not in seen:
                seen.add(key)
                kept.append(found)
                continue
            found = "duplicate"
        detail = f"{annotation.text or annotation.triple} [{annotation.start}, {annotation.end}]"
        dropped.append(Rejected(annotation.source_id, found, detail))
    # in this order ids are given out: what comes to be known later must not change those before it
    kept.sort(key=lambda one: (one.knowable_at, one.start, one.annotation.level, one.end, one.annotation.source_id))
    return kept, dropped


def _fit(annotation: Annotation, clock: Clock) -> Fitted | str:
    text = clean(annotation.text)
    if annotation.triple is None and not text:
        return "empty text"
    if "#unsure" in text:
        return "annotator unsure"
    if annotation.triple is not None and annotation.triple.head.id == annotation.triple.tail.id:
        return "a thing with itself"
    span = clock.fit(annotation.start, annotation.end)
    if isinstance(span, str):
        return span
    start, end = span
    if annotation.kind == "span" and start == end:
        return "empty span"
    if annotation.knowable_at is not None:
        knowable = min(max(annotation.knowable_at - clock.start, start), clock.duration)
    elif annotation.kind == "span":
        knowable = end if clock.span_clue == 1.0 else start + clock.span_clue * (end - start)
    else:
        knowable = start
    return Fitted(annotation, start, end, knowable, text)


def fit_exchanges(exchanges: Sequence[Exchange], clock: Clock) -> tuple[list[Exchange], list[Rejected]]:
    """What passes, and what does not."""
    kept: list[Exchange] = []
    dropped: list[Rejected] = []
    for exchange in exchanges:
        found = _fit_exchange(exchange, clock)
        if isinstance(found, Exchange):
            kept.append(found)
        else:
            dropped.append(Rejected(exchange.id, found, exchange.question))
    return kept, dropped


def _fit_exchange(exchange: Exchange, clock: Clock) -> Exchange | str:
    if not exchange.question.strip():
        return "empty question"
    if not exchange.answer.strip():
        return "expects silence" if exchange.kind == SILENCE else "empty answer"
    if PLACEHOLDER in exchange.question:
        return "refers to an answer before it"
    moments = [time for time in (exchange.time, exchange.wait) if time is not None]
    window = [exchange.window] if exchange.window is not None else []
    spans: list[tuple[float, float]] = []
    for one in (*((time, time) for time in moments), *window, *exchange.evidence):
        found = clock.fit(*one)
        if isinstance(found, str):
            return found
        spans.append(found)
    fitted = iter(spans)
    return replace(
        exchange,
        time=None if exchange.time is None else next(fitted)[0],
        wait=None if exchange.wait is None else next(fitted)[0],
        window=None if exchange.window is None else next(fitted),
        evidence=tuple(fitted),
    )
