"""What a job's predictions are worth: exact answers, or a benchmark's verdicts by its strict and its official rule.

A sample without an episode (its video could not be read) keeps its queries in the denominator: they are wrong, and the
reason is listed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from evaluation import statistics
from evaluation.benchmarks.base import Benchmark, Given, Total, Verdict, by_task, mean, verdicts_of
from evaluation.cache import Predicted
from evaluation.predict import EvaluationError
from evaluation.scores import Scored, score
from whilst.sample import Sample

EXACT = "exact"
TOTAL_DRAWS = 1000  # at most: a total is made again of every draw, item by item


@dataclass(frozen=True)
class Judged:
    """A job's items: as they are believed (`scored`), and a benchmark's verdicts by both rules."""

    scored: list[Scored]
    strict: list[Verdict]
    official: list[Verdict] | None


def find_benchmark(name: str) -> Benchmark | None:
    """The benchmark that judges, by `scorer` of a recipe; None for exact answers."""
    if name == EXACT:
        return None
    from evaluation.benchmarks.all import BENCHMARKS

    if name not in BENCHMARKS:
        raise EvaluationError(f"scorer: {name!r} must be {EXACT} or one of {', '.join(sorted(BENCHMARKS))}")
    return BENCHMARKS[name]


def judge(benchmark: Benchmark | None, samples: Sequence[Sample], predicted: Sequence[Predicted]) -> Judged:
    """Every query of every sample."""
    failures = {one.sample: one.failure for one in predicted if one.failure}
    if benchmark is None:
        episodes = [episode for one in predicted for episode in one.episodes]
        return Judged(score(samples, episodes, failures), [], None)
    given = given_of(samples, predicted)
    strict = verdicts_of(benchmark.strict, samples, given)
    official = None if benchmark.official is None else verdicts_of(benchmark.official, samples, given)
    return Judged(scored_of(strict, samples), strict, official)


def given_of(samples: Sequence[Sample], predicted: Sequence[Predicted]) -> dict[tuple[str, str], list[Given]]:
    """What was said to each query, in order of time, by (sample, query); a failure stands in for replies."""
    given: dict[tuple[str, str], list[Given]] = {}
    by_id = {one.sample: one for one in predicted}
    for sample in samples:
        one = by_id[sample.id]
        for query in sample.queries():
            if one.failure:
                said = [Given(query.time, "", False, one.failure)]
            else:
                replies = [reply for episode in one.episodes for reply in episode.replies if reply.query == query.id]
                said = [Given(r.time, r.text, r.finished) for r in sorted(replies, key=lambda reply: reply.time)]
            given[sample.id, query.id] = said
    return given


def scored_of(verdicts: Sequence[Verdict], samples: Sequence[Sample]) -> list[Scored]:
    """Strict verdicts as scored queries: their task is their kind."""
    expected = {(s.id, q.id): [a.text for a in s.answers_to(q.id)] for s in samples for q in s.queries()}
    return [
        Scored(
            v.video,
            v.query,
            v.task,
            v.task,
            next(iter(expected.get((v.sample, v.query), [])), ""),
            v.reply,
            v.credit >= 1,
            not v.reason.startswith("cut off"),
            v.sample,
            v.credit,
            v.reason,
        )
        for v in verdicts
    ]


# ---- Strict beside official.


def about(benchmark: Benchmark) -> dict[str, Any]:
    """What a report says of the benchmark."""
    return {
        "name": benchmark.name,
        "source": benchmark.source,
        "licence": benchmark.licence,
        "tested_on": benchmark.tested_on,
        "track": benchmark.track,
        "definitions": {name: total.definition for name, total in benchmark.totals.items()},
        "official": benchmark.official is not None,
    }


def totals(benchmark: Benchmark, judged: Judged, draws: int, seed: int) -> dict[str, Any]:
    """Every total by both rules, and the gap (official - strict); {"strict", "official", "gap"} by name."""

    def one(total: Total, verdicts: Sequence[Verdict] | None) -> dict[str, float | int] | None:
        if not verdicts:
            return None
        return statistics.aggregate(verdicts, total.of, _video, min(draws, TOTAL_DRAWS), seed).figure("value") | {
            "counted": sum(verdict.counted for verdict in verdicts)
        }

    found = {}
    for name, total in benchmark.totals.items():
        strict, official = one(total, judged.strict), one(total, judged.official)
        gap = official["value"] - strict["value"] if strict and official else None
        found[name] = {"strict": strict, "official": official, "gap": gap}
    return found


def tasks(judged: Judged, draws: int, seed: int) -> dict[str, Any]:
    """Mean credit of every task by both rules; {"strict", "official", "gap"} by task."""

    def one(verdicts: Sequence[Verdict]) -> dict[str, float | int] | None:
        counted = [(verdict.video, verdict.credit) for verdict in verdicts if verdict.counted]
        return statistics.mean(counted, draws, seed).figure("value") if counted else None

    strict, official = by_task(judged.strict), by_task(judged.official or [])
    found = {}
    for name in dict.fromkeys([*strict, *official]):
        ours, theirs = one(strict.get(name, [])), one(official.get(name, []))
        gap = mean(official[name]) - mean(strict[name]) if ours and theirs else None
        found[name] = {"strict": ours, "official": theirs, "gap": gap}
    return found


def reasons(scored: Sequence[Scored]) -> dict[str, int]:
    """How often each reason stands against a query, the most frequent first; failures count as one reason."""
    told = ["failed" if s.reason.startswith("failed") else s.reason or "wrong" for s in scored if s.value < 1]
    return dict(Counter(told).most_common())


def _video(verdict: Verdict) -> str:
    return verdict.video
