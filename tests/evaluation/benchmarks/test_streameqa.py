"""StreamEQA: mid-stream questions, the 64 s of context, and the published reading of replies."""

from pathlib import Path
from typing import Any

import pytest

from evaluation.benchmarks.base import BenchmarkError, Given
from evaluation.benchmarks.streameqa import BENCHMARK, normalized
from tests.evaluation.benchmarks.real import conserved, said, write

OPTIONS = ["A. a cup", "B. a plate", "C. a cup", "D. a Dish"]


def row(id: int = 1, **more: Any) -> dict[str, Any]:
    made = {"id": id, "video": "kitchen-3", "task": "object", "question": "What ?", "options": OPTIONS, "gt": 2}
    return made | {"realtime": 75} | more


def test_one_stream_a_video(tmp_path: Path) -> None:
    rows = [row(1), row(2, realtime="0:30", gt=0), row(3, video="hall-1", realtime="01:00:05")]
    bad = [
        row(4, gt=4), row(5, realtime="soon"), row(6, options=[]), row(7, options=["A. x"]), row(8, task=None),
        {"id": 9, "question": "Why ?"},
    ]  # fmt: skip
    samples, rejected = conserved(BENCHMARK, write(tmp_path / "qa.json", rows + bad), videos="v")
    assert [(s.video.path, [(q.id, q.time) for q in s.queries()]) for s in samples] == [
        ("v/kitchen/kitchen-3.mp4", [("2", 30.0), ("1", 75.0)]),  # in order of time
        ("v/hall/hall-1.mp4", [("3", 3605.0)]),
    ]
    assert [one.id for one in rejected] == ["4", "5", "6", "7", "8", "9"]
    assert "open questions" in rejected[2].reason
    assert [samples[0].answers_to(id)[0].text for id in ("1", "2")] == ["C", "A"]


def test_the_published_context(tmp_path: Path) -> None:
    path = write(tmp_path / "qa.json", [row(1), row(2, realtime=30, gt=0)])
    samples, _ = conserved(BENCHMARK, path, context_seconds=64.0)
    assert [(s.video.start, s.video.end, len(s.queries())) for s in samples] == [(11.0, 75.0, 1), (0.0, 30.0, 1)]
    with pytest.raises(BenchmarkError, match="context_seconds: 0"):
        list(BENCHMARK.read(path, context_seconds=0.0))


@pytest.mark.parametrize(
    ("reply", "letter"),
    [
        ("C", "C"),
        ("B. a plate", "B"),
        ("D) no", "D"),
        ("plate", "B"),  # stands in that option
        ("a cup", "A"),  # the first option that contains it
        ("Dish", "D"),
        ("I think (C).", "C"),  # a word that is a letter
        ("A guess: B", "A"),  # the first such word
        ("cups", "cups"),  # nothing found: the reply itself, of which the first sign counts
        ("", ""),
    ],
)
def test_the_published_reading(reply: str, letter: str) -> None:
    assert normalized(reply, ["a cup", "a plate", "a cup", "a Dish"]) == letter


def test_what_the_published_run_passes_over(tmp_path: Path) -> None:
    rows = [row(1), row(2, realtime=1), row(3, options=OPTIONS[:3], realtime=40)]
    samples, _ = conserved(BENCHMARK, write(tmp_path / "qa.json", rows))
    verdicts = {one.query: one for one in said(BENCHMARK.official, samples, "C")}
    assert [verdicts[id].counted for id in ("1", "2", "3")] == [True, False, False]
    assert BENCHMARK.totals["micro"].of(list(verdicts.values())) == 1.0
    assert all(one.counted and one.credit for one in said(BENCHMARK.strict, samples, "C"))
    assert BENCHMARK.official is not None
    query = next(query for query in samples[0].queries() if query.id == "1")
    empty, stray = (BENCHMARK.official(samples[0], query, [Given(75.0, text)])[0] for text in ("", "Cups"))
    assert (empty.counted, empty.credit) == (False, 0.0)
    assert (stray.counted, stray.credit) == (True, 1.0)  # "Cups" begins with C


def test_constant_replies(tmp_path: Path) -> None:
    rows = [row(i, gt=i % 4, realtime=10 * i) for i in range(1, 9)]
    samples, _ = conserved(BENCHMARK, write(tmp_path / "qa.json", rows))
    for text in ("", "ABCD", "YesNo"):
        assert BENCHMARK.totals["micro"].of(said(BENCHMARK.strict, samples, text)) == 0
    for letter in "ABCD":
        assert BENCHMARK.totals["micro"].of(said(BENCHMARK.strict, samples, letter)) == 1 / 4
