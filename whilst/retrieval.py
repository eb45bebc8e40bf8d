"""Segments that left the cache for CPU memory or disk, and the attention that brings some of them back for a query.

Source: ReKV (arXiv 2503.00540): keys are stored un-rotated, a block is found by its mean key, each layer finds its own,
and what is found takes positions of its own in front of the local window. Here a block is a segment.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from whilst.memory import rotate

Turn = Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]  # positions (3, B, n) -> (cos, sin), each (B, n, D)


class OffloadError(OSError):
    """A segment that could not be written to, or read back from, its folder. The stream that it belongs to ends."""


@dataclass(frozen=True)
class Block:
    """A segment that was offloaded: n entries in each of the layers.

    offsets: positions (3, n) from the block's first one; extent: positions that it takes; means: (layers, H * D), the
    mean key of its visual tokens (of all its tokens where a policy let none of them in); kept: keys and values
    (layers, 2, H, n, D), or the file that holds them.
    """

    segment: int
    offsets: torch.Tensor
    extent: int
    means: torch.Tensor
    kept: torch.Tensor | Path

    def read(self, layer: int) -> torch.Tensor:
        """Keys and values (2, H, n, D) of one layer."""
        if isinstance(self.kept, torch.Tensor):
            return self.kept[layer]
        try:
            with safe_open(self.kept, framework="pt") as file:  # type: ignore[no-untyped-call]
                found: torch.Tensor = file.get_tensor(str(layer))
        except Exception as error:
            raise OffloadError(f"{self.kept}: segment {self.segment} cannot be read back: {error}") from error
        return found


@dataclass
class Store:
    """The offloaded segments of each stream, in order; on disk where a folder is given."""

    size: int
    folder: Path | None = None
    blocks: list[list[Block]] = field(init=False)

    def __post_init__(self) -> None:
        self.blocks = [[] for _ in range(self.size)]
        self._own: Path | None = None

    def put(
        self,
        b: int,
        segment: int,
        layers: Sequence[torch.Tensor],
        offsets: torch.Tensor,
        extent: int,
        visual: torch.Tensor,
    ) -> None:
        """Offload a segment of stream b. layers: un-rotated keys and values (2, H, n, D) of each; visual: (n,) bool.

        Raises:
            OffloadError: the folder cannot be written to, for instance because the disk is full.
        """
        kept = torch.stack([of_layer.cpu() for of_layer in layers])
        found = visual if bool(visual.any()) else torch.ones_like(visual)  # all of its tokens were alike and not read
        means = kept[:, 0][:, :, found].mean(2).flatten(1)
        where: torch.Tensor | Path = kept
        if self.folder is not None:
            where = self._write(b, segment, kept)
        self.blocks[b].append(Block(segment, offsets, extent, means, where))

    def _write(self, b: int, segment: int, kept: torch.Tensor) -> Path:
        try:
            if self._own is None:
                assert self.folder is not None
                self.folder.mkdir(parents=True, exist_ok=True)
                self._own = Path(tempfile.mkdtemp(prefix="segments-", dir=self.folder))
            path = self._own / f"{b}-{segment}.safetensors"
            save_file({str(layer): of_layer.contiguous() for layer, of_layer in enumerate(kept)}, path)
        except Exception as error:  # safetensors reports a full disk as an error of its own
            raise OffloadError(
                f"{self.folder}: segment {segment} cannot be offloaded: {error}; free space there, or give policy "
                f"retrieval another store"
            ) from error
        return path

    def bytes(self) -> int:
        """Bytes of keys and values held in memory or on disk."""
        total = 0
        for block in (block for row in self.blocks for block in row):
            if isinstance(block.kept, Path):
                total += block.kept.stat().st_size
            else:
                total += block.kept.numel() * block.kept.element_size()
        return total

    def close(self) -> None:
        """Give everything back: memory, and the files of this store."""
        self.blocks = [[] for _ in range(self.size)]
        if self._own is not None:
            shutil.rmtree(self._own, ignore_errors=True)
            self._own = None


@dataclass
class Reader:
    """What attention reads in place of the stock arguments: queries are rotated here, since keys are kept un-rotated.

    turn: (cos, sin) of the tokens that are written now. recall: brings segments back, in the branch of a query.
    """

    turn: tuple[torch.Tensor, torch.Tensor]
    written: torch.Tensor  # (B, Q), which of the tokens are valid
    recall: Recall | None = None

    def __call__(
        self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """query (B, Hq, Q, D) un-rotated, key and value (B, H, K, D), mask (B, 1, Q, K) bool -> what is attended."""
        turned = rotate(query, self.turn)
        if self.recall is None:
            return turned, key, value, mask
        return turned, *self.recall.read(layer, query, self.written, key, value, mask)


@dataclass(frozen=True)
class _Recalled:
    keys: torch.Tensor  # (B, H, M, D), rotated
    values: torch.Tensor
    valid: torch.Tensor  # (B, M)
    shift: torch.Tensor  # (B,) positions that the recalled segments of a stream take


class Recall:
    """The segments that each layer brings back for one query; chosen by the query's first forward, then held.

    system: raw keys (B, H, s, D) of the system prompt in each layer, at positions 0 to s - 1. The local window and the
    query stay where they are: what comes before them moves down by as many positions as the recalled segments take.
    """

    def __init__(self, store: Store, most: int | None, system: Sequence[torch.Tensor], turn: Turn) -> None:
        self.store, self.most, self.system, self.turn = store, most, system, turn
        self.chosen: dict[int, list[list[int]]] = {}  # layer -> stream -> segments
        self._held: dict[int, _Recalled] = {}

    def read(
        self,
        layer: int,
        query: torch.Tensor,
        written: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        mask: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Keys, values and mask with the recalled segments behind the rest."""
        if layer not in self._held:
            self._held[layer] = self._choose(layer, query, written)
        recalled, system = self._held[layer], self.system[layer]
        B, s, Q = key.shape[0], system.shape[2], mask.shape[2]
        down = torch.arange(s)[None, :] - recalled.shift[:, None]  # (B, s)
        front = rotate(system, self.turn(down[None].expand(3, B, s)))
        keys = torch.cat([front, key[:, :, s:], recalled.keys], dim=2)
        values = torch.cat([value, recalled.values], dim=2)
        seen = recalled.valid[:, None, None, :].expand(B, 1, Q, -1).to(mask.device)
        return keys, values, torch.cat([mask, seen], dim=3)

    def _choose(self, layer: int, query: torch.Tensor, written: torch.Tensor) -> _Recalled:
        B, heads, _, D = query.shape
        H, s = self.system[layer].shape[1], self.system[layer].shape[2]
        weight = written.to(query.dtype)[:, None, :, None]
        mean = (query * weight).sum(2) / weight.sum(2).clamp(min=1)  # (B, heads, D)
        wanted = mean.view(B, H, heads // H, D).sum(2).flatten(1).cpu()  # as (B, H * D): heads of a group share a key
        found: list[list[Block]] = []
        for b, blocks in enumerate(self.store.blocks):
            asked = bool(written[b].any())
            scores = (
                torch.stack([block.means[layer] for block in blocks]) @ wanted[b]
                if blocks and asked
                else torch.zeros(0)
            )
            best = scores.argsort(descending=True, stable=True)[: self.most].sort().values.tolist()
            found.append([blocks[i] for i in best])
        self.chosen[layer] = [[block.segment for block in of_row] for of_row in found]
        longest = max(sum(block.offsets.shape[1] for block in of_row) for of_row in found)
        shift = torch.tensor([sum(block.extent for block in of_row) for of_row in found])
        kept = query.new_zeros(2, B, H, longest, D)
        positions = torch.zeros(3, B, longest, dtype=torch.long)
        valid = torch.zeros(B, longest, dtype=torch.bool)
        for b, of_row in enumerate(found):
            at, start = 0, s - int(shift[b])
            for block in of_row:
                n = block.offsets.shape[1]
                kept[:, b, :, at : at + n] = block.read(layer).to(kept.device)
                positions[:, b, at : at + n] = block.offsets + start
                valid[b, at : at + n] = True
                at, start = at + n, start + block.extent
        keys = rotate(kept[0], self.turn(positions)) if longest else kept[0]
        return _Recalled(keys, kept[1], valid, shift)
