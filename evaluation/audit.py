"""Causality audit: is everything that was said up to a time t independent of what came after it?

A sample is watched whole. Then, for several times t, it is watched again with its future changed, and every output up
to t is compared: text, token ids, and the scores of each turn's first token, bit by bit. Any difference is a leak.

| future | what is changed |
|---|---|
| frames | pixels of every clip that arrives after t are noise; texts of later events and what earlier queries say of |
| | later times (window, evidence, knowable_at) are others, and so is `meta`. Spans and shapes stay |
| end | the stream ends at t: no later clip, query or poll, another `video.end`. What knows how long it will be shows |

Every stream runs alone (a batch of one), so up to t the same forwards of the same shapes are made and bitwise equality
is the right demand: in a batch, what other streams do after their times changes the shapes of everybody's forwards, and
so the rounding. For the same reason `frames` encodes all clips in one call, as evaluation does (a tower that looks
across clips shows), and `end` encodes each clip on its own, as a live stream does: one call over fewer clips may round
differently. Each is compared with a whole run that was encoded in the same way.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import numpy as np
import torch

from evaluation.predict import EvaluationError, predict
from whilst.backbones.base import Backbone
from whilst.checkpoint import Checkpoint
from whilst.clips import SegmentClip, View
from whilst.runtime import Generated, StreamBatch, encode_clips
from whilst.sample import Answer, Event, Query, Sample, Segment, Thought, Video
from whilst.sampling import Sampler, Sampling, greedy
from whilst.watching import received_ends, watch_samples

Future = Literal["frames", "end"]
FUTURES: tuple[Future, ...] = ("frames", "end")
Encode = Callable[[Backbone, Sequence[tuple[Segment, np.ndarray, Sequence[float]]], float], list[View]]


class CausalityError(EvaluationError):
    """Something that was said depends on what came later."""


@dataclass(frozen=True)
class Output:
    """One turn: a thought (query None) or a reply at `time` (s). ids: its tokens, where they are known; scores: those
    that its first token was chosen from, as bytes, where they are known."""

    time: float
    query: str | None
    text: str
    finished: bool
    ids: tuple[int, ...] | None = None
    scores: bytes | None = None


# (checkpoint, sample, its clips, what future this is) -> all its outputs in order
Watch = Callable[[Checkpoint, Sample, Sequence[SegmentClip], Future], list[Output]]


@dataclass(frozen=True)
class Leak:
    """An output at or before `cut` (s) that another future changed. differs: "text", "token ids", "scores", ..."""

    sample: str
    cut: float
    future: Future
    turn: int
    time: float
    query: str | None
    differs: str
    before: str
    after: str

    def __str__(self) -> str:
        what = "the thought" if self.query is None else f"the reply to {self.query!r}"
        return (
            f"sample {self.sample}: {what} at {self.time:g} s (turn {self.turn}) depends on what comes after "
            f"{self.cut:g} s (future {self.future!r}; {self.differs} differ): {self.before!r} became {self.after!r}"
        )


@dataclass(frozen=True)
class Audit:
    """samples, runs (changed futures), compared outputs; moved: runs of future `frames` whose later outputs changed, so
    that the change is known to matter; skipped: samples with fewer than two moments, which have no future."""

    samples: int
    runs: int
    compared: int
    moved: int
    leaks: tuple[Leak, ...]
    skipped: tuple[str, ...]

    def record(self) -> dict[str, Any]:
        """As a JSON object."""
        plain = {"samples": self.samples, "runs": self.runs, "compared": self.compared, "moved": self.moved}
        leaks = [vars(leak) | {"message": str(leak)} for leak in self.leaks]
        return plain | {"causal": not self.leaks, "leaks": leaks, "skipped": list(self.skipped)}


def audit(
    checkpoint: Checkpoint,
    samples: Sequence[Sample],
    clips: Sequence[Sequence[SegmentClip]],
    *,
    watch: Watch,
    cuts: int = 3,
    seed: int = 0,
    futures: Sequence[Future] = FUTURES,
) -> Audit:
    """Compare what was said before each of `cuts` times a sample, drawn by `seed` and the sample's id.

    watch: `streamed` (texts, ids and scores) or `predicted` (texts, through `predict`), with their arguments bound.
    """
    leaks: list[Leak] = []
    skipped: list[str] = []
    runs = compared = moved = 0
    for sample, of_sample in zip(samples, clips, strict=True):
        whole = {future: watch(checkpoint, sample, of_sample, future) for future in futures}
        times = sorted({output.time for outputs in whole.values() for output in outputs})
        if len(times) < 2:
            skipped.append(sample.id)
            continue
        rng = random.Random(f"{seed}/{sample.id}")
        for cut in sorted(rng.sample(times[:-1], min(cuts, len(times) - 1))):
            for future in futures:
                changed, shown = change(sample, of_sample, cut, future, rng.randrange(2**32))
                seen = watch(checkpoint, changed, shown, future)
                found, n, later = compare(sample.id, cut, future, whole[future], seen)
                leaks += found
                runs, compared, moved = runs + 1, compared + n, moved + (later and future == "frames")
    return Audit(len(samples) - len(skipped), runs, compared, moved, tuple(leaks), tuple(skipped))


def require_causal(found: Audit) -> None:
    """Raise CausalityError with the first leaks, or where nothing was compared."""
    if found.leaks:
        shown = "; ".join(str(leak) for leak in found.leaks[:3])
        more = f" (and {len(found.leaks) - 3} more)" if len(found.leaks) > 3 else ""
        raise CausalityError(f"{shown}{more}")
    if not found.compared:
        raise CausalityError("nothing was compared: no sample says anything before its last moment")


def compare(
    sample: str, cut: float, future: Future, whole: Sequence[Output], changed: Sequence[Output]
) -> tuple[list[Leak], int, bool]:
    """Leaks, how many outputs up to `cut` were compared, and whether any later output differs."""
    before = [output for output in whole if output.time <= cut]
    after = [output for output in changed if output.time <= cut]
    leaks = []
    for turn in range(max(len(before), len(after))):
        one = before[turn] if turn < len(before) else None
        other = after[turn] if turn < len(after) else None
        differs = _difference(one, other)
        if differs:
            at = one or other
            assert at is not None
            texts = (one.text if one else "(nothing)", other.text if other else "(nothing)")
            leaks.append(Leak(sample, cut, future, turn, at.time, at.query, differs, *texts))
    return leaks, len(before), list(whole[len(before) :]) != list(changed[len(after) :])


def _difference(one: Output | None, other: Output | None) -> str:
    if one is None or other is None:
        return "the turns themselves"
    if (one.time, one.query) != (other.time, other.query):
        return "time or query"
    names = {"text": "texts", "finished": "ends", "ids": "token ids", "scores": "scores of the first token"}
    return next((said for name, said in names.items() if getattr(one, name) != getattr(other, name)), "")


# ---- Another future.


def change(
    sample: Sample, clips: Sequence[SegmentClip], cut: float, future: Future, seed: int
) -> tuple[Sample, list[SegmentClip]]:
    """The sample and its clips, changed in all that comes after `cut` (s) and in nothing else."""
    last = max((i for i, event in enumerate(sample.events) if event.time <= cut), default=-1)
    past, later = sample.events[: last + 1], sample.events[last + 1 :]
    kept = [clip for clip in clips if clip.segment.end <= cut]
    past_changed = [_forget_future(event, cut) for event in past]
    if future == "end":
        ended = replace(sample.video, end=cut if cut > sample.video.start else sample.video.end)
        return replace(sample, video=ended, events=tuple(past_changed), meta={"audit": "end"}), kept
    rng = np.random.default_rng(seed)
    noise = [
        replace(clip, images=rng.integers(0, 256, clip.images.shape).astype(clip.images.dtype))
        for clip in clips[len(kept) :]
    ]
    events = (*past_changed, *(_other_text(event) for event in later))
    video = Video(sample.video.path, sample.video.start, sample.video.end)
    return replace(sample, video=video, events=events, meta={"audit": "frames"}), [*kept, *noise]


def _forget_future(event: Event, cut: float) -> Event:
    """A past event without what was written into it about the future. The model is shown none of that."""
    if not isinstance(event, Query):
        return event
    window = event.window if event.window is None or event.window[1] <= cut else None
    evidence = tuple(span for span in event.evidence if span[1] <= cut)
    known = event.knowable_at if event.knowable_at is None or event.knowable_at <= cut else None
    return replace(event, window=window, evidence=evidence, knowable_at=known)


def _other_text(event: Event) -> Event:
    if isinstance(event, Query):
        return replace(event, text=event.text[::-1] + " ?", options=None)
    if isinstance(event, Thought | Answer):
        return replace(event, text=event.text[::-1] + " .")
    return event


# ---- Ways to watch.


def streamed(
    checkpoint: Checkpoint,
    sample: Sample,
    clips: Sequence[SegmentClip],
    future: Future,
    *,
    thought_tokens: int = 16,
    answer_tokens: int = 8,
    temperature: float = 0.0,
    seed: int = 0,
    streams: Callable[..., StreamBatch] = StreamBatch,
    encode: Encode = encode_clips,
) -> list[Output]:
    """One sample through a stream as evaluation does, with token ids and the scores of each turn's first token.

    streams: what makes the stream, e.g. partial(StreamBatch, policy=...). temperature: of thoughts, as in `predict`.
    """
    backbone, renderer, fps = checkpoint.backbone, checkpoint.renderer, checkpoint.contract.fps
    triples = [(clip.segment, clip.images, clip.times) for clip in clips]
    together = [triples] if future == "frames" else [[triple] for triple in triples]
    views = [view for part in together for view in encode(backbone, part, fps)]
    batch = streams(backbone, renderer, 1, received_ends=received_ends(renderer, [sample], [views]))
    draw: Sampler = Sampling([(seed, *sample.id.encode())], temperature) if temperature else greedy
    firsts = _FirstScores()

    def think(batch: StreamBatch, segment: int, rows: Sequence[bool]) -> Sequence[Generated | None]:
        batch.sampler = firsts.around(draw)
        thoughts = batch.think(rows, thought_tokens)
        batch.sampler = firsts.around(greedy)
        return thoughts

    batch.sampler = firsts.around(greedy)
    (turns,) = watch_samples(
        batch,
        [sample],
        [views],
        think=think if checkpoint.contract.thinks else None,
        answer_tokens=answer_tokens,
        logprobs=lambda _: firsts.close(),
    )
    return [
        Output(turn.time, turn.query, turn.text, turn.finished, turn.ids, scores)
        for turn, scores in zip(turns, firsts.of_turns, strict=True)
    ]


class _FirstScores:
    """Keeps the scores that the first token of each turn is chosen from."""

    def __init__(self) -> None:
        self.first: bytes | None = None
        self.of_turns: list[bytes | None] = []

    def around(self, inner: Sampler) -> Sampler:
        def sampler(scores: torch.Tensor, active: Sequence[bool]) -> Sequence[int]:
            if self.first is None:
                self.first = scores[0].cpu().numpy().tobytes()
            return inner(scores, active)

        return sampler

    def close(self) -> tuple[float, ...]:
        """A turn is over."""
        self.of_turns.append(self.first)
        self.first = None
        return ()


def predicted(
    checkpoint: Checkpoint, sample: Sample, clips: Sequence[SegmentClip], future: Future, **limits: Any
) -> list[Output]:
    """One sample through `predict`, alone: texts, no ids. limits: the keyword arguments of `predict`.

    `predict` encodes all clips of a sample in one call, so future `end` may round differently and change a text that
    was a near tie; use it with futures=("frames",).
    """
    (episode,) = predict(checkpoint, [sample], [clips], **{**limits, "batch": 1})
    thoughts = [(time, 0, Output(time, None, text, finished)) for time, text, finished in episode.thoughts]
    replies = [(r.time, 1, Output(r.time, r.query, r.text, r.finished)) for r in episode.replies]
    return [output for _, _, output in sorted(thoughts + replies, key=lambda item: item[:2])]


def audit_streams(
    checkpoint: Checkpoint,
    samples: Sequence[Sample],
    clips: Sequence[Sequence[SegmentClip]],
    *,
    cuts: int = 3,
    seed: int = 0,
    **limits: Any,
) -> Audit:
    """The audit that `whilst eval` makes of an arm: `streamed` under both futures. limits: those of `streamed`."""
    return audit(checkpoint, samples, clips, watch=partial(streamed, **limits), cuts=cuts, seed=seed)
