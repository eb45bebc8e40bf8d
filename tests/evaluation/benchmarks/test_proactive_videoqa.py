"""ProactiveVideoQA: standing questions, timing alone, and PAUC from a judge's verdicts."""

from pathlib import Path
from typing import Any

import pytest

from evaluation.benchmarks.base import BenchmarkError, Given
from evaluation.benchmarks.proactive_videoqa import BENCHMARK, PAUC, judge_requests, pauc_judge
from evaluation.benchmarks.windows import AGAIN, FALSE_ALARM, MISSED, UNJUDGED, stream_of
from evaluation.proactive import Fit, Push, always_silent, always_speaking, figures, tally
from tests.evaluation.benchmarks.real import conserved, write
from whilst.sample import Answer, Sample, Silence


def row(id: str = "q1", **more: Any) -> dict[str, Any]:
    answer = [
        {"content": "a cat", "related_timespan": [4, 8], "reply_timespan": [4, 14]},
        {"content": "a dog", "related_timespan": [20, 24], "reply_timespan": [20, 30]},
    ]
    asked = [{"role": "user", "content": "Tell me which animal comes.", "time": 2}]
    return {"video": "z.mp4", "question_id": id, "duration": 40.0, "conversation": asked, "answer": answer} | more


def sample_of(tmp_path: Path) -> Sample:
    samples, rejected = conserved(BENCHMARK, write(tmp_path / "anno.json", [row()]))
    assert not rejected
    return samples[0]


def test_a_question_stands_and_may_be_met_with_silence(tmp_path: Path) -> None:
    sample = sample_of(tmp_path)
    [query] = sample.queries()
    assert (query.time, query.window) == (2.0, None)
    replies = [event for event in sample.events if isinstance(event, (Answer, Silence))]
    assert [event.time for event in replies] == [float(t) for t in range(3, 31)]  # a second; later replies do not count
    assert [(e.time, e.text) for e in replies if isinstance(e, Answer)] == [(4.0, "a cat"), (20.0, "a dog")]
    assert BENCHMARK.official is None and BENCHMARK.track == "poll"


def test_bad_rows_are_rejected(tmp_path: Path) -> None:
    early = [{"content": "x", "related_timespan": [0, 1], "reply_timespan": [0, 1]}]
    late = [{"content": "x", "related_timespan": [50, 51], "reply_timespan": [50, 51]}]
    odd = [{"content": "x", "related_timespan": [9, 8], "reply_timespan": [5, 6]}]
    rows = [
        row("ok"), row("b1", conversation=[]),
        row("b2", conversation=[{"role": "assistant", "content": "x", "time": 0}]),
        row("b3", answer=[]), row("b4", answer=early), row("b5", answer=late), row("b6", answer=odd),
        row("b7", answer=["x"]), row("b8", video=None),
        row("b9", conversation=[{"role": "user", "content": "x", "time": "soon"}]),
    ]  # fmt: skip
    samples, rejected = conserved(BENCHMARK, write(tmp_path / "anno.json", rows))
    assert len(samples) == 1 and [one.id for one in rejected] == [f"b{i}" for i in range(1, 10)]


def test_timing_alone(tmp_path: Path) -> None:
    sample = sample_of(tmp_path)
    query = sample.queries()[0]
    given = [Given(3, "hm"), Given(5, "a cat"), Given(9, "a cat there"), Given(16, ""), Given(30, "dog")]
    verdicts = BENCHMARK.strict(sample, query, given)
    assert [(one.part, one.reason, one.credit) for one in verdicts] == [
        (0, UNJUDGED, 0.0), (1, UNJUDGED, 0.0), (2, FALSE_ALARM, 0.0), (3, AGAIN, 0.0),
    ]  # fmt: skip
    totals = {name: total.of(verdicts) for name, total in BENCHMARK.totals.items()}
    # 2 windows answered of 2, with 4 emissions
    assert totals == pytest.approx({"time_f1": 4 / 6, "time_precision": 2 / 4, "time_recall": 1.0, "intrusions": 1 / 2})
    silent = BENCHMARK.strict(sample, query, [Given(float(t), "") for t in range(3, 31)])
    assert [one.reason for one in silent] == [MISSED, MISSED]
    assert [BENCHMARK.totals[name].of(silent) for name in BENCHMARK.totals] == [0.0, 0.0, 0.0, 0.0]
    chatter = BENCHMARK.strict(sample, query, [Given(float(t), "x") for t in range(3, 31)])
    assert BENCHMARK.totals["time_recall"].of(chatter) == 1.0
    assert BENCHMARK.totals["time_f1"].of(chatter) == pytest.approx(4 / 30)
    failed = BENCHMARK.strict(sample, query, [Given(5, "a cat"), Given(6, "", False, "gone")])
    assert {one.reason for one in failed} == {"failed: gone"}


