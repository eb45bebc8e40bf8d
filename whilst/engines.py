"""Engines of a live stream: what reads its segments, writes thoughts and answers queries.

| engine | layouts | a query asked while a thought is written |
|---|---|---|
| sequential | any; standing queries, KV policies | waits for it |
| parallel | recurrent, recurrent_packed, split with two cursors | is answered at once from what is finished |
"""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol, get_args

from whilst.checkpoint import Checkpoint
from whilst.events import (
    Ended,
    Failed,
    QueryHeard,
    Rejected,
    Reply,
    SegmentRead,
    Silent,
    Stopped,
    StreamEvent,
    ThoughtDone,
)
from whilst.mailbox import Asked, Mailbox
from whilst.pace import Source
from whilst.parallel import Deadline, ParallelStream
from whilst.policies import Policy
from whilst.positions import GroupDecoupled
from whilst.proactive import GREEDY, Proactive
from whilst.render import Renderer
from whilst.runtime import Generated
from whilst.segmenters import Clip
from whilst.session import StreamSession

BACKLOG = 16  # segments that wait in the parallel engine
EngineName = Literal["auto", "sequential", "parallel"]


class LiveError(ValueError):
    """A setting of a live stream that cannot be used; names it and the fix."""


@dataclass(frozen=True)
class LiveSettings:
    """How a stream is watched.

    segment_seconds: length of a segment. speed: seconds of video a wall second; None: as fast as it can be read, and
    what a camera needs. drop_late: frames that wait longer (wall s) are dropped and counted; None: none is. thinks:
    write a thought a segment. standing: queries that are put after every segment, as `proactive` says. deadline: of
    engine parallel; None: last_finished on the real clock, else wait, which gives the same answers every time.
    """

    segment_seconds: float = 1.0
    thought_tokens: int = 64
    answer_tokens: int = 64
    thinks: bool = True
    speed: float | None = None
    drop_late: float | None = None
    standing: tuple[str, ...] = ()
    proactive: Proactive = GREEDY
    engine: EngineName = "auto"
    deadline: Deadline | None = None

    def __post_init__(self) -> None:
        for name in ("segment_seconds", "speed", "drop_late"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise LiveError(f"{name} must be a positive number, not {value}")
        if self.thought_tokens < 1 or self.answer_tokens < 1:
            raise LiveError("thought_tokens and answer_tokens must be at least 1")
        if self.proactive.states is not None and not self.thinks:
            raise LiveError("states stand where thoughts stand: this checkpoint does not think")


class Teller(Protocol):
    """What an engine needs of its live stream: where frames come from, the clock, and who is told."""

    source: Source
    mailbox: Mailbox

    def now(self) -> float: ...
    def backlog(self, time: float) -> int: ...
    def emit(self, kind: type[StreamEvent], time: float, **fields: Any) -> None: ...
    def send(self, event: StreamEvent) -> None: ...


class Engine(Protocol):
    """at_once: `ask` does not wait and may be called from any thread; else it is called where segments are read."""

    at_once: bool

    def segment(self, clip: Clip, due: float, dropped: int) -> None:
        """Read a clip that should have been here at wall time `due` (s since the stream began), and what follows."""
        ...

    def ask(self, asked: Asked) -> None:
        """Answer a query. Its text was checked."""
        ...

    def finish(self) -> tuple[int, int, int]:
        """Wait for what is under way: how many segments, thoughts and queries there were."""
        ...

    def stop(self) -> None:
        """Nothing more is wanted: `segment` must not wait any longer. Called from any thread."""
        ...

    def close(self) -> None:
        """Give everything back. What is not done is not done."""
        ...


def make_engine(
    name: str, stream: Teller, checkpoint: Checkpoint, settings: LiveSettings, policy: Policy | None
) -> Engine:
    """The engine of this name. auto: parallel for a stream that keeps the real clock and can have it, else sequential.

    Raises LiveError for parallel where it cannot be, with the reason.
    """
    if name not in get_args(EngineName):
        raise LiveError(f"engine {name!r} is not one of {', '.join(get_args(EngineName))}")
    clocked = stream.source.live or settings.speed is not None
    hindrance = why_not_parallel(checkpoint.renderer, settings, policy)
    if name == "parallel" and hindrance:
        raise LiveError(f"engine parallel: {hindrance}: use engine sequential")
    if name == "parallel" or (name == "auto" and clocked and not hindrance):
        deadline: Deadline = settings.deadline or ("last_finished" if clocked else "wait")
        return ParallelEngine(stream, checkpoint, settings, deadline)
    return SequentialEngine(stream, checkpoint, settings, policy)


def why_not_parallel(renderer: Renderer, settings: LiveSettings, policy: Policy | None) -> str:
    """What stands against watching and thinking at the same time; "" for nothing."""
    config = renderer.config
    if config.layout == "interleaved":
        return "layout interleaved has one cursor for reading and writing"
    if config.scheme == "batch":
        return "scheme batch needs to know where the stream ends"
    if config.layout == "split" and not isinstance(renderer.scheme(), GroupDecoupled):
        return f"scheme {config.scheme} has one cursor for reading and writing"
    if config.queries != "branch":
        return "queries: kept make each query a part of the stream"
    if settings.standing:
        return "standing queries are put after each segment"
    if policy is not None:
        return "KV policies act between reading and writing"
    return ""


class SequentialEngine:
    """Reading waits for writing: one session, one thing at a time."""

    at_once = False

    def __init__(self, stream: Teller, checkpoint: Checkpoint, settings: LiveSettings, policy: Policy | None) -> None:
        self.stream, self.settings = stream, settings
        self.session = StreamSession(
            checkpoint.backbone,
            checkpoint.renderer,
            fps=stream.source.fps,
            thought_tokens=settings.thought_tokens,
            answer_tokens=settings.answer_tokens,
            proactive=settings.proactive,
            policy=policy,
        )
        self.session.gate.on_first = self._first_token
        self.first = 0.0  # when the first token of the last turn was known
        self.memory_time = 0.0
        self.segments = self.thoughts = self.queries = 0
        self.ids: dict[str, str] = {}  # of standing queries: the session's -> the stream's
        config = checkpoint.renderer.config
        # the stream itself decides after every received turn: what is asked stays, and may be answered later
        self.decides = config.silence == "implicit" and config.queries == "kept" and not settings.thinks

    def _first_token(self) -> None:
        self.first = self.stream.now()

    def segment(self, clip: Clip, due: float, dropped: int) -> None:
        stream, session = self.stream, self.session
        session.watch(clip.frames.images, clip.frames.times.tolist(), clip.end)
        self.segments += 1
        stream.emit(
            SegmentRead,
            clip.end,
            start=clip.start,
            end=clip.end,
            frames=len(clip.frames),
            lag=max(0.0, stream.now() - due),
            backlog=stream.backlog(clip.end),
            tokens=session.tokens,
            dropped=dropped,
        )
        if self.settings.thinks:
            begun = stream.now()
            thought = session.think()
            self.thoughts += 1
            stream.emit(
                ThoughtDone,
                clip.end,
                text=thought.text,
                tokens=len(thought.ids) + thought.finished,
                finished=thought.finished,
                seconds=stream.now() - begun,
                late=stream.backlog(clip.end) > 0,
            )
            self.memory_time = clip.end
        self._proactive()

    def _proactive(self, asked: Asked | None = None) -> None:
        """Put the standing queries: after a segment, or because one was `asked`."""
        begun = self.stream.now()
        for put in self.session.proactive():
            name, time = self.ids[put.query.id], put.time if asked is None else asked.time
            if put.reply is None:
                self.stream.emit(Silent, time, query=name, probability=put.silence, state=put.state)
            else:
                arrived = begun if asked is None else asked.arrived
                self._reply(name, time, put.reply, arrived, begun, put.silence)

    def ask(self, asked: Asked) -> None:
        self.queries += 1
        if asked.standing:
            self.ids[self.session.stand(asked.text, asked.time).id] = asked.id
            return
        if self.decides:
            for before in tuple(self.session.standing):
                self.session.withdraw(before)  # it stays in the stream; what is said from now on follows the new one
            self.ids[self.session.stand(asked.text, asked.time).id] = asked.id
            self._proactive(asked)
            return
        begun = self.stream.now()
        self._reply(asked.id, asked.time, self.session.ask(asked.text, asked.time), asked.arrived, begun, None)

    def _reply(
        self, name: str, time: float, reply: Generated, arrived: float, begun: float, silence: float | None
    ) -> None:
        self.stream.emit(
            Reply,
            time,
            query=name,
            text=reply.text,
            tokens=len(reply.ids) + reply.finished,
            finished=reply.finished,
            waited=max(0.0, begun - arrived),
            first_token=max(0.0, self.first - arrived),
            last_token=max(0.0, self.stream.now() - arrived),
            memory_time=self.memory_time,
            thought_late=False,  # thoughts are waited for: reading, thinking and answering take turns
            silence=silence,
        )

    def finish(self) -> tuple[int, int, int]:
        return self.segments, self.thoughts, self.queries

    def stop(self) -> None:
        """A segment waits for nothing but its own turns."""

    def close(self) -> None:
        self.session.close()


class ParallelEngine:
    """whilst.parallel with the ids, clocks and lags of the live stream. A thread for each query that is under way."""

    at_once = True

    def __init__(self, stream: Teller, checkpoint: Checkpoint, settings: LiveSettings, deadline: Deadline) -> None:
        self.stream = stream
        self.segments = self.thoughts = self.queries = 0
        self._due: dict[float, tuple[float, float, int]] = {}  # end of a segment under way -> start, due, dropped
        self._ids: dict[str, tuple[str, float]] = {}  # the inner id of a query -> (its id, s it had waited)
        self._answering: set[threading.Thread] = set()
        self._mine = threading.local()  # what the thread that asks is asking
        self._lock = threading.Lock()
        self._room = threading.Semaphore(BACKLOG)  # segments that may still be handed over before one is read
        self._stopped = threading.Event()
        self.inner = ParallelStream(
            checkpoint.backbone,
            checkpoint.renderer,
            fps=stream.source.fps,
            thinks=settings.thinks,
            thought_tokens=settings.thought_tokens,
            answer_tokens=settings.answer_tokens,
            deadline=deadline,
            backlog=BACKLOG,
            on_event=self._event,
            now=stream.now,
        )

    def segment(self, clip: Clip, due: float, dropped: int) -> None:
        self._room.acquire()
        if self._stopped.is_set():
            return
        self._due[clip.end] = clip.start, due, dropped
        self.inner.watch(clip.frames.images, clip.frames.times.tolist(), clip.end)

    def ask(self, asked: Asked) -> None:
        """Starts to answer. A scheduled query is heard before this returns, and so before any later segment."""
        heard = threading.Event()
        thread = threading.Thread(target=self._answer, args=(asked, heard), name=f"answer {asked.id}", daemon=True)
        with self._lock:  # begun within it: `finish` may look now, and waits for no thread that has not begun
            self._answering.add(thread)
            thread.start()
        if asked.scheduled:
            heard.wait()

    def _answer(self, asked: Asked, heard: threading.Event) -> None:
        self._mine.asked, self._mine.heard = asked, heard
        try:
            self.inner.ask(asked.text, asked.time)
        except Exception as error:  # the stream's own failure is reported as such; the query's here
            self.stream.emit(Rejected, asked.time, what=f"query {asked.id}", reason=f"{type(error).__name__}: {error}")
        finally:
            heard.set()
            with self._lock:
                self._answering.discard(threading.current_thread())

    def _event(self, event: StreamEvent) -> None:
        """Called by the inner stream, one at a time."""
        if isinstance(event, QueryHeard):  # told already, when it arrived
            asked: Asked = self._mine.asked
            self._ids[event.id] = asked.id, max(0.0, self.stream.now() - asked.arrived)
            self._mine.heard.set()
        elif isinstance(event, SegmentRead):
            self.segments += 1
            self._room.release()
            start, due, dropped = self._due.pop(event.end)
            now = self.stream.now()
            backlog = max(event.backlog, self.stream.backlog(event.end))
            lag = max(0.0, now - due)
            self.stream.send(replace(event, clock=now, start=start, lag=lag, backlog=backlog, dropped=dropped))
        elif isinstance(event, ThoughtDone):
            self.thoughts += 1
            self.stream.send(replace(event, clock=self.stream.now(), late=self.stream.backlog(event.time) > 0))
        elif isinstance(event, Reply):
            self.queries += 1
            id, before = self._ids.pop(event.query)
            self.stream.send(
                replace(
                    event,
                    clock=self.stream.now(),
                    query=id,
                    waited=event.waited + before,
                    first_token=event.first_token + before,
                    last_token=event.last_token + before,
                )
            )
        elif isinstance(event, Failed):
            self.stop()
            self.stream.mailbox.fail(LiveError(event.reason))
        elif isinstance(event, Rejected):
            if not event.what.startswith("query "):
                self.stream.send(replace(event, clock=self.stream.now()))
        elif not isinstance(event, Ended | Stopped):  # the live stream has an end of its own
            self.stream.send(event)

    def finish(self) -> tuple[int, int, int]:
        while self._answering:
            with self._lock:
                threads = list(self._answering)
            for thread in threads:
                thread.join()
        self.inner.finish()
        return self.segments, self.thoughts, self.queries

    def stop(self) -> None:
        self._stopped.set()
        self._room.release()

    def close(self) -> None:
        self.inner.close()
