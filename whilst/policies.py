"""Memory policies: which entries of the caches stay whilst a stream goes on. One small class each.

A policy acts at three moments of `StreamBatch`: it may drop visual tokens of a clip before they are read (`select`),
take entries out of the caches when a segment arrives, before that segment is read (`keep`), and prune a clip that has
just been read (`prune`). What it drops no later token sees. With `reindex` the rest moves together (whilst/slots.py),
else positions are kept. Without a limit each of them is full attention (tests/whilst/test_policies.py).

| policy | what is kept | source |
|---|---|---|
| unbounded | everything | |
| visual_window | text, and the last `budget` visual tokens | VST, Eq. 3 (arXiv 2603.12262) |
| sink_window | first and last text tokens, the last seconds of video; re-indexed | StreamingVLM (2510.09608) |
| drop_similar | visual tokens unlike those of the frame before; positions kept | TimeChat-Online DTD (2504.17343) |
| recent_frames | the last n frames and nothing else, read anew | SimpleStream, the control |
| retrieval | a local window; older segments leave for CPU or disk, a query brings some back | ReKV (2503.00540) |
| key_norm | of each clip, in every layer, the visual tokens with the smallest keys | QuickVideo |
| surprise | within a budget, the frames that were least foreseeable | Cambrian-S |
| curvature | clear, blurred and discarded frames by how the stream bends, within a budget | CurveStream |

Text memory with its FIFO cap is `render.memory_tokens` (whilst/memory.py): it belongs to training as well.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F

from whilst.backbones.base import Features
from whilst.chunks import Role
from whilst.positions import Grid
from whilst.render import RenderConfig
from whilst.visibility import Rule, Tokens


class PolicyError(ValueError):
    """A policy that does not exist, or that a layout, rule or scheme cannot have."""


@dataclass(frozen=True)
class Selection:
    """Which visual tokens (N,) of a clip are read, and their features where they are not the clip's own."""

    kept: torch.Tensor
    features: Features | None = None


class Watched:
    """What a policy remembers of one stream: the frames that came last. Bounded."""

    def __init__(self) -> None:
        self.seen = self.kept = 0  # visual tokens that arrived, and those that were read
        self.frames: list[torch.Tensor] = []  # features of the last frames, (h * w, D) each
        self.scores: dict[int, float] = {}  # by ordinal of the frame
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

    def prune(self, keys: list[torch.Tensor], visual: torch.Tensor) -> list[torch.Tensor] | None:
        """Which visual tokens of the clip just read stay in each layer, (B, n) bool with equal counts in all layers;
        None: all. keys: (B, H, n, D) a layer; visual: (B, n), which entries are visual tokens."""
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
        _positive(self, "budget")

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
        _positive(self, "window", "vision_seconds")
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
        first = torch.full((1, grid.h * grid.w), -torch.inf)  # nothing to compare with: kept
        if watched.frames and watched.frames[-1].shape == frames[0].shape:
            first = F.cosine_similarity(watched.frames[-1], frames[0], dim=-1)[None]
        alike = torch.cat([first.to(frames.device), F.cosine_similarity(frames[:-1], frames[1:], dim=-1)])
        watched.frames = [frames[-1]]
        flat = alike.flatten().cpu()
        if self.threshold is not None:
            return Selection(flat <= self.threshold)
        drop = torch.zeros(len(flat), dtype=torch.bool)
        drop[flat.argsort(descending=True, stable=True)[: int((self.ratio or 0.0) * len(flat))]] = True
        return Selection(~drop | torch.isinf(flat))


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
        _positive(self, "frames")


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
        _positive(self, "window", "segments")
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
        _positive(self, "tokens")
        if self.reindex:
            raise PolicyError("policy key_norm keeps other tokens in every layer: reindex must be false")
        if self.share is not None and not 0.0 < self.share <= 1.0:
            raise PolicyError(f"policy key_norm: share must lie in (0, 1], not {self.share}")

    def check(self, config: RenderConfig) -> None:
        super().check(config)
        if config.rule not in ("causal", "unit"):
            raise PolicyError(f"policy key_norm cannot follow rule {config.rule!r}: layers would hold other metadata")

    def prune(self, keys: list[torch.Tensor], visual: torch.Tensor) -> list[torch.Tensor] | None:
        if self.tokens is None and self.share is None:
            return None
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
        _positive(self, "budget")

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
            of_stream.scores = {f: s for f, s in of_stream.scores.items() if f not in gone}
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
        _positive(self, "budget")
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
class Chain(Policy):
    """Several policies at once: what any of them drops is gone. At most one may choose tokens before they are read, and
    at most one may prune or retrieve."""

    name: ClassVar[str] = "chain"
    policies: tuple[Policy, ...] = ()

    def check(self, config: RenderConfig) -> None:
        if any(policy.rereads for policy in self.policies):
            raise PolicyError("policy recent_frames keeps nothing but frames: it cannot be joined with another")
        if self.reindex and any(isinstance(policy, KeyNorm) for policy in self.policies):
            raise PolicyError(
                "policy key_norm keeps other tokens in every layer: join it with policies that do not re-index"
            )
        for policy in self.policies:
            policy.check(config)

    def select(self, watched: Watched, features: Features, grid: Grid) -> Selection | None:
        found = [policy.select(watched, features, grid) for policy in self.policies]
        chosen = [selection for selection in found if selection is not None]
        if len(chosen) > 1:
            raise PolicyError("two policies choose visual tokens before they are read; give one of them")
        return chosen[0] if chosen else None

    def keep(self, held: Tokens, now: Tokens, watched: list[Watched]) -> torch.Tensor | None:
        found = [policy.keep(held, now, watched) for policy in self.policies]
        masks = [mask for mask in found if mask is not None]
        return torch.stack(masks).all(0) if masks else None

    def prune(self, keys: list[torch.Tensor], visual: torch.Tensor) -> list[torch.Tensor] | None:
        found = [policy.prune(keys, visual) for policy in self.policies]
        return next((masks for masks in found if masks is not None), None)


