"""Intervals and tests over videos: closed forms, and coverage on simulated videos whose queries hang together."""

from collections.abc import Sequence
from math import comb, sqrt
from statistics import fmean

import numpy as np
import pytest

from evaluation.statistics import EXACT, Estimate, aggregate, mean, paired_aggregate, paired_mean, shown_p

Item = tuple[str, str, float]  # video, task, value


def video_of(item: Item) -> str:
    return item[0]


def plain_mean(items: Sequence[Item]) -> float:
    return fmean(value for _, _, value in items)


def mean_of_tasks(items: Sequence[Item]) -> float:
    tasks: dict[str, list[float]] = {}
    for _, task, value in items:
        tasks.setdefault(task, []).append(value)
    return fmean(fmean(values) for values in tasks.values())


def simulated(rng: np.random.Generator, videos: int, queries: int, lift: float = 0.0) -> list[Item]:
    """Videos differ in how hard they are (0.2 to 0.8, 0.5 on average), by more than chance makes queries differ."""
    items = []
    for v in range(videos):
        ease = rng.uniform(0.2, 0.8) + lift
        items += [(f"v{v}", f"t{q % 2}", float(rng.random() < ease)) for q in range(queries)]
    return items


def test_the_mean_weighs_items_and_counts_videos() -> None:
    found = mean([("a", 1.0), ("a", 1.0), ("a", 1.0), ("b", 0.0)], 200, 0)
    assert (found.n, found.videos, found.value) == (4, 2, 0.75)
    assert (found.low, found.high) == (0.0, 1.0), "either video may be drawn twice"
    assert found.figure("accuracy") == {"n": 4, "accuracy": 0.75, "ci_low": 0.0, "ci_high": 1.0, "videos": 2}
    assert mean([("a", 0.5)] * 3, 50, 0) == Estimate(3, 1, 0.5, 0.5, 0.5)


def test_with_one_item_a_video_it_is_the_binomial_interval() -> None:
    found = mean([(str(i), float(i % 4 == 0)) for i in range(400)], 4000, 0)
    spread = 1.96 * sqrt(0.25 * 0.75 / 400)
    assert found.low == pytest.approx(0.25 - spread, abs=0.006) and found.high == pytest.approx(
        0.25 + spread, abs=0.006
    )


def test_queries_of_a_video_are_no_independent_witnesses() -> None:
    """Ten queries that are right or wrong together say as much as one."""
    single = [(str(i), float(i % 2)) for i in range(100)]
    tenfold = [pair for pair in single for _ in range(10)]
    one, ten = mean(single, 500, 3), mean(tenfold, 500, 3)
    assert (one.low, one.high) == (ten.low, ten.high) and ten.n == 10 * one.n and ten.videos == one.videos == 100


def test_the_interval_covers_the_truth_and_one_over_queries_does_not() -> None:
    rng = np.random.default_rng(0)
    runs, inside, naive = 300, 0, 0
    for seed in range(runs):
        items = simulated(rng, 40, 12)
        found = mean([(video, value) for video, _, value in items], 400, seed)
        inside += found.low <= 0.5 <= found.high
        alone = mean([(str(i), value) for i, (_, _, value) in enumerate(items)], 400, seed)
        naive += alone.low <= 0.5 <= alone.high
    assert 0.91 <= inside / runs <= 0.98, inside / runs
    assert naive / runs < 0.85, "drawing single queries would claim too much"


def test_any_aggregate_is_made_again_of_every_draw() -> None:
    items = simulated(np.random.default_rng(1), 20, 4)
    flat = mean([(video, value) for video, _, value in items], 300, 5)
    again = aggregate(items, plain_mean, video_of, 300, 5)
    assert (again.n, again.videos) == (flat.n, flat.videos) == (80, 20)
    assert [again.value, again.low, again.high] == pytest.approx([flat.value, flat.low, flat.high])
    # Tasks of unequal size: the mean of their means is no mean of items, and neither is its interval.
    uneven = [("a", "x", 1.0)] * 9 + [("b", "x", 1.0), ("b", "y", 0.0), ("c", "y", 0.0), ("c", "x", 1.0)]
    tasks = aggregate(uneven, mean_of_tasks, video_of, 300, 5)
    assert tasks.value == 0.5 and plain_mean(uneven) > 0.8 and tasks.high == 1.0


def test_the_interval_of_a_mean_of_tasks_covers_the_truth() -> None:
    rng = np.random.default_rng(2)
    inside = 0
    for seed in range(150):
        found = aggregate(simulated(rng, 30, 6), mean_of_tasks, video_of, 150, seed)
        inside += found.low <= 0.5 <= found.high
    assert 0.89 <= inside / 150 <= 0.99, inside / 150


