"""Video in and out: a clock, not a list of frames.

A video is read at *ticks*, `start + i / fps` seconds on the video's own clock (its first frame is at 0), and every
tick takes the frame that is on screen at that instant: the last one whose timestamp is not after the tick. A frame is
therefore never seen before it exists, at any rate, whether or not the video's own rate is constant.

    info = probe("street.mp4")
    frames = read_frames("street.mp4", fps=2.0, start=10.0, end=20.0)
    for time, image in stream_frames("street.mp4", fps=2.0): ...

A source is a video file, a folder of images with a `frames.json` that gives their rate (`{"fps": 2.0}`), or `Frames`
already in memory. Reading a range seeks to the keyframe before it and stops after its last tick. One video is decoded
by one thread: many videos are decoded by many processes.
"""

import json
import math
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream
from PIL import Image, UnidentifiedImageError

from whilst.decode import VideoError, decode_at, measure, opened

__all__ = ["Frames", "VideoError", "VideoInfo", "probe", "read_frames", "stream_frames", "write_video"]

Source = str | os.PathLike[str]

EPSILON = 1e-6  # seconds: two times closer than this are one time; floats are no better after a few divisions
ROUNDED_END = 0.05  # seconds that a range may pass the video's end by: annotations round durations

LOSSLESS_X264: Mapping[str, str] = {"preset": "ultrafast", "qp": "0"}
IMAGE_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".webp")


@dataclass(frozen=True)
class VideoInfo:
    """What a video is: `duration` in seconds, `fps` the average rate, sizes in pixels as displayed (after rotation)."""

    path: str
    duration: float
    fps: float
    width: int
    height: int
    variable_rate: bool


@dataclass(frozen=True, eq=False)
class Frames:
    """Pictures with the instants at which they were taken.

    images: (T, H, W, 3) uint8, RGB.
    times:  (T,) float64, seconds on the video's clock, strictly increasing: the ticks. All cutting goes by them, so a
            1 s segment read at 1 fps holds one frame even where the video runs at 29.97 fps.
    pts:    (T,) float64, seconds: the true timestamp of each picture, pts <= times; one picture may serve many ticks.
            Left out, it is `times`.
    """

    images: np.ndarray
    times: np.ndarray
    pts: np.ndarray = field(default_factory=lambda: np.empty(0))

    def __post_init__(self) -> None:
        times = np.asarray(self.times, dtype=np.float64)
        pts = np.asarray(self.pts, dtype=np.float64)
        pts = times if len(pts) == 0 else pts
        shape = self.images.shape
        if self.images.dtype != np.uint8 or len(shape) != 4 or shape[3] != 3:
            raise VideoError(f"Frames.images must be (T, H, W, 3) uint8, not {shape} {self.images.dtype}")
        if times.shape != (shape[0],) or pts.shape != (shape[0],):
            raise VideoError(f"Frames of {shape[0]} images need as many times and pts, not {times.shape}, {pts.shape}")
        if not np.isfinite(times).all() or (np.diff(times) <= 0).any():
            raise VideoError(f"Frames.times must be finite and strictly increasing seconds, not {times}")
        object.__setattr__(self, "times", times)
        object.__setattr__(self, "pts", pts)

    def __len__(self) -> int:
        return len(self.times)

    def take(self, first: int, last: int) -> "Frames":
        """The frames with indices first..last-1, as views."""
        return Frames(self.images[first:last], self.times[first:last], self.pts[first:last])

    def slice(self, start: float, end: float) -> "Frames":
        """The frames with start <= time < end, in seconds; possibly none."""
        first, last = np.searchsorted(self.times, (start - EPSILON, end - EPSILON))
        return self.take(int(first), int(last))

    @staticmethod
    def concat(parts: Sequence["Frames"]) -> "Frames":
        """The parts one after the other; VideoError if their sizes differ or their times do not increase."""
        if len({part.images.shape[1:] for part in parts}) != 1:
            raise VideoError(f"Frames.concat needs parts of one size, not {[part.images.shape for part in parts]}")
        arrays = ((part.images, part.times, part.pts) for part in parts)
        return Frames(*(np.concatenate(arrays_of_one_kind) for arrays_of_one_kind in zip(*arrays, strict=True)))


