"""OmniMMI: six files, two benchmarks; alerts and silence judged together, as published and strictly."""

import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from evaluation.benchmarks import omnimmi
from evaluation.benchmarks.base import BenchmarkError, Given, Verdict
from evaluation.benchmarks.omnimmi import BENCHMARK, FILES, PROACTIVE, official_alerts, official_silence, results
from tests.evaluation.benchmarks.real import conserved, real, said, write, write_lines
from whilst.sample import Answer, Sample, Silence

SG = {"video": "s.mp4", "qa": [{"question": "What now ?", "answer": "Cut branches", "timestamp": "9.0 -- 13.0"}]}
SG["qa"] += [{"question": "And now ?", "answer": "Wind", "timestamp": "19.0 -- 49.0"}]  # type: ignore[operator]
MD = {"video": "m.mp4", "qa": [{"question": "The task ?", "answer": "Cook Omelet", "timestamp": "0.0 -- 36.0"}]}
MD["qa"] += [{"question": "First of ##ANSWER## ?", "answer": "egg", "timestamp": "36 -- 40"}]  # type: ignore[operator]
MD["qa"] += [{"question": "Then ?", "answer": "fry", "timestamp": "70.5 -- 70.4"}]  # type: ignore[operator]
AP = {"video": "p.mp4", "question": "What next ?", "answer": "squeeze", "vocab": ["wash", "squeeze", "fold"]}
SI = {"video": "i.mp4", "question": "Who spoke ?", "answer": "Marie", "timestamp": 22.08}
PA = {"video": "abc_60.0_80.0.mp4", "question": "Signal me when a horse is groomed.", "answer": [7, 13]}
PT = {"video": "t.mp4", "conversation": [{"human": "How ?", "assistant": "So."}, {"human": "Oh well."}]}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for task, row in {"SG": SG, "MD": MD, "AP": AP, "SI": SI, "PA": PA, "PT": PT}.items():
        write(tmp_path / FILES[task], [row])
    return tmp_path


def lengths(folder: Path) -> str:
    return str(write(folder / "lengths.json", {"p.mp4": 30.0, "t.mp4": 12.5}))


# ---- Questions.


def test_questions_and_the_times_at_which_they_are_put(folder: Path) -> None:
    samples, rejected = conserved(BENCHMARK, folder, durations=lengths(folder), segment_seconds=10.0)
    found = {query.id: (query, sample) for sample in samples for query in sample.queries()}
    assert {id: (query.kind, query.time) for id, (query, _) in found.items()} == {
        "SG-0/0": ("SG", 11.0),
        "SG-0/1": ("SG", 34.0),
        "MD-0/0": ("MD", 18.0),
        "MD-0/1": ("MD", 38.0),
        "AP-0/0": ("AP", 30.0),
        "SI-0/0": ("SI", 22.08),
    }
    assert found["SG-0/1"][0].evidence == ((19.0, 34.0),)
    assert "First of Cook Omelet ?" in found["MD-0/1"][0].text
    assert found["AP-0/0"][0].options == ("wash", "squeeze", "fold")
    assert found["AP-0/0"][1].answers_to("AP-0/0")[0].text == "squeeze"
    assert [(one.id, one.reason) for one in rejected] == [("MD-0/2", "timestamp: '70.5 -- 70.4' is no `start -- end`")]


def test_a_clip_of_unknown_length_is_rejected_and_one_file_can_be_read(folder: Path) -> None:
    samples, [rejected] = conserved(BENCHMARK, folder / FILES["AP"])
    assert not samples and "p.mp4: its duration is not known" in rejected.reason
    samples, _ = conserved(BENCHMARK, folder / FILES["SI"])
    assert len(samples) == 1
    with pytest.raises(BenchmarkError, match="must be the folder of the files, or one of"):
        list(BENCHMARK.read(folder / FILES["PA"]))


def test_a_row_is_right_if_all_its_turns_are(folder: Path) -> None:
    samples, _ = conserved(BENCHMARK, folder)
    replies = {"SG-0/0": "cut branches.", "SG-0/1": "wind", "MD-0/0": "Cook Omelet", "MD-0/1": "the egg"}
    verdicts: list[Verdict] = []
    for sample in samples:
        for query in sample.queries():
            given = [Given(query.time, replies[query.id])] if query.id in replies else []
            verdicts += omnimmi.strict(sample, query, given)
    totals = {name: total.of(verdicts) for name, total in BENCHMARK.totals.items()}
    assert totals == {"SG": 1.0, "MD": 0.0, "AP": 0.0, "SI": 0.0, "micro": 3 / 5}
    assert BENCHMARK.official is None  # published with a judge


