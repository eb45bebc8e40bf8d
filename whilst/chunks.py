"""Chunks: tokens that are written together, with what is known of them when they are written; and their numbering.

The renderer lays chunks out in rows, the runtime feeds the same chunks to its caches. `Numbering` gives both their
metadata and positions, in arrival order.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np

from whilst.positions import Interleaved, Piece
from whilst.visibility import RECEIVED


class Role(IntEnum):
    PAD, SYSTEM, MEMORY, MARK, STAMP, VISION, TEXT, THOUGHT, ANSWER = range(9)


@dataclass(frozen=True)
class TurnFormat:
    """The strings around what is said: ChatML, as the Qwen chat templates write it.

    `closing` must be one token: it is the boundary token that ends a generated turn. `follow` comes after it, written
    with the next turn. `previous text` is the memory role of VST and StreamingVLM.
    """

    system: str = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
    received_open: str = "<|im_start|>user\n"
    received_close: str = "<|im_end|>\n"
    generated_open: str = "<|im_start|>assistant\n"
    closing: str = "<|im_end|>"
    follow: str = "\n"
    memory_open: str = "<|im_start|>previous text\n"
    memory_entry: str = "{text}\n"  # may use {start}, {end}: seconds of the segment
    memory_close: str = "<|im_end|>\n"
    segment: str = ""  # before a clip, e.g. VST's "Time={start:.1f}-{end:.1f}s "
    query: str = "{text}"  # may use {time}


@dataclass(frozen=True)
class Chunk:
    """Tokens written together. Arrays of n tokens; `pieces` are the texts and grids for the position scheme."""

    ids: np.ndarray
    roles: np.ndarray
    learn: np.ndarray  # bool: carries the loss
    visual: np.ndarray  # visual tokens of the chunk up to and including this one
    visual_end: np.ndarray  # same, at the end of the block that a pad or mark goes with; -1 elsewhere
    pieces: tuple[Piece, ...]

    def __len__(self) -> int:
        return len(self.ids)

    @staticmethod
    def join(*chunks: Chunk) -> Chunk:
        base, visual, ends = 0, [], []
        for chunk in chunks:
            visual.append(chunk.visual + base)
            ends.append(np.where(chunk.visual_end < 0, -1, chunk.visual_end + base))
            base += int(chunk.visual[-1]) if len(chunk) else 0
        return Chunk(
            np.concatenate([c.ids for c in chunks]),
            np.concatenate([c.roles for c in chunks]),
            np.concatenate([c.learn for c in chunks]),
            np.concatenate(visual),
            np.concatenate(ends),
            tuple(p for c in chunks for p in c.pieces),
        )


class Numbering:
    """Numbers chunks in arrival order: metadata and positions of a row being rendered, or of a stream being run."""

    def __init__(self, scheme: Interleaved) -> None:
        self.scheme = scheme
        self.index = self.order = self.visual = 0
        # before the first received turn, which is unit 0: text written then must not see that turn in a split row
        self.unit = self.now = -1

    def stamp(
        self, chunk: Chunk, stream: int, *, segment: int = -1, branch: int = 0, turn: int = -1
    ) -> dict[str, np.ndarray]:
        """Metadata arrays (n,) of the chunk, and its positions (3, n); moves on."""
        n = len(chunk)
        positions = self.scheme.received(chunk.pieces) if stream == RECEIVED else self.scheme.generated(n)
        steps = np.arange(n, dtype=np.int32)

        def constant(value: int) -> np.ndarray:
            return np.full(n, value, np.int32)

        stamped = {
            "index": self.index + steps,
            "order": self.order + steps,
            "sample": constant(0),
            "stream": constant(stream),
            "unit": constant(self.unit),
            "next_unit": constant(self.unit),
            "branch": constant(branch),
            "turn": constant(turn),
            "segment": constant(segment),
            "now": constant(self.now),
            "visual_count": self.visual + chunk.visual,
            "visual_end": np.where(chunk.visual_end < 0, -1, self.visual + chunk.visual_end).astype(np.int32),
            "positions": positions,
        }
        self.index += n
        self.order += n
        self.visual += int(chunk.visual[-1]) if n else 0
        return stamped

    def mark(self) -> tuple[Any, ...]:
        """Where the timeline stands (all but the arrival index, which never goes back)."""
        return self.order, self.visual, self.unit, self.now, self.scheme.mark()

    def reset(self, mark: tuple[Any, ...]) -> None:
        self.order, self.visual, self.unit, self.now, scheme = mark
        self.scheme.reset(scheme)
