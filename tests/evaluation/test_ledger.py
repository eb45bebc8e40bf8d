"""The think-latency ledger: measured on a clock that only the model moves, simulated on schedules worked by hand."""

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import pytest
import torch

from evaluation.costs import (
    SCHEDULERS,
    Asked,
    Costs,
    Load,
    Work,
    measured_costs,
    schedules,
    simulate,
    steady,
    thought_seconds,
    work_of,
)
from evaluation.ledger import ENCLOSES, Ledger, QueryCost, distribution, measure, summary
from evaluation.predict import EvaluationError, predict
from evaluation.stream_cost import Held, held_by, stream_cost, trend, watch_cost
from whilst.backbones.base import Backbone, Features
from whilst.checkpoint import Checkpoint
from whilst.clips import SegmentClip
from whilst.sample import Answer, Query, Sample
from whilst.session import StreamSession

LIMITS: dict[str, Any] = {"thought_tokens": 3, "answer_tokens": 3}
CONTRACTS: dict[str, dict[str, Any]] = {
    "text_memory": {"layout": "recurrent"},
    "kv_memory": {"layout": "interleaved", "rule": "last_segments", "rule_params": {"n": 1}},
    "split": {"layout": "split", "rule": "unit", "scheme": "batch"},
}
New = Callable[..., Checkpoint]
ENCODING = 100.0  # s a clip, on the clock of the tests


