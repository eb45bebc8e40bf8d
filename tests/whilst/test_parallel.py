"""Watching and thinking at the same time gives the tokens of the sequential stream, whatever the threads do.

Threads are held and killed at the points that ParallelStream names (`delay`), never by a sleep that has to be long
enough; the random delays of the hundred runs only shuffle the order of what happens.
"""

import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.conftest import FAMILIES
from tests.streams import FPS, HEIGHT, WIDTH, clips_of, frames, shapes_of, timeline
from whilst.backbones.base import Backbone, load
from whilst.branches import Entries, RecurrentStream, SplitStream
from whilst.events import (
    Ended,
    Failed,
    QueryHeard,
    Rejected,
    Reply,
    SegmentRead,
    Stopped,
    StreamEvent,
    ThoughtDone,
)
from whilst.parallel import Mode, ParallelStream, StreamClosed, StreamFailed
from whilst.render import Renderer, RenderError
from whilst.render_config import RenderConfig
from whilst.runtime import Generated, RuntimeStateError, StreamBatch, encode_clips
from whilst.sample import Query

THOUGHT, ANSWER = 5, 4  # tokens at most
SAMPLE = timeline()
CLIPS = clips_of(SAMPLE)  # four segments
WAIT = 60.0  # s: a test that waits longer for a thread has failed

SCHEMES: Mapping[str, Mapping[str, int]] = {
    "group_decoupled": {"phi": 7},
    "gap_isolated": {"delta": 500},
    "tww": {},
    "batch": {},
}
CONFIGS: dict[str, RenderConfig] = {
    f"{rule}-{scheme}": RenderConfig(
        layout="split", rule=rule, scheme=scheme, scheme_params=params, queries="branch" if rule == "unit" else "kept"
    )
    for rule in ("unit", "row_shift")
    for scheme, params in SCHEMES.items()
} | {
    "recurrent": RenderConfig(layout="recurrent", rule="causal"),
    "recurrent-capped": RenderConfig(layout="recurrent", rule="causal", memory_tokens=30),
    "packed": RenderConfig(layout="recurrent_packed", rule="text_memory"),
    "packed-capped": RenderConfig(layout="recurrent_packed", rule="text_memory", memory_tokens=30),
}
ASKING = [name for name in CONFIGS if not name.startswith("row_shift")]
SOME = ["unit-tww", "recurrent-capped"]


@pytest.fixture(scope="session")
def talkers(checkpoints: Mapping[str, Path]) -> Mapping[str, Backbone]:
    """The tiny checkpoints with another row for the boundary token, so that some thoughts end before their limit."""
    loaded = {}
    for name, path in checkpoints.items():
        backbone = load(path)
        backbone.model.eval()
        weight = backbone.model.get_output_embeddings().weight
        row = torch.randn(weight.shape[1], generator=torch.Generator().manual_seed(0)) * 0.3
        with torch.no_grad():
            weight[backbone.tokenizer.convert_tokens_to_ids("<|im_end|>")] = row
        loaded[name] = backbone
    return loaded


@pytest.fixture(params=FAMILIES)
def talker(request: pytest.FixtureRequest, talkers: Mapping[str, Backbone]) -> Backbone:
    return talkers[request.param]


def renderer_of(backbone: Backbone, name: str) -> Renderer:
    return Renderer(backbone.tokenizer, backbone.spec, CONFIGS[name])


def received_end(backbone: Backbone, renderer: Renderer) -> int | None:
    return renderer.received_end(SAMPLE, shapes_of(backbone, SAMPLE)) if renderer.config.scheme == "batch" else None


class Sequential:
    """What StreamBatch says, one thing after the other; the oracle of all tests here."""

    def __init__(self, backbone: Backbone, name: str) -> None:
        renderer = renderer_of(backbone, name)
        end = received_end(backbone, renderer)
        self.batch = StreamBatch(backbone, renderer, 1, received_ends=None if end is None else [end])
        self.backbone = backbone

    def watch(self, i: int) -> None:
        self.batch.watch(encode_clips(self.backbone, [CLIPS[i]], FPS))

    def think(self) -> Generated:
        (thought,) = self.batch.think([True], THOUGHT)
        assert thought is not None
        return thought

    def ask(self, text: str, at: float) -> Generated:
        (answer,) = self.batch.ask([Query("q", at, text)], ANSWER)
        assert answer is not None
        return answer


