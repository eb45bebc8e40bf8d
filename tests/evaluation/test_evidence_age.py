"""Evidence age: which bin a query falls into, what is counted without a bin, and figures that can be worked by hand."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise

import pytest

from evaluation.evidence_age import age_of, aged, evidence_age, quantile_edges
from evaluation.predict import EvaluationError
from evaluation.scores import Scored
from whilst.sample import Answer, Event, Query, Sample, Segment, Video, validate


def asked(video: str, *queries: tuple[float, tuple[tuple[float, float], ...]], name: str = "") -> Sample:
    """Ten segments of a second from 100 s on; queries at (time, evidence)."""
    events: list[Event] = [Segment(100.0 + i, 101.0 + i) for i in range(10)]
    for i, (time, evidence) in enumerate(queries):
        events += [Query(f"q{i}", time, "which in-1 ?", evidence=evidence), Answer(time, "x", f"q{i}")]
    events.sort(key=lambda event: event.time)
    sample = Sample(name or video, Video(video, 100.0, 110.0), tuple(events))
    validate(sample)
    return sample


def scored(samples: Sequence[Sample], right: str) -> list[Scored]:
    """One score a query, in order; right: a character a query, 1 or 0."""
    queries = [(sample, query) for sample in samples for query in sample.queries()]
    return [
        Scored(s.video.path, q.id, "other", "other", "x", "x" if r == "1" else "y", r == "1", True)
        for (s, q), r in zip(queries, right, strict=True)
    ]


def means(values: Sequence[tuple[str, float]], name: str) -> dict[str, float | int]:
    """An interval function that draws nothing."""
    mean = sum(value for _, value in values) / len(values)
    return {"n": len(values), name: mean, "ci_low": mean, "ci_high": mean, "videos": len({v for v, _ in values})}


def test_the_age_is_counted_from_the_end_of_the_last_evidence() -> None:
    query = Query("q", 105.0, "?", evidence=((103.0, 104.0), (100.0, 101.5)))
    assert age_of(query, 105.0) == 1.0 and age_of(query, 103.5) == -0.5
    assert age_of(replace(query, evidence=()), 105.0) is None


def test_a_standing_query_is_due_when_it_is_answered() -> None:
    sample = Sample(
        "a",
        Video("a.mp4", 100.0, 110.0),
        (
            Segment(100.0, 101.0),
            Query("q", 101.0, "tell-when ?", "forward", window=(108.0, 110.0), evidence=((106.0, 107.0),)),
            Segment(101.0, 108.0),
            Answer(108.0, "now", "q"),
        ),
    )
    (item,) = aged([sample], scored([sample], "1"))
    assert (item.age, item.length, item.value) == (1.0, 8.0, 1.0)


def test_bins_worked_by_hand() -> None:
    """Ages 0, 1, 2, 5 in one video and 1, 9 in another; edges at 1, 5 and the end: borders belong to the later bin."""
    first = ((100.0, 101.0),)
    one = asked("a", *[(101.0 + age, first) for age in (0.0, 1.0, 2.0, 5.0)])
    two = asked("b", (102.0, first), (110.0, first))
    found = evidence_age([one, two], scored([one, two], "110101"), edges=(0, 1, 5, 9), interval=means)
    assert [(b["low"], b["high"], b["n"], b["videos"], b["accuracy"], b["median"]) for b in found["by_age"]] == [
        (0, 1, 1, 1, 1.0, 0.0),
        (1, 5, 3, 2, pytest.approx(1 / 3), 1.0),
        (5, 9, 2, 2, 1.0, 7.0),
    ]
    assert (found["queries"], found["with_evidence"], found["without_evidence"]) == (6, 6, 0)
    open_ended = evidence_age([one, two], scored([one, two], "110101"), edges=(0, 5, math.inf), interval=means)
    assert [(b["low"], b["high"], b["n"]) for b in open_ended["by_age"]] == [(0, 5, 4), (5, None, 2)]


def test_queries_without_evidence_are_counted_not_binned() -> None:
    sample = asked("a", (105.0, ()), (106.0, ((100.0, 101.0),)), (107.0, ()))
    found = evidence_age([sample], scored([sample], "010"), interval=means)
    assert (found["queries"], found["with_evidence"], found["without_evidence"]) == (3, 1, 2)
    assert [(b["n"], b["accuracy"]) for b in found["by_age"]] == [(1, 1.0)]
    assert sum(b["n"] for b in found["by_length"]) == 3, "every query has a length"
    nothing = asked("b", (105.0, ()))
    assert evidence_age([nothing], scored([nothing], "1"), interval=means)["by_age"] == []


def test_evidence_that_goes_on_has_a_bin_of_its_own() -> None:
    sample = asked("a", (105.0, ((104.0, 106.0),)), (106.0, ((100.0, 105.0),)))
    found = evidence_age([sample], scored([sample], "01"), interval=means)
    assert [(b["low"], b["high"], b["n"], b["accuracy"]) for b in found["by_age"]] == [
        (None, 0.0, 1, 0.0),
        (1.0, 1.0, 1, 1.0),
    ]


def test_quantile_bins_hold_every_query_once() -> None:
    evidence = ((100.0, 101.0),)
    samples = [asked(f"{i}", *[(101.0 + i * k / 4, evidence) for k in range(5)]) for i in range(8)]
    right = "10011" * 8
    for bins in (1, 2, 4, 7):
        found = evidence_age(samples, scored(samples, right), bins=bins, draws=50)
        for curve in (found["by_age"], found["by_length"]):
            assert sum(b["n"] for b in curve) == 40 and len(curve) <= bins
            assert all(b["ci_low"] <= b["accuracy"] <= b["ci_high"] for b in curve)
            assert all(a["high"] == b["low"] for a, b in pairwise(curve))
            total = sum(b["n"] * b["accuracy"] for b in curve)
            assert total == pytest.approx(right.count("1"))
    assert quantile_edges([2.0] * 5, 4) == [2.0, 2.0], "equal ages make one bin"
    assert quantile_edges([0.0, 1.0, 2.0, 3.0], 2) == [0.0, 1.5, 3.0]


def test_intervals_are_drawn_over_videos() -> None:
    """Ten queries of one video stand and fall together: one video says nothing, two that differ say a lot less than
    twenty independent queries would."""
    evidence = ((100.0, 101.0),)
    samples = [asked(name, *[(105.0, evidence)] * 10) for name in "ab"]
    found = evidence_age(samples, scored(samples, "1" * 10 + "0" * 10), draws=400)
    (only,) = found["by_age"]
    assert (only["ci_low"], only["ci_high"], only["videos"], only["n"]) == (0.0, 1.0, 2, 20)
    alone = evidence_age(samples[:1], scored(samples[:1], "1" * 5 + "0" * 5), draws=400)["by_age"][0]
    assert alone["ci_low"] == alone["accuracy"] == alone["ci_high"] == 0.5


def test_an_empty_bin_is_shown() -> None:
    sample = asked("a", (102.0, ((100.0, 101.0),)))
    found = evidence_age([sample], scored([sample], "1"), edges=(0, 5, 10), interval=means)
    assert [(b["n"], "accuracy" in b) for b in found["by_age"]] == [(1, True), (0, False)]


@pytest.mark.parametrize(
    ("edges", "message"),
    [((0, 0.5), "1 queries lie outside, one at 1 s"), ((0,), "must ascend"), ((5, 0), "must ascend")],
)
def test_edges_that_lose_queries_are_refused(edges: tuple[float, ...], message: str) -> None:
    sample = asked("a", (102.0, ((100.0, 101.0),)))
    with pytest.raises(EvaluationError, match=message):
        evidence_age([sample], scored([sample], "1"), edges=edges, interval=means)


def test_scores_of_other_samples_are_refused(new_sample: Callable[..., Sample]) -> None:
    one, two = asked("a", (102.0, ())), asked("b", (102.0, ()), (103.0, ()))
    with pytest.raises(EvaluationError, match="pass the scores of these samples"):
        aged([one, two], scored([two, one], "111"))
    with pytest.raises(EvaluationError, match="more scores than queries"):
        aged([one], scored([one], "1") * 2)
    with pytest.raises(EvaluationError, match="bins: 0"):
        evidence_age([two], scored([two], "11"), bins=0, interval=means)


def test_a_query_without_an_answer_is_never_due() -> None:
    one = asked("a", (102.0, ()))
    unanswered = one.with_events([event for event in one.events if not isinstance(event, Answer)])
    with pytest.raises(EvaluationError, match="query q0: no answer, so no time"):
        aged([unanswered], scored([one], "1"))
