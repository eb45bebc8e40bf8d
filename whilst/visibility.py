"""Visibility rules: which keys a query token may attend to. One predicate each, over token metadata.

    allowed(q, k) = same sample, k not later than q, k on q's branch or on the main timeline, and rule(q, k)

A predicate is written once over `Tokens` and works on broadcast tensors (dense mask), on single elements (the mask_mod
of FlexAttention) and on slices (block masks built chunk by chunk). A rule that cannot be applied raises; nothing falls
back to plain causal.

To add a rule: write a predicate, name it in RULES with the layouts it is defined for, and add it to the equivalence
test (tests/whilst/test_equivalence.py): streaming with caches must equal the one-pass masked forward.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

RECEIVED, GENERATED = 0, 1
FIELDS = (
    "index",  # slot in the row: causal order
    "order",  # place on the token's own timeline: a branch continues from where it left, the rest goes on as if it were not
    "sample",  # which packed sample; -1 is padding
    "stream",  # RECEIVED or GENERATED
    "unit",  # what had been received: index of the last received turn of the timeline
    "next_unit",  # unit of the next generated token (row_shift)
    "branch",  # 0: main timeline; b > 0: visible only inside branch b
    "turn",  # recurrent_packed: turn of a prompt token; -1 for the shared prefix and the memory copies
    "segment",  # ordinal of the segment whose turn the token belongs to; -1: none
    "now",  # ordinal of the last segment that had arrived when the token was written; -1: none
    "visual_count",  # visual tokens on the timeline up to and including this one
    "visual_end",  # vision and its marks: visual_count at the last token of its block (itself for a pad); -1: not vision
)


class VisibilityError(ValueError):
    """An unknown rule, a rule outside its layout, or one that a back-end cannot apply."""


class Tokens:
    """Metadata of tokens: one integer tensor a field, all of one shape."""

    def __init__(self, values: Mapping[str, torch.Tensor]) -> None:
        self.values = values

    def __getattr__(self, name: str) -> torch.Tensor:
        try:
            return self.values[name]
        except KeyError:
            raise AttributeError(name) from None

    def __getitem__(self, item: Any) -> Tokens:
        return Tokens({name: value[item] for name, value in self.values.items()})

    def only(self, names: tuple[str, ...]) -> Tokens:
        return Tokens({name: self.values[name] for name in names})

    @classmethod
    def of(cls, arrays: Mapping[str, np.ndarray], device: torch.device | str = "cpu") -> Tokens:
        return cls({n: torch.as_tensor(np.ascontiguousarray(arrays[n]), dtype=torch.int32).to(device) for n in FIELDS})


Predicate = Callable[..., Any]


def _causal(q: Tokens, k: Tokens) -> Any:
    """Everything that came before."""
    return None


def _visual_window(q: Tokens, k: Tokens, budget: int) -> Any:
    """VST Eq. 3: text stays; a visual token is seen while fewer than `budget` visual tokens lie in (k, q].

    Marks (vision start and end, timestamps) go with the last visual token of their block, so they do not stay behind.
    """
    return (k.visual_end < 0) | (q.visual_count - k.visual_end < budget)


def _last_segments(q: Tokens, k: Tokens, n: int) -> Any:
    """The received turns of the last n segments; text and everything generated stays (KV memory)."""
    return (k.segment < 0) | (k.segment > q.now - n)


def _sink_window(q: Tokens, k: Tokens, sink: int, window: int) -> Any:
    """The first `sink` tokens of the timeline and the last `window` (StreamingLLM, arXiv 2309.17453)."""
    return (k.order < sink) | (q.order - k.order < window)


def _unit(q: Tokens, k: Tokens) -> Any:
    """Received never sees generated; generated sees what had been received: unit[k] <= unit[q] (TWW, SWW papers)."""
    return _two_streams(q, k, q.unit)


def _row_shift(q: Tokens, k: Tokens) -> Any:
    """As unit, but the row that predicts the next token already sees what that token may use: unit[k] <= unit[q+1]
    (SWW, TaYS, StreamingThinker and GPE code)."""
    return _two_streams(q, k, q.next_unit)


def _two_streams(q: Tokens, k: Tokens, visible: torch.Tensor) -> Any:
    generated_k = k.stream == GENERATED
    return (generated_k & (q.stream == GENERATED)) | (~generated_k & (k.unit <= visible))


def _text_memory(q: Tokens, k: Tokens) -> Any:
    """recurrent_packed: the shared prefix and the memory copies, and the tokens of one's own turn."""
    return (k.turn < 0) | (k.turn == q.turn)


@dataclass(frozen=True)
class RuleKind:
    predicate: Predicate
    layouts: tuple[str, ...]
    fields: tuple[str, ...]
    params: tuple[str, ...] = ()
    # when inference writes the boundary token of a generated turn: "before" or "after" the next read (split layouts)
    boundary: str = "before"


