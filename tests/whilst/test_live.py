"""Live streams: the order of events, the real clock (a false one here), and every fault with its stated result."""

import http.server
import math
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.streams import FPS
from tests.streams import frames as random_frames
from whilst.backbones.base import Backbone
from whilst.checkpoint import Checkpoint, Contract
from whilst.engines import LiveSettings, ParallelEngine
from whilst.events import (
    Ended,
    Failed,
    Gap,
    QueryHeard,
    Rejected,
    Reply,
    SegmentRead,
    Silent,
    Stopped,
    StreamEvent,
    ThoughtDone,
)
from whilst.live import CAPACITY, PATIENCE, LiveError, LiveStream
from whilst.mailbox import FAR, Cutter, FrameRefusedError
from whilst.pace import HOLD, Frame, Item, Source, camera_frames, merged, open_source, paced, shown
from whilst.policies import make_policy
from whilst.proactive import STATES, Proactive
from whilst.render import Renderer, RenderError
from whilst.render_config import RenderConfig
from whilst.runtime import RuntimeStateError
from whilst.segmenters import Clip, fixed
from whilst.session import StreamSession
from whilst.video import VideoError, stream_frames, write_video

CONFIGS = {
    "recurrent": RenderConfig(layout="recurrent_packed", rule="text_memory"),
    "interleaved": RenderConfig(),
    "split": RenderConfig(layout="split", rule="unit", scheme="group_decoupled"),
}
LIMITS: dict[str, Any] = {"thought_tokens": 3, "answer_tokens": 3}


@pytest.fixture
def one(backbones: Mapping[str, Backbone]) -> Backbone:
    return backbones["qwen3_vl"]


def checkpoint_of(backbone: Backbone, config: str = "recurrent", thinks: bool = True) -> Checkpoint:
    render = CONFIGS[config]
    return Checkpoint(
        backbone, Renderer(backbone.tokenizer, backbone.spec, render), Contract("base", FPS, thinks, render)
    )


class FalseClock:
    """Time passes when somebody sleeps, and then at once."""

    def __init__(self) -> None:
        self.time = 100.0
        self.slept: list[float] = []

    def now(self) -> float:
        return self.time

    def sleep(self, seconds: float, stop: threading.Event) -> None:
        self.slept.append(seconds)
        self.time += seconds


def pictures(n: int) -> list[Frame]:
    """n frames at FPS."""
    return [(k / FPS, image) for k, image in enumerate(random_frames(np.random.default_rng(0), n))]


def source_of(frames: Sequence[Frame], duration: float | None = None, live: bool = False) -> Source:
    return Source("test", FPS, duration, live, lambda: iter(frames))


def dying(frames: Sequence[Frame], error: Exception) -> Source:
    def die() -> Iterator[Frame]:
        yield from frames
        raise error

    return Source("test", FPS, None, False, die)


def play(
    checkpoint: Checkpoint, source: Source, queries: Sequence[tuple[float, str]] = (), **settings: Any
) -> list[StreamEvent]:
    """All events of a stream that is watched to its end."""
    events: list[StreamEvent] = []
    policy = settings.pop("policy", None)
    stream = LiveStream(
        checkpoint,
        source,
        LiveSettings(**LIMITS | settings),
        on_event=events.append,
        queries=queries,
        clock=FalseClock(),
        policy=policy,
    )
    stream.run()
    return events


def told(events: Sequence[StreamEvent]) -> list[tuple[str, float]]:
    return [(event.type, event.time) for event in events]


def said(events: Sequence[StreamEvent]) -> list[tuple[str, float, str]]:
    return [(e.type, e.time, e.text) for e in events if isinstance(e, ThoughtDone | Reply)]


# ---- The order of things.


