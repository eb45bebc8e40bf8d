"""Where one segment ends and the next begins.

A segmenter takes `Frames` or a stream of (time, image) pairs, as `video.stream_frames` gives them, and yields clips. A
causal one decides with what has been on screen so far: it may run while the video arrives, and later frames never
change an earlier clip. `end` is where the timeline stops (seconds); without it the last frame counts for one more
interval.

    for clip in fixed(stream_frames("street.mp4", fps=2.0), seconds=4.0, end=20.0): ...
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from whilst.video import EPSILON, Frames, VideoError

Stream = Iterable[tuple[float, np.ndarray]]
# (start of the open clip, its images so far, now, the image on screen now or None at the end) -> the instant at which
# the clip ended, or None while it stays open.
Close = Callable[[float, Sequence[np.ndarray], float, np.ndarray | None], float | None]


@dataclass(frozen=True)
class Clip:
    """The frames of one segment [start, end), in seconds; at least one frame."""

    start: float
    end: float
    frames: Frames


def clips_of(frames: Frames, spans: Sequence[tuple[float, float]]) -> list[Clip]:
    """Cut by given segment spans, start <= time < end; VideoError for a span without frames."""
    clips = [Clip(start, end, frames.slice(start, end)) for start, end in spans]
    for clip in clips:
        if len(clip.frames) == 0:
            have = f"{frames.times[0]} to {frames.times[-1]} s" if len(frames) else "none"
            raise VideoError(
                f"the span [{clip.start}, {clip.end}) s holds no frame (frames: {have}): "
                "read the video at a higher fps, or read the range that the span lies in"
            )
    return clips


def fixed(frames: Frames | Stream, seconds: float, *, end: float | None = None) -> Iterator[Clip]:
    """Clips of `seconds` from the first frame on; the last may be shorter. Causal.

    Raises VideoError if a clip would be without frames.
    """
    _check_positive("seconds", seconds)

    def close(start: float, images: Sequence[np.ndarray], now: float, image: np.ndarray | None) -> float | None:
        if now < start + seconds - EPSILON:
            return None
        if not images:
            raise VideoError(f"no frame in [{start}, {start + seconds}) s: use longer segments or a higher fps")
        return round(start + seconds, 9)  # 0.3, not 0.30000000000000004, after three times 0.1

    return _cut(frames, close, end)


def token_budget(
    frames: Frames | Stream,
    budget: int,
    tokens_per_frame: float,
    *,
    temporal_patch: int = 2,
    end: float | None = None,
) -> Iterator[Clip]:
    """A clip ends when its visual tokens reach the budget L (VST's trigger). Causal.

    No clip exceeds the budget: it holds as many frames as fit, a multiple of `temporal_patch`, because an incomplete
    patch would be padded to a whole one. `tokens_per_frame` are those of a patch divided by `temporal_patch`.
    """
    _check_positive("tokens_per_frame", tokens_per_frame)
    capacity = math.floor(budget / tokens_per_frame / temporal_patch + EPSILON) * temporal_patch
    if capacity < 1:
        need = math.ceil(tokens_per_frame * temporal_patch)
        raise VideoError(f"a budget of {budget} tokens holds no frame: {temporal_patch} frames need {need}")

    def close(start: float, images: Sequence[np.ndarray], now: float, image: np.ndarray | None) -> float | None:
        return now if image is not None and len(images) == capacity else None

    return _cut(frames, close, end)


def query_aligned(
    frames: Frames | Stream, query_times: Sequence[float], max_seconds: float, *, end: float | None = None
) -> Iterator[Clip]:
    """A clip ends where a query arrives, or after `max_seconds` (TWW's evaluation). Causal.

    Where no frame lies between two queries there is no clip, but a gap. TWW halves only pieces of more than 60 s, which
    needs to know when the next query comes; here every piece has the same maximum.
    """
    _check_positive("max_seconds", max_seconds)
    queries = sorted(query_times)

    def close(start: float, images: Sequence[np.ndarray], now: float, image: np.ndarray | None) -> float | None:
        cut = next((time for time in queries if time > start + EPSILON), math.inf)
        cut = min(cut, start + max_seconds)
        return cut if now >= cut - EPSILON else None

    return _cut(frames, close, end)


def shots(frames: Frames | Stream, threshold: float, *, end: float | None = None) -> Iterator[Clip]:
    """A clip ends where a frame differs from the one before it by more than `threshold`. Causal.

    The difference is the mean over pixels and channels of |a - b|, in grey levels 0..255.
    """
    _check_positive("threshold", threshold)

    def close(start: float, images: Sequence[np.ndarray], now: float, image: np.ndarray | None) -> float | None:
        if image is None or not images:
            return None
        return now if float(np.abs(image.astype(np.int16) - images[-1]).mean()) > threshold else None

    return _cut(frames, close, end)


def equal_parts(frames: Frames | Stream, n: int, *, end: float | None = None) -> Iterator[Clip]:
    """`n` clips of equal length (VST's evaluation). NOT causal: it needs the whole video before its first cut."""
    if n < 1:
        raise VideoError(f"n must be at least 1 part, not {n}")
    pairs = frames if isinstance(frames, Frames) else list(frames)
    if len(pairs) == 0:
        return
    whole = pairs if isinstance(pairs, Frames) else _gather(pairs)
    start, stop = float(whole.times[0]), _stop(whole.times, end)
    edges = [start + (stop - start) * i / n for i in range(n)] + [stop]
    yield from clips_of(whole, list(pairwise(edges)))


class Segmenter(NamedTuple):
    """`causal`: whether it may be used while the video is still arriving."""

    function: Callable[..., Iterator[Clip]]
    causal: bool


SEGMENTERS: dict[str, Segmenter] = {
    "fixed": Segmenter(fixed, causal=True),
    "token_budget": Segmenter(token_budget, causal=True),
    "query_aligned": Segmenter(query_aligned, causal=True),
    "shots": Segmenter(shots, causal=True),
    "equal_parts": Segmenter(equal_parts, causal=False),
}


def _cut(frames: Frames | Stream, close: Close, end: float | None) -> Iterator[Clip]:
    """Yields a clip as soon as the frame that ends it has arrived. Frames at or after `end` are left out."""
    pairs: Stream = zip(frames.times.tolist(), frames.images, strict=True) if isinstance(frames, Frames) else frames
    start: float | None = None
    times: list[float] = []  # of the open clip
    images: list[np.ndarray] = []
    last: float | None = None  # time of the last frame
    interval: float | None = None  # between the last two frames
    taken = 0  # frames in clips already yielded

    def clip(opened: float, closed: float) -> Clip:
        if isinstance(frames, Frames):
            return Clip(opened, closed, frames.take(taken, taken + len(times)))
        return Clip(opened, closed, _gather(list(zip(times, images, strict=True))))

    for time, image in pairs:
        if end is not None and time >= end - EPSILON:
            break
        start = time if start is None else start
        interval = time - last if last is not None else None
        last = time
        while times or start < time - EPSILON:
            cut = close(start, images, time, image)
            if cut is None:
                break
            if times:
                yield clip(start, cut)
                taken += len(times)
                times, images = [], []
            start = cut
        times.append(time)
        images.append(image)
    if start is None:
        return
    stop = end if end is not None else _stop_after(times, interval)
    cut = close(start, images, stop, None)
    yield clip(start, stop if cut is None else min(cut, stop))


def _stop(times: np.ndarray, end: float | None) -> float:
    return end if end is not None else _stop_after(times, float(times[-1] - times[-2]) if len(times) > 1 else None)


def _stop_after(times: Sequence[float] | np.ndarray, interval: float | None) -> float:
    if interval is None:
        raise VideoError("one frame alone does not say where its clip ends: pass end")
    return float(times[-1]) + interval


def _gather(pairs: Sequence[tuple[float, np.ndarray]]) -> Frames:
    return Frames(np.stack([image for _, image in pairs]), np.array([time for time, _ in pairs]))


def _check_positive(name: str, value: float) -> None:
    if not (math.isfinite(value) and value > 0):
        raise VideoError(f"{name} must be a positive number, not {value}")
