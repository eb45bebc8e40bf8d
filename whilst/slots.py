"""What is known of the entries of the caches, and their re-indexing: positions without the gaps that eviction left.

Keys are kept un-rotated where a policy re-indexes (whilst/memory.py), so an entry may take a position that its key was
never rotated to. Sources: StreamingVLM (arXiv 2510.09608), which rotates its whole cache anew; ReKV (2503.00540).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from whilst.chunks import Chunk
from whilst.memory import GrowingTensor
from whilst.positions import Grid
from whilst.visibility import FIELDS, RECEIVED, Tokens

# What policies know beyond FIELDS. A piece is one text token or one grid of visual tokens: what moves as a whole.
EXTRA = (
    "role",  # whilst.chunks.Role
    "t",  # the position (t, h, w) that the entry has now
    "h",
    "w",
    "start",  # first position of its piece now
    "extent",  # positions that the whole piece takes up, whatever was dropped of it
    "end",  # end of its segment in ms on the clock of the video; -1: none
    "frame",  # ordinal of its temporal patch on the stream; -1: no visual token
    "carrier",  # 1: stands for its whole frame (policy carrier)
)


class SlotTable:
    """Metadata of the entries of one cache (received or generated): (F, B, n) int32, and which are valid.

    A row that took no part in a write has entries that are not valid; their index is -1.
    """

    def __init__(self, fields: Sequence[str]) -> None:
        self.fields = (*fields, "valid")
        self.buffer = GrowingTensor(2)

    @property
    def length(self) -> int:
        return self.buffer.length

    def block(self, rows: Sequence[Mapping[str, np.ndarray] | None], n: int) -> torch.Tensor:
        """The block (F, B, n) of a write; a row of None has no valid entry in it."""
        block = torch.zeros(len(self.fields), len(rows), n, dtype=torch.int32)
        block[self.fields.index("index")] = -1
        for b, numbers in enumerate(rows):
            if numbers is not None:
                values = np.stack([numbers[name] for name in self.fields[:-1]])
                block[:-1, b, : values.shape[1]] = torch.from_numpy(values)
                block[-1, b, : values.shape[1]] = 1
        return block

    def gather(self, index: torch.Tensor, valid: torch.Tensor) -> None:
        """Keep the entries index (B, n); those that are not valid (B, n) are padding from now on."""
        if self.buffer.data is None:
            return
        kept = self.buffer.view().gather(2, index[None].expand(len(self.fields), -1, -1))
        kept[-1] = valid
        kept[self.fields.index("index")].masked_fill_(~valid, -1)
        self.buffer.replace(kept)


def tokens_of(blocks: torch.Tensor, fields: Sequence[str]) -> Tokens:
    """The fields of blocks (F, B, n), each (B, n); "valid" as 0 or 1."""
    return Tokens(dict(zip(fields, blocks, strict=True)))


def piece_numbers(chunk: Chunk, positions: np.ndarray, segment_end: int, frame: int) -> dict[str, np.ndarray]:
    """The EXTRA fields (n,) of a chunk at positions (3, n). frame: ordinal of its first temporal patch."""
    n = len(chunk)
    start, extent = positions.max(0).astype(np.int32), np.ones(n, np.int32)
    frames = np.full(n, -1, np.int32)
    at = 0
    for piece in chunk.pieces:
        if isinstance(piece, Grid):
            of_piece = slice(at, at + piece.tokens)
            start[of_piece] = positions[:, of_piece].min()
            extent[of_piece] = positions[:, of_piece].max() + 1 - positions[:, of_piece].min()
            frames[of_piece] = frame + np.repeat(np.arange(piece.t), piece.h * piece.w)
            frame += piece.t
            at += piece.tokens
        else:
            at += piece
    t, h, w = positions.astype(np.int32)
    return {
        "role": chunk.roles.astype(np.int32),
        "t": t,
        "h": h,
        "w": w,
        "start": start,
        "extent": extent,
        "end": np.full(n, segment_end, np.int32),
        "frame": frames,
        "carrier": np.zeros(n, np.int32),
    }


def kept_index(keep: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """keep (B, n) bool -> index (B, m) of what is kept, in order, and which of these are valid; m: the longest row."""
    counts = keep.sum(-1)
    m = int(counts.max()) if keep.numel() else 0
    index = torch.argsort(~keep, dim=-1, stable=True)[:, :m]
    return index, torch.arange(m)[None, :] < counts[:, None]


def close_gaps(tables: Sequence[SlotTable], base: int = 0) -> np.ndarray:
    """Move the entries of `tables` together from `base` on, with no position left out; the next free one of each row.

    Entries follow each other in order of arrival; what is one piece keeps its inner arrangement and takes its whole
    extent, even where part of it was dropped. With everything kept this changes nothing.
    """
    blocks = [table.buffer.view() for table in tables if table.buffer.data is not None]
    if not blocks:
        raise ValueError("close_gaps: the tables hold nothing yet")
    fields = tables[0].fields
    at = {name: fields.index(name) for name in ("index", "t", "h", "w", "start", "extent", "valid")}
    joined = torch.cat(blocks, dim=2)
    free = np.full(joined.shape[1], base, np.int64)
    for b in range(joined.shape[1]):
        row = joined[:, b].numpy()
        here = np.flatnonzero(row[at["valid"]])
        here = here[np.argsort(row[at["index"], here], kind="stable")]
        if not len(here):
            continue
        start, extent = row[at["start"], here], row[at["extent"], here]
        opens = np.append(True, start[1:] != start[:-1])
        of_piece = opens.cumsum() - 1
        ends = base + extent[opens].cumsum()
        moved = (ends - extent[opens])[of_piece] - start
        for name in ("t", "h", "w", "start"):
            row[at[name], here] += moved
        free[b] = ends[-1]
    lengths = [block.shape[2] for block in blocks]
    for block, part in zip(blocks, joined.split(lengths, dim=2), strict=True):
        block.copy_(part)
    return free


def positions_of(table: SlotTable) -> torch.Tensor:
    """Positions (3, B, n) of the entries of a table."""
    first = table.fields.index("t")
    return table.buffer.view()[first : first + 3].long()


ALL_FIELDS = (*FIELDS, *EXTRA)
__all__ = ["ALL_FIELDS", "EXTRA", "RECEIVED", "SlotTable", "close_gaps", "kept_index", "piece_numbers", "positions_of"]
