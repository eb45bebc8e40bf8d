"""What stands on a timeline, as tokens: how a clip, a query, a thought or a text memory is written, each a chunk.

A chunk is tokenised on its own, so the same event gives the same tokens wherever it stands. Where chunks go is up to
whilst/render.py (rows) and whilst/runtime.py (caches).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from whilst.backbones.base import VIDEO_PAD, ClipShape, VisionSpec
from whilst.chunks import Chunk, Role
from whilst.episode import Turn
from whilst.positions import Grid, Piece
from whilst.render_config import RenderConfig
from whilst.sample import Query, Segment


class RenderError(ValueError):
    """A sample that cannot be rendered as asked; names the sample, the event and the fix."""


class Wording:
    """Writes chunks for one tokenizer, one family's vision and one RenderConfig."""

    def __init__(self, tokenizer: Any, spec: VisionSpec, config: RenderConfig) -> None:
        self.tokenizer, self.spec, self.config = tokenizer, spec, config
        self.rule = config.check()
        self.vocabulary: dict[str, int] = tokenizer.get_vocab()
        self.encode = lru_cache(maxsize=65536)(self._encode)
        closing = self.encode(config.format.closing)
        if len(closing) != 1:
            raise RenderError(f"format.closing {config.format.closing!r} must be one token, it is {len(closing)}")
        self.boundary = closing[0]
        self.implicit = config.silence == "implicit"
        opening = self.encode(config.format.generated_open)
        if self.implicit and (not opening or opening[0] == self.boundary):
            raise RenderError(
                "silence: implicit tells a turn from silence by its first token: format.generated_open must not be "
                "empty, nor begin with format.closing"
            )
        self.opening = opening[0] if opening else -1
        special = [t for t in tokenizer.get_added_vocab() if t.startswith("<|")]
        self._special = re.compile("|".join(map(re.escape, special))) if special else None

    def _encode(self, text: str) -> tuple[int, ...]:
        return tuple(self.tokenizer.encode(text, add_special_tokens=False))

    def spoken(self, text: str, where: str) -> str:
        """`text` of a sample, refused if it holds special tokens: they would change the turns around it."""
        if self._special and (found := self._special.search(text)):
            raise RenderError(f"{where}: text holds the special token {found.group()!r}; remove it from the text")
        return text

    def text(self, text: str, role: Role) -> Chunk:
        return self._chunk([(text, role)])

    def _chunk(self, parts: Iterable[tuple[str | Grid, Role]], *, learn: Sequence[str] = ()) -> Chunk:
        ids: list[int] = []
        roles: list[int] = []
        visual: list[int] = []
        pieces: list[Piece] = []
        count = 0
        for part, role in parts:
            if isinstance(part, Grid):
                ids += [self.vocabulary[VIDEO_PAD]] * part.tokens
                visual += range(count + 1, count + part.tokens + 1)
                count += part.tokens
                roles += [Role.VISION] * part.tokens
                pieces.append(part)
            elif part:
                tokens = self.encode(part)
                ids += tokens
                visual += [count] * len(tokens)
                roles += [role] * len(tokens)
                pieces.append(len(tokens))
        role_array, visual_array = np.array(roles, np.int8), np.array(visual, np.int32)
        # a pad goes with itself; a stamp or mark inside a clip with the clip's last pad
        inside = np.isin(role_array, (Role.STAMP, Role.VISION)) if count else np.zeros(len(ids), bool)
        ends = np.where(role_array == Role.VISION, visual_array, np.where(inside, count, -1)).astype(np.int32)
        return Chunk(np.array(ids, np.int64), role_array, np.zeros(len(ids), bool), visual_array, ends, tuple(pieces))

    def system(self) -> Chunk:
        return self.text(self.config.format.system, Role.SYSTEM)

    def clip(self, shape: ClipShape, segment: Segment) -> list[tuple[str | Grid, Role]]:
        span = self.config.format.segment.format(start=segment.start, end=segment.end)
        first, *rest = self.spec.clip_parts(shape)
        # one text with the timestamp that may follow, so that it is tokenised as a processor would
        opening: list[str | Grid] = [span + first] if isinstance(first, str) else [span, first]
        return [(part, Role.STAMP) for part in (*opening, *rest)]

    def received(self, shape: ClipShape | None, segment: Segment | None, query: Query | None) -> Chunk:
        """A received turn: a clip, a query, or (recurrent prompts) a clip and then a query."""
        f = self.config.format
        parts: list[tuple[str | Grid, Role]] = [(f.received_open, Role.MARK)]
        if shape is not None and segment is not None:
            parts += self.clip(shape, segment)
        if query is not None:
            parts.append(
                (f.query.format(text=self.spoken(query.text, f"query {query.id}"), time=query.time), Role.TEXT)
            )
        return self._chunk([*parts, (f.received_close, Role.MARK)])

    def prefix(self) -> Chunk:
        """What opens a generated turn; written, never sampled."""
        return self.text(self.config.format.generated_open, Role.MARK)

    def follow(self) -> Chunk:
        """What comes after a boundary token, written with the next turn."""
        return self.text(self.config.format.follow, Role.MARK)

    def generated(self, text: str, role: Role, where: str = "") -> Chunk:
        """A generated text and its boundary token; both carry the loss."""
        chunk = self._chunk([(self.spoken(text, where), role), (self.config.format.closing, role)])
        return Chunk(chunk.ids, chunk.roles, np.ones(len(chunk), bool), chunk.visual, chunk.visual_end, chunk.pieces)

    def drawn(self, text: str) -> tuple[int, ...]:
        """What a sampler draws for a generated text, but for the boundary token that ends it; silence is "". With
        silence: implicit the first token is the decision to speak."""
        tokens = self.encode(text)
        return (self.opening, *tokens) if self.implicit and text else tokens

    def tokens(self, ids: Sequence[int], role: Role, learned: int = 0) -> Chunk:
        """Sampled tokens as a chunk; the first `learned` of them carry the loss."""
        n = len(ids)
        zeros = np.zeros(n, np.int32)
        return Chunk(np.array(ids, np.int64), np.full(n, role, np.int8), np.arange(n) < learned, zeros, zeros - 1, (n,))

    def sampled(self, turn: Turn, role: Role, *, closed: bool) -> Chunk:
        """A sampled turn: its own ids, never its text encoded again. closed: the stream goes on behind it, so that a
        turn which was cut off gets the boundary token as well, without loss: it was not sampled."""
        ending = [self.boundary] if turn.finished or closed else []
        return self.tokens([*turn.ids, *ending], role, learned=turn.tokens)

    def memory_open(self) -> Chunk:
        return self.text(self.config.format.memory_open, Role.MEMORY)

    def memory_entry(self, text: str, segment: Segment) -> Chunk:
        entry = self.config.format.memory_entry
        return self.text(entry.format(text=text, start=segment.start, end=segment.end), Role.MEMORY)

    def memory_given(self, text: str) -> Chunk:
        """Text memory that a sample starts with: as it stands, or what memory_cut leaves of it."""
        ids, cut = self.encode(self.spoken(text, "memory")), self.config.memory_cut
        if cut is not None and len(ids) > cut.sink + cut.tail:
            ids = ids[: cut.sink] + ids[len(ids) - cut.tail :]
        return self.tokens(ids, Role.MEMORY)

    def memory_left_out(self, text: str) -> int:
        """How many tokens memory_cut leaves out of a text memory that a sample starts with."""
        cut = self.config.memory_cut
        return max(0, len(self.encode(text)) - cut.sink - cut.tail) if cut is not None else 0

    def memory_close(self) -> Chunk:
        return self.text(self.config.format.memory_close, Role.MEMORY)

    def memory_turn(self, text: str) -> Chunk:
        """The same as a received turn of a growing stream (interleaved, split)."""
        return Chunk.join(self.memory_open(), self.memory_given(text), self.memory_close())
