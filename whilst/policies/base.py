"""What every memory policy is: three moments at which it may act, and what it remembers of a stream."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from whilst.backbones.base import Features
from whilst.positions import Grid
from whilst.render_config import RenderConfig
from whilst.visibility import Tokens


class PolicyError(ValueError):
    """A policy that does not exist, or that a layout, rule or scheme cannot have."""


@dataclass(frozen=True)
class Selection:
    """Which visual tokens (N,) of a clip are read, and their features where they are not the clip's own.

    carriers: features (t, D) of a further token behind the tokens of each frame.
    """

    kept: torch.Tensor
    features: Features | None = None
    carriers: Features | None = None


class Watched:
    """What a policy remembers of one stream: the frames that came last. Bounded."""

    def __init__(self) -> None:
        self.seen = self.kept = 0  # visual tokens that arrived, and those that were read
        self.frames: list[torch.Tensor] = []  # features of the last frames, (h * w, D) each
        self.scores: dict[int, float] = {}  # by ordinal of the frame
        self.carriers: dict[int, torch.Tensor] = {}  # the same
        self.mean = self.spread = 0.0  # running mean and sum of squared differences of a score (Welford)
        self.count = 0

    def measure(self, score: float) -> float:
        """How many standard deviations a score lies above the mean of those before it; then it counts as well."""
        deviation = (self.spread / self.count) ** 0.5 if self.count else 0.0
        above = (score - self.mean) / deviation if deviation else 0.0
        self.count += 1
        step = score - self.mean
        self.mean += step / self.count
        self.spread += step * (score - self.mean)
        return above


@dataclass(frozen=True)
class Policy:
    """The base: keeps everything. reindex: entries move together when others have left.

    layouts: those it is defined for. rereads: nothing is kept but frames (recent_frames).
    """

    name: ClassVar[str] = "unbounded"
    layouts: ClassVar[tuple[str, ...]] = ("interleaved", "split")
    rereads: ClassVar[bool] = False
    reindex: bool = False

    def check(self, config: RenderConfig) -> None:
        """Raise where this policy cannot serve a checkpoint's layout, rule or scheme."""
        if config.layout not in self.layouts:
            raise PolicyError(
                f"policy {self.name!r} is not defined for layout {config.layout!r}, only for "
                f"{', '.join(self.layouts)}; a recurrent stream is bounded by render.memory_tokens"
            )
        if config.rule == "row_shift":
            raise PolicyError(
                f"policy {self.name!r}: rule row_shift holds a boundary token back while entries leave: use rule unit"
            )
        if self.reindex and config.scheme not in ("interleaved", "group_decoupled", "tww"):
            raise PolicyError(
                f"policy {self.name!r} with reindex: positions of scheme {config.scheme!r} follow from what left; use "
                f"interleaved, group_decoupled or tww, or reindex: false"
            )

    def select(self, watched: Watched, features: Features, grid: Grid) -> Selection | None:
        """Which visual tokens of an arriving clip are read; None: all. Tokens lie frame by frame (t, h, w)."""
        return None

    def keep(self, held: Tokens, now: Tokens, watched: list[Watched]) -> torch.Tensor | None:
        """Which entries (B, N) stay when a segment arrives; None: all. Fields of `held` are (B, N), those of `now`
        (B, 1): what a token that is written next would have."""
        return None

    def prune(self, keys: list[torch.Tensor], new: Tokens) -> list[torch.Tensor] | None:
        """Which entries of the clip just read stay in each layer, (B, n) bool with equal counts in all layers; None:
        all. keys: (B, H, n, D) a layer; fields of `new`: (B, n)."""
        return None


def ranks(index: torch.Tensor, among: torch.Tensor) -> torch.Tensor:
    """The rank (B, N) of entries in order of arrival among those of a set; what is not in the set has any rank."""
    order = torch.where(among, index, torch.iinfo(torch.int32).max).argsort(dim=-1, stable=True)
    rank = torch.empty_like(order)
    return rank.scatter_(-1, order, torch.arange(order.shape[-1]).expand_as(order))


def with_their_turns(held: Tokens, keep: torch.Tensor) -> torch.Tensor:
    """`keep` (B, N), but a segment's turn leaves whole once all of its visual tokens have left."""
    stays = keep.clone()
    for b in range(keep.shape[0]):
        left = held.segment[b][keep[b] & (held.frame[b] >= 0) & (held.valid[b] > 0)].unique()
        stays[b] &= (held.segment[b] < 0) | torch.isin(held.segment[b], left)
    return stays


def positive(policy: Policy, *names: str) -> None:
    """Raise where a setting of a policy is given and not above 0."""
    for name in names:
        value = getattr(policy, name)
        if value is not None and not value > 0:
            raise PolicyError(f"policy {policy.name}: {name} must be above 0, not {value!r}; leave it out for no limit")
