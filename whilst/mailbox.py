"""What has come to a live stream and is not read yet: frames cut into clips, queries, and the queue they wait in."""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from whilst.pace import Released
from whilst.segmenters import Clip
from whilst.video import EPSILON, Frames, VideoError

FAR = 600.0  # seconds that a clock may jump ahead: a later stamp is a mistake of the source


# ---- Segments of frames as they come.


class FrameRefusedError(ValueError):
    """A frame that cannot stand where it came; the reason is told to the user."""


class Cutter:
    """Frames, one at a time -> clips of `seconds`, on the grid that begins with the first frame."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.start: float | None = None
        self.last = -math.inf
        self._frames: list[tuple[float, np.ndarray]] = []

    @property
    def end(self) -> float:
        """Where the open clip ends, by the grid."""
        return math.inf if self.start is None else round(self.start + self.seconds, 9)

    def add(self, time: float, image: np.ndarray) -> list[Clip | tuple[float, float]]:
        """The clips that end by `time`, and gaps (start, end) of at least a segment. The frame opens or joins a clip.

        Raises FrameRefusedError for a frame whose time is not after the last one's, or more than FAR after it.
        """
        if not math.isfinite(time):
            raise FrameRefusedError(f"its time is {time}")
        if time <= self.last + EPSILON:
            what = "a double of" if time >= self.last - EPSILON else "out of order: it is of before"
            raise FrameRefusedError(f"the frame at {time:.3f} s is {what} the last one at {self.last:.3f} s")
        if self.last > -math.inf and time > self.last + FAR:
            raise FrameRefusedError(
                f"the clock jumps from {self.last:.3f} s to {time:.3f} s, more than {FAR:g} s ahead"
            )
        if self._frames and image.shape != self._frames[-1][1].shape:
            raise VideoError(
                f"the picture size changes from {self._frames[-1][1].shape[:2]} to {image.shape[:2]} at {time:.3f} s: "
                "start a stream for each size"
            )
        done = self.until(time)
        if self.start is None:
            self.start = time
        skipped = math.floor((time - self.start) / self.seconds + EPSILON)
        if skipped > 0:
            resumed = round(self.start + skipped * self.seconds, 9)
            done.append((self.start, resumed))
            self.start = resumed
        self.last = time
        self._frames.append((time, image))
        return done

    def until(self, time: float) -> list[Clip | tuple[float, float]]:
        """The clip that is over by `time`, if there is one."""
        if not self._frames or self.end > time + EPSILON:
            return []
        return [self._close(self.end)]

    def finish(self, end: float | None, interval: float) -> list[Clip | tuple[float, float]]:
        """The rest, when the stream is over at `end` (None: one `interval` after the last frame)."""
        if not self._frames:
            return []
        stop = self.last + interval if end is None else max(end, self.last + EPSILON)
        return [self._close(min(self.end, stop))]

    def _close(self, end: float) -> Clip:
        assert self.start is not None
        frames = Frames(np.stack([image for _, image in self._frames]), np.array([time for time, _ in self._frames]))
        clip = Clip(self.start, end, frames)
        self.start, self._frames = end, []
        return clip


# ---- What waits to be read.


@dataclass(frozen=True)
class Asked:
    """A query with its wall time of arrival.

    standing: put after every segment from now on. scheduled: its time was given beforehand.
    """

    id: str
    text: str
    time: float
    arrived: float
    standing: bool = False
    scheduled: bool = False


@dataclass(frozen=True)
class Scheduled:
    """A query that is to be asked at a given time (s)."""

    time: float
    text: str


@dataclass(frozen=True)
class End:
    """The source is over."""


@dataclass(frozen=True)
class Died:
    """The source failed."""

    error: BaseException


What = np.ndarray | Scheduled | End | Died


class Mailbox:
    """What has come and is not taken: a bounded queue of frames and the like, and before it what is asked now."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.arrived = 0.0  # time (s) of the latest frame
        self.over = False  # nothing is taken any more
        self.error: BaseException | None = None  # of an engine's own thread; raised where the next thing is taken
        self._items: deque[Released[What]] = deque()
        self._asked: deque[Asked] = deque()
        self._change = threading.Condition()

    def put(self, item: Released[What]) -> bool:
        """Append, and wait first while it is full; False when nobody will take it any more."""
        with self._change:
            self._change.wait_for(lambda: self.over or len(self._items) < self.capacity)
            if self.over:
                return False
            if isinstance(item.what, np.ndarray) and math.isfinite(item.time):
                self.arrived = max(self.arrived, item.time)
            self._items.append(item)
            self._change.notify_all()
            return True

    def ask(self, make: Callable[[float], Asked], take: Callable[[Asked], None] | None = None) -> Asked | None:
        """Put a query, made with the time it is at now, before everything else; None when the stream is over.

        take: takes it at once instead (it must not wait), so that it cannot come after the end.
        """
        with self._change:
            if self.over:
                return None
            asked = make(self.arrived)
            if take is not None:
                take(asked)
            else:
                self._asked.append(asked)
                self._change.notify_all()
            return asked

    def get(self) -> Released[What] | Asked | None:
        """What comes next, waiting for it; None when the mailbox was closed."""
        with self._change:
            self._change.wait_for(lambda: bool(self.over or self._asked or self._items))
            if self.error is not None:
                raise self.error
            if self.over:
                return None
            if self._asked:
                return self._asked.popleft()
            item = self._items.popleft()
            self._change.notify_all()
            return item

    def close_if_nothing_is_asked(self) -> bool:
        """At the end of the source: no further query, unless one is there already."""
        with self._change:
            if not self._asked:
                self.close()
            return self.over

    def fail(self, error: BaseException) -> None:
        """Close, and raise this error where something is to be taken."""
        with self._change:
            self.error = error
            self.close()

    def close(self) -> None:
        """Nothing is put or taken any more."""
        with self._change:
            self.over = True
            self._items.clear()
            self._asked.clear()
            self._change.notify_all()
