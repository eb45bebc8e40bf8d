"""What is kept while watching: text memory (thoughts re-read as text) and the two caches of the runtime.

Text memory and KV memory are two different things (docs/concepts.md): the first keeps words, the second keeps the keys
and values of words, which also carry what they saw. What leaves the caches when is said by a policy
(whilst/policies/).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from transformers.cache_utils import Cache, CacheLayerMixin

from whilst.visibility import GENERATED, RECEIVED

if TYPE_CHECKING:
    from whilst.chunks import Chunk


class MemoryCapError(ValueError):
    """A memory entry that cannot be kept."""


class TextMemory:
    """Entries in order, at most `cap` tokens in all; the oldest leave first (FIFO, VST section 3)."""

    def __init__(self, cap: int | None) -> None:
        if cap is not None and cap < 1:
            raise MemoryCapError(f"memory_tokens must be at least 1, got {cap}; None keeps everything")
        self.cap = cap
        self.entries: list[Chunk] = []

    @property
    def tokens(self) -> int:
        return sum(len(entry) for entry in self.entries)

    def add(self, entry: Chunk) -> int:
        """Append; returns how many old entries left. An entry longer than the whole cap is an error."""
        if self.cap is not None and len(entry) > self.cap:
            raise MemoryCapError(
                f"a memory entry of {len(entry)} tokens is longer than memory_tokens {self.cap}; raise the cap"
            )
        self.entries.append(entry)
        evicted = 0
        while self.cap is not None and self.tokens > self.cap:
            self.entries.pop(0)
            evicted += 1
        return evicted


class GrowingTensor:
    """A tensor that grows along one dimension, with spare room, so that a token does not copy the past."""

    def __init__(self, dim: int) -> None:
        self.dim, self.length = dim, 0
        self.data: torch.Tensor | None = None

    def append(self, new: torch.Tensor) -> None:
        n = new.shape[self.dim]
        if self.data is None or self.length + n > self.data.shape[self.dim]:
            shape = list(new.shape)
            shape[self.dim] = max(64, 2 * (self.length + n))
            grown = new.new_empty(shape)
            if self.data is not None:
                grown.narrow(self.dim, 0, self.length).copy_(self.view())
            self.data = grown
        self.data.narrow(self.dim, self.length, n).copy_(new)
        self.length += n

    def view(self) -> torch.Tensor:
        assert self.data is not None
        return self.data.narrow(self.dim, 0, self.length)

    def parts(self) -> list[torch.Tensor]:
        """The view, or nothing where nothing was appended yet."""
        return [] if self.data is None else [self.view()]

    def replace(self, new: torch.Tensor) -> None:
        """Put `new` in the place of everything; room that is there is used again."""
        self.length = 0
        self.append(new)


def rotate(x: torch.Tensor, turn: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """RoPE: x (B, H, n, D) by (cos, sin), each (B, n, D); the arithmetic of the stock models, in their order."""
    cos, sin = turn[0][:, None], turn[1][:, None]
    half = x.shape[-1] // 2
    turned = torch.cat((-x[..., half:], x[..., :half]), dim=-1)
    return (x * cos) + (turned * sin)


class TwoStreamLayer(CacheLayerMixin):
    """Keys and values of one decoder layer, received and generated apart.

    A received token of a split layout reads the received stream alone; any other reads [received | generated].
    keeps_raw: keys arrive un-rotated and are kept beside their rotated form, so that they can take other positions.
    """

    is_sliding = False

    def __init__(self, received_alone: bool, keeps_raw: bool = False) -> None:
        super().__init__()
        self.received_alone = received_alone
        self.keys_of = (GrowingTensor(2), GrowingTensor(2))
        self.values_of = (GrowingTensor(2), GrowingTensor(2))
        self.raw_of = (GrowingTensor(2), GrowingTensor(2)) if keeps_raw else None
        self.writing = RECEIVED
        self.turn: tuple[torch.Tensor, torch.Tensor] | None = None  # (cos, sin) of the tokens that are written now
        self.is_initialized = True

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if self.raw_of is not None:
            assert self.turn is not None
            self.raw_of[self.writing].append(key_states)
            key_states = rotate(key_states, self.turn)
        self.keys_of[self.writing].append(key_states)
        self.values_of[self.writing].append(value_states)
        return self._read(self.keys_of), self._read(self.values_of)

    def _read(self, buffers: tuple[GrowingTensor, GrowingTensor]) -> torch.Tensor:
        if self.writing == RECEIVED and self.received_alone:
            return buffers[RECEIVED].view()
        views = buffers[RECEIVED].parts() + buffers[GENERATED].parts()
        return views[0] if len(views) == 1 else torch.cat(views, dim=2)

    def truncate(self, received: int, generated: int) -> None:
        for buffers in (self.keys_of, self.values_of, self.raw_of or ()):
            for buffer, length in zip(buffers, (received, generated), strict=False):
                buffer.length = length

    def gather(self, stream: int, index: torch.Tensor) -> None:
        """Keep the entries index (B, n) of a stream, in this order; rows with fewer repeat any of theirs."""
        for buffers in (self.keys_of, self.values_of, self.raw_of):
            if buffers is not None and buffers[stream].data is not None:
                held = buffers[stream].view()
                wanted = index[:, None, :, None].expand(-1, held.shape[1], -1, held.shape[3])
                buffers[stream].replace(held.gather(2, wanted))

    def turn_to(self, stream: int, turn: tuple[torch.Tensor, torch.Tensor]) -> None:
        """Rotate all keys of a stream anew: they take other positions."""
        assert self.raw_of is not None
        if self.raw_of[stream].data is not None:
            self.keys_of[stream].replace(rotate(self.raw_of[stream].view(), turn))

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.get_seq_length() + query_length, 0

    def get_seq_length(self) -> int:
        return self.keys_of[RECEIVED].length + self.keys_of[GENERATED].length

    def get_max_length(self) -> int:
        return -1


class TwoStreamCache(Cache):
    """The received and the generated cache of every decoder layer; append-only but for leaving a branch and for what a
    policy takes away."""

    def __init__(self, layers: int, received_alone: bool, keeps_raw: bool = False) -> None:
        self.two: list[TwoStreamLayer] = [TwoStreamLayer(received_alone, keeps_raw) for _ in range(layers)]
        super().__init__(layers=list(self.two))

    def write_to(self, stream: int, turn: tuple[torch.Tensor, torch.Tensor] | None = None) -> None:
        """What comes next belongs to `stream`; turn: the rotation of its positions, where keys arrive un-rotated."""
        for layer in self.two:
            layer.writing, layer.turn = stream, turn

    def lengths(self) -> tuple[int, int]:
        layer = self.two[0]
        return layer.keys_of[RECEIVED].length, layer.keys_of[GENERATED].length

    def truncate(self, lengths: tuple[int, int]) -> None:
        for layer in self.two:
            layer.truncate(*lengths)

    def gather(self, stream: int, index: torch.Tensor | Sequence[torch.Tensor]) -> None:
        """Keep the entries index (B, n) of a stream; a sequence has an index for each layer."""
        indices = [index] * len(self.two) if isinstance(index, torch.Tensor) else index
        for layer, of_layer in zip(self.two, indices, strict=True):
            layer.gather(stream, of_layer)

    def turn_to(self, stream: int, turn: tuple[torch.Tensor, torch.Tensor]) -> None:
        for layer in self.two:
            layer.turn_to(stream, turn)

    def bytes(self) -> int:
        """Bytes of the entries that are held, spare room not counted."""
        held = [buffers for layer in self.two for buffers in (layer.keys_of, layer.values_of, layer.raw_of or ())]
        views = [view for buffers in held for buffer in buffers for view in buffer.parts()]
        return sum(view.numel() * view.element_size() for view in views)
