"""The teacher-forced metrics of LIVE (VideoLLM-online, arXiv 2406.11816): LM-PPL, LM-Correctness, TimeDiff, Fluency.

The model is shown the sample's own history, never its own words: these figures say how likely the annotated dialogue
is, not what the model would do alone, and are never pooled with those of `evaluation.proactive`. A *turn* is a run of
frames at which the sample is silent, the last of which is the one at which it speaks, and what it says there. In Whilst
a frame is a moment at which the model may speak (a segment has arrived), silence is the boundary token written first
(or, with `render.silence: implicit`, the boundary token as what follows the segment).

    turns = live_turns(checkpoint, sample, clips, about="q0")        # one forward stream, and one for late turns
    scores = live_scores(turns, fps=frames_per_second(sample))       # of this sample
    for name, figure in live_figures([scores]).items(): ...

The arithmetic is that of `stream_evaluate` as released, its favours included: a turn that is silent although the model
should have spoken counts as exactly on time where no further frame can be tried (the last turn, a turn of one frame).
`untried` says how many turns that were.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch

from evaluation.proactive import Figure, Track
from whilst.checkpoint import Checkpoint
from whilst.clips import SegmentClip, View
from whilst.runtime import StreamBatch, encode_clips
from whilst.sample import Answer, Event, Query, Sample, Segment, Silence, Thought
from whilst.sampling import forced
from whilst.watching import received_ends

Outcome = Literal["on_time", "early", "late", "never", "untried"]
TRACK: Track = "teacher_forced"


class LiveError(ValueError):
    """Turns or samples that cannot be scored so; names them and the fix."""


class Frame(NamedTuple):
    """A moment at which the model may speak: its probability of silence, and whether silence is the likeliest token."""

    silence: float
    likeliest: bool


@dataclass(frozen=True)
class LiveTurn:
    """What a model makes of one turn under teacher forcing.

    frames: the n_v moments of the turn, the last being when it should speak. losses (nats) and right (argmax) are of
    the n_lm tokens it should say, boundary token included, given that it speaks. next_frames: moments of the next turn,
    None for the last one. after: the next moments if it stays silent; needed where it never speaks in `frames`.
    """

    frames: tuple[Frame, ...]
    losses: tuple[float, ...]
    right: tuple[bool, ...]
    next_frames: int | None = None
    after: tuple[Frame, ...] = ()


# ---- Arithmetic.


def speaks(frame: Frame, threshold: float = 0.0) -> bool:
    """Whether it speaks: silence is not the likeliest token, or less likely than `threshold` (LIVE's evaluation: 0; its
    demo: 0.725)."""
    return not frame.likeliest or frame.silence < threshold


def trials(frames: int, next_frames: int | None) -> int:
    """How many further frames a turn that never spoke is tried on: as many as the next turn has, at most n_v - 1 (as
    far to the right as to the left), none after the last turn."""
    return 0 if next_frames is None else min(next_frames, frames - 1)


def frame_diff(turn: LiveTurn, threshold: float = 0.0) -> tuple[int, Outcome]:
    """Frames between when it speaks and when it should: above 0 early, below 0 late.

    First speaks at frame i of n_v: n_v - i - 1. Never, then at the j-th further frame: -(j + 1). Not at any of N tried
    either: -N. No frame to try: 0.
    """
    first = next((i for i, frame in enumerate(turn.frames) if speaks(frame, threshold)), None)
    if first is not None:
        early = len(turn.frames) - first - 1
        return early, "early" if early else "on_time"
    tried = trials(len(turn.frames), turn.next_frames)
    if tried == 0:
        return 0, "untried"
    if len(turn.after) < tried:
        raise LiveError(f"a turn is silent throughout, but {len(turn.after)} of {tried} further frames were measured")
    late = next((j for j, frame in enumerate(turn.after[:tried]) if speaks(frame, threshold)), None)
    return (-tried, "never") if late is None else (-(late + 1), "late")


def perplexity(losses: Sequence[float]) -> float:
    """LM-PPL of a turn: exp of the mean loss (nats) of its tokens."""
    return math.exp(sum(losses) / len(losses))


def prefix_right(right: Sequence[bool]) -> int:
    """Tokens before the first that is not the likeliest."""
    return next((i for i, ok in enumerate(right) if not ok), len(right))


def fluency(frames: int, tokens: int, right: int, diff: int) -> float:
    """Share of the n_v frames and n_lm tokens of a turn that go well: on time (n_v + right) / (n_v + n_lm), early
    (n_v - diff) / ..., late (n_v - 1) / ...; right: `prefix_right`."""
    good = frames + right if diff == 0 else frames - diff if diff > 0 else frames - 1
    return good / (frames + tokens)


@dataclass(frozen=True)
class LiveScores:
    """Means over the turns of one sample. frame_diff: of |frames|; time_diff: that / fps, in seconds. shares: of turns,
    by outcome."""

    lm_ppl: float
    lm_correctness: float
    frame_diff: float
    time_diff: float
    fluency: float
    turns: int
    shares: Mapping[Outcome, float]


def live_scores(turns: Sequence[LiveTurn], fps: float, threshold: float = 0.0) -> LiveScores:
    """The metrics of one sample's turns. fps: frames (moments at which it may speak) a second."""
    if not turns or any(not turn.frames or not turn.losses for turn in turns):
        raise LiveError("no turn, or one without frames or tokens: nothing to measure; leave the sample out")
    if any(len(turn.losses) != len(turn.right) for turn in turns) or fps <= 0:
        raise LiveError(f"every token needs a loss and a verdict, and fps must be above 0, not {fps}")
    diffs = [frame_diff(turn, threshold) for turn in turns]
    count = len(turns)
    flow = [
        fluency(len(turn.frames), len(turn.losses), prefix_right(turn.right), diff)
        for turn, (diff, _) in zip(turns, diffs, strict=True)
    ]
    off = sum(abs(diff) for diff, _ in diffs) / count
    outcomes: tuple[Outcome, ...] = ("on_time", "early", "late", "never", "untried")
    return LiveScores(
        lm_ppl=sum(perplexity(turn.losses) for turn in turns) / count,
        lm_correctness=sum(prefix_right(turn.right) / len(turn.right) for turn in turns) / count,
        frame_diff=off,
        time_diff=off / fps,
        fluency=sum(flow) / count,
        turns=count,
        shares={name: sum(outcome == name for _, outcome in diffs) / count for name in outcomes},
    )


