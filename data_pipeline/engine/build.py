"""A source becomes samples: the builder plans, then tells each script. Nothing is filtered yet.

What became of a source is an `Outcome`; where filters must first have seen all samples, outcomes are kept as JSON lines
beside the sources.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import Any, TypeVar

from data_pipeline.builders.script import Builder, Plan, Script
from data_pipeline.engine.tally import Tally, from_json
from data_pipeline.source import Rejected, Source, SynthError
from data_pipeline.text.task import TextRejected, Write
from whilst.sample import Sample, from_record, to_record

T = TypeVar("T")
R = TypeVar("R")


@dataclass
class Outcome:
    """The samples of one source, all that was rejected on the way, and the counts of both (of samples and queries).

    What is rejected comes with its level: "sample" or "query"."""

    samples: list[Sample] = field(default_factory=list)
    rejected: list[tuple[str, Rejected]] = field(default_factory=list)
    tally: Tally = field(default_factory=Tally)

    def to_json(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "samples": [to_record(sample) for sample in self.samples],
            "rejected": [[level, asdict(one)] for level, one in self.rejected],
            "tally": self.tally.to_json(),
        }


def outcome_from_json(record: dict[str, Any]) -> Outcome:
    """The outcome that `to_json` wrote."""
    samples = [from_record(sample) for sample in record["samples"]]
    rejected = [(level, Rejected(**one)) for level, one in record["rejected"]]
    return Outcome(samples, rejected, from_json(record["tally"]))


def build(source: Source, builder: Builder, settings: Any, write: Write, seed: int) -> Outcome:
    """All samples of one source.

    Raises:
        SynthError: the builder's counts do not add up: a bug of the builder.
    """
    outcome = Outcome()
    try:
        plan = builder.plan(source, settings, write, seed)
    except TextRejected as error:  # a question could not be put into words, and the builder does not do without it
        plan = Plan(rejected=[Rejected(source.id, error.reason, error.detail)])
    _check(source, plan)
    tally = outcome.tally
    tally.queries.add(plan.queries)
    tally.statistics.update(plan.statistics)
    for one in plan.rejected:
        tally.samples.taken += 1
        tally.samples.reject(one.reason)
        outcome.rejected.append(("sample", one))
    for script in plan.scripts:
        tally.samples.taken += 1
        try:
            sample = builder.tell(source, script, settings, write, seed)
        except TextRejected as error:
            tally.samples.reject(error.reason)
            _lose_queries(tally, len(script.asks), "sample rejected")
            outcome.rejected.append(("sample", Rejected(script.id, error.reason, error.detail)))
            continue
        _count_queries(tally, script, sample)
        tally.samples.made += 1
        outcome.samples.append(sample)
    tally.samples.check(f"source {source.id}: samples")
    tally.queries.check(f"source {source.id}: queries")
    return outcome


def _check(source: Source, plan: Plan) -> None:
    if not plan.scripts and not plan.rejected:
        raise SynthError(f"source {source.id}: the builder gave no script and no reason; this is a bug of the builder")
    plan.queries.check(f"source {source.id}: planned queries")
    planned = sum(len(script.asks) for script in plan.scripts)
    if plan.queries.made != planned:
        raise SynthError(
            f"source {source.id}: the builder counts {plan.queries.made} queries and its scripts hold {planned}; "
            "this is a bug of the builder"
        )


def _lose_queries(tally: Tally, count: int, reason: str) -> None:
    if count:
        tally.queries.made -= count
        tally.queries.rejected[reason] += count


def _count_queries(tally: Tally, script: Script, sample: Sample) -> None:
    """Queries that the builder left out in telling are rejected; those it put in without an ask are counted as well."""
    more = len(sample.queries()) - len(script.asks)
    if more > 0:
        tally.queries.taken += more
        tally.queries.made += more
    else:
        _lose_queries(tally, -more, "not told")


def in_order(work: Callable[[T], R], items: Iterable[T], threads: int) -> Iterator[R]:
    """work(item) for every item, in the order of the items, by `threads` threads (1: by none but the caller's).

    At most 2 x `threads` items are under way, so the memory does not grow with the input. The first error, in order,
    is raised; what has not begun by then is dropped.
    """
    if threads == 1:
        yield from map(work, items)
        return
    with ThreadPoolExecutor(threads) as pool:
        waiting: deque[Future[R]] = deque()
        try:
            for item in items:
                waiting.append(pool.submit(work, item))
                if len(waiting) >= 2 * threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def holds(sample: Sample) -> Counter[str]:
    """What a sample holds: events by type, and queries by kind."""
    counts = Counter(f"events: {type(event).__name__.lower()}" for event in sample.events)
    counts.update(f"queries: {query.kind or 'of no kind'}" for query in sample.queries())
    return counts
