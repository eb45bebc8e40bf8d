"""Speaking of itself: after a segment the model speaks or stays silent. Silence is an empty turn: boundary token first;
with `render.silence: implicit` it is the boundary token behind the segment itself, which is then not written.

Two ways to decide, both per segment. A threshold (VideoLLM-online, demo/inference.py, 0.725 there): where silence has a
probability below it, silence is ruled out for that token, so the model speaks; from 0.5 on it is silent otherwise.
FlowNar's second threshold, a lower one, holds right after a reply and stops bursts. Three states (Streamo): silence,
standby, respond; the state stands where a thought stands, and an answer follows `respond` alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from whilst.runtime import Generated
from whilst.sample import Query
from whilst.sampling import Sampler, greedy

StateName = Literal["silence", "standby", "respond", "other"]


class ProactiveError(ValueError):
    """A setting of the proactive mode that cannot be used; names it and what it may be."""


@dataclass(frozen=True)
class Proactive:
    """When to speak.

    threshold, after_reply: probabilities of silence; None: as the sampler draws. after_reply holds for the segment
    after one that was replied to (None: `threshold` holds there too). states: the words of two states, the third is an
    empty turn; None: no states. A checkpoint that was not trained on states writes "other" ones.
    """

    threshold: float | None = None
    after_reply: float | None = None
    states: tuple[str, str] | None = None  # standby, respond

    def __post_init__(self) -> None:
        for name in ("threshold", "after_reply"):
            value = getattr(self, name)
            if value is not None and not 0.0 <= value <= 1.0:
                raise ProactiveError(f"{name} is a probability, from 0 to 1, not {value}")
        if self.after_reply is not None and self.threshold is None:
            raise ProactiveError("after_reply needs a threshold, which it replaces right after a reply")
        if self.states is not None and (len({*self.states}) != 2 or not all(word.strip() for word in self.states)):
            raise ProactiveError(f"states must be two different words (standby, respond), not {self.states}")
        if self.states is not None and self.threshold is not None:
            raise ProactiveError("states and a threshold are two ways to decide: give one of them")

    def state(self, thought: Generated) -> StateName:
        """Which state a thought is."""
        assert self.states is not None
        standby, respond = self.states
        text = thought.text.strip()
        if not text:
            return "silence" if thought.finished else "other"
        return "standby" if text == standby else "respond" if text == respond else "other"


GREEDY = Proactive()  # silent where silence is what the sampler draws
STATES = Proactive(states=("standby", "respond"))  # the words of data_pipeline/builders/states.py


@dataclass(frozen=True)
class Put:
    """What came of a standing query when it was put at `time` (s). reply: None where the model stayed silent.

    silence: the probability that it gave to silence, before any threshold. state: "" without states.
    """

    query: Query
    time: float
    silence: float
    reply: Generated | None
    state: StateName | Literal[""] = ""


class Threshold:
    """A sampler around another: notes what probability the first token of a turn gives to the boundary token, and rules
    that token out where it is below the threshold. Tokens after the first are the inner sampler's. One stream."""

    def __init__(self, boundary: int, sampler: Sampler = greedy) -> None:
        self.boundary, self.sampler = boundary, sampler
        self.silence = 0.0  # of the last turn
        self.on_first: Callable[[], None] | None = None  # called when the first token of a turn is known
        self._first, self._bar = False, 0.0

    def arm(self, threshold: float | None = None) -> None:
        """The next token is the first of a turn."""
        self._first, self._bar = True, threshold or 0.0

    def __call__(self, scores: torch.Tensor, active: Sequence[bool]) -> Sequence[int]:
        if not self._first:
            return self.sampler(scores, active)
        self._first = False
        self.silence = float(torch.softmax(scores[0].double(), -1)[self.boundary])
        if self.silence < self._bar:
            scores = scores.clone()
            scores[0, self.boundary] = -torch.inf
        tokens = self.sampler(scores, active)
        if self.on_first is not None:
            self.on_first()
        return tokens
