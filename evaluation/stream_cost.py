"""What hours of a stream cost: time, cache entries and bytes by segment, and whether they grow.

A single peak says little; what matters is the slope. For each figure: its least-squares slope an hour of video with a
95% interval (moving blocks of the stream are drawn, since neighbouring segments are alike), and the median of the last
quarter over that of the first. A bounded stream has slopes about 0 and ratios about 1.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from evaluation.predict import EvaluationError
from whilst.runtime import Generated, StreamBatch

HOUR = 3600.0


class Session(Protocol):
    """Anything that watches and thinks like a StreamSession."""

    def watch(self, images: np.ndarray, times: Sequence[float], end: float) -> object: ...
    def think(self) -> Generated: ...


@dataclass(frozen=True)
class Held:
    """What a stream holds: entries of its cache (a layer), bytes of them. None: cannot be observed."""

    entries: int | None
    bytes: int | None


@dataclass(frozen=True)
class SegmentCost:
    """One segment from `start` to `time` (s of video). seconds: to watch it and think about it, by the clock given;
    watch_seconds: to watch it. thought_tokens: sampled, the boundary token included. resident_bytes: of the process."""

    start: float
    time: float
    frames: int
    seconds: float
    watch_seconds: float
    thought_tokens: int
    entries: int | None
    bytes: int | None
    resident_bytes: int | None


# (end of the segment in s of video, images (T, H, W, 3) uint8, times (T,) s)
Piece = tuple[float, np.ndarray, Sequence[float]]


def held_by(batch: StreamBatch) -> Held:
    """Entries and bytes of the caches of a StreamBatch, spare room not counted."""
    return Held(sum(batch.cache.lengths()), batch.cache.bytes())


def watch_cost(
    session: Session,
    pieces: Iterable[Piece],
    *,
    thinks: bool,
    held: Callable[[], Held] = lambda: Held(None, None),
    clock: Callable[[], float] = time.process_time,
    before_each: Callable[[int], None] = lambda i: None,
) -> list[SegmentCost]:
    """Watch a stream segment by segment and time each. Making the frames is not timed.

    held: what the session holds, e.g. lambda: held_by(session.batch). clock: CPU seconds unless told. before_each: is
    called with each segment's ordinal before it, untimed (e.g. to ask something now and then).
    """
    costs: list[SegmentCost] = []
    for i, (end, images, times) in enumerate(pieces):
        before_each(i)
        started = clock()
        session.watch(images, times, end)
        watched = clock()
        tokens = 0
        if thinks:
            thought = session.think()
            tokens = len(thought.ids) + thought.finished
        done, now = clock(), held()
        costs.append(
            SegmentCost(
                times[0],
                end,
                len(images),
                done - started,
                watched - started,
                tokens,
                now.entries,
                now.bytes,
                resident_bytes(),
            )
        )
    return costs


def resident_bytes() -> int | None:
    """Memory of this process that is in RAM, where the system says (Linux), else None."""
    statm = Path("/proc/self/statm")
    return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") if statm.exists() else None


@dataclass(frozen=True)
class Trend:
    """slope: change of the figure an hour of video, with its 95% interval; ratio: median of the last quarter over that
    of the first, None where the first is 0."""

    n: int
    slope: float
    ci_low: float
    ci_high: float
    first_quarter: float
    last_quarter: float
    ratio: float | None


def trend(times: Sequence[float], values: Sequence[float], *, draws: int = 500, seed: int = 0) -> Trend:
    """The trend of `values` at `times` (s of video, ascending), eight at least.

    The interval is a moving-block bootstrap: blocks of about sqrt(n) neighbouring points are drawn with replacement.
    """
    n = len(values)
    if n < 8 or len(times) != n:
        raise EvaluationError(f"a trend needs at least 8 values and a time each, got {n} and {len(times)}")
    x, y = np.asarray(times, dtype=float) / HOUR, np.asarray(values, dtype=float)
    if not (np.diff(x) > 0).all():
        raise EvaluationError("a trend needs times that increase")
    size = max(2, round(n**0.5))
    starts = np.random.default_rng(seed).integers(0, n - size + 1, (draws, -(-n // size)))
    drawn = (starts[:, :, None] + np.arange(size)).reshape(draws, -1)[:, :n]
    with np.errstate(invalid="ignore"):
        slopes = _slopes(x[drawn], y[drawn])
    low, high = np.quantile(slopes[np.isfinite(slopes)], [0.025, 0.975])
    quarter = n // 4
    first, last = float(np.median(y[:quarter])), float(np.median(y[n - quarter :]))
    slope = float(_slopes(x[None], y[None])[0])
    return Trend(n, slope, float(low), float(high), first, last, last / first if first else None)


def _slopes(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Least-squares slopes (S,) of y over x, both (S, n)."""
    x = x - x.mean(1, keepdims=True)
    slopes: np.ndarray = (x * (y - y.mean(1, keepdims=True))).sum(1) / (x * x).sum(1)
    return slopes


def stream_cost(costs: Sequence[SegmentCost], *, draws: int = 500, seed: int = 0) -> dict[str, Any]:
    """{"video_seconds", "segments", "tokens_per_video_second", "seconds_per_video_second", "trends": {figure: Trend}}.

    A figure that could not be observed has no trend (None), and so has every figure of fewer than 8 segments. A stream
    keeps up with its video where seconds_per_video_second is below 1.
    """
    if not costs:
        raise EvaluationError("no segment was watched, so there is no cost to report")
    times = [cost.time for cost in costs]
    video = times[-1] - costs[0].start
    trends: dict[str, Any] = {}
    for name in ("seconds", "watch_seconds", "thought_tokens", "entries", "bytes", "resident_bytes"):
        values = [getattr(cost, name) for cost in costs]
        known = len(costs) >= 8 and all(value is not None for value in values)
        trends[name] = asdict(trend(times, values, draws=draws, seed=seed)) if known else None
    return {
        "video_seconds": video,
        "segments": len(costs),
        "tokens_per_video_second": sum(cost.thought_tokens for cost in costs) / video,
        "seconds_per_video_second": sum(cost.seconds for cost in costs) / video,
        "trends": trends,
    }
