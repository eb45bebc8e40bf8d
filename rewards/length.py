"""Length, in sampled tokens with the boundary token: costs of what is too long (0 at best), and bonuses for what is
right and of a wished-for length. A bonus for brevity alone would be won by saying nothing: all hang on accuracy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from rewards.accuracy import Accuracy
from rewards.base import RewardError, Scene, Scored
from whilst.episode import Episode, Turn, polls

Role = Literal["thought", "answer"]
BOTH: tuple[Role, ...] = ("thought", "answer")


def turns_of(episode: Episode, roles: tuple[Role, ...]) -> tuple[Turn, ...] | None:
    """The turns in these roles; None where the sample has no place for any (no segments, no polls)."""
    places = {"thought": bool(episode.sample.segments()), "answer": any(polls(episode.sample))}
    if not any(places[role] for role in roles):
        return None
    return tuple(turn for turn in episode.turns if turn.role in roles)


def mean_tokens(episode: Episode, roles: tuple[Role, ...]) -> float:
    """Mean tokens of the turns in these roles; 0 where there are none."""
    turns = turns_of(episode, roles) or ()
    return sum(turn.tokens for turn in turns) / max(1, len(turns))


@dataclass(frozen=True)
class SoftOverlong:
    """Mean over turns of tokens n of 0 up to limit - cache, then (limit - cache - n) / cache, -1 from `limit` on: the
    soft overlong punishment of DAPO (arXiv 2503.14476, Eq. 13). limit: that of the policy for these turns."""

    perturbations: ClassVar[tuple[str, ...]] = ()

    limit: int
    cache: int
    roles: tuple[Role, ...] = BOTH

    def __post_init__(self) -> None:
        if not 0 < self.cache <= self.limit:
            raise RewardError(f"soft_overlong: cache is {self.cache}; give 1 to limit ({self.limit}) tokens")

    def __call__(self, episode: Episode, scene: Scene) -> Scored | None:
        turns = turns_of(episode, self.roles)
        if turns is None:
            return None
        costs = [min(1.0, max(0.0, (turn.tokens - self.limit + self.cache) / self.cache)) for turn in turns]
        return Scored(-sum(costs) / max(1, len(turns)), {"over": sum(cost > 0 for cost in costs) / max(1, len(turns))})


@dataclass(frozen=True)
class Unfinished:
    """Minus the share of turns that the token limit cut off."""

    perturbations: ClassVar[tuple[str, ...]] = ()

    roles: tuple[Role, ...] = BOTH

    def __call__(self, episode: Episode, scene: Scene) -> Scored | None:
        turns = turns_of(episode, self.roles)
        if turns is None:
            return None
        return Scored(-sum(not turn.finished for turn in turns) / max(1, len(turns)))


@dataclass(frozen=True)
class LengthBonus(Accuracy):
    """`bonus` for an episode whose mean tokens a turn of `roles` lie in [shortest, longest], if its accuracy is above
    `above` and so is that of another in its group. Video-R1's (+0.2 for 320 to 512 tokens, above 0.1) is for one query
    an episode: with many, a constant reply can be right on a tenth of them.

    The other fields are those of `accuracy`.
    """

    bonus: float = 0.2
    shortest: int = 320
    longest: int = 512
    above: float = 0.5
    roles: tuple[Role, ...] = ("answer",)

    def __call__(self, episode: Episode, scene: Scene) -> Scored | None:
        own = super().__call__(episode, scene)
        if own is None:
            return None
        others = [super(LengthBonus, self).__call__(other, scene) for other in scene.group]
        right = sum(other is not None and other.score > self.above for other in others)
        length = mean_tokens(episode, self.roles)
        given = own.score > self.above and right > 1 and self.shortest <= length <= self.longest
        return Scored(self.bonus if given else 0.0, {"tokens": length, "right_in_group": float(right)})


@dataclass(frozen=True)
class Brevity(Accuracy):
    """Accuracy times (1 - n / most), not below 0, with n the mean tokens a turn of `roles`.

    The other fields are those of `accuracy`.
    """

    most: int = 64
    roles: tuple[Role, ...] = BOTH

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.most < 1:
            raise RewardError(f"brevity: most is {self.most}; give at least 1 token")

    def __call__(self, episode: Episode, scene: Scene) -> Scored | None:
        own = super().__call__(episode, scene)
        if own is None:
            return None
        length = mean_tokens(episode, self.roles)
        return Scored(own.score * max(0.0, 1.0 - length / self.most), {"tokens": length, "accuracy": own.score})


REWARDS: dict[str, type] = {
    "soft_overlong": SoftOverlong,
    "unfinished": Unfinished,
    "length_bonus": LengthBonus,
    "brevity": Brevity,
}
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "dapo_overlong": ("soft_overlong", {"limit": 20480, "cache": 4096}),
    "video_r1_length": (
        "length_bonus",
        {"answer_in": "tag", "bonus": 0.2, "shortest": 320, "longest": 512, "above": 0.1, "types": "video_r1"},
    ),
}
