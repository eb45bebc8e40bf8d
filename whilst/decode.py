"""Video files, decoded: the picture on screen at given instants, through PyAV (FFmpeg).

The clock is the video's own: 0 is its first frame. What containers get wrong is put right here and nowhere else:
timestamps in decoding order, clocks that do not start at zero, guessed durations, seeks that land too late, phones held
upright. Everything about sources, ranges and rates is in `video.py`.
"""

import heapq
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
from av.container import InputContainer
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream

MISSING_END = 0.5  # seconds a file may lack at its end before it counts as truncated: headers round
STEADY = 0.002  # seconds by which frame intervals of a constant rate may differ: Matroska stores milliseconds
REORDER = 8  # frames looked ahead to put timestamps in order; decoders hold back fewer
HOP = 1.0  # seconds ahead from which on it pays to seek rather than to decode what lies between

NO_VIDEO_FORMATS = ("image2", "tty")  # FFmpeg opens a single picture and even a text file as a "video"
MATROSKA = "matroska,webm"
NO_INDEX_FORMATS = ("mpeg", "mpegts")  # FFmpeg guesses their duration, and seeks into the middle of a group of pictures


class VideoError(ValueError):
    """A video that cannot be read as asked. The message names the file and the fix."""


@dataclass(frozen=True)
class OpenVideo:
    """A file that is open for decoding.

    `base` is the length in seconds of the unit in which the file stamps frames; `duration` is in seconds from the first
    frame on, as the file declares it or, where it does not, as its packets tell.
    """

    path: Path
    container: InputContainer
    stream: VideoStream
    base: float
    duration: float


class Stamped(NamedTuple):
    """A decoded frame and its true timestamp, in the file's units."""

    stamp: int
    frame: VideoFrame


@dataclass(frozen=True)
class Measures:
    """`duration` in seconds, `fps` on average, `size` = (width, height) in pixels as displayed."""

    duration: float
    fps: float
    size: tuple[int, int]
    variable_rate: bool


@contextmanager
def opened(path: Path) -> Iterator[OpenVideo]:
    """The file's first video stream. FFmpeg's errors inside the block become VideoErrors that name the file."""
    if not path.is_file():
        raise VideoError(f"{path}: there is no such file")
    size = path.stat().st_size
    if size == 0:
        raise VideoError(f"{path}: the file is empty (0 bytes): fetch or convert it again")
    try:
        with av.open(str(path), metadata_errors="ignore") as container:
            stream = _video_stream(path, container)
            stream.codec_context.thread_count = 1
            if container.format.name == MATROSKA:
                container.seek(0)  # it loads its index with the first seek only
            index = stream.index_entries
            if len(index) and index[len(index) - 1].pos + index[len(index) - 1].size > size:
                raise VideoError(
                    f"{path}: truncated: its index points past its {size} bytes: fetch or convert it again"
                )
            assert stream.time_base is not None  # every stream that was opened for reading has one
            base = float(stream.time_base)
            duration = _declared_duration(container, stream, base)
            yield OpenVideo(
                path, container, stream, base, _packets(path).length * base if duration is None else duration
            )
    except av.FFmpegError as error:
        raise VideoError(
            f"{path}: cannot be decoded ({error.strerror}): not a video, or one that is damaged or truncated: "
            "fetch or convert it again"
        ) from error


def decode_at(video: OpenVideo, ticks: Iterator[float]) -> Iterator[tuple[float, float, np.ndarray]]:
    """(tick, true timestamp, image) for increasing ticks, all in seconds; image (H, W, 3) uint8 RGB.

    A tick takes the last frame whose timestamp is not after it. What lies more than `HOP` ahead is reached by seeking.
    The last frame stays to the end. Raises VideoError for a file that ends well before its declared duration.
    """
    frames = _decoded(video)
    coming = next(frames, None)
    if coming is None:
        raise VideoError(f"{video.path}: no picture can be decoded: fetch or convert it again")
    zero = coming.stamp
    shown, image, reformatter = coming, None, VideoReformatter()
    for tick in ticks:
        if coming is not None and _pays_to_seek(video, coming.stamp, zero, tick):
            frames = _decoded_from(video, zero, tick)
            coming = next(frames, None)
        while coming is not None and _is_due(video, coming.stamp, zero, tick):
            shown, image = coming, None
            coming = next(frames, None)
        if coming is None and tick >= (last := _end_of(video, shown, zero)) + MISSING_END:
            raise VideoError(
                f"{video.path}: truncated: its header says {video.duration:.3f} s, but its frames end at {last:.3f} s: "
                "fetch or convert it again, or read a range before that"
            )
        if image is None:
            image = _rgb(shown.frame, reformatter)
        yield tick, (shown.stamp - zero) * video.base, image


def measure(video: OpenVideo) -> Measures:
    """Duration, rate and size. MP4 is not read through, because its index lists all frames; others are, undecoded."""
    first = next(_decoded(video), None)
    if first is None:
        raise VideoError(f"{video.path}: no picture can be decoded: fetch or convert it again")
    height, width, _ = _rgb(first.frame, VideoReformatter()).shape
    index = video.stream.index_entries
    if len(index) == video.stream.frames > 1:
        stamps = [entry.timestamp for entry in index]  # of decoding, with the intervals of display
    else:
        stamps = _packets(video.path).stamps
    intervals = np.diff(stamps) * video.base
    fps = 1.0 / float(intervals.mean()) if len(intervals) else 1.0 / video.duration
    variable_rate = len(intervals) > 0 and float(np.ptp(intervals)) > STEADY
    return Measures(video.duration, fps, (width, height), variable_rate)


