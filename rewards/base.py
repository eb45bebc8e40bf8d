"""What a reward is: a frozen dataclass, whose fields are its constants, called with an episode and its scene.

    @dataclass(frozen=True)
    class Brevity:
        most: int = 64
        def __call__(self, episode: Episode, scene: Scene) -> Scored | None: ...

It is pure: the same episode and scene give the same score. It returns None where it does not apply, and that may depend
on the sample alone, never on what the policy wrote: else a policy could choose which rewards it is measured by.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Protocol

from whilst.episode import Episode

# Changes to a sample that rollouts can be made under, beside the sample as it is (train/perturb.py makes them)
PERTURBATIONS = ("shuffled_frames", "no_memory", "evidence_removed")


class RewardError(ValueError):
    """A reward that cannot be built or computed as asked; names the reward, the field and the fix."""


@dataclass(frozen=True)
class Scored:
    """A finite score, and the named figures that it is made of (for tables and metrics)."""

    score: float
    parts: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, value in {"score": self.score, **self.parts}.items():
            if not math.isfinite(value):
                raise RewardError(f"a reward gave {name} = {value}: scores must be finite")


@dataclass(frozen=True)
class Scene:
    """The other rollouts of the episode's sample: its group (itself included), and groups under perturbations."""

    group: tuple[Episode, ...]
    perturbed: Mapping[str, tuple[Episode, ...]] = field(default_factory=dict)

    def under(self, perturbation: str) -> tuple[Episode, ...]:
        """The rollouts under a perturbation. RewardError where none were made."""
        found = self.perturbed.get(perturbation, ())
        if not found:
            raise RewardError(f"no rollouts under {perturbation!r} were made: a reward must list it in `perturbations`")
        return found


class Reward(Protocol):
    """See the module. `perturbations`: the rollouts under perturbations that it reads from the scene."""

    perturbations: ClassVar[tuple[str, ...]]

    def __call__(self, episode: Episode, scene: Scene) -> Scored | None: ...