@pytest.fixture(scope="session")
def thoughts_of(talkers: Mapping[str, Backbone]) -> Callable[[str, str], list[Generated]]:
    """The thoughts of the sequential stream about all segments."""

    @lru_cache(None)
    def thoughts(family: str, name: str) -> list[Generated]:
        stream, said = Sequential(talkers[family], name), []
        for i in range(len(CLIPS)):
            stream.watch(i)
            said.append(stream.think())
        return said

    return thoughts


@pytest.fixture(scope="session")
def answer_of(talkers: Mapping[str, Backbone]) -> Callable[[str, str, int, int, str, float], str]:
    """The sequential answer when `read` segments have been read and the first `thought` of them thought about."""

    @lru_cache(None)
    def answer(family: str, name: str, read: int, thought: int, text: str, at: float) -> str:
        stream = Sequential(talkers[family], name)
        for i in range(read):
            stream.watch(i)
            if i < thought:
                stream.think()
        return stream.ask(text, at).text

    return answer


@dataclass
class Log:
    """The events of a stream, and what to wait for in them."""

    events: list[StreamEvent] = field(default_factory=list)
    changed: threading.Condition = field(default_factory=threading.Condition)

    def __call__(self, event: StreamEvent) -> None:
        with self.changed:
            self.events.append(event)
            self.changed.notify_all()

    def of(self, kind: type, events: Sequence[StreamEvent] | None = None) -> list[Any]:
        return [event for event in (self.events if events is None else events) if isinstance(event, kind)]

    def wait(self, kind: type, n: int) -> None:
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.of(kind)) >= n, WAIT), f"no {n} {kind.__name__} came"

    def known(self, query: str) -> tuple[int, int]:
        """(segments read, thoughts finished) that were reported before a query."""
        before = next(i for i, e in enumerate(self.events) if isinstance(e, QueryHeard) and e.id == query)
        return len(self.of(SegmentRead, self.events[:before])), len(self.of(ThoughtDone, self.events[:before]))


class Hold:
    """A `delay` that stops the thread that comes to `where` for the n-th time (from 1) until `release`."""

    def __init__(self, where: str, n: int = 1) -> None:
        self.where, self.left = where, n
        self.reached, self._go = threading.Event(), threading.Event()

    def __call__(self, where: str) -> None:
        if where == self.where:
            self.left -= 1
            if self.left == 0:
                self.reached.set()
                assert self._go.wait(WAIT), "never released"

    def wait(self) -> None:
        assert self.reached.wait(WAIT), f"nobody came to {self.where!r}"

    def release(self) -> None:
        self._go.set()


def start(
    backbone: Backbone, name: str, log: Callable[[StreamEvent], None] | None = None, **kwargs: Any
) -> ParallelStream:
    renderer = renderer_of(backbone, name)
    limits = {"thought_tokens": THOUGHT, "answer_tokens": ANSWER}
    end = received_end(backbone, renderer)
    return ParallelStream(backbone, renderer, fps=FPS, on_event=log, **limits | {"received_end": end} | kwargs)


def hand_over(stream: ParallelStream, *which: int) -> None:
    for i in which or range(len(CLIPS)):
        segment, images, times = CLIPS[i]
        assert stream.watch(images, times, segment.end)


def in_thread(work: Callable[[], Any]) -> tuple[threading.Thread, list[Any]]:
    """Run in a thread; what it returns or raises is put into the list."""
    out: list[Any] = []

    def run() -> None:
        try:
            out.append(work())
        except BaseException as error:
            out.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, out


def ended(thread: threading.Thread, out: list[Any]) -> Any:
    thread.join(WAIT)
    assert not thread.is_alive()
    return out[0]


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    yield
    left = [thread.name for thread in threading.enumerate() if thread.name.startswith("stream ")]
    assert not left


