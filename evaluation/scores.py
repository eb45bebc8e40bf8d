"""Strict scores: one reply a query, compared whole; a fixed denominator; unfinished replies count as wrong.

A standing (forward) query is right if every poll before its window was met with silence and the reply at the first poll
in the window is the answer. Intervals are drawn over videos (evaluation/statistics.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from evaluation import statistics
from evaluation.predict import Episode, EvaluationError, Reply
from rewards.queries import counting_reply, spoke_early
from whilst.sample import Query, Sample, Silence, Thought


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
    sample: str = ""
    credit: float | None = None  # 0 to 1, where a benchmark gives parts; None: 1 if right, else 0
    reason: str = ""  # why it is not right: "wrong", "no reply", "cut off", "too early", "failed: ..."

    @property
    def value(self) -> float:
        """What it adds to an accuracy."""
        return float(self.right) if self.credit is None else self.credit


def score(
    samples: Sequence[Sample], episodes: Sequence[Episode], failures: Mapping[str, str] | None = None
) -> list[Scored]:
    """Every query of every sample, once; a sample may have several episodes (controls.last_frames).

    failures: why there is no episode, by sample: the queries of such a sample are wrong, with that reason.
    """
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
            reason = "" if right else _reason(query, given, counted, (failures or {}).get(sample.id))
            scored.append(
                Scored(video, query.id, kind, subkind, answer.text, got, right, finished, sample.id, reason=reason)
            )
    return scored


def _reason(query: Query, given: Sequence[Reply], counted: Reply | None, failure: str | None) -> str:
    """Why a query is not right, in a few words."""
    if failure is not None:
        return f"failed: {failure}"
    if spoke_early(query, given):
        return "too early"
    if counted is None or not counted.text.strip():
        return "no reply"
    return "wrong" if counted.finished else "cut off"


def interval(scored: Sequence[Scored], draws: int, seed: int) -> dict[str, float | int]:
    """n, accuracy, ci_low, ci_high, videos."""
    if not scored:
        raise EvaluationError("no query to score: an accuracy needs at least one")
    return statistics.mean([(item.video, item.value) for item in scored], draws, seed).figure("accuracy")


def summary(scored: Sequence[Scored], draws: int = 2000, seed: int = 0) -> dict[str, dict[str, float | int]]:
    """Intervals by kind, by subkind ("backward/count") and over all ("all")."""
    return {key: interval([scored[i] for i in which], draws, seed) for key, which in groups(scored).items()}


def gain(
    scored: Sequence[Scored], baseline: Sequence[Scored], draws: int = 2000, seed: int = 0
) -> dict[str, dict[str, float | int]]:
    """n, gain, ci_low, ci_high, videos, p of accuracy minus the baseline's on the same queries, in the groups of
    `summary`; paired (evaluation/statistics.py)."""
    if [(s.video, s.sample, s.query) for s in scored] != [(s.video, s.sample, s.query) for s in baseline]:
        raise EvaluationError("a gain compares replies to the same queries; evaluate both on the same samples")
    pairs = [(one.video, one.value, other.value) for one, other in zip(scored, baseline, strict=True)]
    return {
        key: statistics.paired_mean([pairs[i] for i in which], draws, seed).figure("gain")
        for key, which in groups(scored).items()
    }


def groups(scored: Sequence[Scored]) -> dict[str, list[int]]:
    """Which queries count for each kind, subkind and "all"."""
    found: dict[str, list[int]] = {}
    for i, item in enumerate(scored):
        keys = [item.kind, "all"] + ([f"{item.kind}/{item.subkind}"] if item.subkind != item.kind else [])
        for key in keys:
            found.setdefault(key, []).append(i)
    return dict(sorted(found.items()))


# ---- Thoughts. `idle` is the samples' thought for a segment in which nothing happens, such as "none ."


def tells(text: str, idle: str) -> bool:
    """Whether a thought says that something happened: the idle phrase says as little as silence does."""
    return text.strip() not in ("", idle)


def same_thought(text: str, gold: str, idle: str) -> bool:
    """Word for word the same, or neither tells anything."""
    return text == gold or not (tells(text, idle) or tells(gold, idle))


def thought_accuracy(samples: Sequence[Sample], episodes: Sequence[Episode], idle: str) -> float | None:
    """Share of the samples' thoughts that were written word for word at their time; None where none was
    written, or where the samples say none (public benchmarks).

    Silence counts as right where the sample says the idle phrase: an arm may be taught either.
    """
    written = {(e.sample, time): text for e in episodes for time, text, finished in e.thoughts if finished}
    if not any(episode.thoughts for episode in episodes):
        return None
    gold = {(s.id, event.time): event.text for s in samples for event in s.events if isinstance(event, Thought)}
    if not gold:
        return None
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
    return {name: statistics.mean(of_name, draws, seed).figure("share") for name, of_name in values.items() if of_name}
