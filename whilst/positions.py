"""Position schemes: which (t, h, w) position each token gets. Our own M-RoPE arithmetic, never the model's.

A scheme is a cursor over two groups of tokens, *received* and *generated*. The renderer and the runtime move the same
cursor in arrival order, one chunk at a time, so that a one-pass row and a stream get the same positions by
construction. Sources: Qwen2-VL (arXiv 2409.12191) for the three-axis rule; Speak-While-Watching (arXiv 2601.06843)
section 3.3 for overlapped, group-decoupled and gap-isolated; Think-While-Watching (arXiv 2603.11896) for `tww`.

A *piece* of a chunk is either a number of text tokens or a `Grid` of visual tokens. After any piece the next position
is `max over all axes + 1`: the rule of the Qwen2.5-VL checkpoints and of vLLM (recent transformers advances by
max(h, w) after a video of Qwen2.5-VL and so overlaps text and video), and the same as stock for Qwen3-VL.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

PositionArray = np.ndarray  # int64 (3, n): the t, h and w position of n tokens


@dataclass(frozen=True)
class Grid:
    """A block of visual tokens after the spatial merge: t x h x w tokens; `stride` positions between two t."""

    t: int
    h: int
    w: int
    stride: float = 1.0

    @property
    def tokens(self) -> int:
        return self.t * self.h * self.w


Piece = int | Grid


class PositionError(ValueError):
    """A scheme that cannot be applied here, or an unknown one."""


def place(pieces: Sequence[Piece], start: int) -> tuple[PositionArray, int]:
    """Positions (3, n) of `pieces` laid out from `start`, and the next free position (max over all axes + 1)."""
    parts: list[PositionArray] = []
    for piece in pieces:
        if isinstance(piece, Grid):
            t = np.floor(np.arange(piece.t) * piece.stride).astype(np.int64)
            block = np.stack(np.meshgrid(t, np.arange(piece.h), np.arange(piece.w), indexing="ij")).reshape(3, -1)
            parts.append(block + start)
            start = int(parts[-1].max()) + 1
        else:
            parts.append(np.broadcast_to(np.arange(start, start + piece, dtype=np.int64), (3, piece)))
            start += piece
    return (np.concatenate(parts, axis=1) if parts else np.zeros((3, 0), np.int64)), start


class Interleaved:
    """One cursor in arrival order: V1 A1 V2 A2 ... The positions of a plain chat."""

    def __init__(self) -> None:
        self.next = 0

    def received(self, pieces: Sequence[Piece]) -> PositionArray:
        positions, self.next = place(pieces, self.next)
        return positions

    def generated(self, n: int) -> PositionArray:
        return self.received([n])

    def mark(self) -> Any:
        """A copy of the cursor, to come back to after a branch."""
        return copy.copy(self.__dict__)

    def reset(self, mark: Any) -> None:
        self.__dict__.update(mark)


class GroupDecoupled(Interleaved):
    """GDPE: two independent cursors; received tokens count from 0, generated ones from `phi`."""

    def __init__(self, phi: int = 0) -> None:
        super().__init__()
        self.next_generated = phi

    def generated(self, n: int) -> PositionArray:
        positions, self.next_generated = place([n], self.next_generated)
        return positions


class GapIsolated(GroupDecoupled):
    """GIPE: group-decoupled with generated tokens a gap of `delta` away (the released code uses exactly 10000)."""

    def __init__(self, delta: int = 10000) -> None:
        super().__init__(phi=delta)
        self.delta = delta

    def received(self, pieces: Sequence[Piece]) -> PositionArray:
        positions = super().received(pieces)
        if self.next > self.delta:
            raise PositionError(
                f"gap_isolated: received positions reach {self.next - 1} and collide with the generated group that "
                f"starts at delta {self.delta}; choose a larger delta"
            )
        return positions


class Batch(GroupDecoupled):
    """Generated tokens follow everything received, so the whole stream must be known: offline only.

    `received_end` is the first position after all received tokens of the timeline.
    """

    def __init__(self, received_end: int | None = None) -> None:
        if received_end is None:
            raise PositionError(
                "batch positions put generated text after the last received token, which a stream does not know; "
                "give received_end, or use a streaming scheme"
            )
        super().__init__(phi=received_end)


class Overlapped(Interleaved):
    """OSPE: A_i and V_{i+1} both start after the barrier E_i = max(end of V_i, end of A_{i-1}).

    (Speak-While-Watching, eq. 1, whose printed max carries an index typo; worked example in the tests.)
    """

    def __init__(self) -> None:
        super().__init__()
        self.next_generated = 0
        self.barrier = 0
        self.reading = True

    def received(self, pieces: Sequence[Piece]) -> PositionArray:
        if not self.reading:  # the first received chunk after generated text: both streams left the same barrier
            self.next, self.reading = self.barrier, True
        positions, self.next = place(pieces, self.next)
        return positions

    def generated(self, n: int) -> PositionArray:
        if self.reading:
            self.barrier = max(self.next, self.next_generated)
            self.next_generated, self.reading = self.barrier, False
        positions, self.next_generated = place([n], self.next_generated)
        return positions


SCHEMES: dict[str, Callable[..., Interleaved]] = {
    "interleaved": Interleaved,
    "batch": Batch,
    "overlapped": Overlapped,
    "group_decoupled": GroupDecoupled,
    "gap_isolated": GapIsolated,
    # Think-While-Watching, released runtime: one source cursor, targets 0, 1, 2, ... never reset between units. Its
    # paper merges the patches of a segment into one grid; the release does not, and neither do we.
    "tww": lambda: GroupDecoupled(phi=0),
}


def make_scheme(name: str, received_end: int | None = None, **params: int) -> Interleaved:
    """A fresh cursor of scheme `name`; `received_end` is used by `batch` alone."""
    if name not in SCHEMES:
        raise PositionError(f"unknown position scheme {name!r}; known: {', '.join(sorted(SCHEMES))}")
    try:
        return SCHEMES[name](received_end=received_end, **params) if name == "batch" else SCHEMES[name](**params)
    except TypeError as error:
        raise PositionError(f"position scheme {name!r} does not take {sorted(params)}: {error}") from None