# --- property 6: parallel == sequential -----------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(100))
def test_parallel_equals_sequential(
    talkers: Mapping[str, Backbone], thoughts_of: Any, answer_of: Any, seed: int
) -> None:
    """Random delays in both threads. Queries are put at random moments: each answer is the sequential one of what had
    been reported before the query, late thoughts missing."""
    family, name = FAMILIES[seed % 2], list(CONFIGS)[seed // 2 % len(CONFIGS)]
    rngs = {where: random.Random(f"{seed} {where}") for where in ("read", "think", "thought token", "answer")}

    def delay(where: str) -> None:
        if where in rngs and rngs[where].random() < 0.5:
            time.sleep(rngs[where].random() * (0.02 if where in ("read", "think") else 0.004))

    log, rng = Log(), random.Random(seed)
    replies: list[Reply] = []
    with start(talkers[family], name, log, delay=delay) as stream:
        for i in range(len(CLIPS)):
            hand_over(stream, i)
            if name in ASKING and rng.random() < 0.6:
                time.sleep(rng.random() * 0.03)
                replies.append(stream.ask("which in-1 ?", 1.5))
        stream.finish()
    assert [thought for _, thought in stream.thoughts] == thoughts_of(family, name)
    assert [end for end, _ in stream.thoughts] == [segment.end for segment, _, _ in CLIPS]
    for reply in replies:
        read, thought = log.known(reply.query)
        assert reply.text == answer_of(family, name, read, thought, "which in-1 ?", 1.5)
        assert reply.memory_time == (CLIPS[thought - 1][0].end if thought else 0.0)
    assert [event.time for event in log.of(ThoughtDone)] == [event.end for event in log.of(SegmentRead)]
    assert log.events[-1] == Ended(4.0, log.events[-1].clock, 4, 4, len(replies))


@pytest.mark.parametrize("name", CONFIGS)
def test_it_starts_with_text_memory_as_the_sequential_stream_does(talker: Backbone, name: str) -> None:
    memory = "in-1 none ."
    renderer = renderer_of(talker, name)
    end = None
    if renderer.config.scheme == "batch":
        end = renderer.received_end(replace(SAMPLE, memory=memory), shapes_of(talker, SAMPLE))
    alone = StreamBatch(talker, renderer, 1, received_ends=None if end is None else [end])
    alone.remember([memory])
    said = []
    for i in range(len(CLIPS)):
        alone.watch(encode_clips(talker, [CLIPS[i]], FPS))
        said += alone.think([True], THOUGHT)
    with start(talker, name, memory=memory, received_end=end) as stream:
        hand_over(stream)
        stream.finish()
        assert [thought for _, thought in stream.thoughts] == said
        if name in ASKING:
            assert stream.ask("which ?").text == alone.ask([Query("q", 4.0, "which ?")], ANSWER)[0].text  # type: ignore[union-attr]


def test_the_hundred_runs_can_differ(thoughts_of: Any) -> None:
    """Configs, segments and lengths of thoughts differ, so equality says something."""
    said = {(family, name): thoughts_of(family, name) for family in FAMILIES for name in CONFIGS}
    assert len({tuple(t.ids for t in thoughts) for thoughts in said.values()}) >= len(FAMILIES) * 8
    lengths = {(len(t.ids), t.finished) for thoughts in said.values() for t in thoughts}
    assert len({n for n, _ in lengths}) > 2 and {finished for _, finished in lengths} == {True, False}


@pytest.mark.parametrize("mode", ["parallel", "interleaved", "batch"])
@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("family", FAMILIES)
def test_all_modes_say_the_same(
    talkers: Mapping[str, Backbone], thoughts_of: Any, answer_of: Any, family: str, name: str, mode: Mode
) -> None:
    with start(talkers[family], name, mode=mode) as stream:
        hand_over(stream)
        stream.finish()
        assert [thought for _, thought in stream.thoughts] == thoughts_of(family, name)
        if name in ASKING:
            for text, at in (("which in-1 ?", 4.0), ("tell-when out ?", 4.0)):
                assert stream.ask(text).text == answer_of(family, name, 4, 4, text, at)


@pytest.mark.parametrize("name", SOME)
def test_batch_reads_everything_first_and_interleaved_nothing_ahead(talker: Backbone, name: str) -> None:
    orders = {}
    for mode in ("interleaved", "batch"):
        log = Log()
        with start(talker, name, log, mode=mode) as stream:
            hand_over(stream)
            stream.finish()
        orders[mode] = "".join(event.type[0] for event in log.events)
    assert orders == {"interleaved": "stststst" + "e", "batch": "sssstttt" + "e"}


@pytest.mark.parametrize("name", SOME)
def test_a_finished_stream_goes_on(talker: Backbone, thoughts_of: Any, name: str) -> None:
    with start(talker, name, mode="batch") as stream:
        hand_over(stream, 0, 1)
        stream.finish()
        hand_over(stream, 2, 3)
        stream.finish()
    assert [thought for _, thought in stream.thoughts] == thoughts_of(talker.family.name, name)


# --- two caches -----------------------------------------------------------------------------------------------------


def test_editing_a_thought_leaves_what_was_received_untouched(talker: Backbone) -> None:
    received, generated = [], []
    for limit in (2, THOUGHT):
        with start(talker, "unit-tww", thought_tokens=limit) as stream:
            hand_over(stream)
            stream.finish()
            assert isinstance(stream._engine, SplitStream)
            received.append(stream._engine._received.past())
            generated.append(stream._engine._generated.past())
    for a, b in zip(received[0].layers, received[1].layers, strict=True):
        assert torch.equal(a[0], b[0]) and torch.equal(a[1], b[1])
    assert generated[0].length < generated[1].length


def test_a_past_never_changes_and_is_no_copy() -> None:
    entries, rng = Entries(1), torch.Generator().manual_seed(0)

    def new(n: int) -> torch.Tensor:
        return torch.randn(1, 2, n, 3, generator=rng)

    keys, values = new(5), new(5)
    entries.append(0, keys, values)
    past = entries.past()
    entries.append(0, new(3), new(3))
    assert past.layers[0][0].data_ptr() == entries.past().layers[0][0].data_ptr()
    entries.append(0, new(500), new(500))  # the buffers grow: new ones, while the past keeps the old
    assert past.layers[0][0].data_ptr() != entries.past().layers[0][0].data_ptr()
    assert past.length == 5 and torch.equal(past.layers[0][0], keys) and torch.equal(past.layers[0][1], values)
    assert entries.past().length == 508 and torch.equal(entries.past().layers[0][0][:, :, :5], keys)


def test_an_answer_leaves_both_caches_as_they_are(talker: Backbone) -> None:
    with start(talker, "unit-tww") as stream:
        hand_over(stream)
        stream.finish()
        engine = stream._engine
        assert isinstance(engine, SplitStream)
        before = [(e.past(), c.mark()) for e, c in _owned(engine)]
        copies = [[(k.clone(), v.clone()) for k, v in past.layers] for past, _ in before]
        stream.ask("which in-1 ?")
        for (entries, cursor), (past, mark), copy in zip(_owned(engine), before, copies, strict=True):
            assert entries.past().length == past.length and cursor.mark() == mark
            for (k, v), (a, b) in zip(entries.past().layers, copy, strict=True):
                assert torch.equal(k, a) and torch.equal(v, b)


def _owned(engine: SplitStream) -> list[tuple[Entries, Any]]:
    return [(engine._received, engine._received_cursor), (engine._generated, engine._generated_cursor)]


def test_old_text_memory_stays_readable_when_entries_leave(talker: Backbone, answer_of: Any) -> None:
    """The answer is held while the thought that follows rebuilds the memory; it still reads the old one."""
    hold = Hold("answer")
    with start(talker, "recurrent-capped", delay=hold) as stream:
        hand_over(stream, 0, 1)
        stream.finish()
        answer = in_thread(lambda: stream.ask("which in-1 ?", 2.5))
        hold.wait()
        assert isinstance(stream._engine, RecurrentStream)
        entries = stream._engine._entries
        hand_over(stream, 2, 3)
        stream.finish()
        assert stream._engine._entries is not entries
        hold.release()
        assert ended(*answer).text == answer_of(talker.family.name, "recurrent-capped", 2, 2, "which in-1 ?", 2.5)


@pytest.mark.parametrize("name", SOME)
def test_nothing_changes_the_model(checkpoint: Path, name: str) -> None:
    """Threads share it, so it must hold no state: no attribute is set, no buffer or parameter written."""
    backbone = load(checkpoint)

    def state() -> dict[str, Any]:
        found: dict[str, Any] = {}
        for path, module in backbone.model.named_modules():
            found |= {f"{path}.{k}": id(v) for k, v in vars(module).items()}
            tensors = {**module._parameters, **module._buffers}
            found |= {f"{path}.{k}": (id(v), v._version) for k, v in tensors.items() if v is not None}
        config = backbone.core.config
        return found | {f"config.{c}": vars(c).copy() for c in (config, config.get_text_config())}

    with start(backbone, name) as stream:
        hand_over(stream, 0)
        stream.finish()
        before = state()
        hand_over(stream, 1, 2, 3)
        stream.ask("which in-1 ?")
        stream.finish()
    assert state() == before


# --- answers --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ASKING)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_query_before_the_first_segment(
    talkers: Mapping[str, Backbone], thoughts_of: Any, answer_of: Any, family: str, name: str
) -> None:
    with start(talkers[family], name) as stream:
        reply = stream.ask("which in-1 ?")
        assert reply.text == answer_of(family, name, 0, 0, "which in-1 ?", 0.0)
        assert (reply.memory_time, reply.thought_late) == (0.0, False)
        hand_over(stream)
        stream.finish()
    assert [thought for _, thought in stream.thoughts] == thoughts_of(family, name)


