"""Inf-Streams-Eval: windows of a game in one stream, what a judge is shown, and win rates of both orders."""

from pathlib import Path
from typing import Any

import pytest

from evaluation.benchmarks.base import BenchmarkError, Given
from evaluation.benchmarks.inf_streams import BENCHMARK, commentary, win_rate, win_rate_by_video
from tests.evaluation.benchmarks.real import sorted_out, write_lines
from whilst.sample import Answer, Sample, Silence

FIRST = [[1000, 1002, "kick off"], [1002, 1003.5, "a pass"], [1099, 1100, "half"]]
SECOND = [[1100, 1101, "again"], [1198, 1200, "end"]]


def game(content: Any, video: str = "games/g.mp4") -> dict[str, Any]:
    return {"video": video, "title": "A final", "content": content}


def read(tmp_path: Path, *rows: dict[str, Any], **options: Any) -> tuple[list[Sample], list[Any]]:
    return sorted_out(BENCHMARK.read(write_lines(tmp_path / "eval.jsonl", rows), **options))


def test_one_stream_a_game(tmp_path: Path) -> None:
    bad = [game([]), game([[5, 4, "x"]]), game([[1, 2]]), game([[1, 2, " "]]), game([["a", 2, "x"]]), game(3)]
    short = game([[1, 1.5, "x"]])
    samples, rejected = read(tmp_path, game(SECOND), game(FIRST), game(FIRST, "h.mp4"), *bad, short)
    spans = [dict(s.meta["items"])[s.queries()[0].id]["spans"] for s in samples]  # type: ignore[arg-type]
    assert spans == [[[1000, 1100], [1100, 1200]], [[1000, 1100]]]
    assert sum(map(len, spans)) + len(rejected) == 3 + 7  # windows and rejections are all lines
    sample = samples[0]
    assert (sample.queries()[0].time, sample.video.path) == (1000.0, "games/g.mp4")
    polls = [event for event in sample.events if isinstance(event, (Answer, Silence))]
    assert [polls[0].time, polls[-1].time, len(polls)] == [1001.0, 1200.0, 200]
    told = [(e.time, e.text) for e in polls if isinstance(e, Answer)]
    assert told == [(1002.0, "kick off"), (1004.0, "a pass"), (1100.0, "half"), (1101.0, "again"), (1200.0, "end")]
    assert BENCHMARK.official is None and BENCHMARK.track == "poll"


def test_content_after_the_video_is_rejected(tmp_path: Path) -> None:
    lengths = tmp_path / "lengths.json"
    lengths.write_text('{"g.mp4": 1150}')
    samples, rejected = read(tmp_path, game(FIRST), game(SECOND), durations=str(lengths))
    assert len(samples) == 1 and "ends after the video" in rejected[0].reason


def test_what_a_judge_is_shown() -> None:
    given = [Given(1100.9, "b"), Given(1000.5, "no"), Given(1001.0, " a "), Given(1101.0, "late"), Given(1050.0, " ")]
    assert commentary(given, 1000, 1100) == "a b"  # whole seconds in (1000, 1100]
    assert commentary([Given(1050.0, "x", False, "gone")], 1000, 1100) == ""


def test_timing_alone(tmp_path: Path) -> None:
    [sample], _ = read(tmp_path, game(FIRST), game(SECOND))
    query = sample.queries()[0]
    verdicts = BENCHMARK.strict(sample, query, [Given(1050.0, "go"), Given(1150.0, "go", finished=False)])
    assert [(one.credit, one.reason) for one in verdicts] == [(1.0, ""), (0.0, "cut off")]
    assert BENCHMARK.totals["spoken"].of(verdicts) == 0.5
    assert {one.reason for one in BENCHMARK.strict(sample, query, [])} == {"no reply"}
    failed = BENCHMARK.strict(sample, query, [Given(1050.0, "go"), Given(1051.0, "", False, "gone")])
    assert {one.reason for one in failed} == {"failed: gone"}


def vote(ab: str, ba: str, start: int = 0, video: str = "g") -> dict[str, Any]:
    votes = {"A": (ab == "A") + (ba == "A"), "B": (ab == "B") + (ba == "B")}
    return {"video": video, "start": start, "end": start + 100, "votes": votes, "judge": {"vote_ab": ab, "vote_ba": ba}}


def test_win_rates_of_both_orders() -> None:
    rows = [vote("A", "A", 0), vote("A", "B", 100), vote("A", "B", 200), vote("B", "B", 300)]
    found = {name: figure.value for name, figure in win_rate(rows).items()}
    assert found == {
        "win_rate": 4 / 8,  # votes for A: 2 + 1 + 1 + 0
        "win_rate_shown_first": 3 / 4,
        "win_rate_shown_second": 1 / 4,
        "consistent_wins": 1 / 4,
        "order_consistency": 2 / 4,  # the second and third window flip with the order
    }
    other = {name: figure.value for name, figure in win_rate(rows, "B").items()}
    assert other["win_rate"] == 1 - 4 / 8
    assert other["win_rate_shown_first"] == 1 - found["win_rate_shown_second"]
    assert sum(row["votes"]["A"] for row in rows) / 8 == found["win_rate"]  # the published sum
    assert all("4 windows" in figure.definition for figure in win_rate(rows).values())


def test_a_judge_that_prefers_what_comes_first_has_no_consistency() -> None:
    found = win_rate([vote("A", "B", start) for start in range(0, 500, 100)])
    assert (found["win_rate"].value, found["order_consistency"].value) == (0.5, 0.0)
    assert (found["win_rate_shown_first"].value, found["win_rate_shown_second"].value) == (1.0, 0.0)


def test_a_window_counts_once_and_needs_both_votes() -> None:
    assert win_rate([vote("A", "A"), vote("B", "B")])["win_rate"].value == 0.0  # the last verdict of a window
    assert win_rate([])["win_rate"].value is None
    with pytest.raises(BenchmarkError, match="vote_ab and vote_ba"):
        win_rate([{"video": "g", "judge": {"vote_ab": "A"}}])
    by_video = win_rate_by_video([vote("A", "A", 0, "g"), vote("B", "B", 0, "h")])
    assert [by_video[video]["win_rate"].value for video in ("g", "h")] == [1.0, 0.0]