@pytest.mark.parametrize("config", CONFIGS)
def test_events_come_in_order(one: Backbone, config: str) -> None:
    asked = [(0.0, "now ?"), (1.0, "which in-1 ?"), (1.2, "which out-1 ?"), (99.0, "none ?")]
    events = play(checkpoint_of(one, config), source_of(pictures(5), 2.5), asked)
    heard = {e.id: e.text for e in events if isinstance(e, QueryHeard)}
    assert heard == {f"q{k + 1}": text for k, (_, text) in enumerate(asked)}
    assert told(events) == [
        *[("query", 0.0), ("answer", 0.0), ("segment", 1.0), ("thought", 1.0), ("query", 1.0), ("answer", 1.0)],
        *[("query", 1.2), ("answer", 1.2), ("segment", 2.0), ("thought", 2.0), ("segment", 2.5), ("thought", 2.5)],
        *[("query", 99.0), ("answer", 99.0), ("end", 2.5)],
    ]
    replies = [e for e in events if isinstance(e, Reply)]
    assert [r.query for r in replies] == list(heard) and [r.memory_time for r in replies] == [0.0, 1.0, 1.0, 2.5]
    assert all(0 <= r.waited <= r.first_token <= r.last_token and not r.thought_late for r in replies)
    end = events[-1]
    assert isinstance(end, Ended) and (end.segments, end.thoughts, end.queries, end.dropped) == (3, 3, 4, 0)
    assert all(before.clock <= after.clock for before, after in pairwise(events))


@pytest.mark.parametrize("config", CONFIGS)
def test_it_says_what_a_session_says(one: Backbone, config: str) -> None:
    checkpoint = checkpoint_of(one, config)
    session = StreamSession(checkpoint.backbone, checkpoint.renderer, fps=FPS, **LIMITS)
    wanted = []
    for clip in fixed(iter(pictures(6)), 1.0, end=3.0):
        session.watch(clip.frames.images, clip.frames.times.tolist(), clip.end)
        wanted.append(("thought", clip.end, session.think().text))
        if clip.end == 2.0:
            wanted.append(("answer", 2.0, session.ask("which in-1 ?", 2.0).text))
    assert said(play(checkpoint, source_of(pictures(6), 3.0), [(2.0, "which in-1 ?")])) == wanted


def test_a_checkpoint_that_does_not_think_is_not_made_to(one: Backbone) -> None:
    events = play(checkpoint_of(one), source_of(pictures(4), 2.0), thinks=False)
    assert told(events) == [("segment", 1.0), ("segment", 2.0), ("end", 2.0)]


def test_standing_queries_are_put_after_each_segment(one: Backbone) -> None:
    events = play(
        checkpoint_of(one),
        source_of(pictures(4), 2.0),
        standing=("tell-when in-1 ?", "tell-when out-1 ?"),
        proactive=Proactive(threshold=1.0),
    )
    heard = [e.id for e in events if isinstance(e, QueryHeard)]
    replies = [e for e in events if isinstance(e, Reply)]
    assert heard == ["q1", "q2"] and [(r.query, r.time) for r in replies] == [
        *[("q1", 1.0), ("q2", 1.0), ("q1", 2.0), ("q2", 2.0)]
    ]
    assert all(r.silence is not None and 0 < r.silence < 1 for r in replies)


def test_states_are_told(one: Backbone) -> None:
    events = play(checkpoint_of(one), source_of(pictures(4), 2.0), standing=("tell-when ?",), proactive=STATES)
    silent = [e for e in events if isinstance(e, Silent)]
    assert [(e.time, e.state) for e in silent] == [(1.0, "other"), (2.0, "other")]  # untrained: noise is no state
    with pytest.raises(LiveError, match="does not think"):
        LiveSettings(proactive=STATES, thinks=False)


# ---- Engines.


