"""Policies that keep what is recent: by tokens, seconds or frames; and retrieval of what has left the window."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch

from whilst.chunks import Role
from whilst.policies.base import Policy, PolicyError, Watched, positive, ranks, with_their_turns
from whilst.render_config import RenderConfig
from whilst.visibility import Rule, Tokens


@dataclass(frozen=True)
class VisualWindow(Policy):
    """What rule visual_window hides leaves the cache: text stays; the last `budget` visual tokens, marks with them.

    whole_turns: the rest of a segment's turn ("user", line ends) leaves with its last visual token; the rule would keep
    it for ever.
    """

    name: ClassVar[str] = "visual_window"
    budget: int | None = None
    whole_turns: bool = False

    def __post_init__(self) -> None:
        positive(self, "budget")

    def keep(self, held: Tokens, now: Tokens, watched: list[Watched]) -> torch.Tensor | None:
        if self.budget is None:
            return None
        keep = Rule("visual_window", {"budget": self.budget}).visible(now, held)
        return with_their_turns(held, keep) if self.whole_turns else keep


@dataclass(frozen=True)
class SinkWindow(Policy):
    """StreamingVLM: the system prompt, the first `sink` and the last `window` text tokens, and the segments that end
    within the last `vision_seconds` s when the arriving one is counted. Released settings: 512, 512, 16 s.

    Its code moves old texts into a role of their own; here texts stay in order of arrival.
    """

    name: ClassVar[str] = "sink_window"
    reindex: bool = True
    sink: int = 0
    window: int | None = None
    vision_seconds: float | None = None

    def __post_init__(self) -> None:
        positive(self, "window", "vision_seconds")
        if self.sink < 0:
            raise PolicyError(f"policy sink_window: sink must be 0 or more tokens, not {self.sink}")

    def keep(self, held: Tokens, now: Tokens, watched: list[Watched]) -> torch.Tensor | None:
        video = held.segment >= 0
        text = ~video & (held.valid > 0) & (held.role != Role.SYSTEM)
        keep = torch.ones_like(text)
        if self.window is not None:
            rank = ranks(held.index, text)
            keep = ~text | (rank < self.sink) | (rank >= text.sum(-1, keepdim=True) - self.window)
        if self.vision_seconds is not None:
            keep &= ~video | (held.end > now.end - round(1000 * self.vision_seconds))
        return keep


@dataclass(frozen=True)
class RecentFrames(Policy):
    """The last `frames` frames (whole temporal patches) and nothing else: when one must leave, the rest is read anew.

    What is answered then rests on those pixels alone, as in SimpleStream; nothing of older ones is left in keys.
    Thoughts would be lost at that moment, so an arm that thinks cannot have it.
    """

    name: ClassVar[str] = "recent_frames"
    layouts: ClassVar[tuple[str, ...]] = ("interleaved",)
    rereads: ClassVar[bool] = True
    frames: int | None = None

    def __post_init__(self) -> None:
        positive(self, "frames")


@dataclass(frozen=True)
class Retrieval(Policy):
    """ReKV: the last segments of at most `window` visual tokens stay; older ones leave for `store`. A query brings
    `segments` of them back, in every layer those whose mean key is nearest to its mean query (dot product), in order
    and re-indexed. None: no limit. The unit is a segment, where ReKV's is a frame. store: "cpu", or a folder.
    """

    name: ClassVar[str] = "retrieval"
    layouts: ClassVar[tuple[str, ...]] = ("interleaved",)
    reindex: bool = True
    window: int | None = None
    segments: int | None = None
    store: str = "cpu"

    def __post_init__(self) -> None:
        positive(self, "window", "segments")
        if not self.reindex:
            raise PolicyError("policy retrieval re-indexes what it brings back: reindex must be true")

    def check(self, config: RenderConfig) -> None:
        super().check(config)
        if config.queries != "branch" or config.rule != "causal":
            raise PolicyError(
                "policy retrieval answers on branches of a causal stream: set queries: branch, rule: causal"
            )

    def keep(self, held: Tokens, now: Tokens, watched: list[Watched]) -> torch.Tensor | None:
        if self.window is None:
            return None
        visual = (held.frame >= 0) & (held.valid > 0)
        rows = []
        for b in range(visual.shape[0]):
            of_segment = torch.bincount(held.segment[b][visual[b]].clamp(min=0), minlength=int(now.now[b, 0]) + 1)
            newest_first = of_segment.flip(0).cumsum(0).flip(0)  # tokens of a segment and of all later ones
            segment = held.segment[b].long()
            rows.append((segment < 0) | (newest_first[segment.clamp(min=0)] <= self.window))
        return torch.stack(rows)

    @property
    def folder(self) -> Path | None:
        """Where offloaded segments are kept; None: in memory."""
        return None if self.store == "cpu" else Path(self.store)
