"""Sources of timed frames, and the clock that releases them: a file, a folder of images, a camera or a URL.

A source gives (time, image) pairs at ticks `i / fps` of its own clock, whose zero is its first frame. `paced` releases
what a stream is made of (frames, queries at given times, the end) when its time has come: at wall start + time / speed,
or as fast as it can be taken. What is released late says by how much; nothing is dropped here.
"""

from __future__ import annotations

import math
import os
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Protocol, TypeVar

import av
import numpy as np

from whilst.decode import VideoError
from whilst.video import EPSILON, probe, stream_frames

HOLD = 2.0  # seconds for which a camera's frame stays on screen: a longer silence is a gap, not a still picture
OPEN_SECONDS, READ_SECONDS = 10.0, 10.0  # a camera that does not answer for so long has failed

Frame = tuple[float, np.ndarray]
T = TypeVar("T")


@dataclass(frozen=True)
class Source:
    """Where frames come from. duration: seconds, None where it is not known before the end. live: frames come by
    themselves, at the rate of the real clock. frames: opens it; images (H, W, 3) uint8, times in seconds."""

    name: str
    fps: float
    duration: float | None
    live: bool
    frames: Callable[[], Iterator[Frame]]


def is_url(where: str) -> bool:
    """Whether a source is a camera's address rather than a path: a URL or a video device."""
    return "://" in where or where.startswith("/dev/video")


def open_source(where: str | os.PathLike[str], fps: float) -> Source:
    """A file, a folder with frames.json, or a camera: an rtsp, http(s), udp or file URL, or /dev/video0.

    Raises VideoError for what cannot be read; a camera is opened by its first frame, so it raises then.
    """
    name = os.fspath(where)
    if is_url(name):
        return Source(shown(name), fps, None, True, lambda: camera_frames(name, fps))
    return Source(name, fps, probe(Path(name)).duration, False, lambda: stream_frames(name, fps))


def shown(url: str) -> str:
    """A URL as it may be printed: without user and password."""
    return re.sub(r"(?<=://)[^/@\s]*@", "", url)


def camera_frames(url: str, fps: float) -> Iterator[Frame]:
    """The frame on screen at every tick, while it arrives. A frame stays on screen for `HOLD` seconds at most.

    A frame that is stamped before the last one is handed on with its own time: what takes it says that it is wrong.
    Raises VideoError for what cannot be opened, and for a stream that breaks off.
    """
    name, last = shown(url), -1.0
    device = "v4l2" if url.startswith("/dev/video") else None
    options = {"rtsp_transport": "tcp"} if url.startswith("rtsp") else {}
    try:
        with av.open(url, format=device, options=options, timeout=(OPEN_SECONDS, READ_SECONDS)) as container:
            if not container.streams.video:
                raise VideoError(f"{name}: has no video stream: give the address of one with pictures")
            stream = container.streams.video[0]
            zero: float | None = None
            screen: Frame | None = None
            tick = 0
            for frame in container.decode(stream):
                if frame.time is None:
                    raise VideoError(f"{name}: its frames have no timestamps, so their order is not known")
                zero = frame.time if zero is None else zero
                last, before = frame.time - zero, last
                image = frame.to_ndarray(format="rgb24")
                if screen is not None and last < screen[0] - EPSILON:
                    yield last, image
                    last = before
                    continue
                while screen is not None and tick / fps < min(last - EPSILON, screen[0] + HOLD):
                    yield tick / fps, screen[1]
                    tick += 1
                tick = max(tick, math.ceil((last - EPSILON) * fps))  # nothing is made up for what lies between
                screen = (last, image)
                if tick / fps <= last + EPSILON:
                    yield tick / fps, image
                    tick += 1
    except (av.FFmpegError, OSError) as error:
        why = error.strerror or str(error)
        if last < 0.0:
            raise VideoError(f"{name}: cannot be opened ({why}): check address, network and rights") from error
        raise VideoError(f"{name}: broke off after {last:.3f} s ({why})") from error


# ---- Time.


class Clock(Protocol):
    """Seconds that pass. Tests give their own, in which sleeping takes no time."""

    def now(self) -> float: ...

    def sleep(self, seconds: float, stop: threading.Event) -> None:
        """Until so many seconds have passed or `stop` is set."""


class WallClock:
    """The clock of the machine."""

    def now(self) -> float:
        return time.monotonic()

    def sleep(self, seconds: float, stop: threading.Event) -> None:
        stop.wait(seconds)


@dataclass(frozen=True)
class Item(Generic[T]):
    """Something that is to come at `time` (s of the video)."""

    time: float
    what: T


@dataclass(frozen=True)
class Released(Generic[T]):
    """An item that has come. due: wall time at which it should have, and `late` seconds later it did."""

    time: float
    what: T
    due: float
    late: float


def merged(frames: Iterable[Item[T]], others: Sequence[Item[T]]) -> Iterator[Item[T]]:
    """Frames with other items between them, by time; at one time frames first. Frames keep their order, whatever their
    times: a source's mistakes are not sorted away."""
    waiting = sorted(others, key=lambda item: item.time)
    for frame in frames:
        while waiting and waiting[0].time < frame.time - EPSILON:
            yield waiting.pop(0)
        yield frame
    yield from waiting


def paced(
    items: Iterable[Item[T]], clock: Clock, speed: float | None, start: float, stop: threading.Event
) -> Iterator[Released[T]]:
    """Release items, each at start + time / speed at the earliest. Ends when `stop` is set.

    speed None: at once, as a camera needs it, whose frames come when they come.
    """
    for item in items:
        if stop.is_set():
            return
        now = clock.now()
        due = now if speed is None else start + item.time / speed
        if due > now:
            clock.sleep(due - now, stop)
            if stop.is_set():
                return
            now = clock.now()
        yield Released(item.time, item.what, due, max(0.0, now - due))
