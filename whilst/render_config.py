"""How samples are rendered: the `render` section of recipes and contracts, and what of it fits together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from whilst.chunks import TurnFormat
from whilst.positions import make_scheme
from whilst.visibility import Rule, VisibilityError

Layout = Literal["interleaved", "split", "recurrent", "recurrent_packed"]


@dataclass(frozen=True)
class MemoryCut:
    """What is kept of the text memory that a sample starts with: its first `sink` and last `tail` tokens, the strings
    around it not counted. A text of no more tokens stays whole. StreamingVLM: 512 and 512; VST's release: 512 and
    32,768."""

    sink: int
    tail: int

    def __post_init__(self) -> None:
        if min(self.sink, self.tail) < 0 or not self.sink + self.tail:
            raise VisibilityError(
                f"render.memory_cut: sink and tail are tokens, 0 or more, and not both 0; they are {self.sink} and "
                f"{self.tail}"
            )


@dataclass(frozen=True)
class RenderConfig:
    """Layout, visibility rule and position scheme of a recipe, and how its turns are written."""

    layout: Layout = "interleaved"
    rule: str = "causal"
    rule_params: Mapping[str, int] = field(default_factory=dict)
    scheme: str = "interleaved"
    scheme_params: Mapping[str, int] = field(default_factory=dict)
    # kept: a query and its answer stay in the stream; branch: they are visible only to themselves
    queries: Literal["kept", "branch"] = "branch"
    memory_tokens: int | None = None  # cap of the text memory, FIFO; None: unbounded
    memory_cut: MemoryCut | None = None  # of what a sample starts with; None: it stays whole
    max_tokens: int | None = None  # of one row; a longer one is an error
    thought_weight: float = 1.0
    answer_weight: float = 1.0
    silence_weight: float = 1.0  # of an empty turn (TaYS: 0.5)
    # turn: silence is an empty turn. implicit: nothing is written; the last token of a segment learns the boundary
    # token where no turn follows, with weight stream_weight, and the turn's first token where one does (LIVE, Eq. 5;
    # whilst/silence.py, which also says how live1+ is written)
    silence: Literal["turn", "implicit"] = "turn"
    stream_weight: float = 1.0
    format: TurnFormat = field(default_factory=TurnFormat)

    def check(self) -> Rule:
        """The rule, or an error where layout, rule, scheme and queries do not fit together."""
        rule = Rule(self.rule, dict(self.rule_params))
        rule.check_layout(self.layout)
        recurrent = self.layout.startswith("recurrent")
        if recurrent and self.scheme != "interleaved":
            raise VisibilityError(f"layout {self.layout!r} is a series of plain prompts: scheme must be 'interleaved'")
        if recurrent and self.queries != "branch":
            raise VisibilityError(
                f"layout {self.layout!r} keeps thoughts alone in its text memory: set queries: branch"
            )
        if self.rule == "row_shift" and self.queries != "kept":
            raise VisibilityError(
                "row_shift writes a boundary token after the next read, so a query cannot leave the stream: "
                "set queries: kept, or rule: unit"
            )
        if self.memory_tokens is not None and not recurrent:
            raise VisibilityError(
                f"render.memory_tokens caps the text memory of recurrent layouts, and layout {self.layout!r} keeps its "
                f"thoughts in the stream: leave it out; a policy bounds a stream, memory_cut what it starts with"
            )
        if self.scheme == "batch" and self.layout != "split":
            raise VisibilityError(
                f"scheme 'batch' puts generated text after the last received token, which layout {self.layout!r} does "
                f"not: use layout split"
            )
        if self.silence == "implicit" and self.layout != "interleaved":
            raise VisibilityError(
                f"silence: implicit lets the last token of a segment decide what comes next in the stream, but "
                f"layout {self.layout!r} does not write it there: use layout interleaved, or silence: turn"
            )
        for name in ("thought_weight", "answer_weight", "silence_weight", "stream_weight"):
            if not getattr(self, name) >= 0.0:
                raise VisibilityError(f"render.{name} must not lie below 0, it is {getattr(self, name)}")
        make_scheme(self.scheme, received_end=0, **self.scheme_params)
        return rule