def live_figures(scores: Sequence[LiveScores]) -> dict[str, Figure]:
    """Means over samples, as published (every sample weighs the same, however many turns it has); {} for no samples."""
    if not scores:
        return {}
    where = (
        f"mean over the turns of a sample, then over {len(scores)} samples; track {TRACK} (the sample's own history)"
    )

    def figure(name: str, what: str) -> Figure:
        return Figure(sum(getattr(one, name) for one in scores) / len(scores), f"{what}; {where}")

    out = {
        "lm_ppl": figure("lm_ppl", "exp of the mean loss of a turn's tokens, boundary token included"),
        "lm_correctness": figure(
            "lm_correctness", "tokens before the first that is not the likeliest / tokens of the turn"
        ),
        "time_diff": figure("time_diff", "|frames between speaking and when it should| / frames a second, in s"),
        "fluency": figure("fluency", "frames and tokens of a turn that go well / all of them"),
    }
    for outcome in scores[0].shares:
        share = sum(one.shares[outcome] for one in scores) / len(scores)
        out[f"share_{outcome}"] = Figure(
            share, f"share of turns whose first word is {outcome.replace('_', ' ')}; {where}"
        )
    return out


# ---- The arrays of a checkpoint: its streams, fed with the sample's own words.


class _Recorder:
    """Writes given texts on each row, and notes what the model would have written."""

    def __init__(self, texts: Sequence[Sequence[int] | None], boundary: int, *, implicit: bool) -> None:
        self.write, self.boundary, self.implicit = forced(texts, boundary), boundary, implicit
        self.frames: list[Frame | None] = [None] * len(texts)
        self.losses: list[list[float]] = [[] for _ in texts]
        self.right: list[list[bool]] = [[] for _ in texts]

    def __call__(self, scores: torch.Tensor, active: Sequence[bool]) -> Sequence[int]:
        chosen = self.write(scores, active)
        for b, wanted in enumerate(active):
            if not wanted:
                continue
            row = scores[b].double()
            if self.frames[b] is None:  # whether to speak; then, given that it speaks, what to say
                silence = float(torch.log_softmax(row, -1)[self.boundary].exp())
                self.frames[b] = Frame(silence, int(row.argmax()) == self.boundary)
                if chosen[b] == self.boundary or self.implicit:  # implicit: what is said comes after the decision
                    continue
                row = row.clone()
                row[self.boundary] = -torch.inf
            self.losses[b].append(-float(torch.log_softmax(row, -1)[chosen[b]]))
            self.right[b].append(int(row.argmax()) == chosen[b])
        return chosen


@dataclass(frozen=True)
class _Row:
    """One stream: the sample's events up to the one with index `stop`; what is measured is silent from `quiet` on."""

    stop: int
    quiet: int


def _measured(event: Event, about: str | None) -> bool:
    if about is None:
        return isinstance(event, Thought) or (isinstance(event, Silence) and event.query is None)
    return isinstance(event, (Answer, Silence)) and event.query == about


