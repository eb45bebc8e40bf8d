"""StreamingBench: both layouts, times that mislead, the published count, and outputs that are due at a moment."""

import json
from pathlib import Path
from typing import Any

import pytest

from evaluation.benchmarks import streaming_bench
from evaluation.benchmarks.base import BenchmarkError, Given
from evaluation.benchmarks.streaming_bench import BENCHMARK, PROACTIVE, results, seconds_of
from tests.evaluation.benchmarks.real import conserved, real, said, sorted_out, write
from whilst.sample import Answer, Silence


def question(stamp: str, answer: str = "C", **more: Any) -> dict[str, Any]:
    options = ["A. a map.", "B. a map.", "C. an inn.", "D. a hut."]
    row = {"task_type": "Object Recognition", "question": "What is it ?", "time_stamp": stamp, "answer": answer}
    return row | {"options": options, "required_ability": "working memory"} | more


def entry(video: str, *questions: dict[str, Any]) -> dict[str, Any]:
    return {"time": "[0:00:00 - 0:05:00]", "video_path": f"./videos/{video}", "questions": list(questions)}


def proactive(stamp: str, due: str, output: str = "3") -> dict[str, Any]:
    row = {"task_type": "Proactive Output", "question": 'At 3 points for USA, output "3".', "time_stamp": stamp}
    return row | {"ground_truth_time_stamp": due, "ground_truth_output": output, "required_ability": "working memory"}


@pytest.mark.parametrize(
    ("stamp", "seconds"), [("00:03:10", 190.0), ("3:10", 190.0), ("00:00:06", 6.0), ("01:00:00", 3600.0)]
)
def test_time_stamps(stamp: str, seconds: float) -> None:
    assert seconds_of(stamp) == seconds


@pytest.mark.parametrize("stamp", ["00:12450", "05:11:00", "00:61:00", "1:2:3:4", "", "12"])
def test_time_stamps_that_are_none(stamp: str) -> None:
    found = seconds_of(stamp)
    assert isinstance(found, str) and repr(stamp) in found


def test_the_official_layout(tmp_path: Path) -> None:
    rows = [
        entry("a.mp4", question("00:00:40"), question("00:12450")),
        entry("b.mp4", question("05:11:00"), question("00:01:00", "E")),
        entry("a.mp4", question("00:00:06", "B", options=["one", "two"], task_type="Counting")),
    ]
    samples, rejected = conserved(BENCHMARK, write(tmp_path / "real.json", rows), videos="v", segment_seconds=20.0)
    [sample] = samples
    assert (sample.id, sample.video.path) == ("videos/a.mp4", "v/videos/a.mp4")
    assert [(q.id, q.time, q.kind) for q in sample.queries()] == [
        ("a/2", 6.0, "Counting"),
        ("a/0", 40.0, "Object Recognition"),
    ]
    assert sample.queries()[1].options == ("a map.", "a map.", "an inn.", "a hut.")
    assert [sample.answers_to(q.id)[0].text for q in sample.queries()] == ["B", "C"]
    assert [segment.end for segment in sample.segments()] == [6.0, 20.0, 40.0]
    assert {one.id: one.reason for one in rejected} == {
        "a/1": "time_stamp: '00:12450' is no HH:MM:SS",
        "b/0": "time_stamp: '05:11:00' is 18660 s; no video lasts over an hour",
        "b/1": "answer: 'E' is no letter of the 4 options",
    }


def test_a_question_after_the_end_is_rejected(tmp_path: Path) -> None:
    path = write(tmp_path / "real.json", [entry("a.mp4", question("00:00:40"), question("00:00:30"))])
    lengths = write(tmp_path / "lengths.json", {"a.mp4": 29.6})
    [sample], [rejected] = conserved(BENCHMARK, path, durations=str(lengths))
    assert rejected.id == "a/0" and "40 s is after the video's end, 29.6 s" in rejected.reason
    assert (sample.queries()[0].time, sample.video.end) == (29.6, 29.6)