@pytest.mark.parametrize("name", ASKING)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_late_thought_does_not_block_an_answer(
    talkers: Mapping[str, Backbone], thoughts_of: Any, answer_of: Any, family: str, name: str
) -> None:
    """The writer is stopped in the middle of its second thought; the answer is that of a stream without it."""
    first = thoughts_of(family, name)[0]
    log, hold = Log(), Hold("thought token", len(first.ids) + first.finished + 1)
    with start(talkers[family], name, log, delay=hold) as stream:
        hand_over(stream, 0, 1)
        hold.wait()
        log.wait(SegmentRead, 2)
        reply = stream.ask("which in-1 ?")
        assert reply.text == answer_of(family, name, 2, 1, "which in-1 ?", 2.5)
        assert (reply.memory_time, reply.thought_late, reply.query) == (1.0, True, "ask-1")
        hold.release()
        stream.finish()
        later = stream.ask("which in-1 ?")
        assert later.text == answer_of(family, name, 2, 2, "which in-1 ?", 2.5)
        assert (later.memory_time, later.thought_late) == (2.5, False)
    assert [thought for _, thought in stream.thoughts] == thoughts_of(family, name)[:2]
    assert [event.late for event in log.of(ThoughtDone)][1:] == [False]


def test_a_late_thought_makes_a_difference(talkers: Mapping[str, Backbone], answer_of: Any) -> None:
    pairs = [
        [answer_of(family, name, 2, thought, "which in-1 ?", 2.5) for thought in (1, 2)]
        for family in FAMILIES
        for name in ASKING
    ]
    assert sum(a != b for a, b in pairs) > len(pairs) / 2


