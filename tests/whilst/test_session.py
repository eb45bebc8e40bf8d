"""One session: what it says is what its batch says; when it speaks of itself; and every fault has its result."""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import torch

from tests.streams import FPS, frames
from whilst.backbones.base import Backbone
from whilst.proactive import STATES, Proactive, ProactiveError, Threshold
from whilst.render import Renderer, RenderError
from whilst.render_config import RenderConfig
from whilst.runtime import RuntimeStateError, StreamBatch, encode_clips
from whilst.sample import Query, Segment
from whilst.sampling import Sampler, greedy
from whilst.session import FrameError, SessionClosedError, StreamSession

CONFIGS = {
    "recurrent": RenderConfig(layout="recurrent_packed", rule="text_memory"),
    "interleaved": RenderConfig(),
    "split": RenderConfig(layout="split", rule="unit", scheme="group_decoupled"),
    "kept": RenderConfig(queries="kept"),
}
BRANCHES = ("recurrent", "interleaved", "split")
Clip = tuple[np.ndarray, list[float], float]


def session_of(backbone: Backbone, config: str, **settings: Any) -> StreamSession:
    limits = {"thought_tokens": 4, "answer_tokens": 4} | settings
    return StreamSession(backbone, Renderer(backbone.tokenizer, backbone.spec, CONFIGS[config]), fps=FPS, **limits)


def clips(n: int = 3, seed: int = 0) -> list[Clip]:
    """n segments of 1 s, two frames each."""
    rng = np.random.default_rng(seed)
    return [(frames(rng, 2), [float(k), k + 0.5], k + 1.0) for k in range(n)]


@pytest.fixture
def one(backbones: Mapping[str, Backbone]) -> Backbone:
    """One family: what is tested is the session, not the model."""
    return backbones["qwen3_vl"]


def watched(session: StreamSession, n: int = 2) -> StreamSession:
    for clip in clips(n):
        session.watch(*clip)
        session.think()
    return session


# ---- It is its batch.


@pytest.mark.parametrize("config", BRANCHES)
def test_a_session_says_what_its_batch_says(backbone: Backbone, config: str) -> None:
    session = session_of(backbone, config)
    batch = StreamBatch(backbone, session.renderer, 1)
    for number, (images, times, end) in enumerate(clips()):
        session.watch(images, times, end)
        batch.watch(encode_clips(backbone, [(Segment(times[0], end), images, times)], FPS))
        assert [session.think()] == batch.think([True], 4)
        asked = Query(f"ask-{number + 1}", end, "which in-1 ?")
        assert [session.ask("which in-1 ?")] == batch.ask([asked], 4)
    assert session.tokens == sum(batch.cache.lengths())


@pytest.mark.parametrize("config", CONFIGS)
def test_a_session_starts_with_text_memory(one: Backbone, config: str) -> None:
    session = session_of(one, config, memory="in-1 none .")
    batch = StreamBatch(one, session.renderer, 1)
    batch.remember(["in-1 none ."])
    assert session.memory == ["in-1 none ."]
    for number, (images, times, end) in enumerate(clips(2)):
        session.watch(images, times, end)
        batch.watch(encode_clips(one, [(Segment(times[0], end), images, times)], FPS))
        assert [session.think()] == batch.think([True], 4)
        assert [session.ask("which ?")] == batch.ask([Query(f"ask-{number + 1}", end, "which ?")], 4)
    assert session.tokens == sum(batch.cache.lengths())
    with pytest.raises(RenderError, match="memory: text holds the special token"):
        session_of(one, config, memory="<|im_end|>")


@pytest.mark.parametrize("config", ["interleaved", "split", "kept"])
def test_a_growing_stream_takes_text_memory_first_and_once(one: Backbone, config: str) -> None:
    begun = watched(session_of(one, config), 1).batch
    twice = session_of(one, config, memory="in-1 .").batch
    for batch in (begun, twice):
        before = sum(batch.cache.lengths())
        with pytest.raises(RuntimeStateError, match="stream 0: text memory stands at the beginning .* has begun"):
            batch.remember(["in-2 ."])
        batch.remember([None])
        assert sum(batch.cache.lengths()) == before


def test_sessions_are_independent(one: Backbone) -> None:
    alone = [watched(session_of(one, "recurrent")).ask("which ?")]
    first, second = session_of(one, "recurrent"), session_of(one, "interleaved")
    for clip, other in zip(clips(2), clips(2, seed=9), strict=True):
        first.watch(*clip)
        second.watch(*other)
        first.think()
        second.think()
    second.close()
    assert [first.ask("which ?")] == alone


