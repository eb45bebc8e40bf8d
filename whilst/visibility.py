"""Visibility rules: which keys a query token may attend to. One predicate each, over token metadata.

    allowed(q, k) = same sample, k not later than q, k on q's branch or on the main timeline, and rule(q, k)

A predicate is written once over `Tokens` and works on broadcast tensors (dense mask), on single elements (the mask_mod
of FlexAttention) and on slices (block masks built chunk by chunk). A rule that cannot be applied raises; nothing falls
back to plain causal.

To add a rule: write a predicate, name it in RULES with the layouts it is defined for, and add it to the equivalence
test (tests/whilst/test_equivalence.py): streaming with caches must equal the one-pass masked forward.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

RECEIVED, GENERATED = 0, 1
FIELDS = (
    "index",  # slot in the row: causal order
    "order",  # place on the token's own timeline: a branch continues from where it left, the rest goes on without it
    "sample",  # which packed sample; -1 is padding
    "stream",  # RECEIVED or GENERATED
    "unit",  # what had been received: index of the last received turn of the timeline
    "next_unit",  # unit of the next generated token (row_shift)
    "branch",  # 0: main timeline; b > 0: visible only inside branch b
    "turn",  # recurrent_packed: turn of a prompt token; -1 for the shared prefix and the memory copies
    "segment",  # ordinal of the segment whose turn the token belongs to; -1: none
    "now",  # ordinal of the last segment that had arrived when the token was written; -1: none
    "visual_count",  # visual tokens on the timeline up to and including this one
    "visual_end",  # vision and its marks: visual_count at the last token of its block (itself for a pad); -1: no vision
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

    def allowed(self, q: Tokens, k: Tokens) -> torch.Tensor:
        """True where q may attend to k; q and k broadcast against each other."""
        return (k.index <= q.index) & self.visible(q, k)

    def visible(self, q: Tokens, k: Tokens) -> torch.Tensor:
        """`allowed` but for the order of slots: all that does not depend on `index`."""
        mask = (k.sample == q.sample) & ((k.branch == 0) | (k.branch == q.branch))
        ruled = self.kind.predicate(q, k, **self.params)
        return mask if ruled is None else mask & ruled


def dense_mask(rule: Rule, tokens: Tokens, rows: int = 256) -> torch.Tensor:
    """Bool mask over fields of shape (..., L): (..., L, L), True = may attend. `rows` queries are written at a time."""
    index = tokens.index
    mask = torch.zeros(*index.shape, index.shape[-1], dtype=torch.bool, device=index.device)
    for start, stop, seen, run in _strips(rule, tokens, rows):
        mask[..., start:stop, :stop] = seen.index_select(-2, run)
        mask[..., start:stop, start:stop].tril_()
    return mask


def _strips(rule: Rule, tokens: Tokens, rows: int) -> Iterator[tuple[int, int, torch.Tensor, torch.Tensor]]:
    """The mask in strips of `rows` queries, before the order of slots: (start, stop, seen (..., R, stop), run).

    Query start + i sees the keys that `seen[..., run[i], :]` says and that do not come after it: none from `stop` on.
    The tokens of a turn share most metadata, so the predicate is evaluated once for each run of equal queries.
    """
    columns = tokens.only(("index", "sample", "branch", *rule.kind.fields))
    L = columns.index.shape[-1]
    if not bool((columns.index == torch.arange(L, device=columns.index.device)).all()):
        raise VisibilityError(
            "`index` must be a token's slot in its row, 0 to L - 1: masks take it for the causal order"
        )
    fields = torch.stack([value for name, value in columns.values.items() if name != "index"])
    differs = (fields[..., 1:] != fields[..., :-1]).flatten(0, -2).any(0)
    for start in range(0, L, rows):
        stop = min(start + rows, L)
        opens = torch.nn.functional.pad(differs[start : stop - 1], (1, 0), value=True)
        first = start + opens.nonzero()[:, 0]
        seen = rule.visible(columns[..., first, None], columns[..., None, :stop])
        yield start, stop, seen, opens.cumsum(0) - 1


def block_mask(rule: Rule, tokens: Tokens, block: int = 128) -> Any:
    """FlexAttention BlockMask over fields of shape (B, L), built a query block at a time: no L x L tensor is made.

    Blocks are (block, block); `mask_mod` is the same predicate, applied by the kernel inside partial blocks.
    """
    from torch.nn.attention.flex_attention import BlockMask

    columns = tokens.only(("index", "sample", "branch", *rule.kind.fields))
    B, L = columns.index.shape
    n = -(-L // block)
    any_BNN = torch.zeros(B, n, n, dtype=torch.bool, device=columns.index.device)
    all_BNN = torch.zeros_like(any_BNN)
    for start, stop, seen, run in _strips(rule, tokens, block):
        i, missing = start // block, -stop % block
        any_BNN[:, i, : i + 1] = torch.nn.functional.pad(seen.any(1), (0, missing)).view(B, i + 1, block).any(2)
        diagonal = seen.index_select(1, run)[..., start:].tril()
        any_BNN[:, i, i] = diagonal.flatten(1).any(1)
        if not missing:  # an incomplete block is never full
            all_BNN[:, i, : i + 1] = seen.all(1).view(B, i + 1, block).all(2)
            all_BNN[:, i, i] = diagonal.flatten(1).all(1)
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
