"""What readers of questions with options share: times, letters, spans, rows of any file type."""

from pathlib import Path
from typing import Any

import pytest

from evaluation.benchmarks.base import BenchmarkError, Given
from evaluation.benchmarks.choices import (
    bare,
    choice_ask,
    files_of,
    gold_index,
    options_problem,
    put_at,
    records,
    reply_of,
    seconds_of,
    streams,
)
from tests.evaluation.benchmarks.real import sorted_out, write, write_lines


@pytest.mark.parametrize(
    ("stamp", "seconds"),
    [(75, 75.0), (0.5, 0.5), ("75", 75.0), ("1:15", 75.0), ("01:15.5", 75.5), ("01:00:05", 3605.0), ("90:00", 5400.0)],
)
def test_times(stamp: Any, seconds: float) -> None:
    assert seconds_of(stamp) == seconds


@pytest.mark.parametrize("stamp", [None, -1, "", "1:60", "1:60:00", "00:12450", "a", "-5", float("nan"), True, [5]])
def test_what_is_no_time(stamp: Any) -> None:
    assert isinstance(seconds_of(stamp), str)


def test_a_time_is_at_most_the_end() -> None:
    assert [put_at(stamp, 60.0) for stamp in (59, 60.5, 61)] == [59.0, 60.0, 60.0]
    assert "after the video's end" in str(put_at(61.5, 60.0))
    assert put_at(61.5, None) == 61.5


def test_letters_of_options() -> None:
    assert (
        bare(["A. red", "B. blue"]) == bare(["A) red", "B) blue"]) == bare(["(A) red", "(B) blue"]) == ("red", "blue")
    )
    assert bare(["A. red", "blue"]) == ("A. red", "blue")  # not all have theirs
    assert bare(["B. red", "A. blue"]) == ("B. red", "A. blue")  # not in order
    assert bare(["Apple", "Banana"]) == ("Apple", "Banana")


@pytest.mark.parametrize(
    ("answer", "index"), [("C", 2), ("(C)", 2), ("C.", 2), ("C. red", 2), ("C) red", 2), (" A ", 0), ("(B) blue", 1)]
)
def test_golds_are_letters(answer: str, index: int) -> None:
    assert gold_index(answer, 4) == index


@pytest.mark.parametrize("answer", ["E", "", "c", "Cat", "red", None, 2, "AB"])
def test_what_is_no_gold(answer: Any) -> None:
    assert "no letter of the 4 options" in str(gold_index(answer, 4))


def test_options() -> None:
    assert options_problem(["a", "b"]) == ""
    for options in (None, ["a"], ["a", ""], ["a", 3], "ab", ["x"] * 27):
        assert options_problem(options).startswith("options")


def test_rows_of_any_file_type(tmp_path: Path) -> None:
    rows = [{"a": 1}, {"a": 2}]
    assert records(write(tmp_path / "a.json", rows)) == records(write_lines(tmp_path / "a.jsonl", rows)) == rows
    with pytest.raises(BenchmarkError, match="no such file"):
        records(tmp_path / "none.json")
    with pytest.raises(BenchmarkError, match="no Parquet file"):
        records(tmp_path / "none.parquet")
    with pytest.raises(BenchmarkError, match="holds no .json files"):
        (tmp_path / "empty").mkdir()
        files_of(tmp_path / "empty")
    assert [file.name for file in files_of(tmp_path)] == ["a.json"]


def test_streams_together_and_alone() -> None:
    asks = [choice_ask(str(time), time, "Which ?", ["x", "y"], 1, "t") for time in (90.0, 30.0, 200.0)]
    [sample], _ = sorted_out(streams("n", {"v.mp4": asks}, videos="f", segment_seconds=None, end={"v.mp4": 240.0}.get))
    assert ([q.id for q in sample.queries()], sample.video.path, sample.video.end) == (
        ["30.0", "90.0", "200.0"],
        "f/v.mp4",
        240.0,
    )
    samples, _ = sorted_out(
        streams(
            "n", {"v.mp4": asks}, videos="", segment_seconds=20.0, end={}.get, context_seconds=60.0,
            alone=lambda ask: ask.query.time > 50,
        )
    )  # fmt: skip
    assert [(s.id, s.video.start, s.video.end) for s in samples] == [
        ("v.mp4", 0.0, 30.0), ("90.0", 30.0, 90.0), ("200.0", 140.0, 200.0),
    ]  # fmt: skip
    assert [segment.start for segment in samples[2].segments()] == [140.0, 160.0, 180.0]


def test_the_reply_that_a_published_rule_reads() -> None:
    assert reply_of([]) is None
    assert reply_of([Given(1, "a"), Given(2, "b")]) == "a"
    assert reply_of([Given(1, "a"), Given(2, "", False, "gone")]) is None
