"""How long a segment was in training: what a stream that is served is cut into where nobody says otherwise.

Noted down in the run's folder before the first step, so that a checkpoint can be exported without its data.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from statistics import median_low

from train.attempt import is_main
from whilst.files import write_whole
from whilst.sample import Sample

SEGMENTS = "segments.json"


def segment_seconds(samples: Sequence[Sample]) -> float | None:
    """The median length (s, to the millisecond) of their segments; None where there are none. The last segment of a
    video, which ends where the video does, counts only where it is the only one."""
    lengths = []
    for sample in samples:
        segments = sample.segments()
        lengths += [round(one.end - one.start, 3) for one in segments[:-1] or segments]
    return median_low(lengths) if lengths else None


def note_segments(samples: Sequence[Sample], out: Path) -> None:
    """Write it down in a run's folder. Rank 0 writes."""
    if is_main():
        write_whole(out / SEGMENTS, json.dumps({"median_seconds": segment_seconds(samples)}) + "\n")


def noted_segments(out: Path) -> float | None:
    """What a run has noted down; None: nothing, or it is older than this file."""
    file = out / SEGMENTS
    if not file.is_file():
        return None
    seconds: float | None = json.loads(file.read_text(encoding="utf-8"))["median_seconds"]
    return seconds
