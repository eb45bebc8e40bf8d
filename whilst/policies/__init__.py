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
| carrier | of each frame one token that stands for it, written behind its tokens | VideoScan |

Text memory with its FIFO cap is `render.memory_tokens` (whilst/memory.py): it belongs to training as well.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import torch

from whilst.backbones.base import Features
from whilst.policies.base import Policy, PolicyError, Selection, Watched
from whilst.policies.tokens import Carrier, Curvature, DropSimilar, KeyNorm, Surprise
from whilst.policies.windows import RecentFrames, Retrieval, SinkWindow, VisualWindow
from whilst.positions import Grid
from whilst.render_config import RenderConfig
from whilst.visibility import Tokens

__all__ = [
    "POLICIES",
    "Chain",
    "Policy",
    "PolicyError",
    "RecentFrames",
    "Retrieval",
    "Selection",
    "SinkWindow",
    "VisualWindow",
    "Watched",
    "make_policy",
    "retrieval_of",
]


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
        for what, kinds in (("prune a clip", (KeyNorm, Carrier)), ("bring segments back", (Retrieval,))):
            if len(named := [policy.name for policy in self.policies if isinstance(policy, kinds)]) > 1:
                raise PolicyError(f"policies {' and '.join(named)} both {what}; give one of them")
        whole = (Retrieval, SinkWindow, DropSimilar)
        parts = [
            policy.name for policy in self.policies if not isinstance(policy, whole) and type(policy) is not Policy
        ]
        if retrieval_of(self) is not None and parts:
            raise PolicyError(f"policy retrieval offloads whole segments, but {parts[0]} takes parts of them: give one")
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

    def prune(self, keys: list[torch.Tensor], new: Tokens) -> list[torch.Tensor] | None:
        found = [policy.prune(keys, new) for policy in self.policies]
        return next((masks for masks in found if masks is not None), None)


def retrieval_of(policy: Policy | None) -> Retrieval | None:
    """The retrieval of a policy or chain, if it has one."""
    parts = policy.policies if isinstance(policy, Chain) else (policy,)
    return next((part for part in parts if isinstance(part, Retrieval)), None)


POLICIES: dict[str, type[Policy]] = {
    kind.name: kind
    for kind in (
        Policy, VisualWindow, SinkWindow, DropSimilar, RecentFrames, Retrieval, KeyNorm, Surprise, Curvature, Carrier,
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
