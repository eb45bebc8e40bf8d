"""Repetition: costs, 0 at best. N-grams are those of the sampled tokens, so that they mean the same in every script."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from rewards.base import RewardError, Scene, Scored
from rewards.length import Role, turns_of
from rewards.overlap import ngrams
from whilst.episode import Episode
from whilst.sample import Sample, Segment, Thought


@dataclass(frozen=True)
class Repetition:
    """Minus the mean over turns of the share of n-grams that have stood in the same turn before: 1 - distinct / all
    (Yeo et al., arXiv 2502.03373). A turn of fewer than n tokens costs nothing."""

    perturbations: ClassVar[tuple[str, ...]] = ()

    n: int = 3
    roles: tuple[Role, ...] = ("thought",)

    def __post_init__(self) -> None:
        _check_n("repetition", self.n)

    def __call__(self, episode: Episode, scene: Scene) -> Scored | None:
        turns = turns_of(episode, self.roles)
        if turns is None:
            return None
        shares = [repeated_share(turn.ids, self.n) for turn in turns]
        return Scored(-sum(shares) / max(1, len(shares)), {"worst": max(shares, default=0.0)})


@dataclass(frozen=True)
class Restated:
    """Minus the share of thoughts that say what an earlier thought of the episode has said: at least `share` of their
    n-grams stand in that one. What the sample's own thought on the same segment says is always allowed: things happen
    twice. A thought of fewer than n tokens is one n-gram. None for a sample without segments."""

    perturbations: ClassVar[tuple[str, ...]] = ()

    n: int = 2
    share: float = 0.8

    def __post_init__(self) -> None:
        _check_n("restated", self.n)
        if not 0 < self.share <= 1:
            raise RewardError(f"restated: share is {self.share}; give above 0 and at most 1")

    def __call__(self, episode: Episode, scene: Scene) -> Scored | None:
        thoughts = turns_of(episode, ("thought",))
        if thoughts is None:
            return None
        own = own_thoughts(episode.sample)
        earlier: list[set[tuple[object, ...]]] = []
        restated = 0
        for thought in thoughts:
            if not thought.text.strip():
                continue
            grams = set(ngrams(thought.ids, min(self.n, len(thought.ids))))
            said = any(len(grams & before) >= self.share * len(grams) for before in earlier)
            restated += said and thought.text.strip() != own.get(thought.segment, "").strip()
            earlier.append(grams)
        return Scored(-restated / max(1, len(thoughts)))


def repeated_share(ids: Sequence[int], n: int) -> float:
    """1 - distinct / all n-grams; 0 where there are none."""
    grams = ngrams(ids, n)
    return 1.0 - len(set(grams)) / len(grams) if grams else 0.0


def own_thoughts(sample: Sample) -> dict[int, str]:
    """The sample's thoughts by the ordinal of the segment that they are about."""
    thoughts: dict[int, str] = {}
    ordinal = -1
    for event in sample.events:
        ordinal += isinstance(event, Segment)
        if isinstance(event, Thought):
            thoughts[ordinal] = event.text
    return thoughts


def _check_n(name: str, n: int) -> None:
    if n < 1:
        raise RewardError(f"{name}: n is {n}; give at least 1 token")


REWARDS: dict[str, type] = {"repetition": Repetition, "restated": Restated}
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {}