@pytest.mark.parametrize("name", SOME)
def test_deadline_wait_waits_for_the_thoughts_about_what_had_arrived(
    talker: Backbone, answer_of: Any, name: str
) -> None:
    """A segment that comes while the answer waits does not change it."""
    log, hold = Log(), Hold("think", 2)
    with start(talker, name, log, deadline="wait", delay=hold) as stream:
        hand_over(stream, 0, 1)
        hold.wait()
        answer = in_thread(lambda: stream.ask("which in-1 ?"))
        log.wait(QueryHeard, 1)
        hand_over(stream, 2)
        log.wait(SegmentRead, 3)
        assert not log.of(Reply)
        hold.release()
        reply = ended(*answer)
        stream.finish()
        asked_now = stream.ask("which in-1 ?", 2.5)
    assert reply.text == answer_of(talker.family.name, name, 2, 2, "which in-1 ?", 2.5)
    assert asked_now.text == answer_of(talker.family.name, name, 3, 3, "which in-1 ?", 2.5)
    assert (reply.memory_time, reply.thought_late, asked_now.memory_time) == (2.5, False, 3.0)
    order = [event.type for event in log.events]
    assert order.index("answer") > [i for i, kind in enumerate(order) if kind == "thought"][1]


@pytest.mark.parametrize("name", SOME)
def test_waiting_without_thoughts_is_for_what_is_read(talker: Backbone, name: str) -> None:
    log, hold = Log(), Hold("read", 2)
    with start(talker, name, log, deadline="wait", thinks=False, delay=hold) as stream:
        hand_over(stream, 0, 1)
        hold.wait()
        answer = in_thread(lambda: stream.ask("which in-1 ?"))
        log.wait(QueryHeard, 1)
        hold.release()
        reply = ended(*answer)
    oracle = Sequential(talker, name)
    oracle.watch(0)
    oracle.watch(1)
    assert reply.text == oracle.ask("which in-1 ?", 2.5).text
    assert (reply.memory_time, reply.thought_late, stream.thoughts) == (0.0, False, [])
    assert [event.type for event in log.events] == ["segment", "query", "segment", "answer", "end"]