RULES: dict[str, RuleKind] = {
    "causal": RuleKind(_causal, ("interleaved", "recurrent"), ()),
    "visual_window": RuleKind(_visual_window, ("interleaved",), ("visual_end", "visual_count"), ("budget",)),
    "last_segments": RuleKind(_last_segments, ("interleaved",), ("segment", "now"), ("n",)),
    "sink_window": RuleKind(_sink_window, ("interleaved",), ("order",), ("sink", "window")),
    "unit": RuleKind(_unit, ("split",), ("stream", "unit")),
    "row_shift": RuleKind(_row_shift, ("split",), ("stream", "unit", "next_unit"), boundary="after"),
    "text_memory": RuleKind(_text_memory, ("recurrent_packed",), ("turn",)),
}


@dataclass(frozen=True)
class Rule:
    """A rule with its parameters, e.g. Rule("visual_window", {"budget": 8192})."""

    name: str
    params: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.name not in RULES:
            raise VisibilityError(f"unknown visibility rule {self.name!r}; known: {', '.join(sorted(RULES))}")
        if set(self.params) != set(RULES[self.name].params):
            raise VisibilityError(
                f"rule {self.name!r} takes parameters {list(RULES[self.name].params)}, got {sorted(self.params)}"
            )
        for key, value in self.params.items():
            if not isinstance(value, int) or value < (0 if key == "sink" else 1):
                raise VisibilityError(f"rule {self.name!r}: {key} must be a positive whole number, got {value!r}")

    @property
    def kind(self) -> RuleKind:
        return RULES[self.name]

    @property
    def plain_causal(self) -> bool:
        return self.name == "causal"

    def check_layout(self, layout: str) -> None:
        if layout not in self.kind.layouts:
            fitting = sorted(name for name, kind in RULES.items() if layout in kind.layouts)
            raise VisibilityError(f"rule {self.name!r} is not defined for layout {layout!r}; use one of {fitting}")

    def allowed(self, q: Tokens, k: Tokens, out: torch.Tensor | None = None) -> torch.Tensor:
        """True where q may attend to k; q and k broadcast against each other."""
        mask = (k.index <= q.index) & (k.sample == q.sample) & ((k.branch == 0) | (k.branch == q.branch))
        ruled = self.kind.predicate(q, k, **self.params)
        return mask if ruled is None else mask & ruled


def dense_mask(rule: Rule, tokens: Tokens) -> torch.Tensor:
    """Bool mask over fields of shape (..., L): (..., L, L), True = may attend."""
    names = ("index", "sample", "branch", *rule.kind.fields)
    columns = tokens.only(names)
    return _allowed_lean(rule, columns[..., :, None], columns[..., None, :])


def _allowed_lean(rule: Rule, q: Tokens, k: Tokens) -> torch.Tensor:
    """`allowed` without the terms that are true for every pair of these tokens: most rows have one sample, no branch."""
    mask = k.index <= q.index
    if not torch.equal(q.sample.amin(), q.sample.amax()):
        mask &= k.sample == q.sample
    if bool((k.branch > 0).any()):
        mask &= (k.branch == 0) | (k.branch == q.branch)
    ruled = rule.kind.predicate(q, k, **rule.params)
    return mask if ruled is None else mask.logical_and_(ruled)


def block_mask(rule: Rule, tokens: Tokens, block: int = 128) -> Any:
    """FlexAttention BlockMask over fields of shape (B, L), built in chunks of query blocks: no L x L tensor is kept.

    Blocks are (block, block); `mask_mod` is the same predicate, applied by the kernel inside partial blocks.
    """
    from torch.nn.attention.flex_attention import BlockMask

    columns = tokens.only(("index", "sample", "branch", *rule.kind.fields))
    B, L = columns.index.shape
    n = -(-L // block)
    padded = n * block
    any_BNN = torch.zeros(B, n, n, dtype=torch.bool, device=columns.index.device)
    all_BNN = torch.zeros_like(any_BNN)
    rows = max(1, 2**24 // max(padded * block, 1)) * block  # about 16M pairs at a time
    for start in range(0, L, rows):
        stop = min(start + rows, L)
        # only keys up to `stop` can be allowed: slots are causal
        dense = _allowed_lean(rule, columns[:, start:stop, None], columns[:, None, :stop])
        dense = torch.nn.functional.pad(dense, (0, -stop % block, 0, -(stop - start) % block))
        tiles = dense.view(B, dense.shape[1] // block, block, dense.shape[2] // block, block)
        first, width = start // block, tiles.shape[3]
        counts = tiles.sum(dim=4, dtype=torch.int32).sum(dim=2, dtype=torch.int32)
        any_BNN[:, first : first + tiles.shape[1], :width] = counts > 0
        all_BNN[:, first : first + tiles.shape[1], :width] = counts == block * block
    partial = any_BNN & ~all_BNN

    def mask_mod(b: torch.Tensor, h: torch.Tensor, q_idx: torch.Tensor, kv_idx: torch.Tensor) -> torch.Tensor:
        return rule.allowed(columns[b, q_idx], columns[b, kv_idx])

    def indices(mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        counts = mask.sum(-1, dtype=torch.int32)
        order = torch.argsort(mask.to(torch.int8), dim=-1, descending=True, stable=True).to(torch.int32)
        return counts[:, None], order[:, None]

    return BlockMask.from_kv_blocks(
        *indices(partial), *indices(all_BNN), BLOCK_SIZE=(block, block), mask_mod=mask_mod, seq_lengths=(L, L)
    )
