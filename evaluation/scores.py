"""Strict scores: one reply a query, compared whole; a fixed denominator; unfinished replies count as wrong.

A standing (forward) query is right if every poll before its window was met with silence and the reply at the first poll
in the window is the answer. Intervals are 95% bootstrap intervals over videos, since queries (and segments) of one
video are not independent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from evaluation.predict import Episode, EvaluationError, Reply
from rewards.queries import counting_reply, spoke_early
from whilst.sample import Sample, Silence, Thought


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
            given = replies.get((sample.id, query.id), [])
            counted = counting_reply(query, given)
            got, finished = (counted.text, counted.finished) if counted is not None else ("", False)
            right = finished and got.strip() == answer.text.strip() and not spoke_early(query, given)
            kind = query.kind or "other"
            ask = asks.get(query.id) if isinstance(asks, Mapping) else None
            subkind = str(ask.get("subkind", kind)) if isinstance(ask, Mapping) else kind
            video = sample.video.path
            scored.append(Scored(video, query.id, kind, subkind, answer.text, got, right, finished))
    return scored


def interval(scored: Sequence[Scored], draws: int, seed: int) -> dict[str, float | int]:
    """n, accuracy, ci_low, ci_high (95%, bootstrap over videos)."""
    if not scored:
        raise EvaluationError("no query to score: an accuracy needs at least one")
    return _bootstrap([(item.video, item.right) for item in scored], "accuracy", draws, seed)


def summary(scored: Sequence[Scored], draws: int = 2000, seed: int = 0) -> dict[str, dict[str, float | int]]:
    """Intervals by kind, by subkind ("backward/count") and over all ("all")."""
    return {key: interval([scored[i] for i in which], draws, seed) for key, which in _groups(scored).items()}


def gain(
    scored: Sequence[Scored], baseline: Sequence[Scored], draws: int = 2000, seed: int = 0
) -> dict[str, dict[str, float | int]]:
    """n, gain, ci_low, ci_high of accuracy minus the baseline's on the same queries, in the groups of `summary`.

    Paired: a video that is drawn is drawn for both, so what makes it hard for both does not widen the interval.
    """
    if [(s.video, s.query) for s in scored] != [(s.video, s.query) for s in baseline]:
        raise EvaluationError("a gain compares replies to the same queries; evaluate both on the same samples")
    pairs = [(one.video, int(one.right) - int(other.right)) for one, other in zip(scored, baseline, strict=True)]
    return {key: _bootstrap([pairs[i] for i in which], "gain", draws, seed) for key, which in _groups(scored).items()}


def _groups(scored: Sequence[Scored]) -> dict[str, list[int]]:
    """Which queries count for each kind, subkind and "all"."""
    groups: dict[str, list[int]] = {}
    for i, item in enumerate(scored):
        keys = [item.kind, "all"] + ([f"{item.kind}/{item.subkind}"] if item.subkind != item.kind else [])
        for key in keys:
            groups.setdefault(key, []).append(i)
    return dict(sorted(groups.items()))


def _bootstrap(values: Sequence[tuple[str, float]], name: str, draws: int, seed: int) -> dict[str, float | int]:
    """n, the mean as `name`, and its 95% interval: `values` are (video, value), and videos are drawn."""
    by_video: dict[str, list[float]] = {}
    for video, value in values:
        by_video.setdefault(video, []).append(value)
    total = np.array([sum(of_video) for of_video in by_video.values()])
    count = np.array([len(of_video) for of_video in by_video.values()])
    picks = np.random.default_rng(seed).integers(0, len(count), (draws, len(count)))
    low, high = np.quantile(total[picks].sum(1) / count[picks].sum(1), [0.025, 0.975])
    return {
        "n": int(count.sum()),
        name: float(total.sum() / count.sum()),
        "ci_low": float(low),
        "ci_high": float(high),
    }


# ---- Thoughts. `idle` is the samples' thought for a segment in which nothing happens, such as "none ."


def tells(text: str, idle: str) -> bool:
    """Whether a thought says that something happened: the idle phrase says as little as silence does."""
    return text.strip() not in ("", idle)


def same_thought(text: str, gold: str, idle: str) -> bool:
    """Word for word the same, or neither tells anything."""
    return text == gold or not (tells(text, idle) or tells(gold, idle))


def thought_accuracy(samples: Sequence[Sample], episodes: Sequence[Episode], idle: str) -> float | None:
    """Share of the samples' thoughts that were written word for word at their time; None where none was written.

    Silence counts as right where the sample says the idle phrase: an arm may be taught either.
    """
    written = {(e.sample, time): text for e in episodes for time, text, finished in e.thoughts if finished}
    if not any(episode.thoughts for episode in episodes):
        return None
    gold = {(s.id, event.time): event.text for s in samples for event in s.events if isinstance(event, Thought)}
    right = [key in written and same_thought(written[key], text, idle) for key, text in gold.items()]
    return float(np.mean(right))


def thought_shares(
    samples: Sequence[Sample], episodes: Sequence[Episode], idle: str, draws: int = 2000, seed: int = 0
) -> dict[str, dict[str, float | int]] | None:
    """n, share, ci_low, ci_high of what thoughts tell, held against those of the samples; None where none was written.

    | name | share |
    |---|---|
    | told | of all segments: those whose thought tells something, cut or not |
    | true | of all segments: those in which something happens |
    | correct | of segments in which something happens: those whose thought is the sample's word for word, not cut |
    | false_alarms | of segments in which nothing happens: those whose thought tells something |

    A share of no segments is left out.
    """
    if not any(episode.thoughts for episode in episodes):
        return None
    written = {(e.sample, time): (text, finished) for e in episodes for time, text, finished in e.thoughts}
    values: dict[str, list[tuple[str, float]]] = {"told": [], "true": [], "correct": [], "false_alarms": []}
    for sample in samples:
        for event in sample.events:
            if not isinstance(event, Thought) and not (isinstance(event, Silence) and event.query is None):
                continue
            gold = event.text if isinstance(event, Thought) else ""
            text, finished = written.get((sample.id, event.time), ("", True))
            told, true = tells(text, idle), tells(gold, idle)
            outcomes = {"told": told, "true": true}
            outcomes |= {"correct": finished and text == gold} if true else {"false_alarms": told}
            for name, value in outcomes.items():
                values[name].append((sample.video.path, value))
    return {name: _bootstrap(of_name, "share", draws, seed) for name, of_name in values.items() if of_name}
