"""Where segments end, and what becomes of a query that breaks a rule."""

import random
from pathlib import Path

import pytest

from evaluation.benchmarks.base import BenchmarkError, Rejected
from evaluation.benchmarks.reading import SHORTEST, asked_once, cuts, duration_of, item_of, stream
from tests.evaluation.benchmarks.real import sorted_out, write
from whilst.sample import Query, Sample, Video
from whilst.video import write_video


@pytest.mark.parametrize(
    ("times", "seconds", "start", "ends"),
    [
        ([25.0], 10.0, 0.0, [10.0, 20.0, 25.0]),
        ([20.0], 10.0, 0.0, [10.0, 20.0]),
        ([20.4], 10.0, 0.0, [10.0, 20.4]),  # no piece of 0.4 s: the regular end gives way
        ([7.0, 7.5, 30.0], 10.0, 0.0, [7.0, 10.0, 20.0, 30.0]),  # nor one of 0.5 s: put with what was there at 7 s
        ([9.5, 30.0], 10.0, 0.0, [9.5, 20.0, 30.0]),
        ([0.5], 10.0, 0.0, []),
        ([100.0], 30.0, 40.0, [70.0, 100.0]),
        ([], 10.0, 0.0, []),
    ],
)
def test_segments_end_at_queries_and_every_so_many_seconds(
    times: list[float], seconds: float, start: float, ends: list[float]
) -> None:
    assert cuts(times, seconds, start) == ends


def test_no_segment_is_shorter_than_a_second_or_too_long() -> None:
    rng = random.Random(0)
    for _ in range(300):
        times = [round(rng.uniform(0, 60), rng.choice((0, 1, 3))) for _ in range(rng.randint(1, 12))]
        seconds = rng.choice((1.0, 2.0, 3.7, 10.0, 100.0))
        ends = cuts(times, seconds)
        lengths = [end - start for start, end in zip([0.0, *ends], ends, strict=False)]
        assert all(SHORTEST - 1e-9 <= length <= seconds + 2 * SHORTEST + 1e-9 for length in lengths)
        for time in times:  # what a query sees is at most a second old
            assert time - max([0.0, *[end for end in ends if end <= time]]) < SHORTEST


def asks(*times: float) -> list[Query]:
    return [Query(f"q{i}", time, "?") for i, time in enumerate(times)]


def test_only_the_query_that_breaks_a_rule_is_rejected() -> None:
    queries = [*asks(3.0, 5.0), Query("bad", 4.0, " "), Query("late", 4.0, "?", knowable_at=9.0)]
    made = stream("b", "s", "v.mp4", [asked_once(q, "yes", {"gold": 1}) for q in queries], segment_seconds=2.0)
    [sample], rejected = sorted_out(made)
    assert [query.id for query in sample.queries()] == ["q0", "q1"]
    assert {one.id for one in rejected} == {"bad", "late"}
    assert [segment.end for segment in sample.segments()] == [2.0, 3.0, 4.0, 5.0]
    assert item_of(sample, sample.queries()[0]) == {"gold": 1}


def test_queries_of_one_name_are_all_rejected() -> None:
    made = list(stream("b", "s", "v.mp4", [asked_once(q, "a", {}) for q in asks(1.0) * 2], segment_seconds=None))
    assert len(made) == 2 and all(isinstance(one, Rejected) and "a second query" in one.reason for one in made)


def test_a_segment_needs_a_length() -> None:
    with pytest.raises(BenchmarkError, match=r"segment_seconds: 0\.2: must be at least 1\.0 s"):
        list(stream("b", "s", "v.mp4", [asked_once(asks(3.0)[0], "a", {})], segment_seconds=0.2))


def test_a_sample_of_another_reader_is_an_error() -> None:
    [query] = asks(1.0)
    with pytest.raises(BenchmarkError, match="meta.items has no 'q0'"):
        item_of(Sample("s", Video("v.mp4"), (query,)), query)


def test_durations_come_from_a_file_or_from_the_video(tmp_path: Path) -> None:
    import numpy as np

    write_video(tmp_path / "a.mp4", np.zeros((8, 32, 32, 3), np.uint8), 4.0)
    assert duration_of(str(tmp_path), None)("a.mp4") == pytest.approx(2.0)
    assert duration_of(str(tmp_path), None)("b.mp4") is None
    assert duration_of("", None)("a.mp4") is None
    lengths = write(tmp_path / "lengths.json", {"a": 7})
    assert duration_of(str(tmp_path), lengths)("deep/a.mp4") == 7.0
    with pytest.raises(BenchmarkError, match="one JSON object of video -> seconds"):
        duration_of("", write(tmp_path / "bad.json", {"a": "7"}))