@pytest.mark.parametrize("config", ["recurrent", "split"])
def test_the_parallel_engine_says_the_same(one: Backbone, config: str) -> None:
    asked = [(0.0, "now ?"), (1.0, "which in-1 ?"), (1.2, "which out-1 ?"), (99.0, "none ?")]
    checkpoint, source = checkpoint_of(one, config), source_of(pictures(8), 4.0)
    sequential = play(checkpoint, source, asked, engine="sequential")
    parallel = play(checkpoint, source, asked, engine="parallel")
    assert sorted(said(parallel)) == sorted(said(sequential))
    ids = {e.id: e.text for e in parallel if isinstance(e, QueryHeard)}
    assert [ids[e.query] for e in parallel if isinstance(e, Reply) and e.time == 99.0] == ["none ?"]
    assert all(0 <= e.waited <= e.first_token <= e.last_token for e in parallel if isinstance(e, Reply))
    end = parallel[-1]
    assert isinstance(end, Ended) and (end.segments, end.thoughts, end.queries) == (4, 4, 4)
    assert sum(isinstance(e, Ended) for e in parallel) == 1


@pytest.mark.parametrize(
    ("config", "settings", "why"),
    [
        ("interleaved", {}, "one cursor"),
        ("recurrent", {"standing": ("tell-when ?",)}, "after each segment"),
        ("interleaved", {"policy": make_policy({"name": "sink_window"})}, "one cursor"),
        ("split", {"policy": make_policy({"name": "sink_window"})}, "KV policies"),
    ],
)
def test_parallel_is_refused_where_it_cannot_be(one: Backbone, config: str, settings: dict[str, Any], why: str) -> None:
    with pytest.raises(LiveError, match=f"engine parallel: .*{why}.*: use engine sequential"):
        play(checkpoint_of(one, config), source_of(pictures(4), 2.0), engine="parallel", **settings)


def test_auto_is_parallel_on_the_real_clock_where_it_can_be(one: Backbone) -> None:
    def engine(config: str, live: bool = False, **settings: Any) -> str:
        stream = LiveStream(
            checkpoint_of(one, config),
            source_of([], live=live),
            LiveSettings(**settings),
            on_event=lambda event: None,
        )
        stream.engine.close()
        return type(stream.engine).__name__

    assert engine("recurrent") == engine("interleaved", speed=1.0) == "SequentialEngine"
    assert engine("recurrent", speed=1.0) == engine("split", live=True) == "ParallelEngine"
    assert engine("recurrent", speed=1.0, standing=("x",)) == "SequentialEngine"
    with pytest.raises(LiveError, match="'quick' is not one of auto, sequential, parallel"):
        engine("recurrent", engine="quick")


def test_a_policy_reaches_the_session(one: Backbone) -> None:
    policy = make_policy({"name": "recent_frames", "frames": 2})
    events = play(checkpoint_of(one, "interleaved"), source_of(pictures(12), 6.0), policy=policy, thinks=False)
    tokens = [e.tokens for e in events if isinstance(e, SegmentRead)]
    assert len(set(tokens[1:])) == 1  # without one it grows


# ---- Frames and clocks that are wrong.


def with_wrong(*wrong: tuple[int, float]) -> list[Frame]:
    """Six frames, and before the k-th of them one that is stamped so."""
    found = pictures(6)
    for k, time in sorted(wrong, reverse=True):
        found.insert(k, (time, np.zeros_like(found[0][1])))
    return found


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ((3, 0.5), "out of order: it is of before the last one at 1.000 s"),
        ((3, 1.0), "a double of the last one at 1.000 s"),
        ((4, 0.0), "the frame at 0.000 s is out of order"),
        ((4, math.nan), "its time is nan"),
        ((4, 1.5 + FAR + 1), "more than 600 s ahead"),
    ],
)
def test_a_wrong_frame_is_rejected_and_the_stream_goes_on(one: Backbone, wrong: tuple[int, float], reason: str) -> None:
    right = play(checkpoint_of(one), source_of(pictures(6), 3.0))
    events = play(checkpoint_of(one), source_of(with_wrong(wrong), 3.0))
    (rejected,) = [e for e in events if isinstance(e, Rejected)]
    assert rejected.what == "frame" and reason in rejected.reason and "the model does not see it" in rejected.reason
    assert said(events) == said(right)