@pytest.mark.parametrize("config", BRANCHES)
def test_queries_from_many_threads_are_answered_one_after_the_other(one: Backbone, config: str) -> None:
    session = watched(session_of(one, config))
    texts = [f"which in-{k} ?" for k in range(8)]
    wanted = [session.ask(text) for text in texts]
    got: dict[str, object] = {}
    threads = [threading.Thread(target=lambda t=text: got.update({t: session.ask(t)})) for text in texts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [got[text] for text in texts] == wanted


# ---- Speaking of itself.


def scores_with(silence: float, n: int = 5) -> torch.Tensor:
    """Scores (1, n) under which token 0, the boundary token, has this probability and token 3 most of the rest."""
    rest = torch.tensor([0.0, 0.1, 0.1, 0.7, 0.1]) * (1 - silence)
    rest[0] = silence
    return rest.log()[None]


@pytest.mark.parametrize(
    ("silence", "threshold", "token"),
    [(0.72, 0.725, 3), (0.73, 0.725, 0), (0.2, 0.725, 3), (0.6, None, 0), (0.6, 0.0, 0), (0.4, 0.3, 3), (0.99, 1.0, 3)],
)
def test_live_s_threshold(silence: float, threshold: float | None, token: int) -> None:
    gate = Threshold(boundary=0)
    gate.arm(threshold)
    assert gate(scores_with(silence), [True]) == [token]
    assert gate.silence == pytest.approx(silence)
    # Tokens after the first are the sampler's own, and leave the noted probability alone.
    assert gate(scores_with(0.6), [True]) == [0] and gate.silence == pytest.approx(silence)


def shy(session: Callable[[], StreamSession]) -> Sampler:
    """Stays silent wherever it may."""

    def sampler(scores: torch.Tensor, active: Sequence[bool]) -> Sequence[int]:
        boundary = session().renderer.boundary
        return [boundary] if torch.isfinite(scores[0, boundary]) else greedy(scores, active)

    return sampler


def shy_session(backbone: Backbone, config: str, when: Proactive) -> StreamSession:
    held: list[StreamSession] = []
    held.append(session_of(backbone, config, sampler=shy(lambda: held[0]), proactive=when, answer_tokens=1))
    return held[0]


@pytest.mark.parametrize("config", CONFIGS)
def test_it_speaks_below_the_threshold_and_says_what_silence_had(one: Backbone, config: str) -> None:
    session = shy_session(one, config, Proactive(threshold=1.0))
    query = session.stand("tell-when in-1 ?")
    for clip in clips(2):
        session.watch(*clip)
        (put,) = session.proactive()
        assert put.query == query and put.time == clip[2] and put.reply is not None and len(put.reply.ids) == 1
        assert 0.0 < put.silence < 1.0
    silent = shy_session(one, config, Proactive())
    silent.stand("tell-when in-1 ?")
    silent.watch(*clips(1)[0])
    (put,) = silent.proactive()
    assert put.reply is None and 0.0 < put.silence < 1.0


def test_the_threshold_right_after_a_reply_stops_bursts(one: Backbone) -> None:
    session = shy_session(one, "recurrent", Proactive(threshold=1.0, after_reply=0.0))
    session.stand("tell-when in-1 ?")
    spoke = []
    for clip in clips(5):
        session.watch(*clip)
        (put,) = session.proactive()
        spoke.append(put.reply is not None)
    assert spoke == [True, False, True, False, True]


@pytest.mark.parametrize("config", CONFIGS)
def test_several_standing_queries_are_put_in_order_until_withdrawn(one: Backbone, config: str) -> None:
    session = session_of(one, config)
    assert session.proactive() == []
    first, second = session.stand("tell-when in-1 ?"), session.stand("tell-when out-1 ?", 0.0)
    session.watch(*clips(1)[0])
    assert [put.query for put in session.proactive()] == [first, second]
    session.withdraw(first.id)
    assert [put.query for put in session.proactive()] == [second]
    with pytest.raises(RuntimeStateError, match=r"no standing query 'ask-1': there are ask-2"):
        session.withdraw(first.id)


def test_a_standing_query_is_an_ask_after_each_segment(one: Backbone) -> None:
    session, other = session_of(one, "recurrent"), session_of(one, "recurrent")
    session.stand("tell-when in-1 ?")
    for clip in clips(2):
        session.watch(*clip)
        session.think()
        other.watch(*clip)
        other.think()
        (put,) = session.proactive()
        assert put.reply == other.ask("tell-when in-1 ?", 0.0)  # it says something, untrained as it is


def test_a_kept_standing_query_is_heard_once(one: Backbone) -> None:
    session = session_of(one, "kept", answer_tokens=1)
    session.watch(*clips(1)[0])
    before = session.tokens
    session.stand("tell-when in-1 ?")
    heard = session.tokens - before
    assert heard > 4
    grown = []
    for _ in range(3):
        before = session.tokens
        session.proactive()
        grown.append(session.tokens - before)
    assert max(grown) < heard  # prefix, reply and boundary token, not the query again


def writes(backbone: Backbone, boundary: int, texts: Sequence[str]) -> Sampler:
    """Writes these turns, one after the other."""
    tokens: Iterator[int] = iter(
        [t for text in texts for t in (*backbone.tokenizer.encode(text, add_special_tokens=False), boundary)]
    )
    return lambda scores, active: [next(tokens)]


@pytest.mark.parametrize("config", CONFIGS)
def test_three_states(one: Backbone, config: str) -> None:
    renderer = Renderer(one.tokenizer, one.spec, CONFIGS[config])
    turns = ["standby", "", "respond", "now", "hm", "respond", "none"]
    sampler = writes(one, renderer.boundary, turns)
    session = session_of(one, config, sampler=sampler, proactive=STATES, thought_tokens=32, answer_tokens=32)
    session.stand("tell-when in-1 ?")
    found = []
    for clip in clips(5):
        session.watch(*clip)
        with pytest.raises(RuntimeStateError, match=r"call think\(\) first"):
            session.proactive()
        session.think()
        (put,) = session.proactive()
        assert 0.0 < put.silence < 1.0
        found.append((put.state, put.reply.text if put.reply else None))
    assert found == [("standby", None), ("silence", None), ("respond", "now"), ("other", None), ("respond", "none")]


def test_with_states_there_is_one_standing_query(one: Backbone) -> None:
    session = session_of(one, "recurrent", proactive=STATES)
    first = session.stand("tell-when in-1 ?")
    with pytest.raises(RuntimeStateError, match="one standing query at a time"):
        session.stand("tell-when out-1 ?")
    session.withdraw(first.id)
    session.stand("tell-when out-1 ?")


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"threshold": 1.5}, "threshold is a probability"),
        ({"threshold": float("nan")}, "threshold is a probability"),
        ({"after_reply": 0.5}, "needs a threshold"),
        ({"states": ("a", "a")}, "two different words"),
        ({"states": ("a", " ")}, "two different words"),
        ({"states": ("a", "b"), "threshold": 0.5}, "give one of them"),
    ],
)
def test_settings_that_cannot_be(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(ProactiveError, match=told):
        Proactive(**settings)


# ---- Frames that are wrong.

WRONG: dict[str, tuple[list[float], float, str]] = {
    "double in the segment": ([2.0, 2.0], 3.0, "is a double of the one at 2.000 s"),
    "out of order in the segment": ([2.5, 2.0], 3.0, "the frame at 2.000 s is before the one at 2.500 s"),
    "double of the last": ([1.5, 2.0], 3.0, "the frame at 1.500 s is a double of the one at 1.500 s"),
    "clock went back": ([0.0, 0.5], 1.0, "the frame at 0.000 s is before the one at 1.500 s"),
    "in a segment that is over": ([1.75, 2.0], 3.0, "belongs to a segment that was watched"),
    "end before the frames": ([2.0, 2.5], 2.5, "a segment ends after it"),
    "no time": ([2.0, float("nan")], 3.0, "finite seconds"),
    "endless": ([2.0, 2.5], float("inf"), "finite seconds"),
    "too few times": ([2.0], 3.0, "2 frames and 1 times"),
}


@pytest.mark.parametrize("config", BRANCHES)
@pytest.mark.parametrize("wrong", WRONG)
def test_wrong_frames_are_refused_and_leave_no_trace(one: Backbone, config: str, wrong: str) -> None:
    times, end, told = WRONG[wrong]
    session, other = watched(session_of(one, config)), watched(session_of(one, config))
    with pytest.raises(FrameError, match=told):
        session.watch(frames(np.random.default_rng(5), 2), times, end)
    for each in (session, other):
        each.watch(*clips(3)[2])
    assert session.think() == other.think() and session.ask("which ?") == other.ask("which ?")
    assert session.tokens == other.tokens and session.time == other.time == 3.0


def test_what_is_no_picture_is_refused(one: Backbone) -> None:
    session = session_of(one, "recurrent")
    with pytest.raises(FrameError, match="uint8"):
        session.watch(np.zeros((2, 32, 48, 3)), [0.0, 0.5], 1.0)
    with pytest.raises(FrameError, match="0 frames"):
        session.watch(np.zeros((0, 32, 48, 3), np.uint8), [], 1.0)


@pytest.mark.parametrize("config", BRANCHES)
def test_a_gap_is_a_gap(one: Backbone, config: str) -> None:
    session = watched(session_of(one, config))
    session.watch(frames(np.random.default_rng(5), 2), [100.0, 100.5], 101.0)
    session.think()
    assert session.time == 101.0 and len(session.ask("which ?").ids) <= 4


# ---- Queries at odd moments.


@pytest.mark.parametrize("config", CONFIGS)
def test_a_query_before_the_first_frame_is_answered(one: Backbone, config: str) -> None:
    session = session_of(one, config)
    assert session.ask("which in-1 ?").ids
    with pytest.raises(RuntimeStateError, match="before any segment was watched"):
        session.think()
    watched(session)


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize(
    ("text", "time", "error", "told"),
    [
        (" ", None, RuntimeStateError, "needs a text"),
        ("which ?", -1.0, RuntimeStateError, "from 0 on, not -1"),
        ("which ?", float("nan"), RuntimeStateError, "not nan"),
        ("a <|im_end|> b", None, RenderError, "special token"),
    ],
)
def test_a_query_that_cannot_be_put_leaves_no_trace(
    one: Backbone, config: str, text: str, time: float | None, error: type[Exception], told: str
) -> None:
    session, other = watched(session_of(one, config)), watched(session_of(one, config))
    with pytest.raises(error, match=told):
        session.ask(text, time)
    with pytest.raises(error, match=told):
        session.stand(text, time)
    assert session.standing == {} and session.tokens == other.tokens
    assert session.ask("which ?") == other.ask("which ?")


def held(value: object, seen: set[int] | None = None) -> int:
    """How many things the containers below `value` hold; the model and the renderer are shared and not counted."""
    seen = set() if seen is None else seen
    if id(value) in seen or isinstance(value, Backbone | Renderer | torch.nn.Module | type):
        return 0
    seen.add(id(value))
    if isinstance(value, torch.Tensor | np.ndarray):
        return int(np.prod(value.shape))
    if isinstance(value, dict):
        return len(value) + sum(held(item, seen) for item in value.values())
    if isinstance(value, list | tuple | set):
        return len(value) + sum(held(item, seen) for item in value)
    return held(vars(value), seen) if hasattr(value, "__dict__") else 0


@pytest.mark.parametrize(
    ("config", "count"),
    [*((config, 200) for config in BRANCHES), pytest.param("recurrent", 10_000, marks=pytest.mark.slow)],
)
def test_queries_leave_no_memory_behind(one: Backbone, config: str, count: int) -> None:
    session = watched(session_of(one, config, answer_tokens=1))
    for k in range(20):  # buffers have the room that a query needs
        session.ask(f"which in-{k % 10} ?")
    lengths, before, first = session.batch.cache.lengths(), held(session), session.ask("which in-1 ?")
    for k in range(count):
        session.ask(f"which in-{k % 10} ?")
    assert session.batch.cache.lengths() == lengths and held(session) == before
    assert session.ask("which in-1 ?") == first


def test_the_check_of_memory_sees_a_list_that_grows(one: Backbone) -> None:
    session = session_of(one, "recurrent")
    before = held(session)
    session.standing["x"] = Query("x", 0.0, "y")
    assert held(session) > before
    before = held(session)
    watched(session)
    assert held(session) > before


# ---- The end.


CALLS: dict[str, Callable[[StreamSession], object]] = {
    "watch": lambda s: s.watch(*clips(3)[2]),
    "think": lambda s: s.think(),
    "ask": lambda s: s.ask("which ?"),
    "stand": lambda s: s.stand("which ?"),
    "tokens": lambda s: s.tokens,
    "memory": lambda s: s.memory,
}


@pytest.mark.parametrize("call", CALLS)
def test_after_close_every_call_says_so(one: Backbone, call: str) -> None:
    with watched(session_of(one, "recurrent")) as session:
        assert not session.closed
    session.close()
    assert session.closed
    with pytest.raises(SessionClosedError, match="the session is closed; start anew"):
        CALLS[call](session)


def test_an_error_inside_a_forward_closes_the_session_alone(one: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    session, other = watched(session_of(one, "split")), watched(session_of(one, "split"))
    with monkeypatch.context() as patch:
        patch.setattr(type(one), "hidden", lambda *_: (_ for _ in ()).throw(MemoryError("out of memory")))
        with pytest.raises(MemoryError):
            session.ask("which ?")
    with pytest.raises(SessionClosedError, match=r"an earlier call failed \(MemoryError: out of memory\); start anew"):
        session.ask("which ?")
    assert other.ask("which ?") == watched(session_of(one, "split")).ask("which ?")