def _play(
    checkpoint: Checkpoint, sample: Sample, views: Sequence[View], about: str | None, rows: Sequence[_Row]
) -> list[_Recorder | None]:
    """What the streams note at each event of the sample; None where nothing is generated about `about`."""
    renderer = checkpoint.renderer
    kept = renderer.config.queries == "kept"
    size = len(rows)
    streams = StreamBatch(
        checkpoint.backbone, renderer, size, received_ends=received_ends(renderer, [sample] * size, [views] * size)
    )
    if sample.memory:
        streams.remember([sample.memory] * size)
    queries = {query.id: query for query in sample.queries()}
    arriving = iter(views)
    noted: list[_Recorder | None] = []
    for i, event in enumerate(sample.events):
        noted.append(None)
        playing = [i <= row.stop for row in rows]
        if isinstance(event, Segment):
            view = next(arriving)
            streams.watch([view if on else None for on in playing])
            continue
        if isinstance(event, Query):
            if kept:
                streams.hear([event if on else None for on in playing])
            continue
        measured = _measured(event, about)
        thought = isinstance(event, Thought) or (isinstance(event, Silence) and event.query is None)
        if not any(playing) or (thought and not checkpoint.contract.thinks) or not (thought or kept or measured):
            continue  # what is said on a branch about another query leaves no trace
        gold = renderer.drawn("" if isinstance(event, Silence) else event.text)
        ids = [
            (() if measured and i >= row.quiet else gold) if on else None for row, on in zip(rows, playing, strict=True)
        ]
        recorder = _Recorder(ids, renderer.boundary, implicit=renderer.implicit)
        streams.sampler = recorder
        limit = len(gold) + 1
        if thought:
            streams.think(playing, limit)
        elif kept:
            streams.respond(playing, limit)
        else:
            streams.ask([queries[str(about)] if on else None for on in playing], limit)
        if measured:
            noted[-1] = recorder
    return noted


def live_turns(
    checkpoint: Checkpoint, sample: Sample, clips: Sequence[SegmentClip], about: str | None
) -> list[LiveTurn]:
    """The turns of a sample (whose i-th segment shows clips[i]) under teacher forcing.

    about: id of the standing query whose answers and silences are measured; None: the thoughts. One stream follows the
    sample; turns in which the model never speaks are then played again, one stream each in step, silent from the moment
    at which it should speak and through the next turn's moments. Frames after the last reply belong to no turn.
    """
    if about is None and not checkpoint.contract.thinks:
        raise LiveError(f"{sample.id}: this checkpoint writes no thoughts; measure a standing query: about=ID")
    spans = turn_spans(sample, about)
    views = encode_clips(checkpoint.backbone, [(c.segment, c.images, c.times) for c in clips], checkpoint.contract.fps)
    last = len(sample.events) - 1
    gold = _play(checkpoint, sample, views, about, [_Row(last, last + 1)])
    frames = [[_frame(gold[i], 0) for i in span] for span in spans]
    late = {
        t: (span[-1], spans[t + 1][: trials(len(span), len(spans[t + 1]))])
        for t, span in enumerate(spans[:-1])
        if not any(speaks(frame) for frame in frames[t])
    }
    late = {t: (quiet, tried) for t, (quiet, tried) in late.items() if tried}
    after: dict[int, tuple[Frame, ...]] = {}
    if late:
        again = _play(checkpoint, sample, views, about, [_Row(tried[-1], quiet) for quiet, tried in late.values()])
        for b, (t, (_, tried)) in enumerate(late.items()):
            after[t] = tuple(_frame(again[i], b) for i in tried)
    turns = []
    for t, span in enumerate(spans):
        said = gold[span[-1]]
        assert said is not None
        following = len(spans[t + 1]) if t + 1 < len(spans) else None
        turns.append(
            LiveTurn(tuple(frames[t]), tuple(said.losses[0]), tuple(said.right[0]), following, after.get(t, ()))
        )
    return turns


def _frame(recorder: _Recorder | None, row: int) -> Frame:
    found = recorder.frames[row] if recorder is not None else None
    assert found is not None
    return found


def turn_spans(sample: Sample, about: str | None) -> list[list[int]]:
    """Indices of the events of each turn: its silences, and what ends it. Raises LiveError where nothing is said."""
    spans: list[list[int]] = []
    open_turn: list[int] = []
    for i, event in enumerate(sample.events):
        if _measured(event, about):
            open_turn.append(i)
            if not isinstance(event, Silence):
                spans.append(open_turn)
                open_turn = []
    if not spans:
        what = "thought" if about is None else f"answer to {about!r}"
        raise LiveError(f"{sample.id}: no {what} in this sample, so no turn to measure; name another query")
    return spans


def frames_per_second(sample: Sample) -> float:
    """Moments at which the model may speak, a second: segments / the seconds they cover."""
    segments = sample.segments()
    if not segments:
        raise LiveError(f"{sample.id}: no segments; cut the sample first")
    return len(segments) / sum(segment.end - segment.start for segment in segments)