class Clock:
    """Seconds that pass when the model works, or when somebody sleeps."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.slept.append(seconds)
        self.now += seconds


@dataclass
class Ticking(Backbone):
    """A backbone whose forward takes a second a token, and whose tower takes ENCODING a clip."""

    clock: Clock | None = None

    def hidden(self, input_ids: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        assert self.clock is not None
        self.clock.now += input_ids.shape[1]
        return super().hidden(input_ids, *args, **kwargs)

    def encode(self, pixels: torch.Tensor, grids: torch.Tensor) -> Features:
        assert self.clock is not None
        self.clock.now += ENCODING * len(grids)
        return super().encode(pixels, grids)


def ticking(checkpoint: Checkpoint) -> tuple[Checkpoint, Clock]:
    clock = Clock()
    values = {f.name: getattr(checkpoint.backbone, f.name) for f in fields(Backbone)}
    return replace(checkpoint, backbone=Ticking(**values, clock=clock)), clock


def ledger_of(checkpoint: Checkpoint, sample: Sample, clips: Sequence[SegmentClip], **how: Any) -> Ledger:
    ticks, clock = ticking(checkpoint)
    return measure(ticks, sample, clips, clock=clock, sleep=clock.sleep, **{**LIMITS, **how})


@pytest.fixture
def clips(sample: Sample, new_clips: Callable[..., list[SegmentClip]]) -> list[SegmentClip]:
    return new_clips(sample)


# ---- Measured.


@pytest.mark.parametrize("contract", CONTRACTS)
def test_a_ledger_says_what_evaluation_says(
    new_checkpoint: New, sample: Sample, clips: list[SegmentClip], contract: str
) -> None:
    checkpoint = new_checkpoint(**CONTRACTS[contract])
    (episode,) = predict(checkpoint, [sample], [clips], **LIMITS)
    for how in ({}, {"pacing": "wall_clock", "speed": 0.001}):
        found = ledger_of(checkpoint, sample, clips, **how)
        assert [(q.query, q.time, q.text) for q in found.queries] == [
            (r.query, r.time, r.text) for r in episode.replies
        ]
        assert list(found.thoughts) == [text for _, text, _ in episode.thoughts]
        assert found.source == "measured"


@pytest.mark.parametrize("contract", CONTRACTS)
def test_a_first_token_takes_one_prefill_of_the_newest_unit_at_least(
    new_checkpoint: New, sample: Sample, clips: list[SegmentClip], contract: str
) -> None:
    """E22: a time to first token that leaves the reading of the newest unit out cannot be. A token takes a second."""
    checkpoint = new_checkpoint(**CONTRACTS[contract])
    renderer, spec = checkpoint.renderer, checkpoint.backbone.spec
    found = ledger_of(checkpoint, sample, clips)
    queries = {query.id: query for query in sample.queries()}
    for cost in found.queries:
        now = max(i for i, clip in enumerate(clips) if clip.segment.end <= cost.time)
        segment, shape = clips[now].segment, clips[now].shape(spec)
        if contract == "text_memory":
            newest = len(renderer.turn_prompt(shape, segment, queries[cost.query]))
        else:
            newest = len(renderer.received(None, None, queries[cost.query])) + len(renderer.prefix())
        assert cost.first_token >= cost.prefill >= newest
        assert cost.first_token == pytest.approx(cost.waited + cost.prefill)
        assert cost.per_token == pytest.approx(1.0), "a forward of one token"
        assert cost.complete == pytest.approx(cost.first_token + cost.answer_tokens - 1)


def test_a_query_that_comes_with_its_segment_pays_for_it(
    new_checkpoint: New, sample: Sample, clips: list[SegmentClip]
) -> None:
    """Logical pacing: the first query stands at the end of segment 0; one a little later finds everything done."""
    found = ledger_of(new_checkpoint(), sample, clips)
    first, encoded, thought = found.queries[0], found.actions[0], found.actions[2]
    assert (encoded.kind, thought.kind) == ("encode", "thought")
    assert first.arrival == 0.0 and first.encode == ENCODING == encoded.seconds
    assert first.waited == pytest.approx(encoded.seconds + thought.seconds)
    assert (first.thought_tokens_before, first.thought_tokens_after) == (0, len(thought.tokens))
    assert (first.compute_before, first.compute_after) == (0.0, pytest.approx(first.complete))
    assert first.backlog_segments is None and first.backlog_thought_tokens is None
    *segments, query, answer = [*sample.segments()[:1], Query("q", 10.0 + 1.5, "which in-1 ?"), Answer(11.5, "x", "q")]
    (late,) = ledger_of(new_checkpoint(), sample.with_events([*segments, query, answer]), clips[:1]).queries
    assert late.waited == 0.0 and late.thought_tokens_after == 0
    assert late.compute_before == pytest.approx(first.waited) and late.compute_after == pytest.approx(late.complete)


def test_backlog_on_the_wall_clock(new_checkpoint: New, sample: Sample, clips: list[SegmentClip]) -> None:
    """Four segments of a second: at real time all have arrived long before the first is done (100 s to encode)."""
    found = ledger_of(new_checkpoint(), sample, clips, pacing="wall_clock")
    assert found.arrivals == (1.0, 2.0, 3.0, 4.0) == found.times and found.speed == 1.0
    tokens = {a.segment: a.tokens for a in found.actions if a.kind == "thought"}
    for cost in found.queries:
        now = int(cost.time - 11.0)
        assert cost.arrival == cost.time - 10.0
        assert cost.backlog_segments == now + 1, "nothing was read by then"
        assert cost.backlog_thought_tokens == sum(len(tokens[i]) for i in range(now + 1))
        answer = next(a for a in found.actions if a.kind == "answer" and a.query == cost.query and a.segment == now)
        assert cost.waited == pytest.approx(answer.started - cost.arrival)
        busy = sum(
            min(a.ended, answer.tokens[-1]) - max(a.started, cost.arrival)
            for a in found.actions
            if a.ended > cost.arrival and a.started < answer.tokens[-1]
        )
        assert cost.compute_after == pytest.approx(busy)
    slow = ledger_of(new_checkpoint(), sample, clips, pacing="wall_clock", speed=1e-4)
    assert [cost.backlog_segments for cost in slow.queries] == [1] * len(slow.queries), "its own segment alone"
    assert slow.arrivals == pytest.approx([10000.0, 20000.0, 30000.0, 40000.0])


def test_a_wall_clock_waits_for_what_has_not_arrived(
    new_checkpoint: New, sample: Sample, clips: list[SegmentClip]
) -> None:
    ticks, clock = ticking(new_checkpoint(thinks=False))
    found = measure(ticks, sample, clips, pacing="wall_clock", speed=0.001, clock=clock, sleep=clock.sleep, **LIMITS)
    assert len(clock.slept) == 4 and clock.slept[0] == pytest.approx(1000.0)
    assert [a.started for a in found.actions if a.kind == "encode"] == pytest.approx([1e3, 2e3, 3e3, 4e3])
    assert found.thoughts == () and all(cost.thought_tokens_after == 0 for cost in found.queries)


@pytest.mark.parametrize("contract", CONTRACTS)
def test_thinking_after_the_question_is_the_same_work_later(
    new_checkpoint: New, sample: Sample, clips: list[SegmentClip], contract: str
) -> None:
    end = sample.segments()[-1].end
    asked = sample.with_events([*sample.segments(), Query("q", end, "which in-1 ?"), Answer(end, "x", "q")])
    how: dict[str, Any] = {"think_about": lambda i: i < 3, "thoughts": ["in-1 red-circle .", "", "now", ""]}
    ahead, after = (
        ledger_of(new_checkpoint(**CONTRACTS[contract]), asked, clips, order=order, **how)
        for order in ("ahead", "after")
    )
    (one,), (other,) = ahead.queries, after.queries
    assert one.text == other.text and one.answer_tokens == other.answer_tokens
    assert ahead.thoughts == after.thoughts == ("in-1 red-circle .", "", "now")
    total = [sum(a.seconds for a in found.actions) for found in (ahead, after)]
    assert total[0] == pytest.approx(total[1]), "no token more, no token less"
    written = sum(len(a.tokens) for a in ahead.actions if a.kind == "thought")
    assert (one.thought_tokens_before, one.thought_tokens_after) == (written, 0)
    assert (other.thought_tokens_before, other.thought_tokens_after) == (0, written)
    thinking = sum(a.seconds for a in after.actions if a.kind == "thought")
    reading = sum(a.seconds for a in after.actions if a.kind == "read" and a.segment < 3)
    assert other.complete - one.complete == pytest.approx(thinking + reading)
    assert one.encode == other.encode == ENCODING, "of the segment that came with the query; the others were before"
    assert (one.kv_tokens, one.visual_tokens) == (other.kv_tokens, other.visual_tokens)


def test_what_a_query_finds_in_the_stream(new_checkpoint: New, sample: Sample, clips: list[SegmentClip]) -> None:
    """Visual tokens: with KV memory those of all segments so far, with text memory those read with the query."""
    spec = new_checkpoint().backbone.spec
    each = spec.merged(clips[0].shape(spec)).tokens
    kv = ledger_of(new_checkpoint(**CONTRACTS["kv_memory"]), sample, clips)
    assert [q.visual_tokens for q in kv.queries] == [each * (int(q.time) - 10) for q in kv.queries]
    text = ledger_of(new_checkpoint(), sample, clips)
    assert [q.visual_tokens for q in text.queries] == [each] * len(text.queries)
    assert all(b.kv_tokens >= a.kv_tokens for a, b in zip(kv.queries, kv.queries[1:], strict=False))
    assert [q.last_frame for q in text.queries] == [q.time - 0.5 for q in text.queries]
    assert all(q.gpu_peak_bytes is None for q in text.queries)
    early = sample.with_events((Query("e", 10.0, "which in-1 ?"), Answer(10.0, "x", "e"), *sample.segments()))
    cost = ledger_of(new_checkpoint(), early, clips).queries[0]
    assert (cost.last_frame, cost.visual_tokens, cost.waited, cost.arrival) == (None, 0, 0.0, 0.0)


def test_one_token_has_no_time_per_token(new_checkpoint: New, sample: Sample, clips: list[SegmentClip]) -> None:
    found = ledger_of(new_checkpoint(), sample, clips, answer_tokens=1)
    assert {cost.per_token for cost in found.queries} == {None}
    figures = summary([found])["figures"]
    n = len(found.queries)
    assert figures["per_token"] == {
        "n": 0, "missing": n, "mean": None, "median": None, "p90": None, "p99": None, "max": None,
    }  # fmt: skip
    assert figures["complete"]["n"] == n and figures["complete"]["missing"] == 0


def test_every_field_says_what_it_encloses(new_checkpoint: New, sample: Sample, clips: list[SegmentClip]) -> None:
    assert {f.name for f in fields(QueryCost)} - {"sample", "query"} == set(ENCLOSES)
    found = ledger_of(new_checkpoint(), sample, clips)
    record = json.loads(json.dumps(found.record()))
    assert record["source"] == "measured" and record["encloses"] == dict(ENCLOSES)
    total = summary([found])
    assert total["source"] == "measured" and total["pacing"] == "logical" and total["queries"] == len(found.queries)
    with pytest.raises(EvaluationError, match="ledgers of 2 ways"):
        summary([found, replace(found, order="after")])


def test_a_ledger_refuses_what_it_cannot_measure(new_checkpoint: New, sample: Sample, clips: list[SegmentClip]) -> None:
    with pytest.raises(EvaluationError, match="queries: branch"):
        measure(new_checkpoint(layout="interleaved", queries="kept"), sample, clips)
    with pytest.raises(EvaluationError, match="speed: 0"):
        measure(new_checkpoint(), sample, clips, speed=0)
    with pytest.raises(EvaluationError, match="sample a: 4 segments but 3 clips"):
        measure(new_checkpoint(), sample, clips[:3])


def test_a_distribution() -> None:
    assert distribution([1.0, None, 3.0]) == {
        "n": 2, "missing": 1, "mean": 2, "median": 2, "p90": pytest.approx(2.8), "p99": pytest.approx(2.98), "max": 3,
    }  # fmt: skip


# ---- Simulated.

# a segment of 2 frames takes 0.4 s to read, a thought of 4 tokens 0.7 s, an answer of 2 tokens 0.3 s
COSTS = Costs(0.1, 0.2, 0.3, 0.1, 0.1, 0.2, 0.1)
WORK = Work(tuple(Load(float(t), 2, 4) for t in (1, 2, 3)), (Asked(2.0, 2),))


@pytest.mark.parametrize(
    ("scheduler", "answer", "thoughts", "reads", "memory"),
    [
        ("sequential", (3.2, 3.4, 3.5), (2.1, 3.2, 4.6), (1.4, 2.5, 3.9), 2.0),
        ("deadline", (2.0, 2.2, 2.3), (2.4, 3.5, 4.6), (1.4, 2.8, 3.9), None),
        ("parallel", (3.1, 3.3, 3.4), (2.1, 3.1, 4.1), (1.4, 2.4, 3.4), 2.0),
        ("think_after", (3.8, 4.0, 4.1), (3.1, 3.8, None), (1.4, 2.4, 4.5), 2.0),
    ],
)
def test_a_schedule_worked_by_hand(
    scheduler: Any, answer: Any, thoughts: Any, reads: Any, memory: float | None
) -> None:
    found = simulate(WORK, COSTS, scheduler)
    (query,) = found.queries
    assert (query.started, query.first_token, query.complete) == pytest.approx(answer)
    assert query.latency == pytest.approx(answer[2] - 2.0)
    assert [segment.read for segment in found.segments] == pytest.approx(list(reads))
    assert [s.thought for s in found.segments][:2] == pytest.approx(list(thoughts)[:2])
    assert found.segments[2].thought == (None if thoughts[2] is None else pytest.approx(thoughts[2]))
    assert query.memory_time == memory
    assert query.staleness == (None if memory is None else 0.0)
    assert (query.backlog_segments, query.backlog_thought_tokens) == (1, 8), "the second segment; no thought is done"
    assert found.source == "simulated" == found.summary()["source"]
    assert (found.frames, found.frames_dropped) == (6, 0)


def test_deadline_answers_from_the_last_finished_memory() -> None:
    found = simulate(replace(WORK, queries=(Asked(3.0, 2),)), COSTS, "deadline")
    assert [s.thought for s in found.segments] == pytest.approx([2.1, 3.5, 4.6])  # the second is interrupted at 3.0
    (query,) = found.queries
    assert (query.memory_time, query.staleness) == (1.0, 2.0) and query.latency == pytest.approx(0.3)


def test_dropped_segments_by_hand() -> None:
    """A segment takes 2.5 s: 0.4 to read, 2.1 to think (18 tokens). Segments at 1, 2, 3, 4 s."""
    work = Work(tuple(Load(float(t), 2, 18) for t in (1, 2, 3, 4)), (Asked(4.0, 1),))

    def dropped(**options: Any) -> list[bool]:
        return [s.dropped for s in simulate(work, COSTS, "sequential", **options).segments]

    assert dropped() == [False] * 4
    assert dropped(max_backlog=0) == [False, True, True, False]
    assert dropped(max_backlog=1) == [False, True, False, False]
    assert dropped(max_backlog=1, drop="newest") == [False, False, True, False]
    found = simulate(work, COSTS, "sequential", max_backlog=0)
    assert found.frames_dropped == 4 and found.segments[1].read is None and found.segments[1].thought is None
    assert found.segments[3].read == pytest.approx(4.4) and found.queries[0].complete == pytest.approx(6.7)
    assert [(unread, tokens) for _, unread, tokens in found.backlog] == [
        (0, 0), (1, 18), (0, 18), (0, 0), (1, 18), (0, 18), (0, 0),
    ]  # fmt: skip
    clocks = [0.0, 1.0, 1.4, 3.5, 4.0, 4.4, 6.5]
    assert [clock for clock, _, _ in found.backlog] == pytest.approx(clocks), "dropped at once, so never waiting"


def test_a_drop_does_not_let_an_answer_overtake() -> None:
    """Parallel: the last segment before the query is dropped; the answer still waits for the thoughts before it."""
    work = Work((Load(1.0, 50, 4), Load(2.0, 2, 4), Load(3.0, 2, 4)), (Asked(3.0, 1),))
    found = simulate(work, COSTS, "parallel", max_backlog=0)
    assert [s.dropped for s in found.segments] == [False, True, True]
    assert found.segments[0].thought == pytest.approx(6.9)
    assert found.queries[0].started == pytest.approx(6.9) and found.queries[0].memory_time == 1.0


def test_late_frames_by_hand() -> None:
    """A segment takes 1.1 s, one comes every second: the first is read in time, the tenth is read 0.9 s late and so is
    not late yet, the eleventh is."""
    work = steady(14.0, segment=1.0, fps=2.0, thought_tokens=4, queries=(), answer_tokens=1)
    found = simulate(work, COSTS, "sequential")
    lags = [s.read - s.arrival for s in found.segments if s.read is not None]
    assert lags == pytest.approx([0.4 + 0.1 * i for i in range(14)])
    assert [s.late for s in found.segments][:6] == [False] * 6 and [s.late for s in found.segments][8:] == [True] * 6
    assert found.frames == 28 and found.frames_late == 2 * sum(s.late for s in found.segments)


def random_work(rng: random.Random) -> Work:
    times = sorted(rng.sample(range(1, 60), rng.randint(0, 12)))
    loads = tuple(Load(t / 4, rng.randint(1, 4), rng.choice((0, 1, 5, 20))) for t in times)
    asked = sorted(rng.choices(range(0, 64), k=rng.randint(0, 6)))
    return Work(loads, tuple(Asked(t / 4, rng.randint(1, 5)) for t in asked))


def random_costs(rng: random.Random) -> Costs:
    return Costs(*(rng.choice((0.0, 0.02, 0.1, 0.3)) for _ in fields(Costs)))


CASES = range(60)


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_work_is_conserved(scheduler: Any) -> None:
    """What workers do is what was asked of them; frames are read or dropped; nothing is done before it arrives."""
    for case in CASES:
        rng = random.Random(case)
        work, costs = random_work(rng), random_costs(rng)
        limit, drop = rng.choice((None, 0, 1, 2)), rng.choice(("oldest", "newest"))
        found = simulate(work, costs, scheduler, speed=rng.choice((0.5, 1.0, 4.0)), max_backlog=limit, drop=drop)
        seen = [load for load, s in zip(work.segments, found.segments, strict=True) if not s.dropped]
        thought = [load for load, s in zip(work.segments, found.segments, strict=True) if s.thought is not None]
        needed = sum(load.frames * costs.encode_frame + costs.read for load in seen)
        needed += sum(thought_seconds(load, costs) for load in thought)
        needed += sum(costs.answer_opening + (asked.tokens - 1) * costs.answer_token for asked in work.queries)
        assert sum(found.busy) == pytest.approx(needed)
        assert found.frames == sum(load.frames for load in seen) + found.frames_dropped
        assert limit is not None or not found.frames_dropped
        for s in found.segments:
            assert s.dropped == (s.read is None) and (s.read is None or s.read >= s.arrival)
            assert s.thought is None or s.thought >= s.read
        last_query = max((asked.time for asked in work.queries), default=-1.0)
        for load, s in zip(work.segments, found.segments, strict=True):
            unasked = scheduler == "think_after" and load.time > last_query
            assert (s.thought is None) == (s.dropped or not load.thought_tokens or unasked)
        for query in found.queries:
            assert query.arrival <= query.started <= query.first_token <= query.complete
        ends = [q.complete for q in found.queries] + [s.thought or s.read or 0.0 for s in found.segments]
        assert all(busy <= max(ends, default=0.0) + 1e-9 for busy in found.busy)
        unwritten = sum(
            load.thought_tokens
            for load, s in zip(work.segments, found.segments, strict=True)
            if s.thought is None and not s.dropped
        )
        assert found.backlog[-1][1:] == (0, unwritten)


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_what_costs_nothing_takes_no_time(scheduler: Any) -> None:
    for case in CASES:
        work = random_work(random.Random(case))
        found = simulate(work, Costs(*[0.0] * 7), scheduler, max_backlog=0)
        assert all(query.latency == 0.0 for query in found.queries)
        if scheduler != "deadline":  # which does not even wait for what arrived at the same moment
            assert all(query.staleness in (0.0, None) for query in found.queries)
        assert all(s.read == s.arrival and not s.late and not s.dropped for s in found.segments)
        assert all(q.backlog_segments == 0 for q in found.queries)


def test_the_latency_of_deadline_never_depends_on_thoughts() -> None:
    for case in CASES:
        rng = random.Random(case)
        work, costs = random_work(rng), random_costs(rng)
        longer = replace(
            work, segments=tuple(replace(s, thought_tokens=rng.choice((0, 7, 300))) for s in work.segments)
        )
        one, other = (simulate(w, costs, "deadline") for w in (work, longer))
        for a, b in zip(one.queries, other.queries, strict=True):
            assert (a.arrival, a.started, a.first_token, a.complete) == (
                b.arrival,
                b.started,
                b.first_token,
                b.complete,
            )
        others = {name: simulate(work, costs, name) for name in SCHEDULERS}
        for name, found in others.items():
            for a, b in zip(one.queries, found.queries, strict=True):
                assert a.latency <= b.latency + 1e-9, name


def test_without_thoughts_thinking_after_is_sequential() -> None:
    for case in CASES:
        rng = random.Random(case)
        work, costs = random_work(rng), random_costs(rng)
        silent = replace(work, segments=tuple(replace(s, thought_tokens=0) for s in work.segments))
        one, other = (simulate(silent, costs, name) for name in ("sequential", "think_after"))
        assert (one.queries, one.segments) == (other.queries, other.segments)


def test_a_cost_that_was_not_measured_is_not_made_up() -> None:
    with pytest.raises(EvaluationError, match=r"costs.thought_token was not measured"):
        simulate(WORK, replace(COSTS, thought_token=None), "sequential")
    silent = replace(WORK, segments=tuple(replace(s, thought_tokens=0) for s in WORK.segments))
    unthinking = replace(COSTS, thought_opening=None, thought_token=None, thought_closing=None)
    assert simulate(silent, unthinking, "sequential").queries[0].latency == pytest.approx(0.7)
    with pytest.raises(EvaluationError, match="times must not decrease"):
        simulate(replace(WORK, segments=WORK.segments[::-1]), COSTS, "sequential")
    with pytest.raises(EvaluationError, match="unknown scheduler 'x'"):
        simulate(WORK, COSTS, "x")  # type: ignore[arg-type]
    with pytest.raises(EvaluationError, match="at least one"):
        simulate(replace(WORK, queries=(Asked(1.0, 0),)), COSTS, "sequential")


def test_a_long_stream_is_simulated_soon() -> None:
    """Three hours, 2 s a segment: the events are counted, not the time."""
    work = steady(10800.0, segment=2.0, fps=2.0, thought_tokens=20, queries=range(100, 10800, 100), answer_tokens=8)
    found = simulate(work, COSTS, "sequential", speed=2.0, max_backlog=3)
    assert len(found.segments) == 5400 and found.frames == 21600 and found.frames_dropped > 0
    assert len(found.backlog) < 5 * 5400


@pytest.mark.parametrize("contract", CONTRACTS)
def test_measured_costs_rebuild_a_measured_stream(
    new_checkpoint: New, sample: Sample, clips: list[SegmentClip], contract: str
) -> None:
    """Sequential, simulated with the medians of a ledger, is close to that ledger: texts of about one length."""
    thoughts = ["in-1 red-circle .", "now now .", "in-2 red-circle .", "now . ."]
    how: dict[str, Any] = {"pacing": "wall_clock", "speed": 0.01, "thoughts": thoughts, "answer_tokens": 2}
    found = ledger_of(new_checkpoint(**CONTRACTS[contract]), sample, clips, **how)
    costs = measured_costs([found])
    assert costs.encode_frame == ENCODING / 2 and costs.thought_token == 1.0 and costs.answer_token == 1.0
    simulated = simulate(work_of(found), costs, "sequential", speed=0.01)
    assert len(simulated.queries) == len(found.queries)
    for a, b in zip(simulated.queries, found.queries, strict=True):
        assert a.arrival == pytest.approx(b.arrival)
        assert a.latency == pytest.approx(b.complete, rel=0.25), "prompts and memory differ a little in length"
        assert a.backlog_segments == b.backlog_segments
    assert set(schedules(work_of(found), costs, speed=0.01)) == set(SCHEDULERS)


# ---- Hours of a stream.


def test_trends_of_known_lines() -> None:
    times = [2.0 * i for i in range(1, 401)]
    flat = trend(times, [5.0] * 400)
    assert (flat.slope, flat.ci_low, flat.ci_high, flat.ratio) == (0.0, 0.0, 0.0, 1.0)
    line = trend(times, [3.0 * t / 3600 + 1.0 for t in times])
    assert line.slope == pytest.approx(3.0) and line.ci_low == pytest.approx(3.0) and line.ci_high == pytest.approx(3.0)
    rng = np.random.default_rng(0)
    noise = trend(times, list(1.0 + rng.normal(0, 0.1, 400)), seed=1)
    assert noise.ci_low < 0 < noise.ci_high and noise.ratio == pytest.approx(1.0, abs=0.05)
    grown = trend(times, list(1.0 + np.array(times) / 800 + rng.normal(0, 0.1, 400)))
    assert (
        grown.ci_low > 0 and grown.ci_low < 4.5 < grown.ci_high and grown.ratio == pytest.approx(1.875 / 1.125, abs=0.1)
    )
    assert trend(times, [0.0] * 200 + [1.0] * 200).ratio is None
    with pytest.raises(EvaluationError, match="at least 8"):
        trend(times[:7], [1.0] * 7)
    with pytest.raises(EvaluationError, match="times that increase"):
        trend([1.0] * 9, [1.0] * 9)


@pytest.mark.parametrize(("contract", "bounded"), [("kv_memory", False), ("text_memory", True)])
def test_the_cost_of_a_stream(new_checkpoint: New, contract: str, bounded: bool) -> None:
    """Unbounded KV memory grows by as much every segment; text memory with a cap does not grow in the end."""
    changes = CONTRACTS[contract] | ({"memory_tokens": 40} if bounded else {})
    checkpoint, clock = ticking(new_checkpoint(**changes))
    session = StreamSession(checkpoint.backbone, checkpoint.renderer, fps=2.0, thought_tokens=3)
    rng = np.random.default_rng(0)
    pieces = [
        (100.0 + i, rng.integers(0, 256, (2, 32, 32, 3)).astype(np.uint8), (99.0 + i, 99.5 + i)) for i in range(48)
    ]
    costs = watch_cost(session, pieces, thinks=True, held=lambda: held_by(session.batch), clock=clock)
    found = json.loads(json.dumps(stream_cost(costs)))
    assert found["segments"] == 48 and found["video_seconds"] == 48.0
    assert found["tokens_per_video_second"] == pytest.approx(sum(c.thought_tokens for c in costs) / 48)
    assert found["seconds_per_video_second"] == pytest.approx(sum(c.seconds for c in costs) / 48)
    entries = found["trends"]["entries"]
    assert costs[-1].entries == sum(session.batch.cache.lengths()) and costs[-1].bytes == session.batch.cache.bytes()
    if bounded:
        assert entries["ratio"] <= 1.1
    else:
        assert entries["slope"] > 3600 and entries["ratio"] > 3 and found["trends"]["bytes"]["ratio"] > 3
    assert all(c.seconds >= c.watch_seconds >= ENCODING for c in costs)


def test_what_is_not_observed_has_no_trend(new_checkpoint: New) -> None:
    checkpoint = new_checkpoint(thinks=False)
    session = StreamSession(checkpoint.backbone, checkpoint.renderer, fps=2.0)
    asked: list[int] = []
    images = np.zeros((2, 32, 32, 3), np.uint8)
    pieces = [(float(i + 1), images, (i + 0.0, i + 0.5)) for i in range(9)]
    costs = watch_cost(session, pieces, thinks=False, before_each=asked.append)
    found = stream_cost(costs)
    assert asked == list(range(9)) and found["tokens_per_video_second"] == 0.0
    assert found["trends"]["entries"] is None and found["trends"]["bytes"] is None
    assert found["trends"]["seconds"] is not None
    assert stream_cost(costs[:7])["trends"]["seconds"] is None
    assert held_by(session.batch) == Held(sum(session.batch.cache.lengths()), session.batch.cache.bytes())
    with pytest.raises(EvaluationError, match="no segment was watched"):
        stream_cost([])