def test_the_stream_for_false_alarms(tmp_path: Path) -> None:
    sample = sample_of(tmp_path)
    stream = stream_of(sample, sample.queries()[0], [Given(float(t), "x" if t == 16 else "") for t in range(3, 31)])
    assert stream.track == "poll"
    assert stream_of(sample, sample.queries()[0], [], Push).track == "push"
    assert (stream.start, stream.end, len(stream.moments)) == (2.0, 30.0, 28)
    alarms = figures([tally(stream, Fit())])["false_alarms_per_quiet_hour"]
    assert alarms.value == pytest.approx(1 * 3600 / (28 - 20))  # 2..30 s without [4, 14] and [20, 30]
    assert tally(always_silent(stream), Fit()).outside == 0
    assert tally(always_speaking(stream), Fit()).outside == 6  # at 3 and from 15 to 19 s


def test_requests_are_what_was_said_so_far(tmp_path: Path) -> None:
    sample = sample_of(tmp_path)
    query = sample.queries()[0]
    given = [Given(3, "hm"), Given(5, "a pet"), Given(7, "a pet"), Given(9, "a cat"), Given(22, "a dog")]
    requests = judge_requests(sample, query, given)
    assert [(one.key, one.gold, one.predicted) for one in requests] == [
        ("q1=0=5.0", "a cat", "a pet"),
        ("q1=0=9.0", "a cat", "a pet a cat"),  # said twice, told once
        ("q1=1=22.0", "a dog", "a dog"),
    ]
    assert requests[0].question == "Tell me which animal comes."


def test_pauc_of_judged_replies(tmp_path: Path) -> None:
    sample = sample_of(tmp_path)
    query = sample.queries()[0]
    given = [Given(5, "a pet"), Given(9, "a cat"), Given(22, "a dog")]
    judged = {"q1=0=5.0": "2", "q1=0=9.0": "3: covered", "q1=1=22.0": 3}
    # answer 1, T 10 s from 4: 1 s x 0.5 + 4 s x 1 + 5 s x 2 = 14.5 of 20; answer 2, from 20: 2 x 0.5 + 8 x 2 = 17 of 20
    verdicts = pauc_judge(judged, 0.0)(sample, query, given)
    assert [one.credit for one in verdicts] == pytest.approx([14.5 / 20, 17 / 20])
    assert PAUC["pauc_0"].of(verdicts) == pytest.approx((14.5 + 17) / 40)
    # omega 0.5 halves delays: 0.5 x 0.5 + 2 x 1 + 7.5 x 2 = 17.25; 1 x 0.5 + 9 x 2 = 18.5
    assert [one.credit for one in pauc_judge(judged, 0.5)(sample, query, given)] == pytest.approx(
        [17.25 / 20, 18.5 / 20]
    )
    silent = pauc_judge({}, 0.5)(sample, query, [])
    assert [(one.credit, one.reason) for one in silent] == [(0.25, "no reply")] * 2
    wrong = pauc_judge({"q1=0=4.0": 1}, 0.0)(sample, query, [Given(4, "no idea")])
    assert wrong[0].credit == 0.0  # worse than silence
    unread = pauc_judge({"q1=0=4.0": "n/a"}, 0.0)(sample, query, [Given(4, "no idea")])
    assert unread[0].credit == 0.25  # a verdict without a score is passed over, as published
    with pytest.raises(BenchmarkError, match="no verdict for q1=0=5.0"):
        pauc_judge({})(sample, query, given)
    failed = pauc_judge({}, 0.5)(sample, query, [Given(4, "", False, "gone")])
    assert {(one.credit, one.reason) for one in failed} == {(0.0, "failed: gone")}


def test_a_worse_reply_after_the_event_is_passed_over(tmp_path: Path) -> None:
    sample = sample_of(tmp_path)
    query = sample.queries()[0]
    given = [Given(6, "a cat"), Given(12, "or not")]  # the event ends at 8 s
    judged = {"q1=0=6.0": 3, "q1=0=12.0": 1}
    # 2 s x 0.5 + 8 s x 2 = 17 of 20
    assert pauc_judge(judged, 0.0)(sample, query, given)[0].credit == pytest.approx(17 / 20)