@pytest.mark.parametrize("name", SOME)
def test_sixteen_queries_from_four_threads_at_once(talker: Backbone, answer_of: Any, name: str) -> None:
    texts = [f"which in-{i} ?" for i in range(16)]
    barrier = threading.Barrier(4)

    def some(which: Sequence[str]) -> list[Reply]:
        barrier.wait(WAIT)
        return [stream.ask(text) for text in which]

    with start(talker, name) as stream:
        hand_over(stream, 0, 1)
        stream.finish()
        runs = [in_thread(lambda i=i: some(texts[i::4])) for i in range(4)]
        found = [ended(*run) for run in runs]
    for i, replies in enumerate(found):
        expected = [answer_of(talker.family.name, name, 2, 2, text, 2.5) for text in texts[i::4]]
        assert [reply.text for reply in replies] == expected
    assert len({reply.query for replies in found for reply in replies}) == 16


def test_a_reply_says_how_long_it_took(talker: Backbone) -> None:
    """A clock that goes on by one at every look."""
    ticks = iter(range(10_000))
    lock = threading.Lock()

    def now() -> float:
        with lock:
            return float(next(ticks))

    with start(talker, "unit-tww", now=now) as stream:
        reply = stream.ask("which in-1 ?", 7.0)
    assert reply.time == 7.0
    # heard 1, begun 2, then one look a token, and one for the event
    assert (reply.waited, reply.first_token, reply.last_token) == (1.0, 2.0, 1.0 + reply.tokens)
    assert reply.clock == 2.0 + reply.tokens + 1


# --- faults ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SOME)
@pytest.mark.parametrize(("where", "thread"), [("read", "reader"), ("think", "writer"), ("thought token", "writer")])
def test_a_thread_that_dies_ends_its_stream_alone(
    talker: Backbone, thoughts_of: Any, answer_of: Any, name: str, where: str, thread: str
) -> None:
    left = [2]

    def die(here: str) -> None:
        if here == where:
            left[0] -= 1
            if left[0] < 0:
                raise OSError("the device is gone")

    log = Log()
    with start(talker, name, log, delay=die) as dying, start(talker, name) as other:
        hand_over(other, 0, 1)
        told = f"ended with an error in its {thread}: OSError: the device is gone"
        with pytest.raises(StreamFailed, match=told) as failure:  # on handing over or on waiting, as threads have it
            hand_over(dying)
            dying.finish()
        assert isinstance(failure.value.__cause__, OSError) and dying.error is failure.value.__cause__
        for call in (lambda: dying.ask("which in-1 ?"), lambda: hand_over(dying, 3), dying.finish):
            with pytest.raises(StreamFailed, match=told):
                call()
        dying.close()
        dying.close()
        hand_over(other, 2, 3)
        other.finish()
        reply = other.ask("which in-1 ?")
    assert [thought for _, thought in other.thoughts] == thoughts_of(talker.family.name, name)
    assert reply.text == answer_of(talker.family.name, name, 4, 4, "which in-1 ?", 4.0)
    assert [e.reason for e in log.of(Failed)] == [f"{thread}: OSError: the device is gone"]
    assert isinstance(log.events[-1], Failed)


def test_frames_that_cannot_be_encoded_end_the_stream(talker: Backbone) -> None:
    with start(talker, "unit-tww") as stream:
        stream.watch(np.zeros((2, 4, 4000, 3), np.uint8), (0.0, 0.5), 1.0)
        with pytest.raises(StreamFailed, match=r"reader: BackboneError: frame of 4000x4 pixels"):
            stream.finish()


