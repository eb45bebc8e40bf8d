"""Policies that look at what tokens hold: their features before they are read, or their keys afterwards."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar, TypeVar

import torch
import torch.nn.functional as F

from whilst.backbones.base import Features
from whilst.policies.base import Policy, PolicyError, Selection, Watched, positive, with_their_turns
from whilst.policies.windows import VisualWindow
from whilst.positions import Grid
from whilst.render_config import RenderConfig
from whilst.visibility import Tokens

T = TypeVar("T")


Alike = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]  # frames (..., N, D), twice -> (..., N)


def cosine(before: torch.Tensor, now: torch.Tensor) -> torch.Tensor:
    return F.cosine_similarity(before, now, dim=-1)


def likeness(before: torch.Tensor | None, frames: torch.Tensor, alike: Alike) -> torch.Tensor:
    """How like each token of a clip's frames (t, N, D) is to that at the same place of the frame before, (t * N,).

    before: the last frame (N, D) of the clip before; None, or one of another size: the first frame is like nothing,
    -inf. Training (train/dropping.py) and serving both call this.
    """
    first = torch.full_like(frames[0, :, 0], -torch.inf)
    if before is not None and before.shape == frames[0].shape:
        first = alike(before, frames[0])
    return torch.cat([first[None], alike(frames[:-1], frames[1:])]).flatten()


def unlike(alike: torch.Tensor, threshold: float | None, ratio: float | None) -> torch.Tensor:
    """Which tokens of a clip stay (n,): those no more alike than `threshold`, or all but the share `ratio` that is most
    alike. What is like nothing always stays."""
    if threshold is not None:
        return alike <= threshold
    drop = torch.zeros(len(alike), dtype=torch.bool, device=alike.device)
    drop[alike.argsort(descending=True, stable=True)[: int((ratio or 0.0) * len(alike))]] = True
    return ~drop | torch.isinf(alike)


@dataclass(frozen=True)
class DropSimilar(Policy):
    """DTD: a visual token is dropped where its cosine to the token at the same place of the frame before is above
    `threshold`, or, with `ratio`, where it is among that share of most similar tokens of its clip.

    The frame before is the whole one, dropped or not; the first frame of a stream is kept. Frames are temporal patches,
    features those of the vision tower after the merger, positions are kept.
    """

    name: ClassVar[str] = "drop_similar"
    layouts: ClassVar[tuple[str, ...]] = ("interleaved", "split", "recurrent", "recurrent_packed")
    threshold: float | None = None
    ratio: float | None = None

    def __post_init__(self) -> None:
        if self.threshold is not None and self.ratio is not None:
            raise PolicyError("policy drop_similar: give threshold or ratio, not both")
        if self.ratio is not None and not 0.0 <= self.ratio < 1.0:
            raise PolicyError(f"policy drop_similar: ratio must lie in [0, 1), not {self.ratio}")

    def select(self, watched: Watched, features: Features, grid: Grid) -> Selection | None:
        if self.threshold is None and self.ratio is None:
            return None
        frames = features.tokens.view(grid.t, grid.h * grid.w, -1)
        alike = likeness(watched.frames[-1] if watched.frames else None, frames, cosine)
        watched.frames = [frames[-1]]
        return Selection(unlike(alike.cpu(), self.threshold, self.ratio))


@dataclass(frozen=True)
class KeyNorm(Policy):
    """QuickVideo: when a clip has been read, each layer keeps its `tokens` visual tokens (or `share` of them) with the
    smallest L2 norm of their key, averaged over heads. Layers keep different ones, so positions are kept.

    Qwen3-VL normalises its keys, so their norms differ by the learned scale alone; Qwen2.5-VL's do not.
    """

    name: ClassVar[str] = "key_norm"
    tokens: int | None = None
    share: float | None = None

    def __post_init__(self) -> None:
        positive(self, "tokens")
        if self.reindex:
            raise PolicyError("policy key_norm keeps other tokens in every layer: reindex must be false")
        if self.share is not None and not 0.0 < self.share <= 1.0:
            raise PolicyError(f"policy key_norm: share must lie in (0, 1], not {self.share}")

    def check(self, config: RenderConfig) -> None:
        super().check(config)
        if config.rule not in ("causal", "unit"):
            raise PolicyError(f"policy key_norm cannot follow rule {config.rule!r}: layers would hold other metadata")

    def prune(self, keys: list[torch.Tensor], new: Tokens) -> list[torch.Tensor] | None:
        if self.tokens is None and self.share is None:
            return None
        visual = (new.frame >= 0) & (new.valid > 0)
        counts = visual.sum(-1, keepdim=True)
        most = counts if self.tokens is None else counts.clamp(max=self.tokens)
        if self.share is not None:
            most = torch.minimum(most, (counts * self.share).ceil().long())
        kept = []
        for of_layer in keys:
            norm = of_layer.norm(dim=-1).mean(1).masked_fill(~visual, torch.inf)
            order = norm.argsort(dim=-1, stable=True)
            rank = torch.empty_like(order).scatter_(-1, order, torch.arange(order.shape[-1]).expand_as(order))
            kept.append(~visual | (rank < most))
        return kept


def still_there(by_frame: dict[int, T], held: Sequence[int]) -> dict[int, T]:
    """What is known by frame, but for frames that have left: those of the arriving clip are not held yet.

    It goes by what is held, not by what is asked to leave: a stream on which nothing arrives keeps all it has.
    """
    newest = max(held, default=-1)
    return {frame: value for frame, value in by_frame.items() if frame > newest or frame in held}


@dataclass(frozen=True)
class Surprise(Policy):
    """Cambrian-S: at most `budget` visual tokens; the frames that were easiest to foresee leave first, whole, and
    the last frame of a segment takes the rest of the segment's turn with it.

    Surprise is 1 - cosine of a frame's mean feature to what was foreseen. Cambrian-S trains a head for that; without
    one the frame before is the forecast, which its authors report as weaker.
    """

    name: ClassVar[str] = "surprise"
    budget: int | None = None

    def __post_init__(self) -> None:
        positive(self, "budget")

    def select(self, watched: Watched, features: Features, grid: Grid) -> Selection | None:
        if self.budget is None:
            return None
        for frame in features.tokens.view(grid.t, grid.h * grid.w, -1).mean(1):
            expected = watched.frames[-1] if watched.frames else None
            foreseen = 0.0 if expected is None else float(F.cosine_similarity(expected, frame, dim=0))
            watched.scores[watched.count] = 1.0 - foreseen
            watched.count += 1
            watched.frames = [frame]
        return None

    def keep(self, held: Tokens, now: Tokens, watched: list[Watched]) -> torch.Tensor | None:
        if self.budget is None:
            return None
        keep = torch.ones_like(held.valid, dtype=torch.bool)
        for b, of_stream in enumerate(watched):
            frames, counts = held.frame[b][(held.frame[b] >= 0) & (held.valid[b] > 0)].unique(return_counts=True)
            size = dict(zip(frames.tolist(), counts.tolist(), strict=True))
            over = sum(size.values()) - self.budget
            gone = []
            for frame in sorted(size, key=lambda f: (of_stream.scores[f], f)):
                if over <= 0:
                    break
                over -= size[frame]
                gone.append(frame)
            of_stream.scores = still_there(of_stream.scores, list(size))
            keep[b] = ~torch.isin(held.frame[b], torch.tensor(gone, dtype=held.frame.dtype))
        return with_their_turns(held, keep)


@dataclass(frozen=True)
class Curvature(Policy):
    """CurveStream: C_t = 1 - cos(f_t-1 - f_t-2, f_t - f_t-1) of the frames' mean features f, each of length 1. A frame
    is read clear where C_t lies more than `clear` standard deviations above the running mean, blurred (2 x 2 tokens as
    their mean, at the place of the first) above `blurred`, else discarded; the oldest leave beyond `budget` tokens.

    Only the README of its code is public: thresholds and the blur are ours. Its features are DINOv2's, ours the
    backbone's. The first two frames of a stream are clear.
    """

    name: ClassVar[str] = "curvature"
    clear: float | None = None
    blurred: float | None = None
    budget: int | None = None

    def __post_init__(self) -> None:
        positive(self, "budget")
        if (self.clear is None) != (self.blurred is None):
            raise PolicyError("policy curvature: give clear and blurred, or neither")
        if self.clear is not None and self.blurred is not None and self.clear < self.blurred:
            raise PolicyError("policy curvature: clear must not lie below blurred")

    def select(self, watched: Watched, features: Features, grid: Grid) -> Selection | None:
        if self.clear is None or self.blurred is None:
            return None
        tokens = features.tokens.view(grid.t, grid.h * grid.w, -1)
        kept = torch.zeros(grid.t, grid.h, grid.w, dtype=torch.bool)
        layers = [layer.clone() for layer in (features.tokens, *features.deepstack)]
        for t in range(grid.t):
            watched.frames = [*watched.frames, F.normalize(tokens[t].mean(0), dim=0)][-3:]
            above = torch.inf
            if len(watched.frames) == 3:
                a, b, c = watched.frames
                above = watched.measure(1.0 - float(F.cosine_similarity(b - a, c - b, dim=0)))
            if above > self.clear:
                kept[t] = True
            elif above > self.blurred:
                kept[t, ::2, ::2] = True
                for layer in layers:
                    frame = layer.view(grid.t, grid.h, grid.w, -1)[t]
                    frame[::2, ::2] = _pooled(frame)
        return Selection(kept.flatten(), Features(layers[0], tuple(layers[1:])))

    def keep(self, held: Tokens, now: Tokens, watched: list[Watched]) -> torch.Tensor | None:
        keep = VisualWindow(budget=self.budget).keep(held, now, watched)
        return None if keep is None else with_their_turns(held, keep)


def _pooled(frame: torch.Tensor) -> torch.Tensor:
    """Means of 2 x 2 blocks of a frame (h, w, D); blocks at the edge are smaller."""
    channels = frame.permute(2, 0, 1)[None]
    return F.avg_pool2d(channels, 2, ceil_mode=True, count_include_pad=False)[0].permute(1, 2, 0)


@dataclass(frozen=True)
class Carrier(Policy):
    """VideoScan: behind the tokens of each frame comes one whose feature is their mean; when the clip has been read,
    the carriers stay and the frames leave. Beyond `frames` carriers one of the two neighbours that are most alike
    leaves, the older. A model must be trained to use carriers (VideoScan's is); None writes none.

    A carrier takes the position of the last token of its frame: in M-RoPE there is none behind it that is free.
    """

    name: ClassVar[str] = "carrier"
    frames: int | None = None

    def __post_init__(self) -> None:
        positive(self, "frames")

    def select(self, watched: Watched, features: Features, grid: Grid) -> Selection | None:
        if self.frames is None:
            return None
        means = [layer.view(grid.t, grid.h * grid.w, -1).mean(1) for layer in (features.tokens, *features.deepstack)]
        for frame in means[0]:
            watched.carriers[watched.count] = frame
            watched.count += 1
        everything = torch.ones(grid.tokens, dtype=torch.bool)
        return Selection(everything, carriers=Features(means[0], tuple(means[1:])))

    def prune(self, keys: list[torch.Tensor], new: Tokens) -> list[torch.Tensor] | None:
        return None if self.frames is None else [(new.frame < 0) | (new.carrier > 0)] * len(keys)

    def keep(self, held: Tokens, now: Tokens, watched: list[Watched]) -> torch.Tensor | None:
        if self.frames is None:
            return None
        keep = torch.ones_like(held.valid, dtype=torch.bool)
        for b, of_stream in enumerate(watched):
            before = sorted(held.frame[b][(held.carrier[b] > 0) & (held.valid[b] > 0)].tolist())
            here, gone = list(before), []
            while len(here) > self.frames:
                pairs = list(pairwise(here))
                like = [
                    float(F.cosine_similarity(of_stream.carriers[one], of_stream.carriers[next_], dim=0))
                    for one, next_ in pairs
                ]
                gone.append(here.pop(like.index(max(like))))
            of_stream.carriers = still_there(of_stream.carriers, before)
            keep[b] = ~torch.isin(held.frame[b], torch.tensor(gone, dtype=held.frame.dtype))
        return with_their_turns(held, keep)
