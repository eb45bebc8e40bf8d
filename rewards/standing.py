"""Standing queries: what there is to say to them, and when.

A standing query is one with a window that is polled inside it. Each of its sample's answers is a thing to say, once: it
is valid from its own time on (the first from the window's start) until the next one's time (the last until the window's
end). An answer in the same words as the one before it is another thing to say: it has happened again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from rewards.overlap import token_f1
from rewards.parsing import choice, normal
from whilst.episode import Episode, Turn, polls
from whilst.sample import Query, Sample

Match = Literal["exact", "f1"]


@dataclass(frozen=True)
class Gold:
    """Something to say: `text`, valid from `start` to `end` (s). shared: at `end` the next one is valid, not this."""

    text: str
    start: float
    end: float
    shared: bool = False

    def holds(self, time: float) -> bool:
        """Whether it is valid at a time (s)."""
        return self.start <= time <= self.end and not (self.shared and self.start < time == self.end)


@dataclass(frozen=True)
class Standing:
    """A standing query, what there is to say to it, and when it is polled (s)."""

    query: Query
    golds: tuple[Gold, ...]
    polls: tuple[float, ...]

    def inside(self, time: float) -> bool:
        """Whether there is something to say at a time (s)."""
        return any(gold.holds(time) for gold in self.golds)

    @property
    def outside(self) -> list[float]:
        """The polls (s) at which there is nothing to say."""
        return [time for time in self.polls if not self.inside(time)]


def standing(sample: Sample, late: float | None = None) -> list[Standing]:
    """The standing queries of a sample.

    late: each answer is valid from its own time on for that many seconds, up to the window's end; windows of different
    answers may then overlap. None: until the next one's time.
    """
    asked: dict[str, list[float]] = {}
    for step in polls(sample):
        for poll in step:
            asked.setdefault(poll.query.id, []).append(poll.time)
    found = []
    for query in sample.queries():
        times = asked.get(query.id, [])
        if query.window is not None and any(query.window[0] <= time <= query.window[1] for time in times):
            found.append(Standing(query, _golds(sample, query, query.window, late), tuple(times)))
    return found


def _golds(sample: Sample, query: Query, window: tuple[float, float], late: float | None) -> tuple[Gold, ...]:
    answers = sample.answers_to(query.id)
    starts = [window[0], *(answer.time for answer in answers[1:])]
    last = max(window[1], answers[-1].time)
    if late is None:
        ends = [*starts[1:], last]
    else:
        ends = [max(start, min(answer.time + late, last)) for start, answer in zip(starts, answers, strict=True)]
    shared = [late is None] * (len(answers) - 1) + [False]
    rows = zip(answers, starts, ends, shared, strict=True)
    return tuple(Gold(answer.text, start, max(start, end), ends_open) for answer, start, end, ends_open in rows)


def spoken(episode: Episode, query: Query) -> list[Turn]:
    """The replies to a query that are no silences, in order of time."""
    replies = [turn for turn in episode.replies_to(query.id) if turn.text.strip()]
    return sorted(replies, key=lambda turn: turn.time)


def agreement(reply: Turn, query: Query, gold: str, match: Match) -> float:
    """How right a reply is, 0 to 1: `exact` 1 if both are the same but for `parsing.normal`, or the same option; `f1`
    the F1 of their words. A reply that was cut off is worth 0."""
    if not reply.finished:
        return 0.0
    if query.options is not None:
        chosen = choice(reply.text, query.options)
        return float(chosen is not None and chosen == choice(gold, query.options))
    return float(normal(reply.text) == normal(gold)) if match == "exact" else token_f1(reply.text, gold)
