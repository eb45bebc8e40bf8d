"""When a model speaks: matchings and figures by hand, and what they make of the controls."""

import math
from itertools import permutations

import numpy as np
import pytest

from evaluation.proactive import (
    Emission,
    Fit,
    Pair,
    Poll,
    ProactiveError,
    Push,
    Stream,
    Window,
    alarms_per_hour,
    always_silent,
    always_speaking,
    constant_time,
    duplicates,
    figures,
    figures_by_video,
    match_in_order,
    match_nearest,
    match_optimal,
    merge_emissions,
    poisson_interval,
    quiet_seconds,
    tally,
    trigger_windows,
)
from rewards.timing import best_matching


def said(*times: float, text: str = "now") -> list[Emission]:
    return [Emission(time, text) for time in times]


def points(*times: float) -> list[Window]:
    return [Window(time, time) for time in times]


WITHIN_3 = Fit(3, 3)


# ---- Matching.


def test_nearest_is_greedy_over_all_pairs() -> None:
    # gold 10 and 13, said 12 and 15.5. All pairs within 3 s: (12, 13) 1, (12, 10) 2, (15.5, 13) 2.5.
    # The nearest takes 12 for 13; 10 and 15.5 are left, 5.5 apart: one pair. Two are possible: 12-10 and 15.5-13.
    assert match_nearest(said(12, 15.5), points(10, 13), WITHIN_3) == [Pair(0, 1, -1.0)]
    assert match_optimal(said(12, 15.5), points(10, 13), WITHIN_3) == [Pair(0, 0, 2.0), Pair(1, 1, 2.5)]


def test_in_order_takes_the_earliest_that_fits() -> None:
    # windows +-2 s. Gold 10 takes 8 (the first left that fits), although 10 is nearer; gold 11 then takes 10.
    assert match_in_order(said(8, 10), points(10, 11), Fit(2, 2)) == [Pair(0, 0, -2.0), Pair(1, 1, -1.0)]
    # an earlier gold may take what a later one needed: gold 10 takes 11.5, gold 13 is left with nothing
    assert match_in_order(said(11.5), points(10, 13), Fit(2, 2)) == [Pair(0, 0, 1.5)]


def test_windows_are_strict_or_widened() -> None:
    window = [Window(10, 14)]
    assert [len(match_optimal(said(t), window, Fit())) for t in (9.9, 10, 14, 14.1)] == [0, 1, 1, 0]
    assert [len(match_optimal(said(t), window, Fit(1, 2))) for t in (8.9, 9, 16, 16.1)] == [0, 1, 1, 0]


def test_trigger_windows_end_where_the_next_begins() -> None:
    windows = trigger_windows([20, 5, 8], 5, end=60, texts=["c", "a", "b"])
    assert windows == [Window(5, 8, "a", True), Window(8, 13, "b", True), Window(20, 25, "c", True)]
    assert [p.window for t in (7.9, 8, 13) for p in match_optimal(said(t), windows, Fit())] == [0, 1]  # 13: outside


def brute_force(emissions: list[Emission], windows: list[Window], fit: Fit) -> tuple[int, float]:
    """(most pairs, least sum of |offset| with so many), over all ways to hand out emissions."""
    best = (0, 0.0)
    slots = list(range(len(emissions))) + [None] * len(windows)
    for choice in set(permutations(slots, len(windows))):
        pairs = [(i, j) for j, i in enumerate(choice) if i is not None and fit.holds(windows[j], emissions[i].time)]
        total = sum(abs(emissions[i].time - windows[j].start) for i, j in pairs)
        best = min(best, (-len(pairs), total))
    return -best[0], best[1]


@pytest.mark.parametrize("seed", range(30))
def test_optimal_is_largest_and_then_nearest(seed: int) -> None:
    rng = np.random.default_rng(seed)
    emissions = said(*sorted(rng.uniform(0, 20, rng.integers(0, 5)).round(1).tolist()))
    starts = rng.uniform(0, 20, rng.integers(0, 5)).round(1)
    windows = [
        Window(float(s), float(s + length)) for s, length in zip(starts, rng.uniform(0, 6, len(starts)), strict=True)
    ]
    fit = Fit(float(rng.uniform(0, 3)), float(rng.uniform(0, 3)))
    found = match_optimal(emissions, windows, fit)
    count, total = brute_force(emissions, windows, fit)
    assert len(found) == count
    assert sum(abs(pair.offset) for pair in found) == pytest.approx(total)
    assert len({p.emission for p in found}) == len({p.window for p in found}) == count
    fitting = [[j for j, w in enumerate(windows) if fit.holds(w, e.time)] for e in emissions]
    assert len(best_matching(fitting)) == count  # the matching of the reward
    for other in (match_nearest, match_in_order):
        assert len(other(emissions, windows, fit)) <= count