@pytest.mark.parametrize("deadline", ["last_finished", "wait"])
def test_a_waiting_call_hears_of_the_failure(talker: Backbone, deadline: Any) -> None:
    """An answer that is being written, or waited for, when the writer dies."""
    hold, log = Hold("answer"), Log()

    def delay(where: str) -> None:
        hold(where)
        if where == "think":
            log.wait(QueryHeard, 1)
            if deadline == "last_finished":
                hold.wait()
            raise MemoryError("no room")

    with start(talker, "unit-tww", log, deadline=deadline, delay=delay) as stream:
        hand_over(stream, 0)
        log.wait(SegmentRead, 1)
        answer = in_thread(lambda: stream.ask("which in-1 ?"))
        log.wait(Failed, 1)
        hold.release()
        assert isinstance(ended(*answer), StreamFailed)
    assert isinstance(log.events[-1], Failed)


def test_a_bad_query_is_rejected_and_the_stream_goes_on(talker: Backbone, thoughts_of: Any) -> None:
    log = Log()
    with start(talker, "unit-tww", log) as stream:
        hand_over(stream)
        with pytest.raises(RenderError, match=r"query ask-1: text holds the special token"):
            stream.ask("<|im_end|> hello")
        stream.finish()
    assert [(e.what, e.reason.partition(":")[0]) for e in log.of(Rejected)] == [("query ask-1", "RenderError")]
    assert [thought for _, thought in stream.thoughts] == thoughts_of(talker.family.name, "unit-tww")


def test_a_listener_that_fails_ends_the_stream(talker: Backbone) -> None:
    seen: list[str] = []

    def listener(event: StreamEvent) -> None:
        seen.append(event.type)
        if isinstance(event, ThoughtDone):
            raise BrokenPipeError("the client went away")

    with start(talker, "unit-tww", listener) as stream:
        hand_over(stream, 0)
        with pytest.raises(StreamFailed, match="on_event: BrokenPipeError: the client went away"):
            stream.finish()
    assert seen == ["segment", "thought"]


def test_a_listener_may_not_call_the_stream(talker: Backbone) -> None:
    def listener(event: StreamEvent) -> None:
        if isinstance(event, SegmentRead):
            stream.ask("which in-1 ?")

    with start(talker, "unit-tww", listener) as stream:
        hand_over(stream, 0)
        with pytest.raises(StreamFailed, match="on_event called the stream"):
            stream.finish()


@pytest.mark.parametrize("name", SOME)
@pytest.mark.parametrize("mode", ["parallel", "interleaved"])
def test_closing_in_the_middle(talker: Backbone, thoughts_of: Any, name: str, mode: Mode) -> None:
    """The writer is in its second thought, a producer waits for room, an answer is being written."""
    first = thoughts_of(talker.family.name, name)[0]
    holds = [Hold("thought token", len(first.ids) + first.finished + 1), Hold("answer")]
    log = Log()

    def delay(where: str) -> None:
        for hold in holds:
            hold(where)

    stream = start(talker, name, log, mode=mode, backlog=1, delay=delay)
    producer = in_thread(lambda: hand_over(stream))
    holds[0].wait()
    answer = in_thread(lambda: stream.ask("which in-1 ?"))
    holds[1].wait()
    closing = in_thread(stream.close)
    while not stream._closed:
        time.sleep(0.001)
    for hold in holds:
        hold.release()
    assert ended(*closing) is None
    assert isinstance(ended(*producer), StreamClosed) and isinstance(ended(*answer), StreamClosed)
    end = log.events[-1]
    assert isinstance(end, Stopped) and (len(log.of(ThoughtDone)), log.of(Reply)) == (1, [])
    # every segment that was taken is thought about or rejected; the query is rejected too
    rejected = [e.what for e in log.of(Rejected)]
    segments = [what for what in rejected if what.startswith("segment")]
    assert len(stream.thoughts) + len(segments) == stream._arrived
    assert [what for what in rejected if what not in segments] == ["query ask-1"]
    for call in (lambda: stream.ask("which in-1 ?"), lambda: hand_over(stream, 3), stream.finish):
        with pytest.raises(StreamClosed, match="the stream is closed"):
            call()
    stream.close()
    assert log.events[-1] is end


