"""Sample + its video -> one clip a segment: what training, evaluation and the runtime show the model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from whilst.backbones.base import ClipShape, Features, VisionSpec, resized
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


def size_within(spec: VisionSpec, height: int, width: int, patches: int, total_pixels: int) -> tuple[int, int]:
    """Size (h, w) of frames of height x width such that `patches` temporal patches have at most `total_pixels` pixels,
    the frames of one patch counted once.

    As total_pixels of qwen_vl_utils: most pixels a frame = total_pixels / patches, within max_pixels, and never below
    1.05 min_pixels, even where the total is then passed.
    """
    most = min(spec.max_pixels, max(total_pixels // patches, int(1.05 * spec.min_pixels)))
    return spec.frame_size(*replace(spec, max_pixels=most).frame_size(height, width))


def within(clips: Sequence[SegmentClip], spec: VisionSpec, total_pixels: int | None) -> list[SegmentClip]:
    """The clips of one sample, their frames made smaller where they have more than `total_pixels` (`size_within`)."""
    if total_pixels is None or not clips:
        return list(clips)
    patches = sum(-(-len(clip.images) // spec.temporal_patch) for clip in clips)
    _, height, width, _ = clips[0].images.shape
    size = size_within(spec, height, width, patches, total_pixels)
    if size == spec.frame_size(height, width):
        return list(clips)
    small = [resized(clip.images, *size).permute(0, 2, 3, 1).byte().numpy() for clip in clips]
    return [replace(clip, images=np.ascontiguousarray(images)) for clip, images in zip(clips, small, strict=True)]


def shapes(clips: Sequence[SegmentClip], spec: VisionSpec) -> list[ClipShape]:
    return [clip.shape(spec) for clip in clips]
