"""LongVideoBench: both layouts, gold by index, the test split, and the published rule without its dice."""

from pathlib import Path
from typing import Any

import pytest

from evaluation.benchmarks.base import Given
from evaluation.benchmarks.longvideobench import BENCHMARK, GUESSED
from tests.evaluation.benchmarks.real import conserved, said, write


def row(id: str = "v_0", **more: Any) -> dict[str, Any]:
    made = {"id": id, "video_id": "v", "video_path": "v.mp4", "question": "What ?", "position": [10, 20]}
    made |= {"candidates": ["a dog", "a cat", "a dog"], "correct_choice": 2, "question_category": "TOS"}
    return made | {"topic_category": "KG", "duration": 66.0, "duration_group": 60, "subtitle_path": "v.json"} | more


def test_rows(tmp_path: Path) -> None:
    options = {f"option{i}": text for i, text in enumerate(["one", "two", "three", "N/A", "N/A"])}
    parquet_like = {k: v for k, v in row("v_1", correct_choice=0).items() if k != "candidates"} | options
    bad = [
        row("test", correct_choice=-1), row("b1", correct_choice=3), row("b2", duration_group=61),
        row("b3", duration=0), row("b4", candidates=["x"]), row("b5", question=None),
    ]  # fmt: skip
    none = {k: v for k, v in row("gone").items() if k != "correct_choice"}
    samples, rejected = conserved(BENCHMARK, write(tmp_path / "lvb_val.json", [row(), parquet_like, *bad, none]))
    [sample] = samples
    assert [(q.id, q.time, q.kind, q.options) for q in sample.queries()] == [
        ("v_0", 66.0, "60", ("a dog", "a cat", "a dog")),
        ("v_1", 66.0, "60", ("one", "two", "three")),
    ]
    assert [sample.answers_to(q.id)[0].text for q in sample.queries()] == ["C", "A"]
    assert "test split" in rejected[0].reason and "test split" in rejected[-1].reason
    assert [one.id for one in rejected] == ["test", "b1", "b2", "b3", "b4", "b5", "gone"]
    assert sample.video.end == 66.0


def test_a_shorter_file_ends_the_video(tmp_path: Path) -> None:
    known = write(tmp_path / "lengths.json", {"v.mp4": 65.2})
    [sample], _ = conserved(
        BENCHMARK, write(tmp_path / "lvb_val.json", [row()]), durations=str(known), segment_seconds=30.0
    )
    assert sample.queries()[0].time == 65.2
    assert [segment.end for segment in sample.segments()] == [30.0, 60.0, 65.2]


@pytest.mark.parametrize(
    ("reply", "credit", "reason"),
    [
        ("C", 1.0, ""),
        ("The answer is (C)", 1.0, ""),
        ("Best option: C", 1.0, ""),
        ("An Answer: C", 0.0, "wrong"),  # the A of An
        ("E", 0.0, "wrong"),  # a letter that no option has
        ("i do not know", 1 / 3, GUESSED),  # published: one of three at random
        ("", 1 / 3, GUESSED),
    ],
)
def test_the_published_rule(tmp_path: Path, reply: str, credit: float, reason: str) -> None:
    [sample], _ = conserved(BENCHMARK, write(tmp_path / "lvb_val.json", [row()]))
    assert BENCHMARK.official is not None
    [verdict] = BENCHMARK.official(sample, sample.queries()[0], [Given(66.0, reply)])
    assert (verdict.credit, verdict.reason, verdict.counted) == (credit, reason, True)


def test_totals(tmp_path: Path) -> None:
    rows = [row(), row("w_0", video_path="w.mp4", duration_group=3600, duration=3000, correct_choice=0)]
    samples, _ = conserved(BENCHMARK, write(tmp_path / "lvb_val.json", rows))
    verdicts = said(BENCHMARK.strict, samples, "C")
    assert [BENCHMARK.totals[name].of(verdicts) for name in ("overall", "60s", "3600s", "15s")] == [0.5, 1.0, 0.0, 0.0]
    assert {one.chance for one in verdicts} == {1 / 3}
    silent = said(BENCHMARK.strict, samples, "")
    assert {one.reason for one in silent} == {"no reply"} and BENCHMARK.totals["overall"].of(silent) == 0