def test_with_a_context_each_question_has_its_own_sample(tmp_path: Path) -> None:
    path = write(tmp_path / "real.json", [entry("a.mp4", question("00:02:00"), question("00:00:30"))])
    samples, _ = conserved(BENCHMARK, path, context_seconds=60.0, segment_seconds=25.0)
    assert [(s.id, s.video.start, s.video.end) for s in samples] == [("a/0", 60.0, 120.0), ("a/1", 0.0, 30.0)]
    assert [(s.start, s.end) for s in samples[0].segments()] == [(60, 85), (85, 110), (110, 120)]
    with pytest.raises(BenchmarkError, match="context_seconds"):
        list(BENCHMARK.read(path, context_seconds=0.0))


def test_sequential_questions_tell_the_right_answers_before(tmp_path: Path) -> None:
    rows = [
        [entry("a.mp4", question("00:00:10", "A")), entry("a.mp4", question("00:00:20", "D"))],
        [entry("b.mp4", question("00:00:10"))],
    ]
    first, second = conserved(BENCHMARK, write(tmp_path / "sqa.json", rows))[0]
    assert "Right answer" not in first.queries()[0].text
    assert "Right answer: A\nWhat is it ?" in first.queries()[1].text
    assert "Right answer" not in second.queries()[0].text


def test_the_official_count_looks_at_the_first_character() -> None:
    count = streaming_bench.official_choice
    assert count("C. an inn", ["C"]) == count("Certainly B", ["C"]) == (1.0, True)
    assert count("(C)", ["C"]) == count(" C", ["C"]) == (0.0, True)
    assert count("", ["C"]) == (0.0, False)  # leaves the denominator


def test_result_files_are_the_annotations_with_replies(tmp_path: Path) -> None:
    rows = [entry("a.mp4", question("00:00:40"), question("00:12450", "A"), question("00:00:50"), question("00:00:55"))]
    annotations = write(tmp_path / "real.json", rows)
    for row, reply in zip(rows[0]["questions"], ("C", "Certainly", "", "Can't tell"), strict=True):
        row["M"] = reply
    official, strict = results(annotations, write(tmp_path / "out.json", rows))
    assert [(v.credit, v.counted) for v in official] == [(1, True), (0, True), (0, False), (1, True)]
    assert [v.reason for v in strict] == ["", "not one of the options", "no reply", "not one of the options"]
    assert BENCHMARK.totals["micro"].of(official) == 2 / 3
    assert BENCHMARK.totals["micro"].of(strict) == 1 / 4
    with pytest.raises(BenchmarkError, match="under the name of one model, found: none"):
        results(annotations, annotations)
    rows[0]["questions"][0]["N"] = "A"
    with pytest.raises(BenchmarkError, match="found: M, N"):
        results(annotations, write(tmp_path / "two.json", rows))


def test_the_real_file() -> None:
    path = real("streaming_bench", "real_time_visual_understanding.json")
    samples, rejected = conserved(BENCHMARK, path, segment_seconds=30.0)
    assert (len(samples), len(rejected)) == (499, 0)
    rows = json.loads(path.read_text())
    assert sum(len(sample.queries()) for sample in samples) == len(rows) == 2498
    [double] = [s for s in samples if s.id == "videos/sample_463_real.mp4"]
    items = double.meta["items"]
    assert isinstance(items, dict) and [0, 2] in [item["golds"] for item in items.values()]
    for sample in samples:
        times = [query.time for query in sample.queries()]
        assert times == sorted(times) and sample.segments()[-1].end == times[-1] == sample.video.end
    strict, official = streaming_bench.strict, streaming_bench.official
    micro, balanced = BENCHMARK.totals["micro"].of, BENCHMARK.totals["balanced"].of
    for text in ("", "ABCD", "YesNo", "A B C D", "All of them"):
        assert micro(said(strict, samples, text)) == 0
    assert micro(said(official, samples, "ABCD")) == micro(said(official, samples, "A")) > 0.2
    assert not any(verdict.counted for verdict in said(official, samples, ""))
    for letter in "ABCD":
        verdicts = said(strict, samples, letter)
        chance = sum(verdict.chance for verdict in verdicts) / len(verdicts)
        # one row has two right letters, of which one is its gold
        assert balanced(verdicts) <= chance + 1 / len(verdicts)


