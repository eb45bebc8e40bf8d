"""Video-Holmes: both layouts, options that stand twice, and the published order of letters."""

import json
from pathlib import Path
from typing import Any

import pytest

from evaluation.benchmarks import video_holmes
from evaluation.benchmarks.base import Given
from evaluation.benchmarks.video_holmes import BENCHMARK, official_letter
from tests.evaluation.benchmarks.real import conserved, real, said, sorted_out, write


def row(answer: str = "F", **more: Any) -> dict[str, Any]:
    options = dict(zip("ABCDEF", ("one", "two", "one", "four", "five", "six"), strict=True))
    made = {"video ID": "x1", "Question ID": "SR_1", "Question Type": "SR", "Question": "Who ?", "Options": options}
    return made | {"Answer": answer, "Explanation": "..."} | more


@pytest.mark.parametrize(
    ("reply", "letter"),
    [
        ("<think>A: no</think><answer>C</answer>", "C"),
        ("<answer>A</answer> no, <answer> D: four </answer>", "D"),
        ("F", "F"),
        ("BA", "A"),  # letters are tried in order, not the text
        ("B: two, not A", "B"),
        ("[E]", "E"),
        ("I choose D", "D"),
        ("wrong", "WRONG"),
        ("", "WRONG"),
        ("Because of B ", "B"),  # "B " goes before the B of "Because"
        ("Answer: F", "A"),  # the A of "Answer"
        ("ABCDEF", "A"),
    ],
)
def test_the_published_order_of_letters(reply: str, letter: str) -> None:
    assert official_letter(reply) == letter


def test_the_official_layout(tmp_path: Path) -> None:
    rows = [row(), row("C", **{"Question ID": "TA_2", "Question Type": "TA"}), row("G", **{"Question ID": "bad"})]
    rows.append(row(**{"Question ID": "none", "video ID": "x2"}))
    path = write(tmp_path / "test.json", rows)
    lengths = write(tmp_path / "lengths.json", {"x1": 61.3})
    [sample], rejected = conserved(BENCHMARK, path, durations=str(lengths), segment_seconds=20.0)
    assert [one.id for one in rejected] == ["bad", "none"]
    assert (
        "no letter of the options" in rejected[0].reason and "x2.mp4: its duration is not known" in rejected[1].reason
    )
    assert [(q.id, q.kind, q.time) for q in sample.queries()] == [("SR_1", "SR", 61.3), ("TA_2", "TA", 61.3)]
    assert [sample.answers_to(q.id)[0].text for q in sample.queries()] == ["F", "C"]
    assert [segment.end for segment in sample.segments()] == [20.0, 40.0, 60.0, 61.3]
    query = sample.queries()[1]
    assert video_holmes.strict(sample, query, [Given(61.3, "C")])[0].credit == 1
    assert video_holmes.strict(sample, query, [Given(61.3, "A")])[0].credit == 0  # the same text, another letter
    assert video_holmes.strict(sample, query, [Given(61.3, "one")])[0].reason == "not one of the options"
    failed = video_holmes.official(sample, query, [Given(61.3, "", False, "C: gone")])[0]
    assert (failed.credit, failed.counted) == (0, True)
    assert video_holmes.official(sample, query, [])[0].credit == 0


def test_without_a_duration_a_question_is_rejected(tmp_path: Path) -> None:
    samples, rejected = conserved(BENCHMARK, write(tmp_path / "test.json", [row()]))
    assert not samples and "give `durations`, or the folder of videos" in rejected[0].reason


def test_the_real_file(tmp_path: Path) -> None:
    path = real("video_holmes", "test.json")
    rows = json.loads(path.read_text())
    lengths = write(tmp_path / "lengths.json", {one["video"]: 150.0 for one in rows})
    samples, rejected = conserved(BENCHMARK, path, durations=str(lengths))
    assert (len(samples), len(rejected), len(rows)) == (270, 0, 1837)
    golds = [item["golds"] for s in samples for item in dict(s.meta["items"]).values()]  # type: ignore[arg-type]
    assert sum(len(gold) > 1 for gold in golds) == 7  # eight rows have options of one text; in seven it is the answer's
    for text in ("", "ABCDEF", "YesNo", "A B"):
        assert BENCHMARK.totals["micro"].of(said(video_holmes.strict, samples, text)) == 0
    for letter in "ABCDEF":
        verdicts = said(video_holmes.strict, samples, letter)
        assert BENCHMARK.totals["balanced"].of(verdicts) <= 1 / 6 + 7 / len(verdicts)
    assert BENCHMARK.totals["micro"].of(said(video_holmes.official, samples, "ABCDEF")) > 0.1
    assert len(sorted_out(BENCHMARK.read(path))[1]) == 1837
