"""What every benchmark gives: how its files become Samples, how replies are judged, and which totals are made of that.

A benchmark is one file of this folder. It reads the published annotation files, judges every reply twice (strictly, and
as the published scorer does), and names its totals. `official` exists where there is a published rule; it reproduces
that rule bit for bit, faults included, so that figures can be compared with papers. What to believe is `strict`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from whilst.sample import Query, Sample


class BenchmarkError(ValueError):
    """An annotation or result file that cannot be read as this benchmark's; names the file, the field and the fix."""


@dataclass(frozen=True)
class Rejected:
    """A row of an annotation file that became no sample, and why. Rejections are counted and shown, never dropped."""

    id: str
    reason: str


@dataclass(frozen=True)
class Given:
    """A reply to a query at a time (s); empty text is silence. finished: not cut off by the token limit.

    failure: why there is no reply, where the run failed on the sample; such an item counts as wrong and is listed.
    """

    time: float
    text: str
    finished: bool = True
    failure: str = ""


@dataclass(frozen=True)
class Verdict:
    """One judged item. credit: 0 to 1. counted: whether it stands in the denominator (always, when judged strictly).

    reason: why it has no full credit, in a few words ("wrong", "no reply", "cut off", "not one of the options",
    "failed: ..."); "" for full credit. Items of one video are not independent: intervals are drawn over `video`.
    gold: what is right, where it is one of a few (a letter, a count, yes or no); "" elsewhere. chance: the credit that
    a uniform guess among what may be replied expects, 0 where nothing is known of that. part: which item of a query
    this is, where it is several (polling); (sample, query, part) names an item in both sorts of verdicts.
    """

    video: str
    sample: str
    query: str
    task: str
    credit: float
    reply: str
    reason: str = ""
    counted: bool = True
    gold: str = ""
    chance: float = 0.0
    part: int = 0


@dataclass(frozen=True)
class Total:
    """A figure made of verdicts. definition: one sentence that says what is averaged over what."""

    definition: str
    of: Callable[[Sequence[Verdict]], float]


# all replies to one query, in order of time -> its verdicts (several where a query is several items, as in polling)
Judge = Callable[[Sample, Query, Sequence[Given]], Sequence[Verdict]]


@dataclass(frozen=True)
class Benchmark:
    """read: annotation files -> samples without segments or with them; `meta["benchmark"]` is the name.

    totals: by name; the first is the headline. tested_on: "real files" or "fixtures in the documented format".
    track: how the model is made to speak: "asked" (a query wants one reply), "poll" (asked again and again) or "push"
    (it speaks when it wants to). Figures of different tracks are never averaged.
    """

    name: str
    source: str
    licence: str
    tested_on: str
    track: str
    read: Callable[..., Iterator[Sample | Rejected]]
    strict: Judge
    official: Judge | None
    totals: Mapping[str, Total]
    options: Mapping[str, str] = field(default_factory=dict)  # keyword arguments of `read`, and what they do
    # published result files -> verdicts by the official rule, and by the strict one, where such files exist
    results: Callable[[Path, Path], tuple[Sequence[Verdict], Sequence[Verdict]]] | None = None
    # how many queries an annotation file asks, counted without the reader: queries read and rejected must add up to it
    count: Callable[[Path], int] | None = None
    contains: Sequence[str] = ()  # datasets its videos are taken from: keep them out of what a checkpoint is trained on


def verdicts_of(
    rule: Judge, samples: Sequence[Sample], given: Mapping[tuple[str, str], Sequence[Given]]
) -> list[Verdict]:
    """Verdicts of every query of every sample; `given` by (sample id, query id), and nothing there is no reply."""
    return [
        verdict
        for sample in samples
        for query in sample.queries()
        for verdict in rule(sample, query, given.get((sample.id, query.id), ()))
    ]


def mean(verdicts: Sequence[Verdict]) -> float:
    """Mean credit of what counts; 0 where nothing does."""
    credits = [verdict.credit for verdict in verdicts if verdict.counted]
    return sum(credits) / len(credits) if credits else 0.0


def by_task(verdicts: Sequence[Verdict]) -> dict[str, list[Verdict]]:
    """Verdicts of each task, in the order in which tasks come."""
    tasks: dict[str, list[Verdict]] = {}
    for verdict in verdicts:
        tasks.setdefault(verdict.task, []).append(verdict)
    return tasks


def mean_of_tasks(verdicts: Sequence[Verdict]) -> float:
    """Mean over tasks of their mean credit."""
    means = [mean(of_task) for of_task in by_task(verdicts).values()]
    return sum(means) / len(means) if means else 0.0


def only(tasks: Sequence[str], of: Callable[[Sequence[Verdict]], float] = mean) -> Callable[[Sequence[Verdict]], float]:
    """The figure `of` the verdicts of these tasks alone."""
    return lambda verdicts: of([verdict for verdict in verdicts if verdict.task in tasks])


def balanced(verdicts: Sequence[Verdict]) -> float:
    """Mean over tasks of the mean over what is right (`gold`) of the mean credit: a reply that never changes earns one
    part in as many as there are different golds, however uneven these are."""
    means = []
    for of_task in by_task([verdict for verdict in verdicts if verdict.counted]).values():
        golds: dict[str, list[Verdict]] = {}
        for verdict in of_task:
            golds.setdefault(verdict.gold, []).append(verdict)
        means.append(sum(mean(of_gold) for of_gold in golds.values()) / len(golds))
    return sum(means) / len(means) if means else 0.0
