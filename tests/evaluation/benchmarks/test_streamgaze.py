"""StreamGaze: past, present and polled tasks; golds by letter; the published substring rules."""

from pathlib import Path
from typing import Any

import pytest

from evaluation.benchmarks.base import BenchmarkError, Given
from evaluation.benchmarks.streamgaze import BENCHMARK, letter_of
from tests.evaluation.benchmarks.real import conserved, said, write


def question(stamp: str = "01:20", **more: Any) -> dict[str, Any]:
    options = ["A. cup", "B. pan", "C. cup", "D. lid"]
    return {"question": "Which ?", "time_stamp": stamp, "answer": "C", "options": options} | more


def entry(*questions: Any, video: str = "k.mp4") -> dict[str, Any]:
    return {"response_time": "[00:08 - 02:42]", "questions": list(questions), "video_path": video}


def polled(*tests: tuple[str, int]) -> dict[str, Any]:
    info = [{"realtime": stamp, "type": kind, "input_video_clip": [0, 1]} for stamp, kind in tests]
    made = {"question": "Alert me when I look at the <plate>.", "time_stamp": "00:08", "first_appearance": "02:22"}
    return made | {"target_object": "plate", "test_info": info}


def folder(tmp_path: Path) -> Path:
    made = tmp_path / "qa"
    made.mkdir()
    write(made / "past_scene_recall.json", [entry(question(), question("00:40", answer="A"))])
    write(made / "present_object_identification_easy.json", [entry(question("02:00"))])
    write(made / "proactive_gaze_triggered_alert.json", [entry(polled(("02:02", 0), ("01:00", 0), ("03:00", 1)))])
    return made


def test_one_stream_a_video(tmp_path: Path) -> None:
    samples, rejected = conserved(BENCHMARK, folder(tmp_path))
    assert not rejected
    [sample] = samples
    assert [(q.id, q.time) for q in sample.queries()] == [
        ("past_scene_recall/0/1", 40.0),
        ("proactive_gaze_triggered_alert/0/0", 60.0),
        ("past_scene_recall/0/0", 80.0),
        ("present_object_identification_easy/0/0", 120.0),
    ]
    assert [a.text for a in sample.answers_to("past_scene_recall/0/0")] == ["C"]
    told = sample.answers_to("proactive_gaze_triggered_alert/0/0")
    assert [(a.time, a.text) for a in told] == [(60.0, "no"), (122.0, "no"), (180.0, "yes")]


def test_the_published_context_is_of_present_tasks_alone(tmp_path: Path) -> None:
    samples, _ = conserved(BENCHMARK, folder(tmp_path), context_seconds=60.0)
    assert [(s.id, s.video.start, s.video.end, len(s.queries())) for s in samples] == [
        ("k.mp4", 0.0, 180.0, 3),
        ("present_object_identification_easy/0/0", 60.0, 120.0, 1),
    ]


def test_bad_rows_are_rejected(tmp_path: Path) -> None:
    rows = [
        question(answer="E"), question(options=["A. x"]), question("1:99"), question(question=1), "text", question(),
    ]  # fmt: skip
    path = write(tmp_path / "past_scene_recall.json", [entry(*rows), entry(question("09:00"))])
    lengths = write(tmp_path / "lengths.json", {"k.mp4": 100})
    samples, rejected = conserved(BENCHMARK, path, durations=str(lengths))
    assert [one.reason.partition(":")[0] for one in rejected] == [
        "answer", "options", "time_stamp", "question", "video_path, questions", "time_stamp",
    ]  # fmt: skip
    assert "after the video's end" in rejected[-1].reason
    assert len(samples[0].queries()) == 1
    polls = write(
        tmp_path / "proactive_object_appearance_alert.json",
        [entry(polled(), polled(("00:10", 2)), polled(("x", 1)), polled(("00:10", 1)))],
    )
    samples, rejected = conserved(BENCHMARK, polls)
    assert len(rejected) == 3 and all(one.reason.startswith("test_info") for one in rejected)
    with pytest.raises(BenchmarkError, match="none of StreamGaze's tasks"):
        list(BENCHMARK.read(write(tmp_path / "other.json", [entry(question())])))


@pytest.mark.parametrize(
    ("reply", "read"),
    [
        ("c", "C"),
        ("The answer is B.", "B"),
        ("it is a dog", "A"),  # "a" in capitals is a word of its own
        ("ABCD", "ABCD"),  # no word of one letter
        ("pan", "PAN"),
        ("", ""),
    ],
)
def test_the_published_reading(reply: str, read: str) -> None:
    assert letter_of(reply) == read


def test_polled_tests_are_items(tmp_path: Path) -> None:
    [sample], _ = conserved(BENCHMARK, folder(tmp_path))
    query = next(q for q in sample.queries() if q.kind == "proactive_gaze_triggered_alert")
    assert BENCHMARK.official is not None
    replies = [Given(60.0, "Not known"), Given(122.0, "YesNo"), Given(180.0, "yes.")]
    strictly = BENCHMARK.strict(sample, query, replies)
    published = BENCHMARK.official(sample, query, replies)
    assert [(one.part, one.gold, one.credit) for one in strictly] == [(1, "no", 0.0), (0, "no", 0.0), (2, "yes", 1.0)]
    assert [one.credit for one in published] == [1.0, 1.0, 1.0]  # NO stands in "NOT KNOWN" and in "YESNO"
    late = BENCHMARK.strict(sample, query, [Given(61.0, "no")])  # not at the time of a test
    assert {one.reason for one in late} == {"no reply"}
    failed = BENCHMARK.strict(sample, query, [Given(60.0, "", False, "gone")])
    assert {one.reason for one in failed} == {"failed: gone"}


def test_totals_and_constants(tmp_path: Path) -> None:
    samples, _ = conserved(BENCHMARK, folder(tmp_path))
    no = said(BENCHMARK.strict, samples, "no")
    # tasks: past 0 of 2, present 0 of 1, proactive 2 of 3
    assert BENCHMARK.totals["overall"].of(no) == pytest.approx((0 + 0 + 2 / 3) / 3)
    assert BENCHMARK.totals["proactive"].of(no) == pytest.approx(2 / 3)
    assert BENCHMARK.totals["micro"].of(no) == pytest.approx(2 / 6)
    assert BENCHMARK.totals["balanced"].of(no) == pytest.approx((0 + 0 + 1 / 2) / 3)
    everything = "A YESNO"
    assert BENCHMARK.totals["proactive"].of(said(BENCHMARK.official, samples, everything)) == 1.0
    for text in ("", "ABCD", "YesNo"):
        assert BENCHMARK.totals["overall"].of(said(BENCHMARK.strict, samples, text)) == 0
