"""One live stream: frames come by the clock, queries at any time, and everything that happens goes out as an event.

A thread feeds frames and scheduled queries into a mailbox when their time has come; `run` takes them out, cuts segments
and hands them to an engine (whilst/engines.py). A query that is asked now goes before the segments that wait; a
scheduled one (time given beforehand) is put when every segment that ended by its time has been taken, and before any
later one.

What goes wrong has a stated result (docs/STREAMING.md): a frame out of order, double, or far ahead is Rejected and the
stream goes on; a source that dies, or whose clock stays wrong, ends the stream with Failed; nothing is reordered,
repeated or dropped silently.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from whilst.checkpoint import Checkpoint
from whilst.engines import LiveError, LiveSettings, make_engine
from whilst.events import Ended, Failed, Gap, QueryHeard, Rejected, Stopped, StreamEvent
from whilst.mailbox import Asked, Cutter, Died, End, FrameRefusedError, Mailbox, Scheduled, What
from whilst.pace import Clock, Item, Released, Source, WallClock, merged, paced
from whilst.policies import Policy
from whilst.render import RenderError
from whilst.segmenters import Clip
from whilst.video import EPSILON, VideoError

CAPACITY = 64  # frames that wait in memory; when they are so many, a file waits and a camera's own buffers fill
PATIENCE = 100  # frames rejected in a row after which a source has failed

OnEvent = Callable[[StreamEvent], None]


class LiveStream:
    """One stream from its first frame to its end. `run` blocks; `ask` and `stop` may be called from other threads.

    on_event: gets every event, in order, one at a time; it must not call the stream. on_clip: gets every clip before it
    is read.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        source: Source,
        settings: LiveSettings,
        *,
        on_event: OnEvent,
        queries: Sequence[tuple[float, str]] = (),
        clock: Clock | None = None,
        on_clip: Callable[[Clip], None] | None = None,
        policy: Policy | None = None,
    ) -> None:
        """queries: (seconds of the video, text), asked at these times; those after the end when it has come.

        Raises LiveError for a camera that is to keep another speed than its own and for an engine that does not fit;
        RenderError for a query that holds special tokens.
        """
        if source.live and settings.speed is not None:
            raise LiveError(f"{source.name}: a camera keeps its own clock: leave the speed out")
        for text in (*settings.standing, *(text for _, text in queries)):
            checkpoint.renderer.spoken(text, "query")
        self.source, self.settings, self.on_event, self.on_clip = source, settings, on_event, on_clip
        self.renderer, self.clock, self.queries = checkpoint.renderer, clock or WallClock(), queries
        self.mailbox = Mailbox(CAPACITY)
        self.dropped = self._unsaid = 0  # frames: in all, and since the last segment
        self._stop = threading.Event()
        self._out = threading.RLock()
        self._asked = 0
        self._cutter = Cutter(settings.segment_seconds)
        self._refused = 0  # frames in a row
        self._end = 0.0  # of the last segment
        self._begun = self.clock.now()
        policy = policy or checkpoint.policy
        self.engine = make_engine(settings.engine, self, checkpoint, settings, policy)

    # --- what others may call -----------------------------------------------------------------------------------------

    def ask(self, text: str) -> str | None:
        """Ask now; the query's id. None, with a Rejected event, when it cannot be taken: it is empty, it holds special
        tokens, or the stream is over."""
        text = text.strip()
        if found := self._why_not(text):
            self.emit(Rejected, self.mailbox.arrived, what="query", reason=found)
            return None
        with self._out:  # it is told that it came before it is told what came of it
            take = self.engine.ask if self.engine.at_once else None
            asked = self.mailbox.ask(lambda time: self._new(text, time, self.now()), take)
            if asked is None:
                self.emit(Rejected, self.mailbox.arrived, what="query", reason=f"the stream is over: {text!r}")
                return None
            self.send(QueryHeard(asked.time, asked.arrived, id=asked.id, text=text))
            return asked.id

    def stop(self) -> None:
        """End it now. The turn that is being written is finished first."""
        self._stop.set()
        self.mailbox.close()
        self.engine.stop()

    # --- what engines call --------------------------------------------------------------------------------------------

    def now(self) -> float:
        """Wall seconds since the stream began."""
        return self.clock.now() - self._begun

    def emit(self, kind: type[StreamEvent], time: float, **fields: Any) -> None:
        """Tell an event of this moment."""
        with self._out:
            self.on_event(kind(time, self.now(), **fields))

    def send(self, event: StreamEvent) -> None:
        """Tell an event."""
        with self._out:
            self.on_event(event)

    def backlog(self, time: float) -> int:
        """Whole segments after `time` that have arrived."""
        return max(0, math.floor((self.mailbox.arrived - time) / self.settings.segment_seconds + EPSILON))

    # --- the run ------------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Until the source is over or the stream is stopped.

        An error of source or model becomes a Failed event and is raised after it; what was said before stays said.
        """
        feeder = threading.Thread(target=self._feed, name=f"frames of {self.source.name}", daemon=True)
        try:
            for text in self.settings.standing:
                self._put(text, 0.0, standing=True)
            feeder.start()
            ended = self._take()
        except BaseException as error:
            self._close(feeder)
            self.emit(Failed, self._time, reason=" ".join(str(error).split()) or type(error).__name__)
            raise
        self._close(feeder)
        self.send(ended if ended is not None else Stopped(self._time, self.now()))

    def _close(self, feeder: threading.Thread) -> None:
        self.stop()
        self.engine.close()
        if feeder.ident is not None:
            feeder.join(timeout=1.0)  # one that waits for a silent camera ends with that read's own time limit

    @property
    def _time(self) -> float:
        return max(self.mailbox.arrived, self._end)

    def _feed(self) -> None:
        """The feeding thread: everything in its time into the mailbox; the last thing is the end or what went wrong."""
        what: What = End()
        try:
            frames = (Item[What](time, image) for time, image in self.source.frames())
            scheduled = [Item[What](time, Scheduled(time, text)) for time, text in self.queries]
            items = merged(frames, scheduled)
            for item in paced(items, self.clock, self.settings.speed, self.clock.now(), self._stop):
                if not self.mailbox.put(item):
                    return
        except BaseException as error:
            what = Died(error)
        self.mailbox.put(Released(self.mailbox.arrived, what, self.clock.now(), 0.0))

    def _take(self) -> Ended | None:
        """Take things as they come, until the end; None when the mailbox was closed before."""
        later: list[Scheduled] = []  # to be asked at the end
        while (item := self.mailbox.get()) is not None:
            if isinstance(item, Asked):
                self.engine.ask(item)
            elif isinstance(item.what, np.ndarray):
                self._frame(item, item.what)
            elif isinstance(item.what, Scheduled):
                if self.source.duration is not None and item.time >= self.source.duration - EPSILON:
                    later.append(item.what)
                    continue
                self._segments(self._cutter.until(item.time), item)
                self._put(item.what.text, item.time, arrived=item.due - self._begun)
            elif isinstance(item.what, Died):
                self.engine.finish()  # what came before is read
                raise item.what.error
            else:
                return self._finish(item, later)
        return None

    def _frame(self, item: Released[What], image: np.ndarray) -> None:
        limit = self.settings.drop_late
        if limit is not None and self.clock.now() - item.due > limit:
            self.dropped += 1
            self._unsaid += 1
            return
        try:
            done = self._cutter.add(item.time, image)
        except FrameRefusedError as error:
            self._refused += 1
            self.emit(Rejected, self._time, what="frame", reason=f"{error}; the model does not see it")
            if self._refused == PATIENCE:
                raise VideoError(
                    f"{self.source.name}: {PATIENCE} frames in a row were rejected, the last one because {error}: its "
                    "clock cannot be followed; start a new stream"
                ) from error
            return
        self._refused = 0
        self._segments(done, item)

    def _segments(self, done: Sequence[Clip | tuple[float, float]], item: Released[What]) -> None:
        for part in done:
            if not isinstance(part, Clip):
                self.emit(Gap, part[1], start=part[0], end=part[1])
                continue
            if self.on_clip is not None:
                self.on_clip(part)
            due = item.due - self._begun
            if self.settings.speed is not None:  # what ended the clip may have come after its end
                due -= max(0.0, item.time - part.end) / self.settings.speed
            dropped, self._unsaid = self._unsaid, 0
            self.engine.segment(part, due, dropped)
            self._end = part.end

    def _finish(self, item: Released[What], later: Sequence[Scheduled]) -> Ended:
        self._segments(self._cutter.finish(self.source.duration, 1.0 / self.source.fps), item)
        if later:
            self.engine.finish()  # nothing more comes, so they can have all of it
        for query in later:
            self._put(query.text, query.time)
        while not self.mailbox.close_if_nothing_is_asked():
            asked = self.mailbox.get()
            if asked is None:
                break
            assert isinstance(asked, Asked)
            self.engine.ask(asked)
        segments, thoughts, queries = self.engine.finish()
        if segments == 0:
            raise VideoError(f"{self.source.name}: gave no frame that could be shown")
        return Ended(self._time, self.now(), segments, thoughts, queries, self.dropped)

    # --- queries ------------------------------------------------------------------------------------------------------

    def _why_not(self, text: str) -> str:
        """Why a query cannot be taken; "" if it can."""
        if not text:
            return "its text is empty"
        try:
            self.renderer.spoken(text, "query")
        except RenderError as error:
            return str(error)
        return ""

    def _new(self, text: str, time: float, arrived: float, **kind: bool) -> Asked:
        with self._out:
            self._asked += 1
            return Asked(f"q{self._asked}", text, time, arrived, **kind)

    def _put(self, text: str, time: float, *, standing: bool = False, arrived: float | None = None) -> None:
        """A query of the settings, whose time has come."""
        asked = self._new(text, time, self.now() if arrived is None else arrived, standing=standing, scheduled=True)
        self.send(QueryHeard(asked.time, asked.arrived, id=asked.id, text=text))
        self.engine.ask(asked)