def test_pieces_of_an_utterance_are_merged() -> None:
    pieces = [Emission(1, "the"), Emission(2, "red"), Emission(4, "circle"), Emission(6.5, "again")]
    # gaps 1, 2 and 2.5 s: the first three are one, at the time of the first (OmniPro merges a gap of 2 s too)
    assert merge_emissions(pieces) == [Emission(1, "the red circle"), Emission(6.5, "again")]
    assert merge_emissions(pieces, gap=1.0) == [Emission(1, "the red"), Emission(4, "circle"), Emission(6.5, "again")]
    assert merge_emissions([]) == []


# ---- Figures.


def pushed(
    *times: float, video: str = "a", text: str = "now", kind: type[Stream] = Push, end: float = 3600.0
) -> Stream:
    """An hour of stream, a moment a second, windows [100, 104] and [200, 204]."""
    return kind(
        video,
        0.0,
        end,
        (Window(100, 104, "one"), Window(200, 204, "two")),
        tuple(said(*times, text=text)),
        tuple(float(t) for t in range(int(end))),
    )


def values(stream: Stream, **how: object) -> dict[str, float | None]:
    return {name: figure.value for name, figure in figures([tally(stream, Fit(), **how)]).items()}  # type: ignore[arg-type]


def test_figures_by_hand() -> None:
    # said at 50 (nowhere), 101 and 103 (first window), 204 (second): 2 matched of 4 emissions and 2 windows
    found = values(pushed(50, 101, 103, 204))
    assert found["time_precision"] == 2 / 4
    assert found["time_recall"] == 2 / 2
    assert found["time_f1"] == pytest.approx(2 * 2 / (4 + 2))
    assert found["time_difference"] == found["delay"] == pytest.approx((1 + 4) / 2)
    assert found["intrusions"] == 1 / 2
    assert found["redundancy"] == 1 / 2
    assert found["duplicates"] == 3 / 4  # "now" four times
    assert found["silence"] == pytest.approx((3600 - 4) / 3600)
    # quiet: 3600 - 2 x 4 s; one alarm in 3592 / 3600 hours
    assert found["false_alarms_per_quiet_hour"] == pytest.approx(3600 / 3592)
    assert "content_f1" not in found


def test_content_gate() -> None:
    stream = Push(
        "a", 0, 300, (Window(100, 104, "one"), Window(200, 204, "two")), (*said(101, text="One."), *said(201))
    )
    found = values(stream, says=lambda emission, window: emission.text.strip(".").lower() == window.text)
    assert (found["time_f1"], found["content_precision"], found["content_recall"]) == (1.0, 0.5, 0.5)
    assert (found["content_f1"], found["content_accuracy"]) == (0.5, 0.5)


def test_the_tolerance_widens_windows_and_shrinks_quiet_time() -> None:
    stream = pushed(99)
    wide = tally(stream, Fit(2, 2))
    assert (wide.matched, wide.outside, wide.offsets) == (1, 0, (-1.0,))
    assert wide.quiet == 3600 - 2 * 8
    touching = Push("a", 0, 100, (Window(10, 20), Window(15, 30), Window(95, 100)), ())
    assert quiet_seconds(touching, Fit()) == 100 - 20 - 5  # the union, not the sum
    assert quiet_seconds(touching, Fit(1, 5)) == 100 - (35 - 9) - (100 - 94)  # cut off at the stream's end


def test_figures_are_pooled_sums_and_of_each_video() -> None:
    tallies = [
        tally(pushed(101, video="a"), Fit()),
        tally(pushed(video="a"), Fit()),
        tally(pushed(50, video="b"), Fit()),
    ]
    pooled, apart = figures(tallies), figures_by_video(tallies)
    assert pooled["time_recall"].value == 1 / 6
    assert pooled["time_precision"].value == 1 / 2
    assert [apart[video]["time_recall"].value for video in ("a", "b")] == [1 / 4, 0.0]
    assert all(figure.definition for figure in pooled.values())
    assert "track push" in pooled["time_f1"].definition and "3 streams" in pooled["time_f1"].definition


