"""One stream that watches, thinks and answers at the same time.

    with ParallelStream(backbone, renderer, fps=2.0, on_event=print) as stream:
        stream.watch(images, times, end)  # hands frames over and returns
        reply = stream.ask("what now ?")  # from any thread, at any time
        stream.finish()                   # all that was handed over is read and thought about

| mode | threads | order |
|---|---|---|
| parallel | a reader and a writer | segment u + 1 is read while thought u is written |
| interleaved | one worker | read 1, think 1, read 2, think 2, ... |
| batch | one worker | everything is read; thoughts are written in `finish` |

A thought reads what had been received when its segment was read (whilst.branches), whenever it is written, so all modes
write the same tokens, those of the sequential StreamBatch. Answers are written in the thread that asks.

**Deadline.** `last_finished`: a late thought never blocks an answer, which reads the segments that have been read and
the thoughts that are finished when the query comes. `wait`: the answer waits for the thoughts about all segments that
had arrived before the query, and reads these segments and thoughts, whatever has come since. The reply records which.

**Bounds.** At most `backlog` segments wait to be read, the one that is being read included, and at most `backlog` that
have been read wait for their thought (not in mode batch); at the second limit the reader waits. At the first `watch`
waits (when_full: block) or reports the segment as rejected and returns False (when_full: reject).

**Events** of a stream come one at a time, from the thread that caused them, while the stream holds its lock: an
`on_event` that is slow slows the stream, and one that calls the stream is an error. The order: segments as they were
handed over; a thought after its segment; thoughts in order; a reply after its query. Under `last_finished` an answer
knows exactly the segments and thoughts reported before its query. The last event is Ended (all is done), Stopped
(closed before; what was not done is reported as rejected) or Failed.

**Errors.** What a worker or `on_event` raises ends this stream alone: Failed is reported and every later or waiting
call raises StreamFailed, which names the cause. What an answer raises (a bad query, say) goes to its caller and is
reported as rejected; the stream is untouched by it and goes on.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Literal, get_args

import numpy as np

from whilst.backbones.base import Backbone
from whilst.branches import Finished, Model, RecurrentStream, SplitStream, Unit
from whilst.events import Ended, Failed, QueryHeard, Rejected, Reply, SegmentRead, Stopped, StreamEvent, ThoughtDone
from whilst.render import Renderer
from whilst.runtime import Generated, RuntimeStateError
from whilst.sample import Query, Segment

Mode = Literal["parallel", "interleaved", "batch"]
Deadline = Literal["last_finished", "wait"]
WhenFull = Literal["block", "reject"]
KEPT_THOUGHTS = 4096  # for `thoughts`; all of them are reported as events


class StreamFailed(RuntimeStateError):
    """The stream ended with an error in one of its threads or in on_event; __cause__ is that error."""


class StreamClosed(RuntimeStateError):
    """The stream was closed."""


@dataclass(frozen=True)
class _Arrived:
    """Frames that wait to be read. clock: when `watch` was called."""

    segment: Segment
    images: np.ndarray
    times: Sequence[float]
    clock: float


@dataclass(frozen=True)
class _Basis:
    """What an answer reads. memory_time: end (s) of the segment of the last finished thought; 0 before any."""

    unit: Unit
    finished: Finished
    memory_time: float = 0.0


@dataclass
class _Asked:
    """A query on its way. number: segments that had arrived; basis: None while it waits for them (deadline wait)."""

    query: Query
    clock: float
    number: int
    late: bool
    basis: _Basis | None


class ParallelStream:
    """One stream; see the module. `close` it, or use it in a with-statement (which closes, but does not finish it)."""

    def __init__(
        self,
        backbone: Backbone,
        renderer: Renderer,
        *,
        fps: float,
        thinks: bool = True,
        thought_tokens: int = 64,
        answer_tokens: int = 64,
        mode: Mode = "parallel",
        deadline: Deadline = "last_finished",
        backlog: int = 16,
        when_full: WhenFull = "block",
        on_event: Callable[[StreamEvent], None] | None = None,
        now: Callable[[], float] = time.perf_counter,
        received_end: int | None = None,
        delay: Callable[[str], None] | None = None,
        memory: str = "",
    ) -> None:
        """fps: frames a second of what is watched. received_end: see positions.Batch. now: a clock (s). memory: what
        the stream starts with, `Sample.memory`.

        delay: called in the thread that is about to "read" a segment, to "think" about one or to "answer", and at every
        "thought token" and "answer token"; tests hold or kill a thread with it.
        """
        for name, value, known in (("mode", mode, Mode), ("deadline", deadline, Deadline)):
            _must_be_one_of(name, value, get_args(known))
        _must_be_one_of("when_full", when_full, get_args(WhenFull))
        for name, number in (
            ("backlog", backlog),
            ("thought_tokens", thought_tokens),
            ("answer_tokens", answer_tokens),
        ):
            if number < 1:
                raise RuntimeStateError(f"{name} must be at least 1, got {number}")
        if mode == "batch" and deadline == "wait":
            raise RuntimeStateError("mode batch thinks in finish(): an answer cannot wait for it; use last_finished")
        self._renderer, self._model = renderer, Model(backbone, renderer)
        self._engine = _engine(self._model, received_end, memory)
        self.fps, self.thinks = fps, thinks
        self.thought_tokens, self.answer_tokens = thought_tokens, answer_tokens
        self.mode, self.deadline, self.backlog, self.when_full = mode, deadline, backlog, when_full
        self.time = 0.0  # s on the clock of the video: the end of the segment that was handed over last
        self._thoughts: deque[tuple[float, Generated]] = deque(maxlen=KEPT_THOUGHTS)
        self._on_event, self._now, self._delay = on_event, now, delay
        self._began = now()
        # what follows is read and written with this lock held; what threads do between is on immutable pasts
        self._changed = threading.Condition(threading.RLock())
        self._unread: deque[_Arrived] = deque()
        self._unthought: deque[Unit] = deque()
        self._basis = _Basis(*self._engine.start())
        self._arrived = self._read = self._thought = 0  # segments handed over, read, thought about
        self._wanted = 0  # segments that `finish` waits for
        self._asked = self._answered = self._answering = 0  # queries
        self._held_back: list[_Asked] = []
        self._error: BaseException | None = None
        self._where = ""
        self._closed = self._ended = False
        self._teller: int | None = None  # the thread that is in on_event
        self._threads = [
            threading.Thread(target=self._run, args=(name, loop), name=f"stream {name}", daemon=True)
            for name, loop in self._loops().items()
        ]
        for thread in self._threads:
            thread.start()

    # --- what a stream can do ---------------------------------------------------------------------------------------

    def watch(self, images: np.ndarray, times: Sequence[float], end: float) -> bool:
        """Hand over a segment of frames (T, H, W, 3) uint8 at `times` (T,) s that ends at `end` (s).

        The frames are not copied and must stay as they are. False: rejected, because `backlog` segments wait.
        """
        if not len(times) or len(times) != len(images):
            raise RuntimeStateError(
                f"watch() got {len(images)} frames and {len(times)} times: one time a frame, at least one"
            )
        with self._changed:
            clock = self._clock()
            if self.when_full == "block":
                self._until(lambda: len(self._unread) < self.backlog)
            self._must_live()
            if end < self.time:
                raise RuntimeStateError(f"watch() at {end:.3f} s, but the stream is already at {self.time:.3f} s")
            segment = Segment(float(times[0]), end)
            if len(self._unread) >= self.backlog:
                self._reject(segment, f"{self.backlog} segments wait to be read already (backlog)")
                return False
            self.time = end
            self._arrived += 1
            self._unread.append(_Arrived(segment, images, times, clock))
            self._changed.notify_all()
        return True

    def ask(self, text: str, time: float | None = None) -> Reply:
        """The answer to a query, from any thread (time: s of the video it is put at; None: the stream's own)."""
        if self._renderer.config.queries != "branch":
            raise RuntimeStateError(
                "ask() needs queries: branch; a kept query would change the stream for all that follows"
            )
        with self._changed:
            asked = self._hear(text, time)
            self._answering += 1
        try:
            return self._answer(asked)
        except BaseException as error:
            with self._changed:
                if self._error is None:
                    what = f"query {asked.query.id}"
                    self._tell(Rejected(asked.query.time, self._clock(), what, f"{type(error).__name__}: {error}"))
            raise
        finally:
            with self._changed:
                self._answering -= 1
                self._changed.notify_all()

    def finish(self) -> None:
        """Wait until all that was handed over is read and thought about. The stream can go on afterwards."""
        with self._changed:
            self._wanted = wanted = self._arrived
            self._changed.notify_all()
            self._until(lambda: (self._thought if self.thinks else self._read) >= wanted)

    def close(self) -> None:
        """End the stream and join its threads: what is not done yet is reported as rejected. Idempotent."""
        if self._teller == threading.get_ident() or threading.current_thread() in self._threads:
            raise RuntimeStateError("close() was called by on_event or delay: a thread cannot wait for itself")
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()
        with self._changed:
            while self._answering:
                self._changed.wait()
            if self._ended or self._error is not None:
                return
            self._ended = True
            undone = [
                *((unit.segment, "not thought about") for unit in self._unthought if unit.segment is not None),
                *((waiting.segment, "not read") for waiting in self._unread),
            ]
            for segment, what in undone:
                self._reject(segment, f"{what}: the stream was closed before")
            if undone:
                self._tell(Stopped(self.time, self._clock()))
            else:
                self._tell(Ended(self.time, self._clock(), self._read, self._thought, self._answered))

    @property
    def thoughts(self) -> list[tuple[float, Generated]]:
        """(end of the segment, thought), in order; the last KEPT_THOUGHTS of a long stream."""
        with self._changed:
            return list(self._thoughts)

    @property
    def error(self) -> BaseException | None:
        """What ended the stream, if anything did."""
        with self._changed:
            return self._error

    def __enter__(self) -> ParallelStream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # --- answers ----------------------------------------------------------------------------------------------------

    def _hear(self, text: str, time: float | None) -> _Asked:
        """Number a query and say what its answer reads. With the lock held, so that its event marks the moment."""
        self._must_live()
        clock = self._clock()
        self._asked += 1
        query = Query(f"ask-{self._asked}", self.time if time is None else time, text)
        self._tell(QueryHeard(query.time, clock, query.id, text))
        behind = (self._thought if self.thinks else self._read) < self._arrived
        if behind and self.deadline == "wait":
            asked = _Asked(query, clock, self._arrived, late=False, basis=None)
            self._held_back.append(asked)
            return asked
        return _Asked(query, clock, self._arrived, late=self.thinks and behind, basis=self._basis)

    def _answer(self, asked: _Asked) -> Reply:
        query, clocks = asked.query, []
        with self._changed:
            self._until(lambda: asked.basis is not None)
        basis, started = asked.basis, self._clock()
        assert basis is not None

        def token() -> None:
            self._pause("answer token")
            clocks.append(self._clock())

        self._pause("answer")
        said = self._engine.answer(basis.unit, basis.finished, query, self.answer_tokens, token)
        with self._changed:
            self._must_live()
            self._answered += 1
            reply = Reply(
                time=query.time,
                clock=self._clock(),
                query=query.id,
                text=said.text,
                tokens=len(said.ids) + said.finished,
                finished=said.finished,
                waited=started - asked.clock,
                first_token=clocks[0] - asked.clock,
                last_token=clocks[-1] - asked.clock,
                memory_time=basis.memory_time,
                thought_late=asked.late,
            )
            self._tell(reply)
        return reply

    def _let_go(self, basis: _Basis) -> None:
        """Give `basis` to the held back queries that waited for it, with the lock held."""
        ready = [asked for asked in self._held_back if asked.number <= basis.unit.number]
        self._held_back = [asked for asked in self._held_back if asked.number > basis.unit.number]
        for asked in ready:
            asked.basis = basis

    # --- threads ----------------------------------------------------------------------------------------------------

    def _loops(self) -> dict[str, Callable[[], None]]:
        """The threads of this mode by name, and what each does over and over."""
        if not self.thinks:
            return {"reader": self._read_one}
        if self.mode == "parallel":
            return {"reader": self._read_one, "writer": self._think_one}
        return {"worker": self._read_and_think if self.mode == "interleaved" else self._read_then_think}

    def _run(self, name: str, work: Callable[[], None]) -> None:
        try:
            while True:
                work()
        except StreamClosed:
            return
        except BaseException as error:
            with self._changed:
                self._fail(name, error)

    def _read_and_think(self) -> None:
        self._read_one()
        self._think_one()

    def _read_then_think(self) -> None:
        with self._changed:
            self._until(lambda: bool(self._unread) or self._thought < self._wanted)
            reading = bool(self._unread)
        if reading:
            self._read_one()
        else:
            self._think_one()

    def _read_one(self) -> None:
        """Read the next segment and publish it."""
        with self._changed:
            bounded = self.thinks and self.mode != "batch"
            self._until(lambda: bool(self._unread) and not (bounded and len(self._unthought) >= self.backlog))
            arrived = self._unread[0]  # it waits until it is read
        self._pause("read")
        view = self._model.view(arrived.segment, arrived.images, arrived.times, self.fps)
        unit = self._engine.read(self._read + 1, view)
        with self._changed:
            self._must_live()
            self._unread.popleft()
            self._read += 1
            self._basis = replace(self._basis, unit=unit)
            clock, entries = self._clock(), self._basis.finished.past.length
            if unit.received is not None:
                entries += unit.received.length
            self._tell(
                SegmentRead(
                    time=arrived.segment.end,
                    clock=clock,
                    start=arrived.segment.start,
                    end=arrived.segment.end,
                    frames=len(arrived.images),
                    lag=clock - arrived.clock,
                    backlog=len(self._unread),
                    tokens=entries,
                )
            )
            if self.thinks:
                self._unthought.append(unit)
            else:
                self._let_go(self._basis)
            self._changed.notify_all()

    def _think_one(self) -> None:
        """Think about the next segment that has been read and publish the thought."""
        with self._changed:
            self._until(lambda: bool(self._unthought))
            unit = self._unthought[0]
        assert unit.segment is not None
        started = self._now()
        self._pause("think")
        thought, finished = self._engine.think(unit, self.thought_tokens, lambda: self._pause("thought token"))
        with self._changed:
            self._must_live()
            self._unthought.popleft()
            self._thought += 1
            time = unit.segment.end
            self._thoughts.append((time, thought))
            self._basis = _Basis(self._basis.unit, finished, time)
            self._tell(
                ThoughtDone(
                    time=time,
                    clock=self._clock(),
                    text=thought.text,
                    tokens=len(thought.ids) + thought.finished,
                    finished=thought.finished,
                    seconds=self._now() - started,
                    late=self._arrived > unit.number,
                )
            )
            self._let_go(_Basis(unit, finished, time))
            self._changed.notify_all()

    # --- state ------------------------------------------------------------------------------------------------------

    def _clock(self) -> float:
        return self._now() - self._began

    def _must_live(self) -> None:
        """With the lock held."""
        if self._teller is not None:  # it is this thread: the lock is held
            raise RuntimeStateError("on_event called the stream, which waits for it: hand the event to another thread")
        if self._error is not None:
            raise StreamFailed(
                f"the stream ended with an error in its {self._where}: {type(self._error).__name__}: {self._error}; "
                f"other streams go on"
            ) from self._error
        if self._closed:
            raise StreamClosed("the stream is closed")

    def _until(self, ready: Callable[[], bool]) -> None:
        """Wait, with the lock held, until `ready`; raises when the stream is over."""
        self._must_live()
        while not ready():
            self._changed.wait()
            self._must_live()

    def _pause(self, where: str) -> None:
        """A point at which a thread ends if the stream is over, and at which tests hold or kill it."""
        with self._changed:
            self._must_live()
        if self._delay is not None:
            self._delay(where)

    def _tell(self, event: StreamEvent) -> None:
        """Report an event, with the lock held. What on_event raises ends the stream."""
        if self._on_event is None:
            return
        self._teller = threading.get_ident()
        try:
            self._on_event(event)
        except BaseException as error:
            self._on_event = None  # it is not called again, not even with Failed
            self._fail("on_event", error)
            raise
        finally:
            self._teller = None

    def _fail(self, where: str, error: BaseException) -> None:
        """End the stream with an error, with the lock held; the first one counts."""
        if self._error is None:
            self._error, self._where = error, where
            self._changed.notify_all()
            self._tell(Failed(self.time, self._clock(), f"{where}: {type(error).__name__}: {error}"))

    def _reject(self, segment: Segment, reason: str) -> None:
        self._tell(Rejected(segment.end, self._clock(), f"segment {segment.start:.3f}-{segment.end:.3f} s", reason))


def _engine(model: Model, received_end: int | None, memory: str) -> SplitStream | RecurrentStream:
    layout = model.renderer.config.layout
    if layout == "interleaved":
        raise RuntimeStateError(
            "layout interleaved has one cursor for what is received and generated, so watching has to wait for "
            "thinking; use StreamSession, or a checkpoint with layout split or recurrent"
        )
    return SplitStream(model, received_end, memory) if layout == "split" else RecurrentStream(model, memory)


def _must_be_one_of(name: str, value: str, known: Sequence[str]) -> None:
    if value not in known:
        raise RuntimeStateError(f"{name} {value!r} is unknown; use one of {', '.join(known)}")