# --- bounds ---------------------------------------------------------------------------------------------------------


def test_a_full_backlog_rejects(talker: Backbone) -> None:
    log, hold = Log(), Hold("read")
    with start(talker, "unit-tww", log, backlog=2, when_full="reject", delay=hold) as stream:
        hand_over(stream, 0, 1)
        segment, images, times = CLIPS[2]
        assert stream.watch(images, times, segment.end) is False
        hold.release()
        stream.finish()
        hand_over(stream, 3)
        stream.finish()
    (rejected,) = log.of(Rejected)
    assert (rejected.what, rejected.reason) == (
        "segment 2.500-3.000 s",
        "2 segments wait to be read already (backlog)",
    )
    assert [event.end for event in log.of(SegmentRead)] == [1.0, 2.5, 4.0]


@pytest.mark.parametrize("name", SOME)
def test_a_full_backlog_blocks_and_nothing_is_lost(talker: Backbone, thoughts_of: Any, name: str) -> None:
    """The writer is held, so the reader stops one segment ahead of it and the producer stops too."""
    log, hold = Log(), Hold("think")
    with start(talker, name, log, backlog=1, delay=hold) as stream:
        producer = in_thread(lambda: hand_over(stream))
        hold.wait()
        log.wait(SegmentRead, 1)
        hold.release()
        assert ended(*producer) is None
        stream.finish()
    ahead = 0
    for event in log.events:
        ahead += isinstance(event, SegmentRead) - isinstance(event, ThoughtDone)
        assert ahead <= 1
        assert not isinstance(event, SegmentRead) or event.backlog <= 1
    assert [thought for _, thought in stream.thoughts] == thoughts_of(talker.family.name, name)


# --- what is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "told"),
    [
        (RenderConfig(), "layout interleaved has one cursor"),
        (RenderConfig(layout="split", rule="unit"), "scheme 'interleaved' places received tokens after generated"),
        (RenderConfig(layout="split", rule="unit", scheme="overlapped"), "scheme 'overlapped' places received"),
    ],
)
def test_one_cursor_is_refused(talker: Backbone, config: RenderConfig, told: str) -> None:
    with pytest.raises(RuntimeStateError, match=told):
        ParallelStream(talker, Renderer(talker.tokenizer, talker.spec, config), fps=FPS)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"mode": "fast"}, "mode 'fast' is unknown; use one of parallel, interleaved, batch"),
        ({"deadline": "never"}, "deadline 'never' is unknown"),
        ({"when_full": "drop"}, "when_full 'drop' is unknown; use one of block, reject"),
        ({"backlog": 0}, "backlog must be at least 1, got 0"),
        ({"answer_tokens": 0}, "answer_tokens must be at least 1"),
        ({"mode": "batch", "deadline": "wait"}, "mode batch thinks in finish()"),
    ],
)
def test_settings_are_checked(talker: Backbone, settings: dict[str, Any], told: str) -> None:
    with pytest.raises(RuntimeStateError) as error:
        start(talker, "unit-tww", **settings)
    assert told in str(error.value)


def test_a_model_that_changes_while_it_runs_is_refused(checkpoint: Path) -> None:
    backbone = load(checkpoint)
    backbone.core.config.get_text_config().rope_parameters["rope_type"] = "dynamic"
    with pytest.raises(RuntimeStateError, match="rope type 'dynamic' changes the model while it runs"):
        start(backbone, "unit-tww")


def test_what_is_handed_over_is_checked(talker: Backbone) -> None:
    images = frames(np.random.default_rng(0), 2, HEIGHT, WIDTH)
    with start(talker, "unit-tww") as stream:
        with pytest.raises(RuntimeStateError, match="watch\\(\\) got 2 frames and 1 times"):
            stream.watch(images, (0.0,), 1.0)
        hand_over(stream, 0, 1)
        with pytest.raises(RuntimeStateError, match=r"watch\(\) at 1.000 s, but the stream is already at 2.500 s"):
            stream.watch(images, (0.0, 0.5), 1.0)
        stream.finish()
        assert len(stream.thoughts) == 2
    with (
        start(talker, "row_shift-tww") as stream,
        pytest.raises(RuntimeStateError, match=r"ask\(\) needs queries: branch"),
    ):
        stream.ask("which in-1 ?")