def test_tracks_and_tolerances_are_never_mixed() -> None:
    push, poll = tally(pushed(101), Fit()), tally(pushed(101, kind=Poll), Fit())
    assert (push.track, poll.track) == ("push", "poll")
    with pytest.raises(ProactiveError, match="one track and one tolerance"):
        figures([push, poll])
    with pytest.raises(ProactiveError, match="one track and one tolerance"):
        figures([push, tally(pushed(101), Fit(1, 1))])
    with pytest.raises(ProactiveError, match="nothing"):
        figures([])
    with pytest.raises(ProactiveError, match=r"Push\(...\) or Poll\(...\)"):
        Stream("a", 0, 1, (), ())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"end": 0.0}, "has no length"),
        ({"windows": (Window(5, 11),)}, "not inside the stream"),
        ({"windows": (Window(5, 4),)}, "not inside the stream"),
        ({"emissions": (Emission(11, "x"),)}, "silent or outside"),
        ({"emissions": (Emission(3, " "),)}, "silent or outside"),
    ],
)
def test_bad_streams_are_refused(changes: dict, message: str) -> None:
    with pytest.raises(ProactiveError, match=message):
        Push(**({"video": "a", "start": 0.0, "end": 10.0, "windows": (), "emissions": ()} | changes))
    with pytest.raises(ProactiveError, match="0 s or more"):
        Fit(-1, 0)


def test_duplicates_may_be_asked_for() -> None:
    assert duplicates(["Now.", "now", "NOW", "else"], []) == 2
    assert duplicates(["now", "now", "now"], ["now", "now"]) == 1


# ---- False alarms.


def test_poisson_interval_is_exact() -> None:
    # published values of the exact 95% interval (Garwood): 0 -> [0, 3.689], 1 -> [0.0253, 5.572], 10 -> [4.795, 18.39]
    assert poisson_interval(0) == pytest.approx((0.0, -math.log(0.025)), abs=1e-6)
    assert poisson_interval(1) == pytest.approx((0.02532, 5.57164), abs=1e-4)
    assert poisson_interval(10) == pytest.approx((4.79539, 18.39036), abs=1e-4)
    low, high = poisson_interval(3600)
    assert low < 3600 < high and high - low == pytest.approx(2 * 1.96 * 60, rel=0.02)


def test_alarms_an_hour() -> None:
    figure = alarms_per_hour(2, 1800.0)
    assert figure.value == 4.0
    assert (figure.low, figure.high) == pytest.approx((2 * 0.24221, 2 * 7.22469), abs=1e-4)
    without = alarms_per_hour(0, 0.0, "all of it is windows")
    assert without.value is None and "undefined" in without.definition


# ---- Controls.


def test_always_silent() -> None:
    found = values(always_silent(pushed(101)))
    assert (found["time_f1"], found["time_recall"], found["false_alarms_per_quiet_hour"]) == (0.0, 0.0, 0.0)
    assert found["time_precision"] is None and found["time_difference"] is None  # of nothing
    assert found["silence"] == 1.0
    alarm = figures([tally(always_silent(pushed()), Fit())])["false_alarms_per_quiet_hour"]
    assert alarm.high == pytest.approx(3.68888 * 3600 / 3592, abs=1e-3)  # no alarm in an hour is no proof of none


def test_always_speaking() -> None:
    stream = always_speaking(pushed())
    assert isinstance(stream, Push) and len(stream.emissions) == 3600
    found = values(stream)
    assert found["time_recall"] == 1.0
    # a moment a second: 100..104 and 200..204 hold 5 each, 2 of them matched, 3590 fit nowhere
    assert found["intrusions"] == 3590 / 2
    assert found["redundancy"] == 8 / 2
    assert found["false_alarms_per_quiet_hour"] == pytest.approx(3590 * 3600 / 3592)
    assert found["time_f1"] == pytest.approx(2 * 2 / 3602)
    assert found["time_difference"] == 0.0  # of the matched: TimeDiff alone rewards it
    assert found["silence"] == 0.0
    assert found["duplicates"] == 3599 / 3600


def test_merging_hides_always_speaking() -> None:
    """OmniPro's merge makes one emission, at the first second, of a model that speaks at every one."""
    found = values(always_speaking(pushed()), merge=2.0)
    assert found["intrusions"] == 1 / 2
    assert found["time_recall"] == 0.0
    assert found["silence"] == 0.0  # of the moments themselves, so this still tells


def test_constant_time() -> None:
    hit, miss = values(constant_time(pushed(), 101)), values(constant_time(pushed(), 500))
    assert (hit["time_recall"], hit["time_precision"], hit["false_alarms_per_quiet_hour"]) == (0.5, 1.0, 0.0)
    assert (miss["time_recall"], miss["intrusions"]) == (0.0, 0.5)
    late = constant_time(pushed(end=300), 500)
    assert late.emissions == (Emission(300.0, "now"),)
    assert isinstance(constant_time(pushed(kind=Poll), 5), Poll)


def test_nothing_to_say_and_nothing_said_is_not_a_score_of_0() -> None:
    found = values(Push("a", 0, 100, (), ()))
    assert found["time_f1"] is None and found["silence"] is None
    assert found["false_alarms_per_quiet_hour"] == 0.0