# ---- Alerts and silence.


def test_a_request_stands_from_the_start(folder: Path) -> None:
    samples, rejected = conserved(PROACTIVE, folder, durations=lengths(folder), segment_seconds=5.0)
    assert not rejected
    alert, turn = samples
    [query] = alert.queries()
    assert (query.time, query.window, query.evidence) == (0.0, (7.0, 13.0), ((7.0, 13.0),))
    put = [(e.time, type(e)) for e in alert.events if isinstance(e, (Answer, Silence))]
    assert put == [(5.0, Silence), (10.0, Answer), (15.0, Silence), (20.0, Silence)]  # 20 s, as the name says
    assert [segment.end for segment in alert.segments()] == [5.0, 10.0, 15.0, 20.0]
    [query] = turn.queries()
    assert query.time == 12.5 and query.text.index("How ?") < query.text.index("So.") < query.text.index("Oh well.")
    assert turn.answers_to(query.id)[0].text == "<2>"


def test_a_span_between_polls_is_rejected(folder: Path) -> None:
    samples, [rejected] = conserved(PROACTIVE, folder / FILES["PA"], poll_seconds=20.0)
    assert not samples and "no poll, one in 20.0 s, lies in [7.0, 13.0] s" in rejected.reason
    with pytest.raises(BenchmarkError, match="poll_seconds: 0"):
        list(PROACTIVE.read(folder, poll_seconds=0.0))


@pytest.mark.parametrize(
    ("alerts", "accuracy", "precision", "iou"),
    [
        ([], 0.0, 0.0, 0.0),
        ([10.0], 1.0, 1.0, 0.0),
        ([8.0, 12.0], 1.0, 1.0, 4 / 6),
        ([8.0, 12.0, 18.0], 1.0, 2 / 3, 5 / 11),
        ([2.0, 8.0], 0.0, 1 / 2, 1 / 11),
        ([18.0, 20.0], 0.0, 0.0, 0.0),
        ([7.0], 1.0, 1.0, 0.0),
        ([13.0], 1.0, 1.0, 0.0),
    ],
)
def test_the_published_figures_of_alerts(alerts: list[float], accuracy: float, precision: float, iou: float) -> None:
    assert official_alerts(alerts, 7, 13) == pytest.approx((accuracy, precision, iou))


def test_the_published_silence() -> None:
    assert official_silence("") == official_silence("<2> well") == 1
    assert official_silence(" ") == official_silence("I see.") == 0


def alert_sample(folder: Path) -> Sample:
    return conserved(PROACTIVE, folder / FILES["PA"])[0][0]


@pytest.mark.parametrize(
    ("alerts", "credit", "reason"),
    [
        ([8.0], 1.0, ""),
        ([8.0, 12.0], 1.0, ""),
        ([8.0, 14.0], 0.0, "outside the span"),
        ([2.0, 8.0], 0.0, "too early"),
        ([14.0], 0.0, "outside the span"),
        ([], 0.0, "no reply"),
    ],
)
def test_strictly_all_alerts_lie_in_the_span(folder: Path, alerts: list[float], credit: float, reason: str) -> None:
    sample = alert_sample(folder)
    [query] = sample.queries()
    polls = [float(t) for t in range(2, 21, 2)]
    given = [Given(t, "Now." if t in alerts else "") for t in polls]
    [verdict] = omnimmi.strict_proactive(sample, query, given)
    assert (verdict.credit, verdict.reason) == (credit, reason)


