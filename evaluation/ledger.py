"""The think-latency ledger: where the time of a query went, measured action by action on one stream.

A published latency is often the time of the last call alone, with all thinking before it free of charge. Here every
action is timed (a clip encoded, a clip read, every token of a thought, every token of an answer), and each field of a
query says what it encloses (`ENCLOSES`). What cannot be observed is None and is counted as such, never estimated.

One stream, one worker: watching and thinking take turns, so an answer waits for the thoughts before it. What another
way of scheduling would give with the same costs is simulated (evaluation/costs.py) and never mixed with these figures.

| pacing | when things arrive |
|---|---|
| logical | as soon as they can be taken: time stands still while the model works. A query at the end of a segment |
| | arrives together with it, so its encoding, its reading and the thought about it count; a later one finds all done |
| wall_clock | at their time of the video divided by `speed`, on the clock; what is not done by then is backlog |

| order | when thoughts are written |
|---|---|
| ahead | when their segment has arrived |
| after | when a query has arrived: all clips since the last query are read and thought about; they are encoded before |
"""

from __future__ import annotations

import time as wall
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal

import numpy as np
import torch

from evaluation.predict import EvaluationError
from whilst.checkpoint import Checkpoint
from whilst.clips import SegmentClip, View
from whilst.episode import Poll, polls
from whilst.runtime import Generated, StreamBatch, encode_clips
from whilst.sample import Sample
from whilst.sampling import Sampler, forced, greedy

Kind = Literal["encode", "read", "thought", "answer"]
Pacing = Literal["logical", "wall_clock"]
Order = Literal["ahead", "after"]
Clock = Callable[[], float]  # s; any origin


@dataclass(frozen=True)
class Action:
    """Something the model did, from `started` to `ended` (s on the clock since the stream began).

    segment: ordinal of the segment it is about, or of the last one that had arrived (answers). tokens: the clock when
    each sampled token was known, the boundary token included. frames: that an encoding took.
    """

    kind: Kind
    segment: int
    started: float
    ended: float
    tokens: tuple[float, ...] = ()
    frames: int = 0
    query: str | None = None

    @property
    def seconds(self) -> float:
        return self.ended - self.started


@dataclass(frozen=True)
class QueryCost:
    """One query (or one poll of a standing query). ENCLOSES says what each field is. None: not observed."""

    sample: str
    query: str
    time: float
    arrival: float
    last_frame: float | None
    backlog_segments: int | None
    backlog_thought_tokens: int | None
    waited: float
    encode: float
    prefill: float
    first_token: float
    per_token: float | None
    complete: float
    thought_tokens_before: int
    thought_tokens_after: int
    answer_tokens: int
    kv_tokens: int
    visual_tokens: int | None
    compute_before: float
    compute_after: float
    gpu_peak_bytes: int | None
    text: str


ENCLOSES: Mapping[str, str] = {
    "time": "s of video at which the query is put",
    "arrival": "s on the clock, since the stream began, at which the query arrived",
    "last_frame": "s of video of the last frame that was read before the answer or is read with it; None before any",
    "backlog_segments": "segments that had arrived with or before the query and were not read; None in logical pacing",
    "backlog_thought_tokens": "thought tokens about segments that had arrived, sampled after the query arrived and "
    "before its answer; None in logical pacing",
    "waited": "s from the query's arrival to the start of its reading: all backlog, and queries that came before it",
    "encode": "s of `waited` in which frames were encoded",
    "prefill": "s from the start of the query's reading to its first token: all that its turn reads, one choice",
    "first_token": "s from the query's arrival to its first token: waited + prefill",
    "per_token": "s a token after the first one, the boundary token included; None where there is one token",
    "complete": "s from the query's arrival to its last token, the boundary token if it was sampled",
    "thought_tokens_before": "thought tokens sampled before the query arrived",
    "thought_tokens_after": "thought tokens sampled after the query arrived and before its answer",
    "answer_tokens": "tokens of the answer, the boundary token included where it was sampled",
    "kv_tokens": "entries of the key-value cache when the query's reading starts (a layer)",
    "visual_tokens": "visual tokens in the stream when the query's reading starts, or, with text memory, read with it; "
    "None where a memory policy may have dropped some",
    "compute_before": "s of encoding, reading and thinking from the beginning of the stream to the query's arrival",
    "compute_after": "s of all actions from the query's arrival to its last token",
    "gpu_peak_bytes": "most memory that tensors took on the GPU since the stream began; None without a GPU",
    "text": "the answer",
}


