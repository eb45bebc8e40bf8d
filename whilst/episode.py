"""Episodes: what a policy did when it watched one sample, turn by turn. Rewards, training and tables read these.

An episode is made once, by a policy (train/policies.py), and never changed. `lived` is the sample as the policy lived
it: the same segments and queries, with the policy's thoughts and replies in place of the sample's own.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

from whilst.sample import Answer, Event, Query, Sample, Segment, Silence, Thought


@dataclass(frozen=True)
class Turn:
    """One generation inside an episode: a thought about the segment that has just arrived, or a reply to a query.

    time: s on the clock of the video. segment: ordinal of the last segment that had arrived, -1 before any. query: id
    of the query that is replied to, None for a thought. text: without special tokens; empty is silence.
    ids: the sampled tokens without the boundary token; finished: the boundary token was sampled too, not cut off by the
    token limit. logprobs: of `ids` and, where finished, of the boundary token, under the distribution they were sampled
    from; empty where they were not recorded.
    """

    role: Literal["thought", "answer"]
    time: float
    segment: int
    query: str | None
    text: str
    ids: tuple[int, ...]
    finished: bool
    logprobs: tuple[float, ...] = ()

    @property
    def tokens(self) -> int:
        """Sampled tokens, the boundary token included."""
        return len(self.ids) + self.finished


@dataclass(frozen=True)
class Episode:
    """A rollout of a sample. rollout: its number within the group of the sample's rollouts.

    perturbation: what was changed about the sample before it was watched ("" for nothing; see rewards.base).
    """

    sample: Sample
    turns: tuple[Turn, ...]
    rollout: int = 0
    perturbation: str = ""

    @property
    def thoughts(self) -> tuple[Turn, ...]:
        return tuple(turn for turn in self.turns if turn.role == "thought")

    def replies_to(self, query_id: str) -> tuple[Turn, ...]:
        """The replies to a query in order of time, silences (empty texts) among them."""
        return tuple(turn for turn in self.turns if turn.query == query_id)

    @property
    def tokens(self) -> int:
        """Sampled tokens of all turns."""
        return sum(turn.tokens for turn in self.turns)

    def lived(self) -> Sample:
        """The sample with this episode's thoughts and replies; empty texts are silences."""
        return self.sample.with_events(self._events())

    def _events(self) -> Iterator[Event]:
        waiting = list(self.turns)
        asked: set[str] = set()
        queries = {query.id: query for query in self.sample.queries()}
        for ordinal, segment in enumerate([None, *self.sample.segments()], start=-1):
            if segment is not None:
                yield segment
            while waiting and waiting[0].segment == ordinal:
                turn = waiting.pop(0)
                if turn.query is not None and turn.query not in asked:
                    asked.add(turn.query)
                    # a query is put when it is replied to; a standing one may have been asked before
                    yield replace(queries[turn.query], time=min(queries[turn.query].time, turn.time))
                yield _event(turn)


def _event(turn: Turn) -> Event:
    if not turn.text:
        return Silence(turn.time, turn.query)
    return Thought(turn.time, turn.text) if turn.query is None else Answer(turn.time, turn.text, turn.query)


@dataclass(frozen=True)
class Poll:
    """A moment (s) at which a query is put to the policy."""

    query: Query
    time: float


def polls(sample: Sample) -> list[list[Poll]]:
    """Polls by segment: entry i + 1 holds those after segment i has arrived, entry 0 those before any.

    A query is put at every time at which the sample lists an answer or a silence to it.
    """
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