# ---- Proactive outputs.


@pytest.fixture
def standing(tmp_path: Path) -> Path:
    return write(tmp_path / "proactive.json", [entry("a.mp4", proactive("00:00:20", "00:00:24"))])


def test_a_request_stands_until_four_seconds_after_the_right_time(standing: Path) -> None:
    [sample], _ = conserved(PROACTIVE, standing, segment_seconds=10.0)
    [query] = sample.queries()
    assert (query.time, query.window, query.knowable_at) == (20.0, (22.0, 26.0), 24.0)
    put = [(e.time, type(e)) for e in sample.events if isinstance(e, (Answer, Silence))]
    assert put == [(float(t), Answer if t == 24 else Silence) for t in range(21, 29)]
    assert [a.text for a in sample.answers_to(query.id)] == ["3"]
    assert "right time" not in query.text and "yes" not in query.text.lower()  # nothing of the published prompt
    assert {segment.end for segment in sample.segments()} >= set(map(float, range(21, 29)))


@pytest.mark.parametrize(
    ("given", "official", "strict", "reasons"),
    [
        ([Given(24.0, "3")], (1, 1), (1, 1), ("", "")),
        ([Given(22.0, ""), Given(23.0, "3.")], (1, 1), (1, 1), ("", "")),
        ([Given(22.0, "It is 13 now")], (1, 1), (1, 0), ("", "wrong")),
        ([Given(26.0, "three")], (1, 0), (1, 0), ("", "wrong")),
        ([Given(21.0, "3"), Given(24.0, "3")], (0, 0), (0, 0), ("too early", "too early")),
        ([Given(27.0, "3")], (0, 0), (0, 0), ("too late", "too late")),
        ([Given(24.0, "3", finished=False)], (1, 1), (0, 0), ("cut off", "cut off")),
        ([Given(float(t), "") for t in range(21, 29)], (0, 0), (0, 0), ("no reply", "no reply")),
        ([], (0, 0), (0, 0), ("no reply", "no reply")),
    ],
)
def test_what_is_said_first_counts(
    standing: Path, given: list[Given], official: tuple[int, int], strict: tuple[int, int], reasons: tuple[str, str]
) -> None:
    [sample], _ = sorted_out(PROACTIVE.read(standing))
    [query] = sample.queries()
    verdicts = streaming_bench.strict_proactive(sample, query, given)
    assert tuple(v.credit for v in verdicts) == strict and tuple(v.reason for v in verdicts) == reasons
    assert tuple(v.credit for v in streaming_bench.official_proactive(sample, query, given)) == official


def test_a_failed_stream_counts_strictly_alone(standing: Path) -> None:
    [sample], _ = sorted_out(PROACTIVE.read(standing))
    [query] = sample.queries()
    given = [Given(20.0, "", False, "no such file")]
    assert not any(v.counted for v in streaming_bench.official_proactive(sample, query, given))
    assert [(v.counted, v.reason) for v in streaming_bench.strict_proactive(sample, query, given)] == [
        (True, "failed: no such file")
    ] * 2


def test_questions_of_the_other_benchmark_and_bad_times_are_rejected(tmp_path: Path) -> None:
    rows = [entry("a.mp4", proactive("00:00:20", "00:00:10"), proactive("00:00:01", "00:99:00"), question("00:00:05"))]
    path = write(tmp_path / "mixed.json", rows)
    samples, rejected = conserved(PROACTIVE, path)
    assert not samples and [one.id for one in rejected] == ["a/0", "a/1", "a/2"]
    assert "before the request" in rejected[0].reason and "ground_truth_time_stamp: '00:99:00'" in rejected[1].reason
    assert rejected[2].reason == "this is a question of streaming_bench"
    assert len(conserved(BENCHMARK, path)[1]) == 2
    with pytest.raises(BenchmarkError, match="neither `questions` nor `candidates`"):
        list(BENCHMARK.read(write(tmp_path / "other.json", [{"id": 1}])))
