"""Streams for the benchmarks: samples of a given shape with random frames, and what renders them. No files but a tiny
checkpoint in a temporary folder."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from whilst.backbones.tiny import Family, build_tiny
from whilst.clips import SegmentClip
from whilst.sample import Answer, Event, Query, Sample, Segment, Thought, Video

WORDS = tuple(f"word-{i}" for i in range(100))
FPS = 2.0  # frames a second; a segment's clip has as many as fit


@contextmanager
def checkpoint(family: Family, **sizes: Any) -> Iterator[str]:
    """A folder with a tiny model of a family: random weights, the same every time. `sizes` as build_tiny takes them."""
    with tempfile.TemporaryDirectory() as folder:
        build_tiny(family, folder, WORDS, timestamp_seconds=256, **sizes)
        yield folder


def stream(
    name: str, segments: int, *, thought: tuple[int, int], answer: int = 0, seconds: float = 1.0, seed: int = 0
) -> Sample:
    """A sample of `segments` segments, each with a thought of thought[0] to thought[1] words.

    answer: words of the answer to a query after the last thought; 0: no query.
    """
    rng = random.Random(seed)

    def say(n: int) -> str:
        return " ".join(rng.choices(WORDS, k=n))

    events: list[Event] = []
    for i in range(segments):
        end = (i + 1) * seconds
        events += [Segment(i * seconds, end), Thought(end, say(rng.randint(*thought)))]
    if answer:
        end = segments * seconds
        events += [Query("q", end, say(6)), Answer(end, say(answer), "q")]
    return Sample(name, Video(f"{name}.mp4"), tuple(events))


def clips(sample: Sample, height: int, width: int, seed: int = 0) -> list[SegmentClip]:
    """Random frames of height x width pixels at FPS for each segment of a sample."""
    rng = np.random.default_rng(seed)
    made = []
    for segment in sample.segments():
        times = tuple(segment.start + i / FPS for i in range(round((segment.end - segment.start) * FPS)))
        images = rng.integers(0, 256, (len(times), height, width, 3), dtype=np.uint8)
        made.append(SegmentClip(segment, images, times, FPS))
    return made