def _video_stream(path: Path, container: InputContainer) -> VideoStream:
    if container.format.name.endswith("_pipe") or container.format.name in NO_VIDEO_FORMATS:
        raise VideoError(
            f"{path}: not a video ({container.format.long_name}); "
            "pictures go into a folder with a frames.json that gives their rate"
        )
    for stream in container.streams.video:
        if not stream.disposition & Disposition.attached_pic:  # the cover of a song is no video
            if stream.codec_context is None:
                raise VideoError(f"{path}: its codec is not known, or the file is damaged: convert it")
            return stream
    kinds = ", ".join(sorted({stream.type for stream in container.streams})) or "nothing"
    raise VideoError(f"{path}: has no video stream (only {kinds}): choose a file with pictures")


def _declared_duration(container: InputContainer, stream: VideoStream, base: float) -> float | None:
    if container.format.name in NO_INDEX_FORMATS:
        return None
    if stream.duration is not None:
        return stream.duration * base
    start = (stream.start_time or 0) * base
    tag = stream.metadata.get("DURATION")  # Matroska, "00:00:07.040000000", from the file's start
    if tag is not None:
        hours, minutes, seconds = tag.split(":")
        return int(hours) * 3600 + int(minutes) * 60 + float(seconds) - start
    if container.duration is not None and len(container.streams) == 1:  # of several, another stream may be the longest
        return container.duration / av.time_base - start
    return None


class _Packets(NamedTuple):
    """`stamps`: all timestamps in order; `length`: from the first to the end of the last frame; in the file's units."""

    stamps: list[int]
    length: int


def _packets(path: Path) -> _Packets:
    """Read through the file, decoding nothing."""
    with av.open(str(path), metadata_errors="ignore") as container:
        packets = [packet for packet in container.demux(_video_stream(path, container)) if packet.size > 0]
    stamps = sorted(packet.pts if packet.pts is not None else packet.dts or 0 for packet in packets)
    if not stamps:
        raise VideoError(f"{path}: its video stream is empty: fetch or convert it again")
    return _Packets(stamps, stamps[-1] - stamps[0] + (packets[-1].duration or 0))


def _decoded(video: OpenVideo) -> Iterator[Stamped]:
    """Frames from where the container stands, in order of display.

    A decoder gives frames in that order, so the n-th frame's time is the n-th smallest timestamp, even where a
    container stamped them in the order of decoding, as AVI and some MP4 writers do.
    """
    frames: list[VideoFrame] = []
    stamps: list[int] = []
    for frame in video.container.decode(video.stream):
        if frame.pts is None:
            raise VideoError(f"{video.path}: its frames have no timestamps: put it into a container such as MP4")
        frames.append(frame)
        heapq.heappush(stamps, frame.pts)
        if len(frames) > REORDER:
            yield Stamped(heapq.heappop(stamps), frames.pop(0))
    while frames:
        yield Stamped(heapq.heappop(stamps), frames.pop(0))


def _decoded_from(video: OpenVideo, zero: int, tick: float) -> Iterator[Stamped]:
    """As `_decoded`, from a keyframe at or before `tick`."""
    back = 0.0
    while tick - back > 0.0:
        video.container.seek(zero + math.floor((tick - back) / video.base), stream=video.stream)
        frames = _decoded(video)
        # Frames before the keyframe, if any come, lean on pictures that were skipped.
        keyframe = next((stamped for stamped in frames if stamped.frame.key_frame), None)
        if keyframe is not None and _is_due(video, keyframe.stamp, zero, tick):
            return chain([keyframe], frames)
        back = max(1.0, 4.0 * back)  # MP4 seeks by times of decoding, and may land on a keyframe that is shown too late
    video.container.seek(zero, stream=video.stream)
    return _decoded(video)


def _pays_to_seek(video: OpenVideo, stamp: int, zero: int, tick: float) -> bool:
    """Whether a keyframe is known to lie between the frame at `stamp` and the tick."""
    if video.container.format.name in NO_INDEX_FORMATS or tick - (stamp - zero) * video.base < HOP:
        return False
    index = video.stream.index_entries
    entry = index.search_timestamp(zero + math.floor(tick / video.base), backward=True, any_frame=False)
    return entry >= 0 and index[entry].timestamp > stamp


def _is_due(video: OpenVideo, stamp: int, zero: int, tick: float) -> bool:
    """Whether a frame is on screen at the tick; rounding to the file's clock (up to 0.5 ms) does not make it late."""
    return (stamp - zero) * video.base <= tick + min(video.base / 2, 0.0005) + 1e-6


def _end_of(video: OpenVideo, last: Stamped, zero: int) -> float:
    """Seconds at which the last frame leaves the screen."""
    duration = last.frame.duration * video.base if last.frame.duration else 1.0 / float(video.stream.average_rate or 1)
    return (last.stamp - zero) * video.base + duration - 1e-6


def _rgb(frame: VideoFrame, reformatter: VideoReformatter) -> np.ndarray:
    """(H, W, 3) uint8, turned as a player would show it."""
    # One scaling thread: starting several costs more than the conversion of a frame.
    image = reformatter.reformat(frame, format="rgb24", threads=1).to_ndarray()
    return np.ascontiguousarray(np.rot90(image, frame.rotation // 90)) if frame.rotation else image
