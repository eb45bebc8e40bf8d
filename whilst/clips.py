"""Sample + its video -> one clip a segment: what training, evaluation and the runtime show the model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from whilst.backbones.base import ClipShape, Features, VisionSpec
from whilst.sample import Sample, Segment
from whilst.segmenters import clips_of
from whilst.video import read_frames


@dataclass(frozen=True)
class SegmentClip:
    """The frames of one segment: images (T, H, W, 3) uint8, times (T,) s on the video's clock, sampling fps."""

    segment: Segment
    images: np.ndarray
    times: tuple[float, ...]
    fps: float

    def shape(self, spec: VisionSpec) -> ClipShape:
        return spec.shape(self.times, self.images.shape[1], self.images.shape[2], self.fps)


@dataclass(frozen=True)
class View:
    """A clip as the session takes it: its span, its shape for the renderer, its features."""

    segment: Segment
    shape: ClipShape
    features: Features


def segment_clips(sample: Sample, fps: float) -> list[SegmentClip]:
    """Decode a sample's video once and cut it at its segments. Raises VideoError naming the file and the span."""
    segments = [event for event in sample.events if isinstance(event, Segment)]
    if not segments:
        return []
    frames = read_frames(sample.video.path, fps, segments[0].start, segments[-1].end)
    cut = clips_of(frames, [(s.start, s.end) for s in segments])
    return [
        SegmentClip(segment, clip.frames.images, tuple(float(t) for t in clip.frames.times), fps)
        for segment, clip in zip(segments, cut, strict=True)
    ]


def shapes(clips: Sequence[SegmentClip], spec: VisionSpec) -> list[ClipShape]:
    return [clip.shape(spec) for clip in clips]
