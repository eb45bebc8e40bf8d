"""Strict scores: one reply a query, compared whole; a fixed denominator; unfinished replies count as wrong.

A standing (forward) query is right if every poll before its window was met with silence and the reply at the first poll
in the window is the answer. Intervals are 95% bootstrap intervals over videos, since queries of one video are not
independent.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from evaluation.predict import Episode, EvaluationError, Reply
from whilst.sample import Query, Sample, Thought


@dataclass(frozen=True)
class Scored:
    """One query's outcome."""

    video: str
    query: str
    kind: str
    subkind: str
    expected: str
    got: str
    right: bool
    finished: bool


def score(samples: Sequence[Sample], episodes: Sequence[Episode]) -> list[Scored]:
    """Every query of every sample, once; a sample may have several episodes (controls.last_frames)."""
    replies: dict[tuple[str, str], list[Reply]] = {}
    for episode in episodes:
        for reply in episode.replies:
            replies.setdefault((episode.sample, reply.query), []).append(reply)
    scored = []
    for sample in samples:
        asks = sample.meta.get("asks", {})
        for query in sample.queries():
            answer = sample.answers_to(query.id)[0]
            given = sorted(replies.get((sample.id, query.id), []), key=lambda reply: reply.time)
            got, finished = _reply_that_counts(given, query)
            right = finished and got.strip() == answer.text.strip()
            if query.kind == "forward":
                right = right and not any(r.text for r in given if query.window and r.time < query.window[0])
            kind = query.kind or "other"
            ask = asks.get(query.id) if isinstance(asks, Mapping) else None
            subkind = str(ask.get("subkind", kind)) if isinstance(ask, Mapping) else kind
            video = sample.video.path
            scored.append(Scored(video, query.id, kind, subkind, answer.text, got, right, finished))
    return scored


def _reply_that_counts(given: Sequence[Reply], query: Query) -> tuple[str, bool]:
    if query.kind == "forward" and query.window:
        given = [reply for reply in given if query.window[0] <= reply.time <= query.window[1]]
    return (given[0].text, given[0].finished) if given else ("", False)


def interval(scored: Sequence[Scored], draws: int, seed: int) -> dict[str, float | int]:
    """n, accuracy, ci_low, ci_high (95%, bootstrap over videos)."""
    if not scored:
        raise EvaluationError("no query to score: an accuracy needs at least one")
    by_video: dict[str, list[bool]] = {}
    for item in scored:
        by_video.setdefault(item.video, []).append(item.right)
    right = np.array([sum(v) for v in by_video.values()])
    count = np.array([len(v) for v in by_video.values()])
    picks = np.random.default_rng(seed).integers(0, len(count), (draws, len(count)))
    means = right[picks].sum(1) / count[picks].sum(1)
    low, high = np.quantile(means, [0.025, 0.975])
    accuracy = float(right.sum() / count.sum())
    return {"n": int(count.sum()), "accuracy": accuracy, "ci_low": float(low), "ci_high": float(high)}


def summary(scored: Sequence[Scored], draws: int = 2000, seed: int = 0) -> dict[str, dict[str, float | int]]:
    """Intervals by kind, by subkind ("backward/count") and over all ("all")."""
    groups: dict[str, list[Scored]] = {}
    for item in scored:
        keys = [item.kind, "all"] + ([f"{item.kind}/{item.subkind}"] if item.subkind != item.kind else [])
        for key in keys:
            groups.setdefault(key, []).append(item)
    return {key: interval(items, draws, seed) for key, items in sorted(groups.items())}


def thought_accuracy(samples: Sequence[Sample], episodes: Iterable[Episode]) -> float | None:
    """Share of the samples' thoughts that were written word for word at their time; None where none was written."""
    written = {(e.sample, time): text for e in episodes for time, text, finished in e.thoughts if finished}
    if not written:
        return None
    gold = [(s.id, event) for s in samples for event in s.events if isinstance(event, Thought)]
    return float(np.mean([written.get((sample, event.time)) == event.text for sample, event in gold]))
