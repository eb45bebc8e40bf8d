"""OmniPro, probed: times by a stable hash, pairs, and the published reading of replies."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from evaluation.benchmarks import omnipro
from evaluation.benchmarks.base import Given, Judge, Verdict
from evaluation.benchmarks.omnipro import (
    BENCHMARK,
    count_in,
    draws,
    letter_in,
    official_right,
    region_in,
    says_yes,
    state_in,
)
from tests.evaluation.benchmarks.real import conserved, said, write
from whilst.sample import Sample


def row(task: str, id: str = "", golds: Any = None, **more: Any) -> dict[str, Any]:
    fields = {
        "explicit_target_grounding": {"position": "top-left"},
        "snapshot_counting": {"count": 3},
        "realtime_state_monitor": {"state_from": "off", "state_to": "on"},
        "event_narration": {"response": "it rings"},
        "sequential_step_instruction": {"response": "stir"},
    }.get(task, {})
    if golds is None:
        golds = [{"trigger_time": "00:20", "trigger_time_sec": 20, **fields}, {"trigger_time": "00:50", **fields}]
    made = {"id": id or task, "task": task, "video_id": "v", "video_path": "v.mp4", "duration": 60, "question": "Now?"}
    return made | {"question_time": "00:00", "event": "it rings", "states": ["on", "off"], "ground_truth": golds} | more


def read(tmp_path: Path, *rows: dict[str, Any], **options: Any) -> tuple[list[Sample], list[Any]]:
    return conserved(BENCHMARK, write(tmp_path / "benchmark.json", list(rows)), **options)


def replies(sample: Sample, rule: Judge | None, by_id: dict[str, str]) -> list[Verdict]:
    assert rule is not None
    return [v for q in sample.queries() for v in rule(sample, q, [Given(q.time, by_id.get(q.id, ""))])]


def test_probes_of_all_tasks(tmp_path: Path) -> None:
    samples, rejected = read(tmp_path, *(row(task) for task in omnipro.TASKS))
    assert not rejected
    [sample] = samples  # one video
    times = {q.id: q.time for q in sample.queries()}
    golds = {q.id: sample.answers_to(q.id)[0].text for q in sample.queries()}
    assert len(times) == 7 * 4 + 2 * 2
    for task in omnipro.TASKS:
        pre = [times.get(f"{task}/{k}/pre") for k in (0, 1)]
        post = [times[f"{task}/{k}/post"] - trigger for k, trigger in ((0, 20), (1, 50))]
        assert all(offset in omnipro.POST_OF.get(task, omnipro.POST) for offset in post)
        if task in omnipro.NARRATION:
            assert pre == [None, None]
        else:
            offsets = [time - trigger for time, trigger in zip(pre, (20, 50), strict=True) if time is not None]
            assert all(offset in omnipro.PRE_OF.get(task, omnipro.PRE) for offset in offsets)
    assert [golds[f"cumulative_counting/{k}/{p}"] for k in (0, 1) for p in ("pre", "post")] == ["0", "1", "1", "2"]
    assert [golds[f"realtime_state_monitor/0/{p}"] for p in ("pre", "post")] == ["off", "on"]
    assert [golds[f"explicit_target_grounding/0/{p}"] for p in ("pre", "post")] == ["no", "yes: top-left"]
    assert [golds[f"snapshot_counting/0/{p}"] for p in ("pre", "post")] == ["no", "yes: 3"]
    assert [golds[f"instant_event_alert/0/{p}"] for p in ("pre", "post")] == ["no", "yes"]


def test_offsets_are_the_same_in_every_process(tmp_path: Path) -> None:
    code = "from evaluation.benchmarks.omnipro import draws; print([draws(42, 'x').randrange(10**9) for _ in range(2)])"
    here = [draws(42, "x").randrange(10**9) for _ in range(2)]
    for salt in ("0", "1"):
        made = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            check=True,
            env={"PYTHONHASHSEED": salt, "PATH": ""},
        )
        assert made.stdout.strip() == str(here)
    assert draws(43, "x").randrange(10**9) != here[0] != draws(42, "y").randrange(10**9)
    once, again = (read(tmp_path, row("instant_event_alert"))[0][0] for _ in range(2))
    assert once == again
    other = read(tmp_path, row("instant_event_alert", golds=[{"trigger_time_sec": 30}] * 12), seed=7)[0][0]
    same = read(tmp_path, row("instant_event_alert", golds=[{"trigger_time_sec": 30}] * 12))[0][0]
    assert [q.time for q in other.queries()] != [q.time for q in same.queries()]


def test_times_stay_inside_the_video(tmp_path: Path) -> None:
    golds = [{"trigger_time_sec": 2.5}, {"trigger_time_sec": 60}]
    [sample], _ = read(tmp_path, row("semantic_condition_alert", golds=golds))
    times = {q.id.rpartition("alert/")[2]: q.time for q in sample.queries()}
    assert times["0/pre"] == 1.0  # 2.5 - 5, but at least 1 s in
    assert times["1/post"] == 60.0  # not after the end


@pytest.mark.parametrize("id", ["a", "b", "c", "d"])
def test_options_are_shuffled_and_golds_follow(tmp_path: Path, id: str) -> None:
    golds = [{"trigger_time_sec": 5 + i, "response": text} for i, text in enumerate(["a", "b", "b", "c", "d"])]
    [sample], _ = read(tmp_path, row("event_narration", id, golds=golds))
    letters = {}
    for query in sample.queries():
        k = int(query.id.split("/")[1])
        assert query.options is not None
        letters[k] = sample.answers_to(query.id)[0].text
        assert query.options["ABCDE".index(letters[k])] == golds[k]["response"]
    assert sorted(letters.values()) == list("ABCDE")  # the two of one text have letters of their own


def test_bad_rows_are_rejected(tmp_path: Path) -> None:
    bad = [
        row("other", "b0"), row("instant_event_alert", "b1", golds=[]),
        row("snapshot_counting", "b2", golds=[{"trigger_time_sec": 1}]),
        row("instant_event_alert", "b3", golds=[{"trigger_time": "later"}]),
        row("realtime_state_monitor", "b4", states=["on"]),
        row("explicit_target_grounding", "b5", golds=[{"trigger_time_sec": 1, "position": "left"}]),
        row("realtime_state_monitor", "b6", golds=[{"trigger_time_sec": 1, "state_from": "on", "state_to": "x"}]),
        row("event_narration", "b7", golds=[{"trigger_time_sec": i, "response": str(i)} for i in range(27)]),
        row("instant_event_alert", "b8", video_path=None),
    ]  # fmt: skip
    samples, rejected = read(tmp_path, row("instant_event_alert", "ok"), *bad)
    assert len(samples) == 1
    assert {one.id.partition("/")[0] for one in rejected} == {f"b{i}" for i in range(9)}
    assert len([one for one in rejected if one.id.startswith("b7/")]) == 27  # each of its probes


def test_pairs(tmp_path: Path) -> None:
    [sample], _ = read(tmp_path, row("instant_event_alert"), row("cumulative_counting"))
    right = {q.id: sample.answers_to(q.id)[0].text for q in sample.queries()}
    assert BENCHMARK.totals["paired"].of(replies(sample, BENCHMARK.strict, right)) == 1.0
    half = right | {
        "instant_event_alert/1/pre": "yes",
        "cumulative_counting/0/post": "5",
        "cumulative_counting/1/pre": "5",
    }
    for rule in (BENCHMARK.strict, BENCHMARK.official):
        verdicts = replies(sample, rule, half)
        # alerts: 1 of 2 pairs; counting: 0 of 2
        assert BENCHMARK.totals["paired"].of(verdicts) == pytest.approx(1 / 4)
        assert BENCHMARK.totals["instant_event_alert"].of(verdicts) == 1 / 2
        assert BENCHMARK.totals["pre"].of(verdicts) == pytest.approx(2 / 4)
        assert BENCHMARK.totals["post"].of(verdicts) == pytest.approx(3 / 4)


def test_a_failed_stream_leaves_the_official_denominator_only(tmp_path: Path) -> None:
    [sample], _ = read(tmp_path, row("instant_event_alert"))
    assert BENCHMARK.official is not None
    given = [Given(0, "", False, "gone")]
    published = [v for q in sample.queries() for v in BENCHMARK.official(sample, q, given)]
    strictly = [v for q in sample.queries() for v in BENCHMARK.strict(sample, q, given)]
    assert not any(one.counted for one in published)
    assert all(one.counted and one.reason == "failed: gone" for one in strictly)


def test_constants(tmp_path: Path) -> None:
    samples, _ = read(tmp_path, *(row(task) for task in omnipro.TASKS))
    for text in ("yes", "no", "A", "0", "", "on", "YesNo", "ABCD"):
        verdicts = said(BENCHMARK.strict, samples, text)
        pairs = [BENCHMARK.totals[task].of(verdicts) for task in omnipro.TASKS if task not in omnipro.NARRATION]
        assert max(pairs) == 0.0  # never right both before and after
    silent = said(BENCHMARK.official, samples, "")
    # silence is "no": right before the triggers of alerts, grounding and snapshots (8), of 14 probes before triggers
    assert BENCHMARK.totals["pre"].of(silent) == pytest.approx(8 / 14)
    assert BENCHMARK.totals["paired"].of(silent) == 0.0


@pytest.mark.parametrize(
    ("reply", "right"),
    [
        ("yes: top-left", True),
        ("Yes, top-left.", True),
        ("yes", False),
        ("top-left", False),
        ("yes: top-left corner", False),
    ],
)
def test_strict_grounding(tmp_path: Path, reply: str, right: bool) -> None:
    [sample], _ = read(tmp_path, row("explicit_target_grounding"))
    query = next(q for q in sample.queries() if q.id.endswith("/0/post"))
    assert bool(BENCHMARK.strict(sample, query, [Given(query.time, reply)])[0].credit) is right


# ---- The published reading.


def test_yes_and_no() -> None:
    texts = ("YES: it rang", "The answer is yes, not no", "No. Yes?", "eyes", "", "nope yes")
    assert [says_yes(text) for text in texts] == [True, True, False, False, False, True]


@pytest.mark.parametrize(
    ("reply", "count"),
    [
        ("3", 3), ("3.", 3), ("a total of 4, not 5", 4), ("It rang 2 times by 01:30", 2), ("answer is 7 or 8", 7),
        ("by 00:45 there were 3 and 6", 6), ("So: 5", 5), ("at 1: four", None), ("none", None), ("", None), ("-2", 2),
    ],
)  # fmt: skip
def test_counts(reply: str, count: int | None) -> None:
    assert count_in(reply) == count


def test_regions_states_and_letters() -> None:
    found = [
        region_in(text)
        for text in (
            "Position: top-left",
            "it is bottom-center",
            "center-left of it",
            "the centre",
            "Position: x center",
        )
    ]
    assert found == ["top-left", "bottom-center", "center-left", None, "center"]
    states = ["playing", "not playing"]
    assert [state_in(text, states) for text in ("Playing.", "it is not playing", "off")] == [
        "playing",
        "not playing",
        None,
    ]
    texts = ("B", "(C).", "I say (B) or C", "answer: d", "I think B", "A dog", "option A", "", "none")
    assert [letter_in(text) for text in texts] == ["B", "C", "B", "D", "B", None, "A", None, None]


@pytest.mark.parametrize(
    ("task", "probe", "gold", "wanted", "reply", "right"),
    [
        ("instant_event_alert", "pre", "no", "", "nothing", True),
        ("instant_event_alert", "post", "yes", "", "No, yes", False),
        ("snapshot_counting", "post", "yes: 3", "3", "Yes, at 01:05: 3 cups", True),
        ("snapshot_counting", "post", "yes: 3", "3", "Yes", False),
        ("snapshot_counting", "post", "yes: 3", "3", "3", False),
        ("explicit_target_grounding", "post", "yes: center", "center", "yes. Position: center", True),
        ("explicit_target_grounding", "post", "yes: center", "center", "yes, center-left", False),
        ("dedup_counting", "pre", "0", "", "0", True),
        ("dedup_counting", "post", "1", "", "two", False),
    ],
)  # fmt: skip
def test_probes_by_the_published_code(task: str, probe: str, gold: str, wanted: str, reply: str, right: bool) -> None:
    assert official_right(reply, {"task": task, "probe": probe, "gold": gold, "wanted": wanted}) is right