def test_all_is_decided_by_the_seed() -> None:
    rng = np.random.default_rng(6)
    values = [(str(i // 3), float(rng.random())) for i in range(90)]
    pairs = [(video, value, float(rng.random())) for video, value in values]
    assert mean(values, 500, 7) == mean(values, 500, 7) != mean(values, 500, 8)
    assert paired_mean(pairs, 500, 7) == paired_mean(pairs, 500, 7) != paired_mean(pairs, 500, 8)
    with pytest.raises(ValueError, match="at least one"):
        mean([], 10, 0)


# ---- Differences


def test_the_exact_test_is_the_sign_test_of_videos() -> None:
    """k of m videos gained one query: by hand, the two tails of a binomial."""
    for up, down in ((5, 0), (6, 1), (4, 4), (8, 2)):
        m = up + down
        pairs = [(f"u{i}", 1.0, 0.0) for i in range(up)] + [(f"d{i}", 0.0, 1.0) for i in range(down)]
        pairs += [(f"same{i}", 1.0, 1.0) for i in range(7)]  # videos that do not differ say nothing
        hand = sum(comb(m, k) for k in range(m + 1) if abs(2 * k - m) >= abs(up - down)) / 2**m
        assert paired_mean(pairs, 10, 0).p == pytest.approx(hand)
    assert paired_mean([("a", 1.0, 1.0), ("b", 0.0, 0.0)], 10, 0).p == 1.0


def test_drawn_swappings_agree_with_all_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(3)
    pairs = [(str(v), float(rng.integers(0, 4)), 1.0) for v in range(12)]
    exact = paired_mean(pairs, 10, 0).p
    monkeypatch.setattr("evaluation.statistics.EXACT", 0)
    assert EXACT == 12 and paired_mean(pairs, 20_000, 0).p == pytest.approx(exact, abs=0.02)


def test_the_test_keeps_its_level_and_finds_what_is_there() -> None:
    rng = np.random.default_rng(4)
    false, found, runs = 0, 0, 200
    for seed in range(runs):
        left, right, better = (simulated(rng, 30, 6, lift) for lift in (0.0, 0.0, 0.2))
        pairs = [(a[0], a[2], b[2]) for a, b in zip(left, right, strict=True)]
        gains = [(a[0], a[2], b[2]) for a, b in zip(better, right, strict=True)]
        false += paired_mean(pairs, 300, seed).p <= 0.05
        found += paired_mean(gains, 300, seed).p <= 0.05
    assert false / runs <= 0.085, "5% of differences that are none are called one"
    assert found / runs >= 0.75


def test_a_paired_interval_is_narrower_than_two_apart() -> None:
    """One of ten videos flips: what the others have in common cancels out."""
    pairs = [(str(i), float(i % 2 == 0 or i == 1), float(i % 2 == 0)) for i in range(10)]
    found = paired_mean(pairs, 2000, 0)
    assert (found.n, found.videos, found.first, found.second) == (10, 10, 0.6, 0.5)
    assert found.value == pytest.approx(0.1) and found.low == 0.0 and found.high <= 0.3
    alone = mean([(video, first) for video, first, _ in pairs], 2000, 0)
    assert alone.high - alone.low > found.high - found.low
    back = paired_mean([(video, second, first) for video, first, second in pairs], 2000, 0)
    assert (back.value, back.low, back.high, back.p) == (-found.value, -found.high, 0.0, found.p)


def test_paired_aggregates_agree_with_paired_means_where_they_are_means() -> None:
    rng = np.random.default_rng(5)
    ours, theirs = simulated(rng, 8, 3, 0.2), simulated(rng, 8, 3)
    pairs = [(a[0], a[2], b[2]) for a, b in zip(ours, theirs, strict=True)]
    flat, any_figure = paired_mean(pairs, 200, 6), paired_aggregate(ours, theirs, plain_mean, video_of, 200, 6)
    assert (any_figure.n, any_figure.videos) == (24, 8)
    assert [any_figure.value, any_figure.low, any_figure.high, any_figure.p] == pytest.approx(
        [flat.value, flat.low, flat.high, flat.p]
    )
    tasks = paired_aggregate(ours, theirs, mean_of_tasks, video_of, 100, 6)
    assert tasks.value == pytest.approx(mean_of_tasks(ours) - mean_of_tasks(theirs)) and tasks.low <= tasks.value
    with pytest.raises(ValueError, match="same videos"):
        paired_aggregate(ours, theirs[:-3], plain_mean, video_of, 10, 0)


def test_p_values_are_shown_with_three_digits() -> None:
    assert [shown_p(p) for p in (0.0004, 0.04999, 1.0)] == ["p < 0.001", "p = 0.050", "p = 1.000"]
