"""Accuracy by how long ago the evidence was, and by how long the stream had been when it was asked.

The age of a query's evidence is the moment at which its counting reply is due (the time of its first answer) minus the
end of its last evidence span, in seconds of video. A memory that fades shows here, and nowhere in a mean over queries.
Queries without evidence have no age: they are counted, not binned. Where evidence still went on when the query was put,
its age would be negative: such queries have a bin of their own.

Bins are [low, high), the last one [low, high]. Edges are given, or quantiles of the values, so that bins hold about as
many queries each; equal quantiles are merged, so there may be fewer bins than asked for.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from evaluation import statistics
from evaluation.predict import EvaluationError
from evaluation.scores import Scored
from whilst.sample import Query, Sample

# (video, value) pairs, name of the value -> n, the value under its name, ci_low, ci_high, videos
Interval = Callable[[Sequence[tuple[str, float]], str], Mapping[str, float | int]]


@dataclass(frozen=True)
class Aged:
    """One scored query. age: s of video since its evidence ended, None where no evidence is given; length: s of video
    that the stream had run when the counting reply was due. value: what it adds to an accuracy."""

    video: str
    sample: str
    query: str
    age: float | None
    length: float
    value: float


def age_of(query: Query, time: float) -> float | None:
    """Seconds of video between the end of the last evidence span and `time`; negative where it still went on."""
    return time - max(end for _, end in query.evidence) if query.evidence else None


def aged(samples: Sequence[Sample], scored: Sequence[Scored]) -> list[Aged]:
    """Every scored query with its age; `scored` are those of `samples` in the order of `scores.score`."""
    found: list[Aged] = []
    rest = iter(scored)
    for sample in samples:
        segments = sample.segments()
        start = segments[0].start if segments else sample.video.start
        for query in sample.queries():
            item = next(rest, None)
            if item is None or item.query != query.id or item.video != sample.video.path:
                raise EvaluationError(
                    f"sample {sample.id}, query {query.id}: scored {item and item.query!r} of {item and item.video!r} "
                    f"stands in its place; pass the scores of these samples, in their order"
                )
            answers = sample.answers_to(query.id)
            if not answers:
                raise EvaluationError(f"sample {sample.id}, query {query.id}: no answer, so no time at which it is due")
            due = answers[0].time
            found.append(
                Aged(item.video, sample.id, query.id, age_of(query, due), max(due - start, 0.0), float(item.value))
            )
    if next(rest, None) is not None:
        raise EvaluationError("there are more scores than queries; pass the scores of these samples")
    return found


def evidence_age(
    samples: Sequence[Sample],
    scored: Sequence[Scored],
    *,
    edges: Sequence[float] | None = None,
    bins: int = 4,
    draws: int = 2000,
    seed: int = 0,
    interval: Interval | None = None,
) -> dict[str, Any]:
    """The two curves: {"by_age": [...], "by_length": [...], "queries", "with_evidence", "without_evidence"}.

    A bin: {"low", "high" (s), "n", "accuracy", "ci_low", "ci_high", "videos", "median" (s)}. The bin of evidence that
    still went on has low None and high 0. An empty bin of given edges is kept, with n 0 and no accuracy. edges: of the
    ages (s); None: quantiles, `bins` of them. interval: default the bootstrap over videos of evaluation/statistics.py.
    """

    def clustered(values: Sequence[tuple[str, float]], name: str) -> Mapping[str, float | int]:
        return statistics.mean(values, draws, seed).figure(name)

    of = interval or clustered
    items = aged(samples, scored)
    past = [(item, item.age) for item in items if item.age is not None and item.age >= 0]
    ongoing = [(item, item.age) for item in items if item.age is not None and item.age < 0]
    by_age = [_bin(None, 0.0, ongoing, of)] if ongoing else []
    return {
        "by_age": by_age + _curve(past, edges, bins, of),
        "by_length": _curve([(item, item.length) for item in items], None, bins, of),
        "queries": len(items),
        "with_evidence": len(past) + len(ongoing),
        "without_evidence": len(items) - len(past) - len(ongoing),
    }


def quantile_edges(values: Sequence[float], bins: int) -> list[float]:
    """Ascending, distinct edges that cut `values` into at most `bins` bins of about equal size."""
    if bins < 1:
        raise EvaluationError(f"bins: {bins}: must be at least 1")
    cuts = np.unique(np.quantile(np.asarray(values, dtype=float), np.linspace(0, 1, bins + 1)))
    return [float(cut) for cut in cuts] if len(cuts) > 1 else [float(cuts[0])] * 2


def _curve(
    items: Sequence[tuple[Aged, float]], edges: Sequence[float] | None, bins: int, of: Interval
) -> list[dict[str, Any]]:
    """`items` (query, where it lies) in bins."""
    if edges is None:
        if not items:
            return []
        edges = quantile_edges([at for _, at in items], bins)
    elif len(edges) < 2 or any(not low < high for low, high in pairwise(edges)):
        raise EvaluationError(f"edges: {list(edges)}: must ascend, two at least (seconds)")
    outside = [at for _, at in items if not edges[0] <= at <= edges[-1]]
    if outside:
        raise EvaluationError(
            f"edges: {list(edges)}: {len(outside)} queries lie outside, one at {outside[0]:g} s; widen the edges "
            f"(0 and inf are allowed)"
        )
    last = len(edges) - 2
    found = []
    for i, (low, high) in enumerate(pairwise(edges)):
        inside = [(item, at) for item, at in items if low <= at and (at < high or (i == last and at <= high))]
        found.append(_bin(low, high, inside, of))
    return found


def _bin(low: float | None, high: float, items: Sequence[tuple[Aged, float]], of: Interval) -> dict[str, Any]:
    figures: Mapping[str, Any] = {"n": 0, "videos": 0}
    if items:
        videos = len({item.video for item, _ in items})
        figures = {"videos": videos} | dict(of([(item.video, item.value) for item, _ in items], "accuracy"))
        figures = figures | {"median": float(np.median([at for _, at in items]))}
    return {"low": low, "high": None if math.isinf(high) else high} | dict(figures)