def read_frames(source: Source | Frames, fps: float, start: float = 0.0, end: float | None = None) -> Frames:
    """The frames on screen at the ticks start + i / fps < end (seconds); without `end`, to the end of the video.

    Raises VideoError for a source that is missing, empty, truncated, damaged, not a video or without pictures, for
    fps <= 0, and for a range outside the video.
    """
    ticks, pts, images = [], [], []
    for tick, stamp, image in _sample(source, fps, start, end):
        ticks.append(tick)
        pts.append(stamp)
        images.append(image)
    return Frames(np.stack(images), np.array(ticks), np.array(pts))


def stream_frames(
    source: Source | Frames, fps: float, start: float = 0.0, end: float | None = None
) -> Iterator[tuple[float, np.ndarray]]:
    """The (time, image) pairs of `read_frames`, decoded one at a time as they are asked for; image (H, W, 3) uint8.

    Raises what `read_frames` raises, when the frame concerned is asked for.
    """
    for tick, _, image in _sample(source, fps, start, end):
        yield tick, image


def probe(path: Source) -> VideoInfo:
    """Duration, rate and size of a video file or a folder of images; VideoError as in `read_frames`.

    Exact without reading an MP4 through, because its index holds every frame; other containers are read, not decoded.
    """
    if Path(path).is_dir():
        images, fps = _folder(Path(path))
        height, width, _ = _load_image(images[0]).shape
        return VideoInfo(str(path), len(images) / fps, fps, width, height, variable_rate=False)
    with opened(Path(path)) as video:
        measures = measure(video)
        width, height = measures.size
        return VideoInfo(str(path), measures.duration, measures.fps, width, height, measures.variable_rate)


def write_video(
    path: Source,
    images: Iterable[np.ndarray],
    fps: float,
    *,
    codec: str = "libx264",
    pixel_format: str = "yuv444p",
    options: Mapping[str, str] = LOSSLESS_X264,
) -> None:
    """Write (T, H, W, 3) uint8 RGB images at a constant rate; the file's suffix chooses the container.

    The default keeps every pixel to within rounding (about 1 of 255) and is made for small synthetic frames; for
    another codec give its own `options` and, where it has no full-resolution chroma, pixel_format="yuv420p".
    """
    _check_fps(fps)
    image: np.ndarray | None = None
    try:
        with av.open(os.fspath(path), "w") as container:
            rate = Fraction(fps).limit_denominator(1001)
            stream = container.add_stream(codec, rate=rate, options=dict(options))
            assert isinstance(stream, VideoStream)
            reformatter = VideoReformatter()
            for image in images:
                if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
                    raise VideoError(f"{path}: images must be (H, W, 3) uint8, not {image.shape} {image.dtype}")
                if not stream.codec_context.is_open:
                    stream.height, stream.width, stream.pix_fmt = image.shape[0], image.shape[1], pixel_format
                    stream.codec_context.thread_count = 1
                elif image.shape[:2] != (stream.height, stream.width):
                    raise VideoError(f"{path}: image sizes differ: {image.shape[:2]} {(stream.height, stream.width)}")
                frame = VideoFrame.from_ndarray(image, format="rgb24")
                container.mux(stream.encode(reformatter.reformat(frame, format=pixel_format, threads=1)))
            if image is None:
                raise VideoError(f"{path}: a video needs at least one image")
            container.mux(stream.encode())
    except (av.FFmpegError, av.codec.codec.UnknownCodecError) as error:
        raise VideoError(
            f"{path}: cannot be written as {codec} {pixel_format} with {dict(options)}: {error}"
        ) from error


# Ticks ----------------------------------------------------------------------------------------------------------------


def _check_fps(fps: float) -> None:
    if not (math.isfinite(fps) and fps > 0):
        raise VideoError(f"fps must be a positive number of frames per second, not {fps}")


def _check_range(name: object, start: float, end: float | None, duration: float) -> None:
    asked = f"{name}: the range [{start}, {'end' if end is None else end}) s"
    if not (math.isfinite(start) and start >= 0.0 and (end is None or math.isfinite(end))):
        raise VideoError(f"{asked} must be finite seconds from 0.0 on")
    if end is not None and end <= start:
        raise VideoError(f"{asked} is empty: its end must be after its start")
    if start >= duration or (end is not None and end > duration + ROUNDED_END):
        raise VideoError(f"{asked} is outside the video, which lasts {duration:.3f} s: choose a range inside it")


