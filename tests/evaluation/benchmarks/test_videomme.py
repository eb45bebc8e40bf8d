"""Video-MME: both layouts, a gold by letter, and the published extraction with its faults."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from evaluation.benchmarks.base import BenchmarkError, Given
from evaluation.benchmarks.choices import first_letter
from evaluation.benchmarks.videomme import BENCHMARK, PREFIXES
from tests.evaluation.benchmarks.real import conserved, said, write


def row(id: str = "001-1", **more: Any) -> dict[str, Any]:
    options = ["A. red.", "B. blue.", "C. red.", "D. none."]
    made = {"video_id": "001", "videoID": "fF", "duration": "short", "domain": "Knowledge", "sub_category": "Law"}
    made |= {"task_type": "Counting Problem", "question_id": id, "question": "Which ?", "options": options}
    return made | {"answer": "C"} | more


def lengths(folder: Path) -> str:
    return str(write(folder / "lengths.json", {"fF": 61.5, "gG": 1800}))


def test_the_flat_layout(tmp_path: Path) -> None:
    rows = [row(), row("001-2", answer="A"), row("300-1", videoID="gG", duration="long")]
    bad = [
        row("b1", answer="E"), row("b2", duration="huge"), row("b3", videoID="unknown"), row("b4", options=["A. x"]),
        row("b5", question=3),
    ]  # fmt: skip
    path = write(tmp_path / "test.json", rows + bad)
    samples, rejected = conserved(BENCHMARK, path, durations=lengths(tmp_path))
    assert [(s.id, [(q.id, q.kind, q.time) for q in s.queries()]) for s in samples] == [
        ("fF.mp4", [("001-1", "short", 61.5), ("001-2", "short", 61.5)]),
        ("gG.mp4", [("300-1", "long", 1800.0)]),
    ]
    assert {one.id: one.reason.partition(":")[0] for one in rejected} == {
        "b1": "answer", "b2": "duration", "b3": "unknown.mp4", "b4": "options", "b5": "question"
    }  # fmt: skip
    query = samples[0].queries()[0]
    assert query.options == ("red.", "blue.", "red.", "none.")
    assert samples[0].answers_to(query.id)[0].text == "C"  # the letter: the text stands twice
    judged = [
        BENCHMARK.strict(samples[0], query, [Given(61.5, text)])[0].reason for text in ("C", "C. red.", "A", "red.")
    ]
    assert judged == ["", "", "wrong", "not one of the options"]  # two options are "red.": it cannot be told which


def test_parquet_and_template_give_the_same(tmp_path: Path) -> None:
    pq.write_table(pa.Table.from_pylist([row(), row("001-2", answer="A")]), tmp_path / "test.parquet")
    questions = [{k: v for k, v in row(id).items() if k not in ("videoID", "duration")} for id in ("001-1", "001-2")]
    questions[1]["answer"] = "A"
    nested = [{"video_id": "fF", "duration_category": "short", "questions": questions}]
    for question in questions:
        del question["video_id"]
    template = write(tmp_path / "template.json", nested)
    made = [
        conserved(BENCHMARK, path, durations=lengths(tmp_path))[0][0] for path in (tmp_path / "test.parquet", template)
    ]
    assert made[0].events == made[1].events
    with pytest.raises(BenchmarkError, match="no Parquet file"):
        (tmp_path / "bad.parquet").write_text("x")
        list(BENCHMARK.read(tmp_path / "bad.parquet"))


@pytest.mark.parametrize(
    ("reply", "letter"),
    [
        ("C", "C"),
        ("(B) blue", "B"),
        ("The answer is D.", "D"),
        ("The Answer: C", "A"),  # only "The answer" is cut out, so the A of Answer is first
        ("The best option is B", "B"),
        ("Best option: D", "B"),  # its phrase stands without a comma, so it is not cut out: the B of Best
        ("Best answer:Best option: D", "D"),  # cut out only where both follow each other
        ("CD", "C"),
        ("no idea", ""),
        ("", ""),
        ("all of these words say nothing at all of what was asked here", ""),
    ],
)
def test_the_published_extraction(reply: str, letter: str) -> None:
    assert first_letter(reply, PREFIXES, "ABCD") == letter


def test_totals_and_denominators(tmp_path: Path) -> None:
    rows = [row(), row("001-2", answer="A"), row("300-1", videoID="gG", duration="long", answer="D")]
    samples, _ = conserved(BENCHMARK, write(tmp_path / "test.json", rows), durations=lengths(tmp_path))
    letter = said(BENCHMARK.strict, samples, "D")
    assert [BENCHMARK.totals[name].of(letter) for name in ("overall", "short", "long")] == [1 / 3, 0.0, 1.0]
    assert BENCHMARK.totals["answered"].of(letter) == 1.0
    fished = said(BENCHMARK.official, samples, "ABCD")  # the first letter wins
    assert BENCHMARK.totals["overall"].of(fished) == 1 / 3
    silent = said(BENCHMARK.official, samples, "none here")
    assert not any(one.counted for one in silent) and BENCHMARK.totals["answered"].of(silent) == 0.0
    assert all(one.counted for one in said(BENCHMARK.strict, samples, "none here"))
    for text in ("", "ABCD", "YesNo"):
        assert BENCHMARK.totals["overall"].of(said(BENCHMARK.strict, samples, text)) == 0
    query = samples[0].queries()[0]
    failed = [Given(61.5, "", False, "decoder died")]
    assert BENCHMARK.official is not None
    assert BENCHMARK.official(samples[0], query, failed)[0].credit == 0
    assert BENCHMARK.strict(samples[0], query, failed)[0].reason == "failed: decoder died"
