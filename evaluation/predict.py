"""Samples -> what a checkpoint thinks and replies when it watches them as streams.

Streams run in step, `batch` at a time, through the same StreamBatch as a live session. A standing query is asked again
at every time at which its sample lists a silence or an answer; the model may stay silent.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random

import torch

from whilst.checkpoint import Checkpoint
from whilst.clips import SegmentClip
from whilst.progress import progress
from whilst.runtime import Sampler, StreamBatch, encode_clips, forced, greedy
from whilst.sample import Answer, Query, Sample, Segment, Silence


class EvaluationError(ValueError):
    """Samples, arms or controls that cannot be evaluated as asked; names them and the fix."""


# called with the batch and its samples right before queries are asked; may change the text memory
BeforeAsking = Callable[[StreamBatch], None]


@dataclass(frozen=True)
class Reply:
    """One reply (or silence: empty text) to a query at a time (s). finished: not cut by the token limit."""

    query: str
    time: float
    text: str
    finished: bool


@dataclass
class Episode:
    """What happened on one sample: thoughts (time, text, finished) and replies, in order."""

    sample: str
    thoughts: list[tuple[float, str, bool]] = field(default_factory=list)
    replies: list[Reply] = field(default_factory=list)


@dataclass(frozen=True)
class Poll:
    """A moment at which a query is put to the model."""

    query: Query
    time: float


def polls(sample: Sample) -> list[list[Poll]]:
    """Polls by segment: entry i + 1 holds those after segment i has arrived, entry 0 those before any."""
    steps: list[list[Poll]] = [[]]
    queries: dict[str, Query] = {}
    for event in sample.events:
        if isinstance(event, Segment):
            steps.append([])
        elif isinstance(event, Query):
            queries[event.id] = event
        elif isinstance(event, Answer) or (isinstance(event, Silence) and event.query is not None):
            steps[-1].append(Poll(queries[str(event.query)], event.time))
    return steps


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
            names = [sample.id for sample in samples[part]]
            sampler = drawn(names, temperature, seed) if temperature else greedy
            episodes += _watch(
                checkpoint, samples[part], clips[part], thought_tokens, answer_tokens, before_asking, given, sampler
            )
            advance(len(samples[part]))
    return episodes


def drawn(names: Sequence[str], temperature: float, seed: int) -> Sampler:
    """Draws a token on each row, by the row's name and what it has drawn before: not by the rows beside it."""
    chances = [Random(f"{seed}/{name}") for name in names]

    def sampler(scores: torch.Tensor, active: Sequence[bool]) -> Sequence[int]:
        shares = torch.softmax(scores.double() / temperature, -1).cumsum(-1)
        marks = [[chance.random() if wanted else 0.0] for chance, wanted in zip(chances, active, strict=True)]
        # right: a token of share 0 is never taken, even at a mark of 0
        tokens = torch.searchsorted(shares, torch.tensor(marks, dtype=shares.dtype), right=True)[:, 0]
        return [min(int(token), scores.shape[1] - 1) for token in tokens]

    return sampler


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
    ends = None
    if renderer.config.scheme == "batch":  # offline positions: the whole stream is known
        ends = [renderer.received_end(s, [v.shape for v in view]) for s, view in zip(samples, views, strict=True)]
    streams = StreamBatch(backbone, renderer, len(samples), received_ends=ends)
    if any(sample.memory for sample in samples):
        streams.remember([sample.memory or None for sample in samples])
    episodes = [Episode(sample.id) for sample in samples]
    asked = [polls(sample) for sample in samples]
    steps = max(len(of_sample) for of_sample in asked)
    for step in range(steps):
        arriving = [view[step - 1] if 0 < step <= len(view) else None for view in views]
        if step:
            streams.watch(arriving)
            if checkpoint.contract.thinks:
                limit, streams.sampler = thought_tokens, sampler
                if given is not None:
                    ids = [renderer.encode(t[step - 1]) if v else None for t, v in zip(given, arriving, strict=True)]
                    limit = max(len(of_row) + 1 for of_row in ids if of_row is not None)
                    streams.sampler = forced(ids, renderer.boundary)
                thoughts = streams.think([view is not None for view in arriving], limit)
                streams.sampler = greedy
                for episode, view, thought in zip(episodes, arriving, thoughts, strict=True):
                    if view is not None and thought is not None:
                        episode.thoughts.append((view.segment.end, thought.text, thought.finished))
        due = [of_sample[step] if step < len(of_sample) else [] for of_sample in asked]
        if not any(due):
            continue
        kept = streams.memory_entries() if before_asking else None
        if before_asking:
            before_asking(streams)
        for i in range(max(len(d) for d in due)):
            now = [d[i] if i < len(d) else None for d in due]
            answers = streams.ask([poll.query if poll else None for poll in now], answer_tokens)
            for episode, poll, answer in zip(episodes, now, answers, strict=True):
                if poll is not None and answer is not None:
                    episode.replies.append(Reply(poll.query.id, poll.time, answer.text, answer.finished))
        if kept is not None:
            streams.replace_memory(kept)
    return episodes