def retrieval_of(policy: Policy | None) -> Retrieval | None:
    """The retrieval of a policy or chain, if it has one."""
    parts = policy.policies if isinstance(policy, Chain) else (policy,)
    return next((part for part in parts if isinstance(part, Retrieval)), None)


def _positive(policy: Policy, *names: str) -> None:
    for name in names:
        value = getattr(policy, name)
        if value is not None and not value > 0:
            raise PolicyError(f"policy {policy.name}: {name} must be above 0, not {value!r}; leave it out for no limit")


POLICIES: dict[str, type[Policy]] = {
    kind.name: kind
    for kind in (
        Policy, VisualWindow, SinkWindow, DropSimilar, RecentFrames, Retrieval, KeyNorm, Surprise, Curvature,
    )
}  # fmt: skip


def make_policy(settings: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None) -> Policy | None:
    """The policy of a mapping with a `name` and its settings, as a contract or recipe holds it. A list of
    several mappings is a chain; None or an empty list is no policy.

    Raises:
        PolicyError: an unknown policy, an unknown setting, or one of a wrong type.
    """
    if settings is None:
        return None
    if not isinstance(settings, Mapping):
        made = [policy for part in settings if (policy := make_policy(part)) is not None]
        if len(made) < 2:
            return made[0] if made else None
        return Chain(reindex=any(policy.reindex for policy in made), policies=tuple(made))
    given = dict(settings)
    name = given.pop("name", None)
    if name not in POLICIES:
        raise PolicyError(f"policy.name: {name!r} is not one of {', '.join(POLICIES)}")
    known = {field.name: field for field in fields(POLICIES[name])}
    for key, value in given.items():
        if key not in known:
            raise PolicyError(f"policy {name}: unknown setting {key!r}; it takes {', '.join(sorted(known)) or 'none'}")
        wanted = str(known[key].type)
        fits = {
            "bool": isinstance(value, bool),
            "int": isinstance(value, int) and not isinstance(value, bool),
            "float": isinstance(value, int | float) and not isinstance(value, bool),
        }.get(wanted.removesuffix(" | None"), isinstance(value, str))
        if not fits and not (value is None and wanted.endswith("| None")):
            raise PolicyError(f"policy {name}: {key} must be {wanted}, not {value!r}")
    return POLICIES[name](**given)