@pytest.mark.parametrize("back", [True, False])
def test_a_clock_that_stays_wrong_ends_the_stream(one: Backbone, back: bool) -> None:
    image = pictures(1)[0][1]
    start = -1000.0 if back else 1e9
    wrong = [(start + k / FPS, image) for k in range(PATIENCE + 50)]
    events: list[StreamEvent] = []
    stream = LiveStream(
        checkpoint_of(one), source_of([*pictures(4), *wrong]), LiveSettings(**LIMITS), on_event=events.append
    )
    with pytest.raises(VideoError, match=f"{PATIENCE} frames in a row were rejected"):
        stream.run()
    assert sum(isinstance(e, Rejected) for e in events) == PATIENCE
    assert isinstance(events[-1], Failed) and "start a new stream" in events[-1].reason
    assert told(events)[:2] == [("segment", 1.0), ("thought", 1.0)]


@pytest.mark.parametrize("engine", ["sequential", "parallel"])
def test_a_clock_that_jumps_ahead_leaves_a_gap(one: Backbone, engine: str) -> None:
    frames = [*pictures(3), *((7.2 + k / FPS, image) for k, (_, image) in enumerate(pictures(4)))]
    events = play(checkpoint_of(one), source_of(frames, 9.2), [(4.0, "now ?")], engine=engine)
    (gap,) = [e for e in events if isinstance(e, Gap)]
    assert (gap.start, gap.end) == (2.0, 7.0)
    read = [(e.start, e.end, e.frames) for e in events if isinstance(e, SegmentRead)]
    assert read == [(0.0, 1.0, 2), (1.0, 2.0, 1), (7.0, 8.0, 2), (8.0, 9.0, 2)]
    (reply,) = [e for e in events if isinstance(e, Reply)]
    assert reply.memory_time == 2.0  # the segment that was over by 4.0 s, though no frame had ended it yet


def test_the_cutter_cuts_as_the_segmenter_does() -> None:
    for count, seconds, end in ((9, 1.0, 4.5), (9, 1.0, 4.2), (7, 0.7, 3.5), (5, 2.0, 2.5), (1, 1.0, 0.5)):
        cutter, found = Cutter(seconds), []
        for time, image in pictures(count):
            if time < end:
                found += cutter.add(time, image)
        found += cutter.finish(end, 0.5)
        wanted = list(fixed(iter(pictures(count)), seconds, end=end))
        assert [(c.start, c.end, len(c.frames)) for c in found if isinstance(c, Clip)] == [
            (c.start, c.end, len(c.frames)) for c in wanted
        ]


def test_the_picture_size_must_stay(one: Backbone) -> None:
    cutter = Cutter(1.0)
    cutter.add(0.0, np.zeros((32, 48, 3), np.uint8))
    with pytest.raises(VideoError, match=r"changes from \(32, 48\) to \(48, 32\) at 0.500 s"):
        cutter.add(0.5, np.zeros((48, 32, 3), np.uint8))
    with pytest.raises(FrameRefusedError):
        cutter.add(-1.0, np.zeros((32, 48, 3), np.uint8))


# ---- What dies.


@pytest.mark.parametrize("engine", ["sequential", "parallel"])
def test_a_decoder_that_dies_ends_its_stream_alone(one: Backbone, engine: str) -> None:
    checkpoint = checkpoint_of(one)
    events: list[StreamEvent] = []
    others: list[list[StreamEvent]] = [[], []]
    died = threading.Event()

    def waits() -> Iterator[Frame]:  # the other streams are in their midst when the first one dies
        yield from pictures(8)[:4]
        assert died.wait(60)
        yield from pictures(8)[4:]

    settings = LiveSettings(**LIMITS, engine=engine)
    streams = [
        LiveStream(checkpoint, Source("other", FPS, 4.0, False, waits), settings, on_event=into.append)
        for into in others
    ]
    threads = [threading.Thread(target=stream.run) for stream in streams]
    for thread in threads:
        thread.start()
    source = dying(pictures(5), VideoError("x.mp4: damaged at 2.5 s"))
    stream = LiveStream(checkpoint, source, settings, on_event=events.append)
    with pytest.raises(VideoError, match="damaged"):
        stream.run()
    died.set()
    for thread in threads:
        thread.join(60)
    assert events[-1].type == "failed" and events[-1].record()["reason"] == "x.mp4: damaged at 2.5 s"
    assert [e.end for e in events if isinstance(e, SegmentRead)][:1] == [1.0]
    assert stream.ask("which ?") is None and events[-1].type == "rejected"
    alone = said(play(checkpoint, source_of(pictures(8), 4.0)))
    assert [sorted(said(into)) for into in others] == [sorted(alone)] * 2
    assert all(isinstance(into[-1], Ended) for into in others)


