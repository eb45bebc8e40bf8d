"""Samples -> what a checkpoint thinks and replies when it watches them as streams.

Streams run in step, `batch` at a time, through the same StreamBatch as a live session. A standing query is asked again
at every time at which its sample lists a silence or an answer; the model may stay silent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from whilst.checkpoint import Checkpoint
from whilst.clips import SegmentClip
from whilst.episode import Turn
from whilst.progress import progress
from whilst.runtime import Generated, StreamBatch, encode_clips
from whilst.sample import Sample
from whilst.sampling import Sampler, Sampling, forced, greedy
from whilst.watching import BeforeAsking, received_ends, watch_samples


class EvaluationError(ValueError):
    """Samples, arms or controls that cannot be evaluated as asked; names them and the fix."""


@dataclass(frozen=True)
class Reply:
    """One reply (or silence: empty text) to a query at a time (s). finished: not cut by the token limit."""

    query: str
    time: float
    text: str
    finished: bool


@dataclass
class Episode:
    """What happened on one sample: thoughts (time, text, finished) and replies, in order; tokens that were written,
    boundary tokens included."""

    sample: str
    thoughts: list[tuple[float, str, bool]] = field(default_factory=list)
    replies: list[Reply] = field(default_factory=list)
    thought_tokens: int = 0
    answer_tokens: int = 0


def predict(
    checkpoint: Checkpoint,
    samples: Sequence[Sample],
    clips: Sequence[Sequence[SegmentClip]],
    *,
    batch: int = 64,
    thought_tokens: int = 16,
    answer_tokens: int = 8,
    before_asking: BeforeAsking | None = None,
    thoughts: Sequence[Sequence[str]] | None = None,
    temperature: float = 0.0,
    seed: int = 0,
) -> list[Episode]:
    """Episodes of `samples`, whose i-th one shows clips[i] (one a segment), in the same order.

    temperature: at which thoughts are drawn, by `seed` and the sample's id alone; 0: the likeliest token. Replies are
    always the likeliest. thoughts: texts that are written in place of the model's own, one a segment of each sample;
    they are written whole, and an empty one is silence.
    """
    episodes: list[Episode] = []
    with progress("watch", len(samples)) as advance:
        for start in range(0, len(samples), batch):
            part = slice(start, start + batch)
            given = thoughts[part] if thoughts is not None else None
            sampler: Sampler = greedy
            if temperature:
                sampler = Sampling([(seed, *sample.id.encode()) for sample in samples[part]], temperature)
            episodes += _watch(
                checkpoint, samples[part], clips[part], thought_tokens, answer_tokens, before_asking, given, sampler
            )
            advance(len(samples[part]))
    return episodes


def _watch(
    checkpoint: Checkpoint,
    samples: Sequence[Sample],
    clips: Sequence[Sequence[SegmentClip]],
    thought_tokens: int,
    answer_tokens: int,
    before_asking: BeforeAsking | None,
    given: Sequence[Sequence[str]] | None,
    sampler: Sampler,
) -> list[Episode]:
    backbone, renderer = checkpoint.backbone, checkpoint.renderer
    if renderer.config.queries == "kept":
        raise EvaluationError("evaluation asks every query on a branch of its own: set render.queries: branch")
    views = [
        encode_clips(backbone, [(c.segment, c.images, c.times) for c in of_sample], checkpoint.contract.fps)
        for of_sample in clips
    ]
    ends = received_ends(renderer, samples, views)
    streams = StreamBatch(backbone, renderer, len(samples), received_ends=ends, policy=checkpoint.policy)

    def think(batch: StreamBatch, segment: int, rows: Sequence[bool]) -> Sequence[Generated | None]:
        limit, batch.sampler = thought_tokens, sampler
        if given is not None:
            ids = [renderer.drawn(texts[segment]) if row else None for texts, row in zip(given, rows, strict=True)]
            limit = max(len(of_row) + 1 for of_row in ids if of_row is not None)
            batch.sampler = forced(ids, renderer.boundary)
        thoughts = batch.think(rows, limit)
        batch.sampler = greedy
        return thoughts

    try:
        turns = watch_samples(
            streams,
            samples,
            views,
            think=think if checkpoint.contract.thinks else None,
            answer_tokens=answer_tokens,
            before_asking=before_asking,
        )
    finally:
        streams.close()
    return [_episode(sample.id, of_sample) for sample, of_sample in zip(samples, turns, strict=True)]


def _episode(sample: str, turns: Sequence[Turn]) -> Episode:
    thoughts = [(turn.time, turn.text, turn.finished) for turn in turns if turn.query is None]
    replies = [Reply(turn.query, turn.time, turn.text, turn.finished) for turn in turns if turn.query is not None]
    tokens = [sum(turn.tokens for turn in turns if (turn.query is None) is thought) for thought in (True, False)]
    return Episode(sample, thoughts, replies, *tokens)
