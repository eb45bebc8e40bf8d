"""Published scorers of timing, by hand, and what each makes of the controls."""

import pytest

from evaluation.proactive import ProactiveError
from evaluation.published_timing import estp_f1, judged_points, on_time, ovo_timing, ovo_timing_golds, pauc


def test_pauc_by_hand() -> None:
    # T = 10 s from 10 on; partly right (1) at 14, right (2) at 18.
    # area: 4 s x 0.5 + 4 s x 1 + 2 s x 2 = 10 of 10 x 2 = 20
    replies = [(14.0, 1.0), (18.0, 2.0)]
    assert pauc(replies, 10, 20, omega=0.0) == pytest.approx(10 / 20)
    # omega 0.5: delays 4 and 8 s count as 2 and 4: 2 x 0.5 + 2 x 1 + 6 x 2 = 15
    assert pauc(replies, 10, 20, omega=0.5) == pytest.approx(15 / 20)
    # omega 1: both at once, the last score holds for all 10 s
    assert pauc(replies, 10, 20, omega=1.0) == pytest.approx(1.0)
    assert pauc([(10.0, 2.0)], 10, 10) == 0.0  # no length: 0, as published
    with pytest.raises(ProactiveError, match="outside its range"):
        pauc([(25.0, 1.0)], 10, 20)
    with pytest.raises(ProactiveError, match="outside its range"):
        pauc([(15.0, 3.0)], 10, 20)


def test_replies_after_the_event_count_only_if_they_are_no_worse() -> None:
    # the answer is about what ends at 15 s; the last score by then is 1
    scores = {12.0: 2.0, 14.0: 1.0, 16.0: 0.0, 18.0: 1.0}
    assert judged_points(scores, 15.0) == [(12.0, 2.0), (14.0, 1.0), (18.0, 1.0)]
    assert judged_points({16.0: 0.0}, 15.0) == [(16.0, 0.0)]  # a single one always counts
    assert judged_points({16.0: 1.0, 18.0: 0.0}, 15.0) == [(16.0, 1.0), (18.0, 0.0)]  # nothing before: the bar is 0


def test_streaming_bench_tolerance() -> None:
    assert [on_time(t, 10.0) for t in (7.9, 8.0, 12.0, 12.1)] == [False, True, True, False]


def test_estp_f1_by_hand() -> None:
    # two of four responses matched, with 1 and 0.5, of three windows: precision 1.5/4, recall 1.5/3, F1 3/7
    precision, recall = 1.5 / 4, 1.5 / 3
    found = estp_f1([1.0, 0.5], windows=3, responses=4)
    assert found.value == pytest.approx(2 * precision * recall / (precision + recall)) == pytest.approx(3 / 7)
    assert "not seen" in found.definition
    with pytest.raises(ProactiveError, match="one to one"):
        estp_f1([1.0, 1.0], windows=1, responses=5)


def test_ovo_timing_by_hand() -> None:
    # REC: item 1 golds 12, 22, said 11, 30: 1 of 2 found, 1 of 2 right. item 2 gold 5, said 5, 6: found, 1 of 2 right
    # mean recall (0.5 + 1) / 2 = 0.75, mean precision 0.5: F1 = 2 x 0.375 / 1.25 = 0.6. CRR: found, 1
    found = ovo_timing([("REC", [12, 22], [11, 30]), ("REC", [5], [5, 6]), ("CRR", [40], [41.5])])
    assert found["REC"].value == pytest.approx(0.6)
    assert found["CRR"].value == 1.0
    assert found["average"].value == pytest.approx(0.8)
    assert ovo_timing([])["average"].value is None


def test_ovo_timing_golds() -> None:
    assert ovo_timing_golds({"task": "CRR", "clue_time": 30}) == [30.0]
    assert ovo_timing_golds({"task": "REC", "start_times": [1, 2.5]}) == [3.0, 4.5]
    assert ovo_timing_golds({"task": "SSR", "start_time": [7]}) == [9.0]


def test_controls() -> None:
    hour = [float(t) for t in range(3600)]
    silent = ovo_timing([("CRR", [100.0], []), ("REC", [10.0, 20.0], [])])
    assert silent["average"].value == 0.0
    chatter = ovo_timing([("CRR", [100.0], hour)])
    assert chatter["CRR"].value == pytest.approx(2 * 1 * (1 / 3600) / (1 + 1 / 3600))
    assert estp_f1([], 3, 0).value == 0.0
    assert estp_f1([1.0] * 3, 3, 3600).value == pytest.approx(6 / 3603)
    assert pauc([], 10, 20) == 0.25  # silence is worth more than a wrong reply at once:
    assert pauc([(10, 0.0)], 10, 20) == 0.0
    assert not on_time(None, 5.0)