@pytest.mark.parametrize("engine", ["sequential", "parallel"])
def test_a_model_that_dies_ends_its_stream_alone(one: Backbone, engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = checkpoint_of(one)
    hidden, calls = type(one).hidden, iter(range(10**6))

    def dies(*arguments: Any, **named: Any) -> Any:
        if next(calls) == 12:
            raise MemoryError("out of memory")
        return hidden(*arguments, **named)

    events: list[StreamEvent] = []
    with monkeypatch.context() as patch:
        patch.setattr(type(one), "hidden", dies)
        stream = LiveStream(
            checkpoint, source_of(pictures(40), 20.0), LiveSettings(**LIMITS, engine=engine), on_event=events.append
        )
        with pytest.raises((MemoryError, LiveError, RuntimeStateError), match="out of memory"):
            stream.run()
    assert isinstance(events[-1], Failed) and "out of memory" in events[-1].reason
    assert sum(isinstance(e, Failed) for e in events) == 1
    assert isinstance(play(checkpoint, source_of(pictures(4), 2.0), engine=engine)[-1], Ended)


def test_a_listener_that_fails_ends_its_stream(one: Backbone) -> None:
    heard: list[StreamEvent] = []

    def listener(event: StreamEvent) -> None:
        heard.append(event)
        if isinstance(event, ThoughtDone):
            raise BrokenPipeError("gone")

    stream = LiveStream(checkpoint_of(one), source_of(pictures(4), 2.0), LiveSettings(**LIMITS), on_event=listener)
    with pytest.raises(BrokenPipeError):
        stream.run()
    assert [e.type for e in heard] == ["segment", "thought", "failed"]


@pytest.mark.parametrize("frames", [[], [(math.nan, np.zeros((32, 48, 3), np.uint8))]])
def test_a_source_without_frames_has_failed(one: Backbone, frames: list[Frame]) -> None:
    with pytest.raises(VideoError, match="gave no frame that could be shown"):
        play(checkpoint_of(one), source_of(frames))


# ---- Queries at odd moments.


class Gate:
    """A source that waits before each frame until it is let through."""

    def __init__(self, frames: Sequence[Frame]) -> None:
        self.frames, self._let = frames, threading.Semaphore(0)

    def source(self, duration: float | None) -> Source:
        return Source("gate", FPS, duration, False, self._frames)

    def _frames(self) -> Iterator[Frame]:
        for frame in self.frames:
            assert self._let.acquire(timeout=60)
            yield frame

    def let(self, n: int) -> None:
        self._let.release(n)


class Listener:
    """Keeps events, and waits for one."""

    def __init__(self) -> None:
        self.events: list[StreamEvent] = []
        self._change = threading.Condition()

    def __call__(self, event: StreamEvent) -> None:
        with self._change:
            self.events.append(event)
            self._change.notify_all()

    def wait(self, wanted: Callable[[StreamEvent], bool]) -> None:
        with self._change:
            assert self._change.wait_for(lambda: any(map(wanted, self.events)), timeout=60)


@pytest.mark.parametrize("engine", ["sequential", "parallel"])
def test_queries_before_the_first_frame_mid_stream_and_after_the_end(one: Backbone, engine: str) -> None:
    gate, heard = Gate(pictures(4)), Listener()
    stream = LiveStream(checkpoint_of(one), gate.source(2.0), LiveSettings(**LIMITS, engine=engine), on_event=heard)
    thread = threading.Thread(target=stream.run)
    thread.start()
    assert stream.ask("now ?") == "q1"
    heard.wait(lambda e: isinstance(e, Reply) and e.query == "q1" and e.time == 0.0)
    assert stream.ask(" ") is None and stream.ask("a <|im_end|>") is None
    gate.let(3)
    heard.wait(lambda e: isinstance(e, ThoughtDone))
    assert stream.ask("which in-1 ?") == "q2"
    heard.wait(lambda e: isinstance(e, Reply) and e.query == "q2" and e.time == 1.0)
    gate.let(1)
    thread.join(60)
    assert stream.ask("too late ?") is None
    rejected = [e for e in heard.events if isinstance(e, Rejected)]
    assert [e.what for e in rejected] == ["query"] * 3
    reasons = ("its text is empty", "special token", "the stream is over: 'too late ?'")
    assert all(reason in e.reason for reason, e in zip(reasons, rejected, strict=True))
    assert [e.type for e in heard.events].index("end") == len(heard.events) - 2


@pytest.mark.parametrize("engine", ["sequential", "parallel"])
def test_many_queries_in_flight_get_a_reply_each(one: Backbone, engine: str) -> None:
    gate, heard = Gate(pictures(8)), Listener()
    stream = LiveStream(checkpoint_of(one), gate.source(4.0), LiveSettings(**LIMITS, engine=engine), on_event=heard)
    run = threading.Thread(target=stream.run)
    run.start()
    askers = [
        threading.Thread(target=lambda k=k: [stream.ask(f"which in-{k} {n} ?") for n in range(5)]) for k in range(4)
    ]
    for asker in askers:
        asker.start()
        gate.let(1)
    for asker in askers:
        asker.join(60)
    gate.let(4)
    run.join(60)
    asked = {e.id: e.text for e in heard.events if isinstance(e, QueryHeard)}
    replies = [e.query for e in heard.events if isinstance(e, Reply)]
    assert len(set(asked.values())) == 20 and sorted(replies) == sorted(asked)
    for id in asked:  # it is heard before it is answered
        order = [e.type for e in heard.events if getattr(e, "id", None) == id or getattr(e, "query", None) == id]
        assert order == ["query", "answer"]
    assert isinstance(heard.events[-1], Ended) and heard.events[-1].queries == 20


def test_a_query_that_comes_as_the_source_dies_is_answered(one: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its thread is there, and not yet begun, when the stream waits for all that answer."""
    asking, begin, finish = threading.Event(), threading.Thread.start, ParallelEngine.finish

    def slowly(thread: threading.Thread) -> None:
        if thread.name.startswith("answer "):
            asking.set()
            threading.Event().wait(0.3)  # the stream has come to this thread by now, or it waits
        begin(thread)

    def asked_first(engine: ParallelEngine) -> tuple[int, int, int]:
        asker.start()
        assert asking.wait(60)
        return finish(engine)

    heard = Listener()
    settings = LiveSettings(**LIMITS, engine="parallel")
    source = dying(pictures(2), VideoError("x.mp4: damaged at 1.0 s"))
    stream = LiveStream(checkpoint_of(one), source, settings, on_event=heard)
    asker = threading.Thread(target=lambda: stream.ask("now ?"))
    monkeypatch.setattr(threading.Thread, "start", slowly)
    monkeypatch.setattr(ParallelEngine, "finish", asked_first)
    with pytest.raises(VideoError, match="damaged"):
        stream.run()
    asker.join(60)
    assert [e.query for e in heard.events if isinstance(e, Reply)] == ["q1"] and isinstance(heard.events[-1], Failed)


def test_scheduled_queries_are_checked_before_anything_runs(one: Backbone) -> None:
    with pytest.raises(RenderError, match="special token"):
        play(checkpoint_of(one), source_of(pictures(4), 2.0), [(1.0, "a <|im_end|>")])


@pytest.mark.parametrize("engine", ["sequential", "parallel"])
def test_stop_ends_it_in_mid_stream(one: Backbone, engine: str) -> None:
    gate, heard = Gate(pictures(8)), Listener()
    stream = LiveStream(checkpoint_of(one), gate.source(4.0), LiveSettings(**LIMITS, engine=engine), on_event=heard)
    thread = threading.Thread(target=stream.run)
    thread.start()
    gate.let(3)
    heard.wait(lambda e: isinstance(e, ThoughtDone))
    stream.stop()
    gate.let(5)
    thread.join(60)
    assert not thread.is_alive() and isinstance(heard.events[-1], Stopped)
    assert not any(isinstance(e, Ended) for e in heard.events) and stream.ask("which ?") is None


# ---- Time.


def test_items_are_released_by_the_clock() -> None:
    clock = FalseClock()
    frames = [Item(time, f"f{time}") for time in (0.0, 0.5, 1.0)]
    released = []
    for item in paced(merged(frames, [Item(0.5, "q"), Item(0.2, "p"), Item(9.0, "r")]), clock, 2.0, 100.0, STOP):
        released.append((item.what, clock.now() - 100.0, item.due - 100.0, item.late))
        if item.what == "f0.5":
            clock.time += 0.4  # whoever takes it is slow
    assert released == [
        ("f0.0", 0.0, 0.0, 0.0),
        ("p", pytest.approx(0.1), pytest.approx(0.1), 0.0),
        ("f0.5", 0.25, 0.25, 0.0),
        ("q", pytest.approx(0.65), 0.25, pytest.approx(0.4)),
        ("f1.0", pytest.approx(0.65), 0.5, pytest.approx(0.15)),
        ("r", 4.5, 4.5, 0.0),
    ]
    assert sum(clock.slept) == pytest.approx(4.1)


STOP = threading.Event()


def test_as_fast_as_possible_nothing_sleeps() -> None:
    clock = FalseClock()
    items = list(paced([Item(time, "") for time in (0.0, 100.0)], clock, None, 100.0, STOP))
    assert [item.late for item in items] == [0.0, 0.0] and clock.slept == []


def test_a_source_s_mistakes_are_not_sorted_away() -> None:
    frames = [Item(time, "f") for time in (0.0, 2.0, 1.0, 3.0)]
    assert [i.time for i in merged(frames, [Item(2.5, "q")])] == [0.0, 2.0, 1.0, 2.5, 3.0]


def test_stop_ends_the_release() -> None:
    stop = threading.Event()
    found = []
    for item in paced([Item(float(k), "") for k in range(5)], FalseClock(), 1.0, 100.0, stop):
        found.append(item.time)
        if item.time == 2.0:
            stop.set()
    assert found == [0.0, 1.0, 2.0]


def test_late_frames_are_dropped_by_order_alone_and_counted(one: Backbone) -> None:
    def run(**settings: Any) -> list[StreamEvent]:
        events: list[StreamEvent] = []
        clock = FalseClock()

        def listener(event: StreamEvent) -> None:
            events.append(event)
            if isinstance(event, SegmentRead) and event.end == 1.0:
                clock.time += 3.0  # the model takes its time

        gate = Gate(pictures(12))
        stream = LiveStream(
            checkpoint_of(one), gate.source(6.0), LiveSettings(**LIMITS, **settings), on_event=listener, clock=clock
        )
        gate.let(12)
        stream.run()
        return events

    kept, dropped = run(), run(drop_late=2.5)
    for events in (kept, dropped):
        end = events[-1]
        assert isinstance(end, Ended)
        assert sum(e.frames for e in events if isinstance(e, SegmentRead)) + end.dropped == 12
        assert sum(e.dropped for e in events if isinstance(e, SegmentRead)) <= end.dropped
    assert kept[-1].record()["dropped"] == 0


def test_frames_wait_in_bounded_memory(one: Backbone) -> None:
    taken: list[float] = []
    most: list[int] = []

    def endless() -> Iterator[Frame]:
        for time, image in pictures(400):
            taken.append(time)
            yield time, image

    def listener(event: StreamEvent) -> None:
        if isinstance(event, SegmentRead):
            most.append(len(taken) - round(event.end * FPS))

    stream = LiveStream(
        checkpoint_of(one), Source("x", FPS, 200.0, False, endless), LiveSettings(**LIMITS, thinks=False),
        on_event=listener,
    )  # fmt: skip
    stream.run()
    assert len(taken) == 400 and max(most) <= CAPACITY + 3


@pytest.mark.parametrize(
    "settings",
    [
        {"segment_seconds": 0.0},
        {"speed": -1.0},
        {"drop_late": math.inf},
        {"thought_tokens": 0},
        {"answer_tokens": 0},
        {"segment_seconds": math.nan},
    ],
)
def test_settings_that_cannot_be(settings: dict[str, Any]) -> None:
    with pytest.raises(LiveError):
        LiveSettings(**settings)


def test_a_camera_keeps_its_own_clock(one: Backbone) -> None:
    with pytest.raises(LiveError, match="leave the speed out"):
        play(checkpoint_of(one), source_of([], live=True), speed=2.0)


# ---- Sources.


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """4 s at 10 fps, in a container that can be read from its beginning on, as a camera's."""
    path = tmp_path_factory.mktemp("video") / "a.mkv"
    write_video(path, random_frames(np.random.default_rng(1), 40), 10.0)
    return path


@pytest.fixture
def served(video: Path) -> Iterator[str]:
    """The address of a server that gives the video."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(video.parent)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/{video.name}"
    server.shutdown()
    thread.join()
    server.server_close()


def same(found: Sequence[Frame], wanted: Sequence[Frame]) -> None:
    assert [time for time, _ in found] == pytest.approx([time for time, _ in wanted])
    for (_, a), (_, b) in zip(found, wanted, strict=True):
        assert np.array_equal(a, b)


def test_a_url_gives_the_frames_of_its_file(video: Path, served: str) -> None:
    wanted = list(stream_frames(video, 2.0))
    same(list(camera_frames(video.as_uri(), 2.0)), wanted)
    same(list(camera_frames(served, 2.0)), wanted)
    source = open_source(served, 2.0)
    assert source.live and source.duration is None
    same(list(source.frames()), wanted)
    same(list(open_source(video, 2.0).frames()), wanted)
    assert open_source(video, 2.0).duration == pytest.approx(4.0)


def test_a_live_stream_of_a_url(one: Backbone, served: str) -> None:
    events = play(checkpoint_of(one), open_source(served, 2.0))
    assert [e.end for e in events if isinstance(e, SegmentRead)] == [1.0, 2.0, 3.0, 4.0]


def test_a_camera_that_cannot_be_opened_says_so_without_its_password(tmp_path: Path) -> None:
    for url in ("http://me:secret@127.0.0.1:9/cam", "rtsp://me:secret@127.0.0.1:9/cam", "/dev/video99"):
        with pytest.raises(VideoError, match="cannot be opened") as caught:
            next(camera_frames(url, 2.0))
        assert "secret" not in str(caught.value)
    (tmp_path / "x.mp4").write_bytes(b"no video")
    with pytest.raises(VideoError, match="cannot be opened"):
        next(camera_frames((tmp_path / "x.mp4").as_uri(), 2.0))
    assert shown("rtsp://me:secret@host/cam?x=1") == "rtsp://host/cam?x=1"


def test_a_slow_camera_s_frame_does_not_stay_for_ever(tmp_path: Path) -> None:
    path = tmp_path / "slow.mkv"
    write_video(path, random_frames(np.random.default_rng(1), 3), 0.1)  # a frame every ten seconds
    times = [time for time, _ in camera_frames(path.as_uri(), 1.0)]
    assert times == [0.0, 1.0, *([2.0] if HOLD > 2.0 else []), 10.0, 11.0, *([12.0] if HOLD > 2.0 else []), 20.0]


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(VideoError, match=r"none.mp4: there is no such file"):
        open_source(tmp_path / "none.mp4", 2.0)
