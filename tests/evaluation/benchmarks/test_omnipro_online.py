"""OmniPro online: one stream a row, the published merge and matching, content, and what is left without a judge."""

from pathlib import Path
from typing import Any

import pytest

from evaluation.benchmarks.base import Given, Verdict
from evaluation.benchmarks.omnipro import TASKS
from evaluation.benchmarks.omnipro_online import ONLINE, official_judge
from evaluation.benchmarks.windows import AGAIN, FALSE_ALARM, MISSED, UNJUDGED
from tests.evaluation.benchmarks.real import conserved, write
from tests.evaluation.benchmarks.test_omnipro import row
from whilst.sample import Answer, Sample, Silence


def sample_of(tmp_path: Path, task: str, **more: Any) -> Sample:
    samples, rejected = conserved(ONLINE, write(tmp_path / "benchmark.json", [row(task, **more)]))
    assert not rejected
    return samples[0]


def judged(sample: Sample, *said: tuple[float, str], rule: Any = None) -> list[Verdict]:
    given = [Given(time, text) for time, text in said]
    verdicts: list[Verdict] = list((rule or ONLINE.official)(sample, sample.queries()[0], given))
    return verdicts


def test_a_row_is_a_stream_of_its_own(tmp_path: Path) -> None:
    rows = [row("instant_event_alert", "a", question_time="00:05"), row("cumulative_counting", "b")]
    bad = [
        row("instant_event_alert", "c", question_time="00:30"),
        row("x", "d"),
        row("instant_event_alert", "e", duration=40),
    ]
    samples, rejected = conserved(ONLINE, write(tmp_path / "benchmark.json", rows + bad), videos="videos")
    assert [(s.id, s.video.path, s.queries()[0].time) for s in samples] == [
        ("a", "videos/v.mp4", 5.0), ("b", "videos/v.mp4", 0.0),
    ]  # fmt: skip
    assert [one.id for one in rejected] == ["c", "d", "e"]  # asked after a trigger, no task, a trigger after the end
    polls = [event for event in samples[0].events if isinstance(event, (Answer, Silence))]
    assert [polls[0].time, polls[-1].time, len(polls)] == [6.0, 60.0, 55]
    assert [(e.time, e.text) for e in polls if isinstance(e, Answer)] == [(20.0, "now"), (50.0, "now")]
    told = [e.text for e in samples[1].events if isinstance(e, Answer)]
    assert told == ["1", "2"]


def test_the_published_matching_and_merge(tmp_path: Path) -> None:
    sample = sample_of(tmp_path, "instant_event_alert")  # triggers at 20 and 50 s
    # 18, 20 and 22 s are one emission at 18 s, 2 s from the trigger; 30 s is nothing; 53.5 s is too late for 50 s
    said = [(18.0, "it"), (20.0, "rings"), (22.0, "!"), (30.0, "hm"), (53.5, "now")]
    verdicts = judged(sample, *said)
    assert [(v.reason, v.reply) for v in verdicts] == [
        ("", "it rings !"), (MISSED, ""), (FALSE_ALARM, "hm"), (FALSE_ALARM, "now"),
    ]  # fmt: skip
    # 1 of 2 triggers, 3 emissions: F1 2 x 1 / 5
    assert ONLINE.totals["joint_f1"].of(verdicts) == pytest.approx(2 / 5)
    assert ONLINE.totals["time_precision"].of(verdicts) == pytest.approx(1 / 3)
    strictly = judged(sample, *said, rule=ONLINE.strict)
    assert [v.reason for v in strictly] == ["", MISSED, AGAIN, AGAIN, FALSE_ALARM, FALSE_ALARM]  # five emissions
    assert strictly[0].reply == "rings"  # the nearest
    assert ONLINE.totals["joint_f1"].of(strictly) == pytest.approx(2 / 7)


def test_the_published_matching_takes_the_nearest_pair_first(tmp_path: Path) -> None:
    sample = sample_of(tmp_path, "instant_event_alert", golds=[{"trigger_time_sec": 10}, {"trigger_time_sec": 13}])
    said = [(12.0, "now"), (15.5, "now")]  # 12 is nearest to 13, which leaves 15.5 and 10: too far apart
    assert [v.reason for v in judged(sample, *said)] == [MISSED, "", AGAIN]
    assert [v.reason for v in judged(sample, *said, rule=ONLINE.strict)] == ["", ""]


