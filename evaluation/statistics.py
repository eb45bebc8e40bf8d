"""Intervals and tests over videos. Queries (and segments) of one video stand and fall together, so what is drawn again,
and what is flipped in a test, is the video with all that belongs to it, never the single query.

An interval is a 95% percentile bootstrap interval: videos are drawn with replacement, as many as there are, and the
figure is made again of what was drawn. With fewer than about 20 videos it is too narrow; with one it says nothing. That
is why the number of videos stands beside n wherever a figure is shown.

A difference is paired: a video that is drawn is drawn for both, so what makes it hard for both does not widen the
interval. Its p-value is that of a sign-flip permutation test over videos: if neither side were better, the two sides of
a video could as well be swapped. It is the share of swappings whose difference is at least as large, either way.

Everything is decided by `seed` and the order in which videos come.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

T = TypeVar("T")

LEVEL = 0.95
EXACT = 12  # videos that differ: up to so many, all 2^n swappings are counted, else `draws` of them are drawn


@dataclass(frozen=True)
class Estimate:
    """A figure over n items of some videos, with its interval."""

    n: int
    videos: int
    value: float
    low: float
    high: float

    def figure(self, name: str) -> dict[str, float | int]:
        """As reports hold it, the value under `name`."""
        return {"n": self.n, name: self.value, "ci_low": self.low, "ci_high": self.high, "videos": self.videos}


@dataclass(frozen=True)
class Difference:
    """first - second over the same n items, with its interval and the p-value of the sign-flip test."""

    n: int
    videos: int
    first: float
    second: float
    value: float
    low: float
    high: float
    p: float

    def figure(self, name: str) -> dict[str, float | int]:
        """As reports hold it, the difference under `name`."""
        estimate = Estimate(self.n, self.videos, self.value, self.low, self.high)
        return estimate.figure(name) | {"p": self.p}


def mean(values: Sequence[tuple[str, float]], draws: int, seed: int) -> Estimate:
    """The mean of (video, value) pairs: every value has the same weight, whatever its video."""
    total, count = _sums(values)
    drawn = _drawn(len(count), draws, seed)
    low, high = _middle(total[drawn].sum(1) / count[drawn].sum(1))
    return Estimate(int(count.sum()), len(count), float(total.sum() / count.sum()), low, high)


def aggregate(
    items: Sequence[T], of: Callable[[Sequence[T]], float], video: Callable[[T], str], draws: int, seed: int
) -> Estimate:
    """Any figure that is made of items, such as a mean of means of tasks: it is made again of every draw."""
    groups = list(_grouped(items, video).values())
    values = [of([item for v in picked for item in groups[v]]) for picked in _drawn(len(groups), draws, seed)]
    low, high = _middle(np.array(values))
    return Estimate(len(items), len(groups), of(items), low, high)


def paired_mean(values: Sequence[tuple[str, float, float]], draws: int, seed: int) -> Difference:
    """Mean of first - second over (video, first, second), one an item."""
    total, count = _sums([(video, first - second) for video, first, second in values])
    drawn = _drawn(len(count), draws, seed)
    low, high = _middle(total[drawn].sum(1) / count[drawn].sum(1))
    n = int(count.sum())
    first, second = sum(value[1] for value in values) / n, sum(value[2] for value in values) / n
    moved = total[np.abs(total) > 1e-12]
    flipped = _signs(len(moved), draws, seed) @ moved
    p = _share(flipped, float(total.sum()), len(moved), draws)
    return Difference(n, len(count), first, second, float(total.sum() / n), low, high, p)


def paired_aggregate(
    first: Sequence[T],
    second: Sequence[T],
    of: Callable[[Sequence[T]], float],
    video: Callable[[T], str],
    draws: int,
    seed: int,
) -> Difference:
    """of(first) - of(second) for any figure; videos are drawn, and swapped, on both sides at once."""
    ours, theirs = _grouped(first, video), _grouped(second, video)
    if set(ours) != set(theirs):
        raise ValueError(f"paired figures need the same videos; only one side has {sorted(set(ours) ^ set(theirs))[0]}")
    names = list(ours)

    def difference(left: Sequence[Sequence[T]], right: Sequence[Sequence[T]]) -> float:
        return of([item for group in left for item in group]) - of([item for group in right for item in group])

    values = [
        difference([ours[names[v]] for v in picked], [theirs[names[v]] for v in picked])
        for picked in _drawn(len(names), draws, seed)
    ]
    low, high = _middle(np.array(values))
    moved = [name for name in names if ours[name] != theirs[name]]
    flipped = []
    for signs in _signs(len(moved), draws, seed):
        swapped = {name for name, sign in zip(moved, signs, strict=True) if sign < 0}
        flipped.append(
            difference(
                [(theirs if name in swapped else ours)[name] for name in names],
                [(ours if name in swapped else theirs)[name] for name in names],
            )
        )
    left, right = of(first), of(second)
    p = _share(np.array(flipped), left - right, len(moved), draws)
    return Difference(len(first), len(names), left, right, left - right, low, high, p)


def count_videos(items: Sequence[T], video: Callable[[T], str]) -> int:
    return len({video(item) for item in items})


def _grouped(items: Sequence[T], video: Callable[[T], str]) -> Mapping[str, list[T]]:
    groups: dict[str, list[T]] = {}
    for item in items:
        groups.setdefault(video(item), []).append(item)
    if not groups:
        raise ValueError("no item: a figure needs at least one")
    return groups


def _sums(values: Sequence[tuple[str, float]]) -> tuple[np.ndarray, np.ndarray]:
    """Sum and number of the values of each video, (V,) each."""
    groups = _grouped(values, lambda value: value[0]).values()
    return np.array([sum(float(v) for _, v in group) for group in groups]), np.array([len(group) for group in groups])


def _drawn(videos: int, draws: int, seed: int) -> np.ndarray:
    """Which videos each draw consists of, (draws, videos)."""
    return np.random.default_rng(seed).integers(0, videos, (draws, videos))


def _middle(values: np.ndarray) -> tuple[float, float]:
    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def _signs(moved: int, draws: int, seed: int) -> np.ndarray:
    """Swappings of the videos that differ, (S, moved) of 1 and -1: all of them, or `draws` random ones."""
    if moved <= EXACT:
        return 1 - 2 * ((np.arange(2**moved)[:, None] >> np.arange(moved)) & 1)
    # another stream of numbers than the bootstrap's
    return 1 - 2 * np.random.default_rng((seed, 1)).integers(0, 2, (draws, moved))


def _share(flipped: np.ndarray, seen: float, moved: int, draws: int) -> float:
    """Share of swappings with a difference at least as large. Drawn ones count the one that was seen among them."""
    hits = int((np.abs(flipped) >= abs(seen) - 1e-9 * max(1.0, abs(seen))).sum())
    return hits / len(flipped) if moved <= EXACT else (hits + 1) / (draws + 1)


def shown_p(p: Any) -> str:
    """A p-value as pages show it."""
    return "p < 0.001" if float(p) < 0.001 else f"p = {float(p):.3f}"
