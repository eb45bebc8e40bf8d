"""Rewards added up with weights, as a recipe gives them:

    rewards:
      - {name: accuracy, parameters: {answer_in: boxed}}
      - {name: repetition, weight: 0.2}
      - {name: repetition, label: repetition_4, weight: 0.1, parameters: {n: 4}}   # one reward twice: labels differ

A term that does not apply to a sample adds nothing. A reward that raises stops training: nothing is scored 0 instead.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rewards.base import Reward, RewardError, Scene, Scored
from rewards.registry import build
from whilst.episode import Episode


@dataclass(frozen=True)
class RewardTerm:
    """A reward or variant by name, its weight (below 0: a cost; 0: only reported) and parameters.

    label: what it is called in tables and metrics; its name where that is empty.
    """

    name: str
    weight: float = 1.0
    parameters: dict[str, Any] = field(default_factory=dict)
    label: str = ""

    def __post_init__(self) -> None:
        if not math.isfinite(self.weight):
            raise RewardError(f"{self.name}: weight is {self.weight}; give a finite number")
        build(self.name, self.parameters)  # a recipe is refused where it stands, not at the first episode

    @property
    def called(self) -> str:
        return self.label or self.name


@dataclass(frozen=True)
class Mixed:
    """total: the weighted sum. terms: what each reward gave, by label; None where it does not apply."""

    total: float
    terms: Mapping[str, Scored | None]


class RewardMix:
    """The rewards of a recipe. `perturbations`: the rollouts under perturbations that they need between them."""

    def __init__(self, terms: Sequence[RewardTerm]) -> None:
        if not terms:
            raise RewardError("no rewards: give at least one term")
        labels = [term.called for term in terms]
        for label in labels:
            if labels.count(label) > 1:
                raise RewardError(f"two terms are called {label!r}; give each a `label` of its own")
        self.terms = tuple(terms)
        self.rewards: dict[str, Reward] = {term.called: build(term.name, term.parameters) for term in terms}
        needed = [name for reward in self.rewards.values() for name in reward.perturbations]
        self.perturbations: tuple[str, ...] = tuple(dict.fromkeys(needed))

    def score(self, episode: Episode, scene: Scene) -> Mixed:
        """The score of an episode beside the others of its scene.

        Raises:
            RewardError: a reward failed; names it, the sample and the rollout.
        """
        scored: dict[str, Scored | None] = {}
        for label, reward in self.rewards.items():
            try:
                scored[label] = reward(episode, scene)
            except Exception as error:
                where = f"sample {episode.sample.id!r}, rollout {episode.rollout}"
                said = str(error) if isinstance(error, RewardError) else f"{type(error).__name__}: {error}"
                raise RewardError(f"reward {label!r} failed on {where}: {said}") from error
        total = float(sum(term.weight * one.score for term in self.terms if (one := scored[term.called]) is not None))
        if not math.isfinite(total):
            raise RewardError(f"the rewards of sample {episode.sample.id!r} add up to {total}; give smaller weights")
        return Mixed(total, scored)
