"""Watching samples as streams, many in step: segment by segment, a thought each, then what is asked at that moment.

Evaluation and rollouts call this one loop. The order inside a step: the segment arrives, the thought about it is
written, queries are put. A stream that has no part in a step waits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

from whilst.clips import View
from whilst.episode import Poll, Turn, polls
from whilst.render import Renderer
from whilst.runtime import Generated, StreamBatch
from whilst.sample import Query, Sample

# (the batch, ordinal of the segment that has arrived, which streams saw one) -> the thoughts
Think = Callable[[StreamBatch, int, Sequence[bool]], Sequence[Generated | None]]
# called right before queries are put; may change the text memory, which is put back afterwards
BeforeAsking = Callable[[StreamBatch], None]
Role = Literal["thought", "answer"]
# stream -> log-probs of the tokens of its last turn, the boundary token included
LogProbs = Callable[[int], tuple[float, ...]]


def received_ends(renderer: Renderer, samples: Sequence[Sample], views: Sequence[Sequence[View]]) -> list[int] | None:
    """What scheme `batch` must know beforehand (the whole stream is known), else None."""
    if renderer.config.scheme != "batch":
        return None
    return [renderer.received_end(s, [v.shape for v in view]) for s, view in zip(samples, views, strict=True)]


def watch_samples(
    streams: StreamBatch,
    samples: Sequence[Sample],
    views: Sequence[Sequence[View]],
    *,
    think: Think | None,
    answer_tokens: int,
    before_asking: BeforeAsking | None = None,
    logprobs: LogProbs | None = None,
) -> list[list[Turn]]:
    """The turns of each sample, whose i-th segment shows views[i]. `streams` is fresh and has one stream a sample.

    think: writes the thoughts about a segment; None: none are written. answer_tokens: most tokens of a reply.
    """
    if any(sample.memory for sample in samples):
        streams.remember([sample.memory or None for sample in samples])
    kept = streams.renderer.config.queries == "kept"
    turns: list[list[Turn]] = [[] for _ in samples]
    asked = [polls(sample) for sample in samples]
    heard: list[set[str]] = [set() for _ in samples]
    record = _Recorder(turns, logprobs)
    for step in range(max(len(of_sample) for of_sample in asked)):
        arriving = [view[step - 1] if 0 < step <= len(view) else None for view in views]
        if step:
            streams.watch(arriving)
            if think is not None:
                record.thoughts(arriving, think(streams, step - 1, [view is not None for view in arriving]), step)
        due = [of_sample[step] if step < len(of_sample) else [] for of_sample in asked]
        if not any(due):
            continue
        entries = streams.memory_entries() if before_asking else None
        if before_asking:
            before_asking(streams)
        for i in range(max(len(d) for d in due)):
            now = [d[i] if i < len(d) else None for d in due]
            if kept:
                streams.hear([_new(poll, known) for poll, known in zip(now, heard, strict=True)])
                answers = streams.respond([poll is not None for poll in now], answer_tokens)
            else:
                answers = streams.ask([poll.query if poll else None for poll in now], answer_tokens)
            record.answers(now, answers, step)
        if entries is not None:
            streams.replace_memory(entries)
    return turns


def _new(poll: Poll | None, heard: set[str]) -> Query | None:
    """The query of a poll, the first time that it is put."""
    if poll is None or poll.query.id in heard:
        return None
    heard.add(poll.query.id)
    return poll.query


class _Recorder:
    """Turns as they are written."""

    def __init__(self, turns: list[list[Turn]], logprobs: LogProbs | None) -> None:
        self.turns, self.logprobs = turns, logprobs

    def thoughts(self, arriving: Sequence[View | None], said: Sequence[Generated | None], step: int) -> None:
        for b, (view, thought) in enumerate(zip(arriving, said, strict=True)):
            if view is not None and thought is not None:
                self._add(b, "thought", view.segment.end, None, thought, step)

    def answers(self, now: Sequence[Poll | None], said: Sequence[Generated | None], step: int) -> None:
        for b, (poll, answer) in enumerate(zip(now, said, strict=True)):
            if poll is not None and answer is not None:
                self._add(b, "answer", poll.time, poll.query.id, answer, step)

    def _add(self, b: int, role: Role, time: float, query: str | None, said: Generated, step: int) -> None:
        numbers = self.logprobs(b) if self.logprobs else ()
        self.turns[b].append(Turn(role, time, step - 1, query, said.text, said.ids, said.finished, numbers))
