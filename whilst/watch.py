"""Watch one video as a stream: what `whilst watch` prints, line by line as it happens.

Frames are decoded as they are needed and cut into segments of equal length. A query asked at time t is put when every
segment that ended by t has been watched, and before any later one.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from whilst.checkpoint import Checkpoint
from whilst.runtime import Generated, StreamSession
from whilst.segmenters import fixed
from whilst.video import probe, stream_frames


@dataclass(frozen=True)
class Said:
    """A thought or an answer at `time` (seconds of the video). `finished`: not cut by the token limit."""

    time: float
    type: Literal["thought", "answer"]
    text: str
    finished: bool
    query: str | None = None


def watch(
    checkpoint: Checkpoint,
    video: str | os.PathLike[str],
    *,
    segment_seconds: float,
    fps: float | None = None,
    queries: Sequence[tuple[float, str]] = (),
    thought_tokens: int = 64,
    answer_tokens: int = 64,
) -> Iterator[Said]:
    """What the model thinks and answers, in order of time; queries are (time in seconds, text).

    fps: frames a second; None takes the rate the checkpoint was trained at. Queries after the video's end are asked
    when it has ended. Raises VideoError for a video that cannot be read as asked.
    """
    rate = checkpoint.contract.fps if fps is None else fps
    session = StreamSession(
        checkpoint.backbone,
        checkpoint.renderer,
        fps=rate,
        thought_tokens=thought_tokens,
        answer_tokens=answer_tokens,
    )
    waiting = sorted(queries, key=lambda query: query[0])
    for clip in fixed(stream_frames(video, rate), segment_seconds, end=probe(video).duration):
        while waiting and waiting[0][0] < clip.end:
            yield _ask(session, *waiting.pop(0))
        session.watch(clip.frames.images, clip.frames.times.tolist(), clip.end)
        if checkpoint.contract.thinks:
            yield _said(session.think(), "thought", clip.end)
    for time, text in waiting:
        yield _ask(session, time, text)


def _ask(session: StreamSession, time: float, text: str) -> Said:
    return _said(session.ask(text, time), "answer", time, text)


def _said(generated: Generated, kind: Literal["thought", "answer"], time: float, query: str | None = None) -> Said:
    return Said(time, kind, generated.text, generated.finished, query)