def _ticks(fps: float, start: float, end: float) -> Iterator[float]:
    """start + i / fps < end; there is at least the one at `start`."""
    return (start + i / fps for i in range(max(1, math.ceil((end - start) * fps - EPSILON))))


def _sample(
    source: Source | Frames, fps: float, start: float, end: float | None
) -> Iterator[tuple[float, float, np.ndarray]]:
    """(tick, true timestamp, image) for each tick."""
    _check_fps(fps)
    if isinstance(source, Frames):
        _check_memory(source, start)
        interval = float(np.median(np.diff(source.times))) if len(source) > 1 else 1.0 / fps
        stop = float(source.times[-1]) + interval
        return _sample_listed("Frames", source.times, stop, lambda i: source.images[i], fps, start, end)
    path = Path(source)
    if path.is_dir():
        images, folder_fps = _folder(path)
        times, stop = np.arange(len(images)) / folder_fps, len(images) / folder_fps
        return _sample_listed(path, times, stop, lambda i: _load_image(images[i]), fps, start, end)
    return _sample_file(path, fps, start, end)


def _sample_listed(
    name: object,
    times: np.ndarray,
    stop: float,
    load: Callable[[int], np.ndarray],
    fps: float,
    start: float,
    end: float | None,
) -> Iterator[tuple[float, float, np.ndarray]]:
    """From pictures whose times are all known; the last one stays on screen until `stop`."""
    _check_range(name, start, end, stop)
    size: tuple[int, ...] | None = None
    for tick in _ticks(fps, start, stop if end is None else end):
        shown = int(np.searchsorted(times, tick + EPSILON, side="right")) - 1
        image = load(shown)
        size = _check_size(name, image, size)
        yield tick, float(times[shown]), image


def _check_memory(frames: Frames, start: float) -> None:
    if len(frames) == 0:
        raise VideoError("Frames: there are none to read from")
    if start < frames.times[0] - EPSILON:
        raise VideoError(f"Frames: the range starts at {start} s, but the first frame is at {frames.times[0]} s")


def _check_size(name: object, image: np.ndarray, size: tuple[int, ...] | None) -> tuple[int, ...]:
    if size is not None and image.shape != size:
        raise VideoError(f"{name}: the picture size changes from {size[:2]} to {image.shape[:2]}: scale it to one size")
    return image.shape


# Folders of images ----------------------------------------------------------------------------------------------------


def _folder(path: Path) -> tuple[list[Path], float]:
    """The images of a folder in order of name, and their rate."""
    images = sorted(file for file in path.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES)
    if not images:
        raise VideoError(f"{path}: the folder holds no images ({', '.join(IMAGE_SUFFIXES)})")
    clock = path / "frames.json"
    if not clock.is_file():
        raise VideoError(f'{clock} is missing: images have no clock of their own; write {{"fps": <number>}} into it')
    try:
        fps = json.loads(clock.read_text())["fps"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:  # ValueError: no JSON, or no UTF-8
        raise VideoError(f'{clock}: must be {{"fps": <number>}}: {error!r}') from error
    if isinstance(fps, bool) or not isinstance(fps, int | float) or not (math.isfinite(fps) and fps > 0):
        raise VideoError(f"{clock}: fps must be a positive number, not {fps!r}")
    numbers = [[int(digits) for digits in re.findall(r"\d+", image.stem)] for image in images]
    if numbers != sorted(numbers):
        i = next(i for i in range(1, len(numbers)) if numbers[i] < numbers[i - 1])
        raise VideoError(f"{path}: {images[i - 1].name} sorts before {images[i].name}: pad the numbers with zeros")
    return images, float(fps)


def _load_image(path: Path) -> np.ndarray:
    try:
        with Image.open(path) as image:
            return np.asarray(image.convert("RGB"))
    except (UnidentifiedImageError, OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise VideoError(f"{path}: not an image that can be read: {error}") from error


# Files ----------------------------------------------------------------------------------------------------------------


def _sample_file(path: Path, fps: float, start: float, end: float | None) -> Iterator[tuple[float, float, np.ndarray]]:
    with opened(path) as video:
        _check_range(path, start, end, video.duration)
        size: tuple[int, ...] | None = None
        for tick, stamp, image in decode_at(video, _ticks(fps, start, video.duration if end is None else end)):
            size = _check_size(path, image, size)
            yield tick, stamp, image