@dataclass(frozen=True)
class Ledger:
    """The actions of one sample and the costs of its queries. source: always "measured"."""

    sample: str
    pacing: Pacing
    order: Order
    speed: float | None
    actions: tuple[Action, ...]
    queries: tuple[QueryCost, ...]
    begin: float  # s of video at which the stream began
    arrivals: tuple[float, ...]  # clock of each segment's arrival (s)
    times: tuple[float, ...]  # its end, in s of video since the stream began
    thoughts: tuple[str, ...]
    source: str = field(default="measured")

    def record(self) -> dict[str, Any]:
        """As a JSON object."""
        return asdict(self) | {"encloses": dict(ENCLOSES)}


def measure(
    checkpoint: Checkpoint,
    sample: Sample,
    clips: Sequence[SegmentClip],
    *,
    pacing: Pacing = "logical",
    order: Order = "ahead",
    speed: float = 1.0,
    thought_tokens: int = 16,
    answer_tokens: int = 8,
    thoughts: Sequence[str] | None = None,
    think_about: Callable[[int], bool] = lambda segment: True,
    clock: Clock = wall.perf_counter,
    sleep: Callable[[float], None] = wall.sleep,
    streams: Callable[..., StreamBatch] = StreamBatch,
) -> Ledger:
    """Watch one sample on a stream of its own and time everything; replies and thoughts are the likeliest ones.

    thoughts: texts that are written in place of the model's own, one a segment. think_about: which segments (ordinals)
    get a thought, where the contract thinks. clock, sleep: for tests, or time.process_time for CPU seconds (logical
    pacing). streams: what makes the stream. Nothing is timed before the stream stands ready with its system prompt.
    """
    if not speed > 0:
        raise EvaluationError(f"speed: {speed}: must be above 0 (s of video a second)")
    if checkpoint.renderer.config.queries == "kept":
        raise EvaluationError("the ledger asks every query on a branch of its own: set render.queries: branch")
    if len(clips) != len(sample.segments()):
        raise EvaluationError(f"sample {sample.id}: {len(sample.segments())} segments but {len(clips)} clips")
    watching = _Watching(checkpoint, sample, clips, thought_tokens, answer_tokens, thoughts, clock, streams)
    begin = clips[0].segment.start if clips else sample.video.start
    watching.begin()

    def due(time: float) -> float:
        """When something of a time of the video arrives, and is waited for."""
        if pacing == "logical":
            return watching.now()
        at = max(time - begin, 0.0) / speed
        if watching.now() < at:
            sleep(at - watching.now())
        return at

    costs: list[QueryCost] = []
    arrivals: list[float] = []
    waiting: list[int] = []  # segments that are encoded, but neither read nor thought about

    def catch_up() -> None:
        for i in waiting:
            watching.read(i)
            if checkpoint.contract.thinks and think_about(i):
                watching.think(i)
        waiting.clear()

    for step, asked in enumerate(polls(sample)):
        if step:
            arrivals.append(due(clips[step - 1].segment.end))
            watching.encode(step - 1)
            waiting.append(step - 1)
            if order == "ahead":
                catch_up()
        for poll in asked:
            with_segment = pacing == "logical" and step > 0 and poll.time <= clips[step - 1].segment.end
            arrival = arrivals[-1] if with_segment else due(poll.time)
            catch_up()
            costs.append(watching.ask(poll, arrival, arrivals, pacing))
    times = tuple(clip.segment.end - begin for clip in clips)
    return Ledger(
        sample.id,
        pacing,
        order,
        speed if pacing == "wall_clock" else None,
        tuple(watching.actions),
        tuple(costs),
        begin,
        tuple(arrivals),
        times,
        tuple(watching.texts),
    )