def test_merging_makes_constant_speech_one_emission(tmp_path: Path) -> None:
    sample = sample_of(tmp_path, "instant_event_alert")
    chatter = [(float(t), "now") for t in range(1, 61)]
    assert [v.reason for v in judged(sample, *chatter)] == [MISSED, MISSED, FALSE_ALARM]
    strictly = judged(sample, *chatter, rule=ONLINE.strict)
    assert ONLINE.totals["time_recall"].of(strictly) == 1.0
    assert ONLINE.totals["intrusions"].of(strictly) == (60 - 2 * 7) / 2  # 17..23 and 47..53 s fit
    silent = judged(sample, *[(float(t), "") for t in range(1, 61)], rule=ONLINE.strict)
    assert ONLINE.totals["joint_f1"].of(silent) == ONLINE.totals["intrusions"].of(silent) == 0.0


@pytest.mark.parametrize(
    ("task", "golds", "said", "published", "strictly"),
    [
        ("explicit_target_grounding", None, (20.0, "It is at the top-left."), True, False),
        ("explicit_target_grounding", None, (20.0, "top-left"), True, True),
        ("explicit_target_grounding", None, (20.0, "Position: center, top-left"), False, False),
        ("snapshot_counting", None, (20.0, "At 01:10 I see 3 cups"), True, False),
        ("snapshot_counting", None, (20.0, "3"), True, True),
        ("snapshot_counting", None, (20.0, "some"), False, False),
        ("realtime_state_monitor", None, (20.0, "'On'"), True, False),
        ("realtime_state_monitor", None, (20.0, "on"), True, True),
        ("realtime_state_monitor", None, (20.0, "it is on"), False, False),
        ("cumulative_counting", [{"trigger_time_sec": 20, "count": 4}], (21.0, "4"), True, True),
        ("cumulative_counting", [{"trigger_time_sec": 20, "count": 4}], (19.0, "4"), False, False),  # not due yet
        (
            "dedup_counting",
            [{"trigger_time_sec": 20, "count": 4}, {"trigger_time_sec": 22, "count": 6}],
            (22.0, "6"),
            True,
            True,
        ),
    ],
)
def test_content(
    tmp_path: Path, task: str, golds: Any, said: tuple[float, str], published: bool, strictly: bool
) -> None:
    sample = sample_of(tmp_path, task, golds=golds)
    for rule, expected in ((ONLINE.official, published), (ONLINE.strict, strictly)):
        [verdict] = [v for v in judged(sample, said, rule=rule) if v.reason not in (MISSED,)]
        assert bool(verdict.credit) is expected, verdict
        assert verdict.reason == ("" if expected else "wrong")


def test_an_unfinished_emission_is_in_time_but_not_right(tmp_path: Path) -> None:
    sample = sample_of(tmp_path, "snapshot_counting")
    verdicts = ONLINE.strict(sample, sample.queries()[0], [Given(20.0, "3", finished=False)])
    assert [v.reason for v in verdicts] == ["wrong", MISSED]


def test_narration_needs_a_judge(tmp_path: Path) -> None:
    narration, alert = sample_of(tmp_path, "event_narration"), sample_of(tmp_path, "instant_event_alert")
    verdicts = judged(narration, (20.0, "ring ring")) + judged(alert, (20.0, "now"))
    assert verdicts[0].reason == UNJUDGED
    assert ONLINE.totals["joint_f1"].of(verdicts) == pytest.approx(2 / 3)  # alerts alone: 1 of 2 triggers, 1 emission
    assert ONLINE.totals["mean_time_f1"].of(verdicts) == pytest.approx(2 / 3)
    told: list[tuple[str, str]] = []

    def score(question: str, gold: str, said: str) -> int:
        told.append((gold, said))
        return 3 if "ring" in said else 2

    right = judged(narration, (20.0, "ring ring"), (50.0, "hm"), rule=official_judge(score))
    assert told == [("it rings", "ring ring"), ("it rings", "hm")]
    assert [v.reason for v in right] == ["", "wrong"]
    # narration 2 x 1 / (2 + 2) = 1/2, alerts 2/3
    both = right + judged(alert, (20.0, "now"))
    assert ONLINE.totals["joint_f1"].of(both) == pytest.approx((1 / 2 + 2 / 3) / 2)


def test_all_tasks_are_read(tmp_path: Path) -> None:
    samples, rejected = conserved(ONLINE, write(tmp_path / "benchmark.json", [row(task) for task in TASKS]))
    assert len(samples) == 9 and not rejected
    assert ONLINE.track == "poll"
    failed = ONLINE.strict(samples[0], samples[0].queries()[0], [Given(20.0, "x"), Given(21.0, "", False, "gone")])
    assert {v.reason for v in failed} == {"failed: gone"}
