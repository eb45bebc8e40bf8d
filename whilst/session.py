"""StreamSession: a model watches a video as it arrives, thinks, and is asked at any time.

    with StreamSession(checkpoint.backbone, checkpoint.renderer, fps=2.0) as session:
        session.stand("tell me when the cat jumps")      # a standing query: put again after every segment
        for images, times, end in segments:
            session.watch(images, times, end)
            session.think()
            for put in session.proactive(): ...          # a reply, or silence with its probability
        print(session.ask("what happened ?").text)

Memory. A session keeps the caches and text memory of its StreamBatch, its standing queries and a few counters; nothing
grows with the queries asked on branches. What grows with the stream is bounded by `memory_tokens` of the renderer's
configuration (recurrent layouts: text memory) or by `policy` (layouts that keep keys and values); without either it
grows without end. With queries: kept, a query and its answer are part of the stream.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from whilst.backbones.base import Backbone
from whilst.checkpoint import load_checkpoint
from whilst.policies import Policy
from whilst.proactive import Proactive, Put, StateName, Threshold
from whilst.render import Renderer
from whilst.runtime import Generated, RuntimeStateError, StreamBatch, encode_clips
from whilst.sample import Query, Segment
from whilst.sampling import Sampler, greedy
from whilst.video import EPSILON


class FrameError(RuntimeStateError):
    """Frames that do not come after what was watched (out of order, double, a clock that went back), or are no frames.
    Nothing was taken: the session goes on as if they had not come."""


class SessionClosedError(RuntimeStateError):
    """A call on a session that was closed, or whose state an earlier error left undefined."""


class StreamSession:
    """One stream. `watch` a clip, `think` about it, `ask` at any time. Calls from several threads wait for each other.

    proactive: when standing queries are replied to. policy: what the caches keep, as StreamBatch takes it. memory: what
    the stream starts with, `Sample.memory`.
    """

    def __init__(
        self,
        backbone: Backbone,
        renderer: Renderer,
        *,
        fps: float,
        thought_tokens: int = 64,
        answer_tokens: int = 64,
        received_end: int | None = None,
        sampler: Sampler = greedy,
        proactive: Proactive | None = None,
        policy: Policy | None = None,
        memory: str = "",
    ) -> None:
        ends = None if received_end is None else [received_end]
        self.gate = Threshold(renderer.boundary, sampler)
        self._batch: StreamBatch | None = StreamBatch(
            backbone, renderer, 1, sampler=self.gate, received_ends=ends, policy=policy
        )
        self._batch.remember([memory])
        self.backbone, self.renderer, self.fps = backbone, renderer, fps
        self.thought_tokens, self.answer_tokens = thought_tokens, answer_tokens
        self.when = proactive or Proactive()
        self.time = 0.0  # end (s) of the last segment
        self.standing: dict[str, Query] = {}
        self.state: StateName | None = None  # of the last segment, with states
        self._asked = 0
        self._last_frame = -math.inf
        self._replied = False  # the segment before this one was replied to
        self._broken: str | None = None
        self._lock = threading.RLock()

    @classmethod
    def from_pretrained(
        cls, path_or_id: str | Path, *, device: str = "cpu", revision: str | None = None, **options: Any
    ) -> StreamSession:
        """A session with a trained folder, or with a Hub id at a revision: its fps, rendering and memory policy are
        those of its streaming contract. options: the other arguments of a session, such as thought_tokens; a policy
        or fps among them takes the place of the contract's.

        Raises BackboneError where there is no such folder or contract, or the renderer is of another version.
        """
        checkpoint = load_checkpoint(path_or_id, device=device, revision=revision)
        given = {"fps": checkpoint.contract.fps, "policy": checkpoint.policy} | options
        return cls(checkpoint.backbone, checkpoint.renderer, **given)

    # --- life -------------------------------------------------------------------------------------------------------

    def __enter__(self) -> StreamSession:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def closed(self) -> bool:
        return self._batch is None

    @property
    def batch(self) -> StreamBatch:
        """The batch of this one stream. Raises SessionClosedError when there is none any more."""
        if self._batch is None:
            raise SessionClosedError(f"the session is closed{f': {self._broken}' if self._broken else ''}; start anew")
        return self._batch

    def close(self) -> None:
        """Give the caches back. A second call does nothing; any other call on a closed session is an error."""
        with self._lock:
            batch, self._batch = self._batch, None
            self.standing.clear()
            if batch is not None:
                batch.close()

    @contextmanager
    def _running(self) -> Iterator[StreamBatch]:
        """An error inside a forward leaves caches half written: the session closes, and says so when called again."""
        with self._lock:
            batch = self.batch
            try:
                yield batch
            except RuntimeStateError:  # raised before anything is written
                raise
            except BaseException as error:
                self._broken = f"an earlier call failed ({type(error).__name__}: {error})"
                self.close()
                raise

    # --- what a stream can do ---------------------------------------------------------------------------------------

    def watch(self, images: np.ndarray, times: Sequence[float], end: float) -> None:
        """A segment of frames (T, H, W, 3) uint8 at `times` (T,) s arrives at time `end` (s).

        A gap since the last segment is allowed: nothing is made up for it. Raises FrameError for frames without times,
        times that do not increase, times before the end of the last segment, and an end that is not after them.
        """
        with self._lock:
            _ = self.batch
            self._check_frames(images, times, end)
            with self._running() as batch:
                view = encode_clips(self.backbone, [(Segment(times[0], end), images, times)], self.fps)[0]
                batch.watch([view])
            self.time, self._last_frame, self.state = end, times[-1], None

    def think(self) -> Generated:
        """The thought about the segment that has just arrived; with states, its state."""
        with self._running() as batch:
            self.gate.arm()
            (thought,) = batch.think([True], self.thought_tokens)
            assert thought is not None
            if self.when.states is not None:
                self.state = self.when.state(thought)
            return thought

    def ask(self, text: str, time: float | None = None) -> Generated:
        """The answer to a query, now. time: when it was asked (s); None: at the end of the last segment.

        Works before the first segment too: the model then answers from nothing but its text memory.
        """
        with self._lock:
            query = self._query(text, time)
            with self._running() as batch:
                self.gate.arm()
                (answer,) = batch.ask([query], self.answer_tokens)
            assert answer is not None
            return answer

    def stand(self, text: str, time: float | None = None) -> Query:
        """A standing query: `proactive` puts it after every segment until it is withdrawn. With states there is one at
        a time, because a state is the segment's, not the query's."""
        with self._lock:
            if self.when.states is not None and self.standing:
                raise RuntimeStateError("with states a session takes one standing query at a time: withdraw it first")
            kept = self.renderer.config.queries == "kept"
            if kept and self.renderer.implicit and self.standing:
                raise RuntimeStateError(
                    "with queries: kept and silence: implicit the stream decides once a segment: a session takes one "
                    "standing query at a time: withdraw it first"
                )
            query = self._query(text, time)
            if kept:
                with self._running() as batch:
                    batch.hear([query])
            self.standing[query.id] = query
            return query

    def withdraw(self, id: str) -> None:
        """A standing query is put no more. With queries: kept, what was heard stays in the stream."""
        with self._lock:
            if id not in self.standing:
                raise RuntimeStateError(f"no standing query {id!r}: there are {', '.join(self.standing) or 'none'}")
            del self.standing[id]

    def proactive(self) -> list[Put]:
        """Put every standing query once, in the order in which they came: right after a segment and its thought."""
        with self._lock:
            if self.when.states is not None and self.state is None and self.standing:
                raise RuntimeStateError("proactive() with states needs the state of the segment: call think() first")
            puts = [self._put(query) for query in list(self.standing.values())]
            self._replied = any(put.reply is not None for put in puts)
            return puts

    def _put(self, query: Query) -> Put:
        state: StateName | None = self.state if self.when.states is not None else None
        silence = self.gate.silence
        with self._running() as batch:
            if state is not None and state != "respond":
                return Put(query, self.time, silence, None, state)
            bar = self.when.threshold
            if self._replied and self.when.after_reply is not None:
                bar = self.when.after_reply
            self.gate.arm(bar)
            if self.renderer.config.queries == "kept":
                (reply,) = batch.respond([True], self.answer_tokens)
            else:
                (reply,) = batch.ask([query], self.answer_tokens)
        assert reply is not None
        spoke = bool(reply.ids) or not reply.finished
        probability = self.gate.silence if state is None else silence
        return Put(query, self.time, probability, reply if spoke else None, state or "")

    # --- what it holds ----------------------------------------------------------------------------------------------

    @property
    def tokens(self) -> int:
        """Entries of the key-value caches."""
        return sum(self.batch.cache.lengths())

    @property
    def memory(self) -> list[str]:
        """The text memory, entry by entry; of a growing stream what it started with."""
        return [self.backbone.tokenizer.decode(entry.ids.tolist()) for entry in self.batch.memories[0].entries]

    # --- checks -----------------------------------------------------------------------------------------------------

    def _query(self, text: str, time: float | None) -> Query:
        """A query with an id of its own; refused before anything is written."""
        _ = self.batch
        if not text.strip():
            raise RuntimeStateError("a query needs a text, this one is empty")
        if time is not None and not (math.isfinite(time) and time >= 0.0):
            raise RuntimeStateError(f"a query's time must be seconds of the video from 0 on, not {time}")
        self.renderer.spoken(text, "query")
        self._asked += 1
        return Query(id=f"ask-{self._asked}", time=self.time if time is None else time, text=text)

    def _check_frames(self, images: np.ndarray, times: Sequence[float], end: float) -> None:
        if not len(times) or len(times) != len(images):
            raise FrameError(f"watch() got {len(images)} frames and {len(times)} times: one time a frame, at least one")
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3:
            raise FrameError(f"watch() needs images (T, H, W, 3) uint8, not {images.shape} {images.dtype}")
        if not (np.isfinite(times).all() and math.isfinite(end)):
            raise FrameError(f"watch() needs finite seconds, not times {list(times)} and end {end}")
        for before, after in zip([self._last_frame, *times[:-1]], times, strict=True):
            if after <= before + EPSILON:
                what = "a double of" if after >= before - EPSILON else "before"
                raise FrameError(
                    f"the frame at {after:.3f} s is {what} the one at {before:.3f} s: give each once, in order"
                )
        if times[0] < self.time - EPSILON:
            raise FrameError(
                f"the frame at {times[0]:.3f} s belongs to a segment that was watched: the stream is already at "
                f"{self.time:.3f} s"
            )
        if end <= times[-1]:
            raise FrameError(
                f"watch() at {end:.3f} s, but its last frame is of {times[-1]:.3f} s: a segment ends after it"
            )