@pytest.mark.parametrize(
    ("given", "credit", "reason"),
    [
        ([Given(12.5, "")], 1.0, ""),
        ([Given(12.5, " <2> ")], 1.0, ""),
        ([Given(12.5, "<2> but I see a cat")], 0.0, "spoke"),
        ([Given(12.5, "Right.")], 0.0, "spoke"),
        ([], 0.0, "not asked"),
        ([Given(12.5, "", False, "gone")], 0.0, "failed: gone"),
    ],
)
def test_strictly_silence_is_said_by_whoever_was_asked(
    folder: Path, given: list[Given], credit: float, reason: str
) -> None:
    [sample], _ = conserved(PROACTIVE, folder / FILES["PT"], durations=lengths(folder))
    [verdict] = omnimmi.strict_proactive(sample, sample.queries()[0], given)
    assert (verdict.credit, verdict.reason) == (credit, reason)


def test_results_of_alerts_and_of_turns(folder: Path) -> None:
    out = folder / "pa.jsonl"
    write_lines(out, [{**PA, "pred": [8, 14.0]}])
    official, strict = results(folder / FILES["PA"], out)
    assert [(v.task, v.credit) for v in official] == [("PA", 1), ("PA precision", 1 / 2), ("PA IoU", 5 / 7)]
    assert [(v.credit, v.reason) for v in strict] == [(0, "outside the span")]
    write_lines(out, [{**PA, "pred": 9}])
    assert results(folder / FILES["PA"], out)[1][0].credit == 1
    write_lines(out, [])
    assert results(folder / FILES["PA"], out)[1][0].reason == "not in the results"
    write_lines(out, [{**PT, "pred": "<2>"}, {**PT, "pred": "Yes"}])
    official, strict = results(folder / FILES["PT"], out)
    assert [v.credit for v in official] == [1, 0] and strict[0].reason == "several rows"
    write_lines(out, [{**PT, "pred": [3]}])
    with pytest.raises(BenchmarkError, match=r"pa\.jsonl:1: pred: \[3\] is of the wrong type"):
        results(folder / FILES["PT"], out)
    with pytest.raises(BenchmarkError, match="name the one annotation file"):
        results(folder, out)


def test_the_real_files(tmp_path: Path) -> None:
    folder = real("omnimmi")
    names = {row["video"] for task in ("AP", "PT") for row in json.loads((folder / FILES[task]).read_text())}
    known = str(write(tmp_path / "lengths.json", {name: 60.0 for name in names}))
    samples, rejected = conserved(BENCHMARK, folder, durations=known)
    assert Counter(query.kind for sample in samples for query in sample.queries()) == {
        "SG": 703, "MD": 786, "AP": 200, "SI": 200,
    }  # fmt: skip
    assert [one.reason for one in rejected] == ["timestamp: '733.9744 -- 733.82586' is no `start -- end`"]
    assert BENCHMARK.totals["micro"].of(said(omnimmi.strict, samples, "")) == 0

    samples, rejected = conserved(PROACTIVE, folder, durations=known)
    assert (len(samples), rejected) == (400, [])
    totals = {name: total.of for name, total in PROACTIVE.totals.items()}
    silent = said(omnimmi.official_proactive, samples, "")
    assert (totals["PT"](silent), totals["PA"](silent), totals["PA and PT"](silent)) == (1, 0, 0)
    spoken = said(omnimmi.strict_proactive, samples, "Now.")
    assert (totals["PT"](spoken), totals["PA"](spoken)) == (0, 0)
    assert totals["PA and PT"](said(omnimmi.strict_proactive, samples, "")) == 0


def test_a_constant_alert_earns_a_quarter_of_the_real_alerts(tmp_path: Path) -> None:
    annotations = real("omnimmi", FILES["PA"])
    rows = json.loads(annotations.read_text())
    random.Random(0).shuffle(rows)
    official, strict = results(annotations, write_lines(tmp_path / "out.jsonl", [{**r, "pred": [136]} for r in rows]))
    assert PROACTIVE.totals["PA"].of(official) == PROACTIVE.totals["PA"].of(strict) == 0.25
    assert PROACTIVE.totals["PA and PT"].of(official) == 0


def made(task: str, credits: list[float]) -> list[Any]:
    return [Verdict("v", str(i), "q", task, credit, "") for i, credit in enumerate(credits)]


def test_alerts_and_turns_are_reported_together() -> None:
    joint = PROACTIVE.totals["PA and PT"].of
    assert joint(made("PA", [1, 0]) + made("PT", [1, 1])) == pytest.approx(2 / 3)
    assert joint(made("PA", [0]) + made("PT", [1])) == joint([]) == 0