class _Watching:
    """One stream, its clock and what was done so far."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        sample: Sample,
        clips: Sequence[SegmentClip],
        thought_tokens: int,
        answer_tokens: int,
        thoughts: Sequence[str] | None,
        clock: Clock,
        streams: Callable[..., StreamBatch],
    ) -> None:
        self.checkpoint, self.sample, self.clips = checkpoint, sample, clips
        self.limits, self.given, self.clock = (thought_tokens, answer_tokens), thoughts, clock
        backbone, renderer = checkpoint.backbone, checkpoint.renderer
        ends = None
        if renderer.config.scheme == "batch":  # the whole stream must be known: shapes alone, nothing is encoded
            shapes = [clip.shape(backbone.spec) for clip in clips]
            ends = [renderer.received_end(sample, shapes)]
        self.batch = streams(backbone, renderer, 1, received_ends=ends)
        if sample.memory:
            self.batch.remember([sample.memory])
        self.views: list[View] = []
        self.actions: list[Action] = []
        self.texts: list[str] = []
        self.held_visual = 0
        self.read_to: int | None = None
        self.times: list[float] = []

    def begin(self) -> None:
        self.gpu = self.checkpoint.backbone.device.type == "cuda"
        if self.gpu:
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
        self.origin = self.clock()

    def now(self) -> float:
        if self.gpu:
            torch.cuda.synchronize()
        return self.clock() - self.origin

    def encode(self, i: int) -> None:
        clip, started = self.clips[i], self.now()
        self.views += encode_clips(
            self.checkpoint.backbone, [(clip.segment, clip.images, clip.times)], self.checkpoint.contract.fps
        )
        self.actions.append(Action("encode", i, started, self.now(), frames=len(clip.images)))

    def read(self, i: int) -> None:
        started = self.now()
        self.batch.watch([self.views[i]])
        self.actions.append(Action("read", i, started, self.now()))
        self.read_to = i
        self.held_visual += self._visual(i)

    def think(self, i: int) -> None:
        limit = self.limits[0]
        inner: Sampler = greedy
        if self.given is not None:
            ids = self.checkpoint.renderer.drawn(self.given[i])
            limit, inner = len(ids) + 1, forced([ids], self.checkpoint.renderer.boundary)
        self.texts.append(self._say("thought", i, inner, lambda: self.batch.think([True], limit)).text)

    def ask(self, poll: Poll, arrival: float, arrivals: Sequence[float], pacing: Pacing) -> QueryCost:
        recurrent = self.batch.recurrent
        held = sum(self.batch.cache.lengths())
        visual: int | None = self.held_visual
        if recurrent:
            visual = self._visual(self.read_to) if self.read_to is not None else 0
        elif getattr(self.batch, "policy", None) is not None:
            visual = None
        done = list(self.actions)
        last = -1 if self.read_to is None else self.read_to
        query = poll.query
        said = self._say("answer", last, greedy, lambda: self.batch.ask([query], self.limits[1]), query=query.id)
        answer = self.actions[-1]
        first, final = answer.tokens[0], answer.tokens[-1]
        before = [a for a in done if a.kind != "answer"]
        thought = [at for a in done if a.kind == "thought" for at in a.tokens]
        unread = [
            i
            for i, at in enumerate(arrivals)
            if at <= arrival and not any(_done_by(a, "read", i, arrival) for a in done)
        ]
        after = sum(at > arrival for at in thought)
        observed = pacing == "wall_clock"
        return QueryCost(
            sample=self.sample.id,
            query=query.id,
            time=poll.time,
            arrival=arrival,
            last_frame=self.clips[self.read_to].times[-1] if self.read_to is not None else None,
            backlog_segments=len(unread) if observed else None,
            backlog_thought_tokens=after if observed else None,
            waited=answer.started - arrival,
            encode=sum(_within(a, arrival, answer.started) for a in done if a.kind == "encode"),
            prefill=first - answer.started,
            first_token=first - arrival,
            per_token=(final - first) / (len(answer.tokens) - 1) if len(answer.tokens) > 1 else None,
            complete=final - arrival,
            thought_tokens_before=sum(at <= arrival for at in thought),
            thought_tokens_after=after,
            answer_tokens=len(answer.tokens),
            kv_tokens=held,
            visual_tokens=visual,
            compute_before=sum(_within(a, 0.0, arrival) for a in before),
            compute_after=sum(_within(a, arrival, final) for a in [*done, answer]),
            gpu_peak_bytes=torch.cuda.max_memory_allocated() if self.gpu else None,
            text=said.text,
        )

    def _say(
        self,
        kind: Kind,
        segment: int,
        inner: Sampler,
        write: Callable[[], Sequence[Generated | None]],
        query: str | None = None,
    ) -> Generated:
        """Write a turn with a sampler that notes when each token is known."""
        times: list[float] = []

        def sampler(scores: torch.Tensor, active: Sequence[bool]) -> Sequence[int]:
            chosen = inner(scores, active)
            times.append(self.now())
            return chosen

        self.batch.sampler, started = sampler, self.now()
        (said,) = write()
        assert said is not None
        self.actions.append(Action(kind, segment, started, self.now(), tuple(times), query=query))
        return said

    def _visual(self, i: int) -> int:
        return self.checkpoint.backbone.spec.merged(self.views[i].shape).tokens


def _done_by(action: Action, kind: Kind, segment: int, clock: float) -> bool:
    return action.kind == kind and action.segment == segment and action.ended <= clock


def _within(action: Action, start: float, end: float) -> float:
    """Seconds of an action that lie in [start, end]."""
    return max(0.0, min(action.ended, end) - max(action.started, start))


def summary(ledgers: Sequence[Ledger]) -> dict[str, Any]:
    """Of each figure of all queries: n, missing (None), mean, median, p90, p99, max; and what each encloses.

    The ledgers must be of one pacing and one order: what they measure differs.
    """
    ways = {(ledger.pacing, ledger.order, ledger.speed) for ledger in ledgers}
    if len(ways) != 1:
        raise EvaluationError(
            f"ledgers of {len(ways)} ways (pacing, order, speed): {sorted(map(str, ways))}; sum up each alone"
        )
    ((pacing, order, speed),) = ways
    queries = [query for ledger in ledgers for query in ledger.queries]
    names = [f.name for f in fields(QueryCost) if f.name not in ("sample", "query", "text", "time", "arrival")]
    return {
        "source": "measured",
        "pacing": pacing,
        "order": order,
        "speed": speed,
        "samples": len(ledgers),
        "queries": len(queries),
        "figures": {name: distribution([getattr(query, name) for query in queries]) for name in names},
        "encloses": dict(ENCLOSES),
        "seconds": {kind: _total(ledgers, kind) for kind in ("encode", "read", "thought", "answer")},
    }


def _total(ledgers: Sequence[Ledger], kind: str) -> float:
    return float(sum(a.seconds for ledger in ledgers for a in ledger.actions if a.kind == kind))


def distribution(values: Sequence[float | int | None]) -> dict[str, float | int | None]:
    """n, missing, mean, median, p90, p99, max; the figures are None where there is no value."""
    known = np.array([value for value in values if value is not None], dtype=float)
    counts: dict[str, float | int | None] = {"n": len(known), "missing": len(values) - len(known)}
    if not len(known):
        return counts | dict.fromkeys(("mean", "median", "p90", "p99", "max"))
    p90, p99 = np.quantile(known, [0.9, 0.99])
    figures = {"mean": known.mean(), "median": np.median(known), "p90": p90, "p99": p99, "max": known.max()}
    return counts | {name: float(value) for name, value in figures.items()}
